"""Central differences of Phi, the reference of other gradients."""

import pytest
import torch

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
    found = bilevel.solve(analytic("A5"), strategy, 60, seeds=2, dtype=torch.float64)
    assert (found.body - 1).abs().max() < 1e-4


@pytest.mark.parametrize("step", [0.0, -1e-3, float("nan"), "small"])
def test_bad_steps_are_refused(step):
    with pytest.raises(ArgumentError, match="`step`"):
        FiniteDifferences(step)
