"""Loops ask a processor at every step whether all runs are done, an accelerator at some."""

import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.core import waiting
from bilevel.derivatives.oracles import Oracles
from bilevel.linear import Operator
from problems.regression import friedman1


def test_a_processor_is_asked_at_every_step_and_an_accelerator_at_some():
    assert waiting.steps_between(torch.device("cpu")) == 1
    assert waiting.steps_between(torch.device("cuda")) == waiting.EVERY


@pytest.fixture
def seldom(monkeypatch):
    """Everything is asked as an accelerator is."""
    return lambda: monkeypatch.setattr(waiting, "steps_between", lambda device: waiting.EVERY)


def test_steps_beyond_the_tolerance_change_no_head(seldom, monkeypatch):
    gradients, gradient = [], Oracles.head_gradient

    def counted(self, *arguments):
        gradients.append(1)
        return gradient(self, *arguments)

    monkeypatch.setattr(Oracles, "head_gradient", counted)
    problem = friedman1(width=3, train=20, validation=5, test=5, ridge=0.1)
    solver = bilevel.FastSGD(0.3, 500, tolerance=1e-2)
    made = []
    for how in (None, seldom):
        if how is not None:
            how()
        gradients.clear()
        found = bilevel.solve(
            problem, bilevel.BestResponse(1e-3, solver), steps=2, every=2, seeds=3,
            batch_size=7, dtype=torch.float64,
        )  # fmt: skip
        made.append((found.head, found.body, len(gradients)))
    assert trees.equal(made[0][:2], made[1][:2])
    heads = 3 + 1  # of two steps, the start and the record
    assert 0 < made[1][2] - made[0][2] < heads * waiting.EVERY


def test_cg_finds_the_same(seldom):
    source = torch.Generator().manual_seed(0)
    root = torch.randn(3, 12, 12, generator=source, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(12, dtype=torch.float64)
    right = torch.randn(3, 12, generator=source, dtype=torch.float64)
    right[1] = matrix[1, 0]  # of one column, which is found sooner
    products = []

    def product(vectors):
        products.append(1)
        return (matrix @ vectors.unsqueeze(2)).squeeze(2)

    operator = Operator(product, lambda: matrix)
    first = bilevel.CG().solve(operator, right)
    count = len(products)
    seldom()
    again = bilevel.CG().solve(operator, right)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    assert 0 < len(products) - 2 * count < waiting.EVERY
