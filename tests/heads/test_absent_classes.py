"""Classes without a training row: a free bias falls for ever, a penalised one has a minimiser.

The loss of a row rises in the prediction of every class but its own, wherever it is. So the
derivative of g in the bias of a class without rows is positive everywhere, and vanishes nowhere.
"""

import numpy as np
import pytest
import torch
from linear_heads import ONE, build, normal

import bilevel
from bilevel import (
    Box,
    Cvxpy,
    HuberLoss,
    LogisticLoss,
    Newton,
    ProjectedNewton,
    SoftmaxLoss,
    SquaredError,
    Status,
)
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.errors import AllRunsFailedError
from bilevel.heads.objectives.linear import LinearObjective

SOLVERS = {
    "Newton": Newton(),
    "Newton, loose": Newton(tolerance=1e-4),
    "Newton, tight": Newton(tolerance=1e-12),
    "ProjectedNewton": ProjectedNewton(),
    "Cvxpy": Cvxpy(),
}
ROWS = {
    "few features": (40, 3, 3, [2], 0.0),
    "two classes of five": (40, 3, 5, [0, 1, 2], 0.0),
    "separable": (40, 30, 3, [1], 0.0),
    "far from zero": (40, 3, 3, [0], 100.0),
}
"""Rows, features, classes, those without a row, and where the features lie."""


def rows_of(kind):
    n, m, classes, absent, origin = ROWS[kind]
    present = [k for k in range(classes) if k not in absent]
    return normal(5, n, m) + origin, np.array(present)[np.arange(n) % len(present)], classes


def classified(kind, ridge, **options):
    z, y, classes = rows_of(kind)
    given = {"criterion": SoftmaxLoss(), "outputs": classes, "fit_bias": True} | options
    return build(z, y, ridge=ridge, **given)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("ridge", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("kind", ROWS)
def test_a_free_bias_without_rows_has_no_minimiser(kind, ridge, solver):
    found = bilevel.best_response(classified(kind, ridge), ONE, SOLVERS[solver])
    assert found.status is Status.NO_MINIMISER
    assert bool(found.head.isnan().all())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ROWS)
def test_a_penalised_one_has_a_minimiser(kind, solver):
    problem = classified(kind, 1e-3, penalize_bias=True)
    found = bilevel.best_response(problem, ONE, SOLVERS[solver])
    assert found.status is Status.CONVERGED
    head = found.head.requires_grad_()
    problem.head_objective(ONE, head, problem.data()).backward()
    tolerance = 1e-9 if solver == "Cvxpy" else SOLVERS[solver].tolerance
    assert float(head.grad.abs().max()) < 1.1 * tolerance


def test_a_training_says_so():
    with pytest.raises(AllRunsFailedError, match="a class has no row there") as caught:
        bilevel.solve(classified("few features", 0.1), bilevel.BestResponse(0.1), steps=1, seeds=2)
    assert caught.value.solution.status == (Status.NO_MINIMISER,) * 2


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (-torch.inf, 5.0, Status.NO_MINIMISER),
        (-torch.inf, torch.inf, Status.NO_MINIMISER),
        (-5.0, 5.0, Status.CONVERGED),
    ],
)
def test_bounds_may_stop_it(low, high, status):
    problem = classified("few features", 0.1, head_set=Box(low, high))
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    assert found.status is status
    if status is Status.CONVERGED:
        assert float(found.head[-1, 2]) == -5.0


# the argument itself


def objective(z, y, criterion, outputs, penalty=0.0, weights=None):
    """Of two runs on the same rows; the last column of the features is the constant one."""
    design = torch.as_tensor(np.column_stack([z, np.ones(len(z))])).expand(2, -1, -1)
    penalties = torch.full((2, design.shape[2]), float(penalty))
    penalties[:, -1] = 0.0
    targets = torch.as_tensor(y).expand(2, *np.shape(y))
    parts = LinearParts(design, targets, weights, penalties)
    return LinearObjective(parts, criterion, outputs, settled=False)


@pytest.mark.parametrize("kind", ROWS)
def test_where_g_falls_its_slope_has_one_sign_at_every_head(kind):
    z, y, classes = rows_of(kind)
    found = objective(z, y, SoftmaxLoss(), classes, penalty=0.1)
    falling = found.falling.reshape(2, classes, -1)
    expected = torch.zeros_like(falling)
    expected[:, ROWS[kind][3], -1] = -1
    assert torch.equal(falling, expected)
    for seed in range(20):
        head = 3 / (1 + ROWS[kind][4]) * torch.as_tensor(normal(seed, *found.falling.shape))
        slope = found.at(head).slope
        assert bool((slope * found.falling <= 0).all())
        assert bool((slope[found.falling != 0] > 0).all())


def test_rows_without_weight_do_not_count():
    z, y = normal(2, 30, 2), np.arange(30) % 3
    weights = torch.ones(2, 30)
    weights[1, y == 1] = 0.0
    falling = objective(z, y, SoftmaxLoss(), 3, penalty=1.0, weights=weights).falling
    assert falling.reshape(2, 3, 3)[:, :, -1].tolist() == [[0, 0, 0], [0, -1, 0]]
    assert not falling.reshape(2, 3, 3)[:, :, :-1].any()
    nothing = objective(z, y, SoftmaxLoss(), 3, weights=torch.zeros(2, 30)).falling
    assert not nothing.any()


@pytest.mark.parametrize(("label", "sign"), [(0, -1), (1, 1)])
def test_one_class_alone(label, sign):
    """It moves a bias, and every free feature of one sign."""
    z = np.column_stack([normal(3, 20, 1), np.abs(normal(4, 20, 2)) * [1, -1]])
    y = np.full(20, label)
    assert objective(z, y, LogisticLoss(), None).falling[1].tolist() == [0, sign, -sign, sign]
    held = objective(z, y, LogisticLoss(), None, penalty=1e-9).falling
    assert held[0].tolist() == [0, 0, 0, sign]


@pytest.mark.parametrize(
    ("criterion", "outputs", "y"),
    [
        (SoftmaxLoss(), 3, np.arange(20) % 3),
        (LogisticLoss(), None, np.arange(20) % 2),
        (SquaredError(), None, normal(1, 20)),
        (HuberLoss(1.0), 2, normal(1, 20, 2)),
    ],
)
def test_others_are_left_alone(criterion, outputs, y):
    assert not objective(normal(6, 20, 2), y, criterion, outputs).falling.any()
