"""Central differences of Phi, the reference of other gradients."""

import pytest
import torch
from points import Custom, number

import bilevel
from bilevel import ClosedForm, FastSGD, FiniteDifferences, trees
from bilevel.errors import ArgumentError
from problems.analytic import NAMES, analytic

# A2 is -45100 with a curvature of 5002; boxes and A9 have no closed form
EXACT = [name for name in NAMES if name[0] == "A" and name != "A9"]


def relative_error(found, expected):
    off = trees.norm(trees.single(trees.tree_map(torch.sub, found, expected)))
    return float(off / trees.norm(trees.single(expected)).clamp(min=1))


@pytest.mark.parametrize("name", EXACT)
def test_differences_of_exact_heads_are_the_known_gradient(name):
    problem = analytic(name)
    if name == "A14":  # 100 numbers are solved 200 times
        problem = type(problem)(5, 4, tree=True)
    body = problem.start + 0.1
    found = bilevel.hypergradient(problem, body, FiniteDifferences(), solver=ClosedForm())
    assert relative_error(found.body, problem.phi_gradient(body)) < 1e-8
    assert found.status == bilevel.Status.CONVERGED


@pytest.mark.parametrize("name", ["B2", "B7"])
def test_heads_in_a_box_are_solved_anew(name):
    problem = analytic(name)
    smallest, largest = problem.curvature(problem.start)
    solver = FastSGD(2 / (float(smallest) + float(largest)), 200)
    body = problem.start + 0.05
    found = bilevel.hypergradient(problem, body, FiniteDifferences(), solver=solver)
    assert relative_error(found.body, problem.phi_gradient(body)) < 1e-8


def test_the_error_falls_with_the_square_of_the_step():
    problem, body = analytic("A8"), torch.tensor(0.3, dtype=torch.float64)
    errors = [
        float(bilevel.hypergradient(problem, body, FiniteDifferences(step)).body)
        - float(problem.phi_gradient(body))
        for step in (1e-2, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)


def test_runs_may_have_steps_of_their_own_and_can_be_trained_with():
    strategy = bilevel.BestResponse(0.1, gradient=FiniteDifferences(1e-5), optimizer=bilevel.SGD())
    found = bilevel.solve(analytic("A5"), strategy, steps=60, seeds=2, dtype=torch.float64)
    assert (found.body - 1).abs().max() < 1e-4


@pytest.mark.parametrize("step", [0.0, -1e-3, float("nan"), "small"])
def test_bad_steps_are_refused(step):
    with pytest.raises(ArgumentError, match="`step`"):
        FiniteDifferences(step)


class Same(Custom):
    """F is g."""

    body_objective = bilevel.StackelbergProblem.body_objective


class Round(bilevel.ConvexSet):
    """A ball of one's own, around (1, 0, 0), which says nothing but its projection."""

    def project(self, tree):
        centre = torch.tensor([1.0, 0.0, 0.0], dtype=tree.dtype)
        off = tree - centre
        return centre + off / off.norm(dim=1, keepdim=True).clamp(min=1.0)


SETS = {
    "ball": bilevel.Ball(0.8),
    "simplex": bilevel.Simplex(),
    "l1 ball": bilevel.L1Ball(0.9),
    "own": Round(),
    "box": bilevel.Box(-0.2, 0.5),
}


@pytest.mark.parametrize("same", [False, True], ids=["F is not g", "F is g"])
@pytest.mark.parametrize("name", SETS)
def test_on_every_set_with_an_honest_kind_of_bound(name, same):
    """g = |theta - A w|^2 / 2: theta* is the projection of A w, whose slope autograd knows."""
    spread = number([0.9, -0.4], [0.5, 1.0], [-0.7, 0.3])
    w = number(1.0, 0.7)
    problem = (Same if same else Custom)(
        lambda w, t: (t**3).sum() + w[0] * t[1],
        lambda w, t: (t - spread @ w).square().sum() / 2,
        [0.0] * 3, w.tolist(), SETS[name],
    )  # fmt: skip
    found = bilevel.hypergradient(problem, w, FiniteDifferences(), solver=FastSGD(1.0, 3))
    leaf = w.clone().requires_grad_()
    best = SETS[name].project((spread @ leaf).unsqueeze(0)).squeeze(0)
    (exact,) = torch.autograd.grad(problem.body_objective(leaf, best, {}), leaf)
    error = float((found.body - exact).norm())
    assert error < 1e-8
    if same:
        assert found.bound_kind == "proven"
        assert error <= found.bound < 1e-8
    elif name == "box":
        assert found.bound_kind == "estimated"
    else:
        assert found.bound_kind == "unknown"
        assert str(found.bound) == "nan"
        assert f"head on {type(SETS[name]).__name__}" in found.note
