"""What records say of the gradient at their head, against closed forms."""

import pytest
import torch
from analytic_cases import CASES
from linear_heads import Given

import bilevel
from bilevel import trees


def recorded(problem, strategy, steps=4, **options):
    settings = {"seeds": 3, "every": 2, "dtype": torch.float64, **options}
    return bilevel.solve(problem, strategy, steps=steps, **settings)


@pytest.mark.parametrize("case", ["A5", "A11", "A13", "A15-log", "A16", "A14-nonlinear-tree", "B7"])
def test_records_know_the_error_of_the_gradient_at_their_head(case):
    """The gap is the error at the recorded head; where F is not g its bound is proven."""
    problem = CASES[case]
    inner = bilevel.FastSGD(0.7 / problem.curvature(problem.start).largest, 2)
    found = recorded(problem, bilevel.BestResponse(1e-3, inner, optimizer=bilevel.SGD()))
    last = {name: values[-1] for name, values in found.history.items()}
    method = bilevel.Envelope() if problem.is_stackelberg else bilevel.Implicit()
    for run in range(3):
        body, head = trees.take(found.body, run), trees.take(found.head, run)
        exact = problem.phi_gradient(body)
        alone = bilevel.hypergradient(problem, body, method, solver=Given(head))
        error = float((alone.body - exact).norm())
        assert float(last["gradient_gap"][run]) == pytest.approx(error, rel=1e-8, abs=1e-12)
        if problem.is_stackelberg:
            assert "gradient_bound" not in last  # the gap is known, at a fraction of the cost
        else:
            assert float(last["gradient_gap"][run]) <= float(last["gradient_bound"][run]) + 1e-12
            assert float(last["gradient_bound"][run]) == pytest.approx(alone.bound, rel=1e-6)
        if case != "B7":
            assert error > 1e-9
            assert float(last["phi_gradient_norm"][run]) == pytest.approx(float(exact.norm()))


def test_a_run_stops_where_the_implicit_gradient_is_small():
    problem = CASES["A5"]
    strategy = bilevel.BestResponse(0.2, optimizer=bilevel.SGD())
    found = recorded(problem, strategy, 200, every=1, tolerance=1e-6)
    assert found.status == (bilevel.Status.CONVERGED,) * 3
    assert float((found.body - 1).abs().max()) < 1e-5


def test_a_problem_that_states_nothing_is_recorded_without_a_bound():
    class Silent(type(CASES["A16"])):
        known_lipschitz = bilevel.StackelbergProblem.known_lipschitz

    found = recorded(Silent(), bilevel.BestResponse(1e-3), 2)
    assert "gradient_bound" not in found.history
    assert float(found.history["gradient_gap"].max()) < 1e-10


def test_rounded_rows_are_not_what_the_problem_states():
    found = recorded(CASES["A16"], bilevel.BestResponse(1e-3), 2, dtype=torch.float32)
    assert "gradient_bound" not in found.history
