"""A head that `Implicit` refined is the one that everything else is told of, too."""

import pytest
import torch
from points import Custom, number

import bilevel
from bilevel import BestResponse, FastSGD, Implicit, Status
from bilevel.errors import InexactHeadError

REFINE = Implicit(on_inexact="refine")


def problem(head_set=None):
    """g is not quadratic; theta* = (w, -w/2) from t + t^3 = w + w^3 and 2 t = -w."""
    return Custom(
        lambda w, t: (t[0] - 2) ** 2 + w * t[1],
        lambda w, t: t[0] ** 2 / 2 + t[0] ** 4 / 4 - (w + w**3) * t[0] + (t[1] + w / 2) ** 2,
        [0.1, 0.3], 1.2, head_set,
    )  # fmt: skip


def exact(w):
    """Phi = (w - 2)^2 - w^2/2 and its slope."""
    return (w - 2) ** 2 - w**2 / 2, 2 * (w - 2) - w


@pytest.mark.parametrize("head_set", [None, bilevel.Box(-3.0, 3.0)])
def test_value_head_and_bound_are_those_that_the_gradient_was_taken_at(head_set):
    rough, w = FastSGD(0.05, 3), number(1.2)
    warned = bilevel.hypergradient(problem(head_set), w, Implicit(), solver=rough)
    found = bilevel.hypergradient(problem(head_set), w, REFINE, solver=rough)
    value, slope = exact(1.2)
    best = number(1.2, -0.6)
    off = float((found.response.head - best).norm())
    assert off <= found.response.bound < 1e-3
    assert float((warned.response.head - best).norm()) > 0.1
    assert found.value == pytest.approx(value, abs=10 * off + 1e-12)
    assert abs(warned.value - value) > 0.1
    assert float(found.body) == pytest.approx(slope, abs=100 * off + 1e-12)
    assert found.response.residual < 1e-3 * warned.response.residual
    # F and d_w F at the head that is returned
    made = problem(head_set)
    assert found.value == pytest.approx(float(made.F(w, found.response.head)), rel=1e-14)
    assert found.response.status is Status.COMPLETED


def test_a_head_that_needs_no_refinement_is_the_solvers():
    solver, w = FastSGD(0.1, 400), number(1.2)
    head = bilevel.best_response(problem(), w, solver).head
    found = bilevel.hypergradient(problem(), w, REFINE, solver=solver)
    assert torch.equal(found.response.head, head)


def test_a_training_goes_on_from_refined_heads():
    """One step of the solver a body step: from a head that follows the body it stays near it."""
    strategy = {
        name: BestResponse(0.02, FastSGD(0.05, 1), method, bilevel.SGD())
        for name, method in (("refined", REFINE), ("as it is", Implicit()))
    }
    options = {"steps": 5, "seeds": 1, "dtype": torch.float64}
    ends = {name: bilevel.solve(problem(), made, **options) for name, made in strategy.items()}
    off = {name: abs(float(end.head[0, 0]) - float(end.body[0])) for name, end in ends.items()}
    assert off["refined"] < 0.05 < 0.1 < off["as it is"]
    # exact descent of Phi, to the tolerance of the refinement
    w = 1.2
    for _ in range(5):
        w -= 0.02 * exact(w)[1]
    assert float(ends["refined"].body[0]) == pytest.approx(w, abs=1e-3)
    strict = BestResponse(0.02, FastSGD(0.05, 1), Implicit(on_inexact="raise"))
    with pytest.raises(InexactHeadError):
        bilevel.solve(problem(), strict, steps=2, seeds=1)
