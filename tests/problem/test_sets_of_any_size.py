"""Sets that are so large that they hold everything, or so small that nothing is left."""

import pytest
import torch

import bilevel
from bilevel.errors import ArgumentError
from tests.support.legal_arguments import Linear

ONE = torch.tensor(1.0, dtype=torch.float64)
MAKE = {
    "ball": bilevel.Ball,
    "l1 ball": bilevel.L1Ball,
    "box": lambda size: bilevel.Box(-size, size),
}
SIZES = (1e-320, 1e-200, 1e-40, 1e40, 1e160, 1e200, 1e308)


def within(convex):
    problem = Linear()
    problem.head_set = convex
    return problem


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MAKE)
def test_the_head_is_the_free_one_or_zero(kind, size):
    free = bilevel.best_response(Linear(), ONE).head
    expected = free if size > 1 else torch.zeros_like(free)
    problem = within(MAKE[kind](size))
    assert torch.allclose(bilevel.best_response(problem, ONE).head, expected, atol=1e-7)
    stepped = bilevel.best_response(problem, ONE, bilevel.FastSGD(0.3, 200)).head
    assert torch.allclose(stepped, expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MAKE)
def test_trainings_in_single_precision_do_not_fail(kind, size):
    problem = within(MAKE[kind](size))
    problem.body_set = MAKE[kind](size)
    solution = bilevel.solve(problem, bilevel.uniform(0.1), steps=2, seeds=2, every=2)
    assert not any(status.failed for status in solution.status)
    assert bool(solution.head.isfinite().all())
    assert size > 1 or float(solution.head.abs().max()) <= size


@pytest.mark.parametrize("radius", [10**30, 10**400])
def test_integers_beyond_those_of_tensors_are_taken_or_refused(radius):
    point = torch.tensor([[3.0, 4.0]])
    assert torch.equal(bilevel.Ball(radius).project(point), point)
    assert torch.equal(bilevel.L1Ball(radius).project(point), point)
    with pytest.raises(ArgumentError, match="bounds of a box"):
        bilevel.Box(0, radius)


@pytest.mark.parametrize("bound", [True, "1", None, 1j, torch.tensor(True), torch.zeros(0)])
def test_what_is_no_bound_is_refused(bound):
    with pytest.raises(ArgumentError, match="bounds of a box"):
        bilevel.Box(bound, 1.0)
