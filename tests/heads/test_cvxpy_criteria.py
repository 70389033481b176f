"""Heads of criteria that are not quadratic: cvxpy against Newton and the optimality conditions."""

import cvxpy
import numpy as np
import pytest
import torch
from convex_heads import RADIUS, sets, violation
from linear_heads import ONE, build, normal
from small_problems import Smooth, doubles

import bilevel
from bilevel import Cvxpy, HuberLoss, LogisticLoss, Newton, SoftmaxLoss, Status
from bilevel.heads.convex import compiled
from bilevel.testing import check_head_solver

Z = normal(1, 80, 4)
SCORES = Z @ np.array([1.0, -2.0, 0.5, 0.3])
LABELS = (SCORES + 2 * normal(3, 80) > 0).astype(np.int64)
SEPARATED = (SCORES > 0).astype(np.int64)
CLASSES = np.argmax(Z @ normal(5, 4, 3) + normal(6, 80, 3), 1)
REAL = SCORES + 3 * normal(3, 80)


def problem(criterion, **options):
    """The data that fit a criterion."""
    targets = {LogisticLoss: LABELS, SoftmaxLoss: CLASSES, HuberLoss: REAL}[type(criterion)]
    made = build(Z, options.pop("targets", targets), criterion=criterion, **options)
    if isinstance(criterion, SoftmaxLoss):
        type(made).outputs = 3
    return made


