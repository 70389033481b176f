"""How many operations of torch a call at a point makes that is not the first one."""

import pytest
import torch
from operations import Count
from test_known import Penalties, W
from test_without_bounds import network, normal, validated

import bilevel

NETWORK = torch.as_tensor(normal(1, 3, 4))
CASES = {
    "penalties": (Penalties(), W, 620, 240),
    "penalties, a bias": (Penalties(fit_bias=True), W - 3, 720, 300),
    "a network, F is not g": (validated(), NETWORK, 790, 240),
    "a network, F is g": (network(), NETWORK, 770, 180),
}


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_calls_make_few_operations(name, bound):
    """Small ones are what a call takes; a tenth more or less than here is for this table to say."""
    problem, body, bounded, without = CASES[name]
    for scale in (1.0, 0.9):
        bilevel.hypergradient(problem, scale * body, bound=bound)
    with Count() as count:
        bilevel.hypergradient(problem, 0.8 * body, bound=bound)
    most = bounded if bound else without
    assert 0.9 * most < count.made <= most
