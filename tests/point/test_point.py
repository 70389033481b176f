"""One body: where a solver starts there, and which rows it sees."""

import pytest
import torch

import bilevel
from bilevel import Box, ClosedForm, FastSGD
from problems.analytic import analytic

ROWS = {"train": [1.0, 2.0, 6.0], "validation": [0.5, 1.5], "test": [4.0, 8.0]}
W = torch.tensor(0.5, dtype=torch.float64)


class Means(bilevel.StackelbergProblem):
    """g = (theta - w m)^2/2 with m the mean of "train", F = (theta - t)^2/2 with that of "test"."""

    def data(self, seed=None):
        return {name: torch.tensor(rows, dtype=torch.float64) for name, rows in ROWS.items()}

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.full((), 2.0, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * (head - body * batch["train"].mean()) ** 2

    def body_objective(self, body, head, batch):
        return 0.5 * (head - batch["test"].mean()) ** 2


class Near(Means):
    """g = (theta - w)^2/2 and F = g; the head lies in an interval, its start beyond it."""

    head_set = Box(0.0, 1.0)

    def head_objective(self, body, head, batch):
        return 0.5 * (head - body) ** 2

    def body_objective(self, body, head, batch):
        return self.head_objective(body, head, batch)


def test_a_batch_that_is_given_is_seen_whole():
    """theta* = w m, so that Phi' = (w m - t) m; the mean of the test rows is seen when given."""
    problem = Means()
    rows = {name: 2 * group for name, group in problem.data().items()}
    found = bilevel.hypergradient(problem, W, batch=rows)
    assert float(found.body) == pytest.approx((0.5 * 6.0 - 12.0) * 6.0, rel=1e-12)
    assert found.value == pytest.approx(0.5 * (0.5 * 6.0 - 12.0) ** 2, rel=1e-12)


def test_a_solver_starts_from_the_projected_head():
    """Two steps of .1 from 1, not from 2."""
    found = bilevel.best_response(Near(), W, FastSGD(0.1, 2))
    assert float(found.head) == pytest.approx(0.5 + 0.5 * 0.9**2, rel=1e-14)


class Forgetful(ClosedForm):
    """Says in the old way that it keeps no factor."""

    def solve(self, *given):
        return super().solve(*given)._replace(factor=())


def test_a_factor_that_is_nothing_is_none():
    problem = analytic("A5")
    body = problem.init_body(torch.Generator().manual_seed(0))
    expected = bilevel.hypergradient(problem, body, bilevel.Implicit())
    found = bilevel.hypergradient(problem, body, bilevel.Implicit(), solver=Forgetful())
    torch.testing.assert_close(found.body, expected.body, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("strategy", [bilevel.BestResponse(0.1), bilevel.uniform(0.1)])
@pytest.mark.parametrize("level", ["body_set", "head_set"])
def test_a_set_that_is_none_is_named(strategy, level):
    problem = Near()
    setattr(problem, level, 3)
    with pytest.raises(bilevel.errors.ArgumentError, match=f"`{level}` must be an object such as"):
        bilevel.solve(problem, strategy, steps=1, seeds=2)
    with pytest.raises(bilevel.errors.ArgumentError, match=f"`{level}` must be an object such as"):
        bilevel.best_response(problem, W)