CASES = {
    "logistic": (LogisticLoss(), {"ridge": 0.01}),
    "logistic with weights": (
        LogisticLoss(),
        {"ridge": 0.01, "row_weights": lambda w, batch: torch.linspace(0.1, 2, 80).double()},
    ),
    "logistic with a bias": (LogisticLoss(), {"ridge": 0.01, "fit_bias": True}),
    "softmax": (SoftmaxLoss(), {"ridge": 0.01}),
    "softmax with a bias": (SoftmaxLoss(), {"ridge": 0.01, "fit_bias": True}),
    "softmax without a ridge": (SoftmaxLoss(), {}),
    "huber": (HuberLoss(0.5), {"ridge": 0.01}),
    "huber with weights": (
        HuberLoss(0.5),
        {"ridge": 0.01, "row_weights": lambda w, batch: torch.linspace(-1, 2, 80).relu().double()},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_newton_agrees(case):
    """To 1e-6 in every number; both minimise, so that they agree to far more."""
    criterion, options = CASES[case]
    one = problem(criterion, **options)
    solved = bilevel.best_response(one, ONE, Cvxpy())
    newton = bilevel.best_response(one, ONE, Newton())
    assert solved.status is newton.status is Status.CONVERGED
    torch.testing.assert_close(solved.head, newton.head, rtol=0, atol=1e-9)
    assert solved.residual < 1e-12


@pytest.mark.parametrize("name", sets())
def test_logistic_heads_in_sets_satisfy_the_optimality_conditions(name):
    one = problem(LogisticLoss(), ridge=0.01, head_set=sets()[name])
    found = bilevel.best_response(one, ONE, Cvxpy())
    assert found.status is Status.CONVERGED
    head = found.head.numpy()
    slope = Z.T @ (1 / (1 + np.exp(-Z @ head)) - LABELS) / 80 + 0.01 * head
    assert violation(name, head, slope) <= 1e-13


@pytest.mark.parametrize("name", ["softmax", "huber", "huber with weights"])
def test_constraints_of_ones_own(name):
    """An l1 ball as a constraint, and as a set, whose heads are exact."""
    criterion, options = CASES[name]
    stated = problem(criterion, **options, head_set=bilevel.L1Ball(RADIUS))
    expected = bilevel.best_response(stated, ONE, Cvxpy()).head
    own = Cvxpy(lambda theta: cvxpy.sum(cvxpy.abs(theta)) <= RADIUS)
    found = bilevel.best_response(problem(criterion, **options), ONE, own)
    assert found.status is Status.CONVERGED
    torch.testing.assert_close(found.head, expected, rtol=0, atol=1e-7)


def test_heads_that_run_away_are_no_heads():
    """Separable classes without a ridge; a set that bounds the head gives them a minimum."""
    options = {"targets": SEPARATED, "ridge": 0.0}
    lost = bilevel.best_response(problem(LogisticLoss(), **options), ONE, Cvxpy())
    assert lost.status is Status.NO_MINIMISER
    assert lost.head.isnan().all()
    bounded = problem(LogisticLoss(), **options, head_set=bilevel.Ball(3.0))
    found = bilevel.best_response(bounded, ONE, Cvxpy())
    assert found.status is Status.CONVERGED
    assert float(found.head.norm()) == pytest.approx(3.0, rel=1e-12)


def test_labels_are_not_mixed_up():
    """They are constants of the compiled problem: other labels are another one."""
    heads = [
        bilevel.best_response(problem(LogisticLoss(), targets=t, ridge=0.1), ONE, Cvxpy()).head
        for t in (LABELS, 1 - LABELS, LABELS)
    ]
    torch.testing.assert_close(heads[1], -heads[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(heads[2], heads[0])


def test_runs_with_labels_of_their_own_are_compiled_once(monkeypatch):
    """Five problems in every step, where two are kept otherwise."""
    monkeypatch.setattr(compiled, "KEPT", 2)
    made, init = [], compiled.RowsForm.__init__
    monkeypatch.setattr(
        compiled.RowsForm, "__init__", lambda self, *more: made.append(1) or init(self, *more)
    )

    class PerSeed(Smooth):
        redraws_data = True

        def data(self, seed=None):
            groups = super().data(seed)
            labels = (doubles([9, seed or 0], len(groups["train"].targets)) > 0).long()
            return {"train": groups["train"]._replace(targets=labels)}

    one = PerSeed(criterion=LogisticLoss(), head_set=bilevel.Box(-0.1, 0.1))
    strategy = bilevel.BestResponse(1e-2, Cvxpy())
    solution = bilevel.solve(one, strategy, steps=3, seeds=5, every=1, dtype=torch.float64)
    assert set(solution.status) == {Status.COMPLETED}
    assert len(made) == 5
    # forgotten once others take their places
    for bound in range(1, 4):
        one.head_set = bilevel.Box(-1.0, float(bound))
        bilevel.solve(one, strategy, steps=1, seeds=2, dtype=torch.float64)
    assert len(compiled.Kept.of(one)) <= 10


def test_it_keeps_the_contract_of_head_solvers():
    one = problem(SoftmaxLoss(), ridge=0.05, head_set=bilevel.Nonnegative())
    (finding,) = check_head_solver(Cvxpy(), one)
    assert "CONVERGED" in str(finding)


def test_the_envelope_gradient_of_a_constrained_classifier():
    one = problem(LogisticLoss(), ridge=0.01, head_set=bilevel.L1Ball(0.4))
    found = bilevel.hypergradient(one, ONE, bilevel.Envelope(), solver=Cvxpy())
    data = one.data()

    def phi(w):
        return float(one.head_objective(w, bilevel.best_response(one, w, Cvxpy()).head, data))

    expected = (phi(ONE + 1e-5) - phi(ONE - 1e-5)) / 2e-5
    assert float(found.body) == pytest.approx(expected, rel=1e-6)


def test_the_implicit_gradient_of_a_classifier_on_a_box():
    """F is not g; central differences of F at the head solved anew."""
    one = problem(LogisticLoss(), ridge=0.01, head_set=bilevel.Box(-0.3, 0.4))

    class Outer(type(one)):
        def body_objective(self, body, head, batch):
            return (head - 0.1).square().sum()

    outer = Outer()
    found = bilevel.hypergradient(outer, ONE, bilevel.Implicit(), solver=Cvxpy())
    assert found.status is Status.CONVERGED
    held = (found.response.head == -0.3) | (found.response.head == 0.4)
    assert 0 < int(held.sum()) < 4

    def value(w):
        return float((bilevel.best_response(one, w, Cvxpy()).head - 0.1).square().sum())

    expected = (value(ONE + 1e-5) - value(ONE - 1e-5)) / 2e-5
    assert float(found.body) == pytest.approx(expected, rel=1e-6)
