"""The head by projected gradient steps: its proven rate, its statuses, its sets, in training."""

import numpy as np
import pytest
import torch
from linear_heads import (
    ONE,
    build,
    dense,
    dense_head,
    distance,
    exact_box_head,
    exact_system,
    normal,
)

import bilevel
from bilevel.core.status import Status
from bilevel.errors import ArgumentError

N, M = 14, 4
RIDGE = 0.2
Z, Y, START = normal(1, N, M), normal(2, N), normal(3, M)


def problem(**options):
    return build(Z, Y, ridge=RIDGE, start=START, **options)


def spectrum():
    matrix, _ = dense(Z, Y, penalty=RIDGE)
    values = np.linalg.eigvalsh(matrix[0])
    return matrix[0], values[0], values[-1]


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_the_error_shrinks_at_the_proven_rate(steps):
    matrix, mu, largest = spectrum()
    lr = 1 / largest
    best = dense_head(Z, Y, penalty=RIDGE)
    found = bilevel.best_response(problem(), ONE, bilevel.FastSGD(lr, steps))
    error = found.head.numpy() - best
    expected = np.linalg.matrix_power(np.eye(M) - lr * matrix, steps) @ (START - best)
    np.testing.assert_allclose(error, expected, rtol=1e-8, atol=1e-14)
    assert np.linalg.norm(error) <= (1 - lr * mu) ** steps * np.linalg.norm(START - best) + 1e-14
    assert found.status is Status.COMPLETED  # nobody asked whether it converged
    assert found.bound >= np.linalg.norm(error)


def test_it_reaches_the_closed_form():
    _, _, largest = spectrum()
    found = bilevel.best_response(
        problem(), ONE, bilevel.FastSGD(1 / largest, 2000, tolerance=1e-13)
    )
    exact = bilevel.best_response(problem(), ONE).head
    assert found.status is Status.CONVERGED
    assert found.residual <= 1e-13
    torch.testing.assert_close(found.head, exact, rtol=1e-11, atol=1e-13)


def test_the_tolerance_stops_at_the_first_head_that_meets_it():
    matrix, _, largest = spectrum()
    lr, tolerance = 1 / largest, 1e-3
    theta, moment, count = START.copy(), dense(Z, Y, penalty=RIDGE)[1][0], 0
    while np.linalg.norm(matrix @ theta - moment) > tolerance:
        theta, count = theta - lr * (matrix @ theta - moment), count + 1
    assert count > 3
    found = bilevel.best_response(problem(), ONE, bilevel.FastSGD(lr, 500, tolerance=tolerance))
    np.testing.assert_allclose(found.head, theta, rtol=1e-12)
    assert found.status is Status.CONVERGED
    for steps, status in ((count, Status.CONVERGED), (count - 1, Status.NOT_CONVERGED)):
        again = bilevel.best_response(problem(), ONE, bilevel.FastSGD(lr, steps, tolerance=1e-3))
        assert again.status is status
    assert "more steps" in Status.NOT_CONVERGED.message


def test_a_step_beyond_two_over_l_diverges():
    _, _, largest = spectrum()
    found = bilevel.best_response(problem(), ONE, bilevel.FastSGD(1e3 / largest, 400))
    assert found.status is Status.DIVERGED
    assert not found.bound <= 1e300  # NaN or infinite: no bound is claimed


def test_a_tiny_step_is_not_taken_for_convergence():
    """theta - lr d rounds to theta, yet the gradient is as large as it was."""
    found = bilevel.best_response(problem(), ONE, bilevel.FastSGD(1e-20, 3, tolerance=1e-6))
    assert found.status is Status.NOT_CONVERGED
    assert found.residual > 0.1


def test_a_schedule_counts_inner_steps():
    matrix, _, largest = spectrum()
    moment = dense(Z, Y, penalty=RIDGE)[1][0]
    theta = START.copy()
    for j in range(5):
        theta = theta - (1 / largest) * (j + 1.0) ** -0.5 * (matrix @ theta - moment)
    solver = bilevel.FastSGD(bilevel.Polynomial(1 / largest, 0.5), 5)
    np.testing.assert_allclose(bilevel.best_response(problem(), ONE, solver).head, theta, 1e-12)


@pytest.mark.parametrize("box", [(-0.1, 0.1), (0.0, 0.05), (-0.3, -0.02), (-5.0, 5.0)])
def test_box_against_every_active_set(box):
    matrix, moment = exact_system(Z, Y, penalty=RIDGE)
    expected = exact_box_head(matrix[0], moment[0], *box)
    _, _, largest = spectrum()
    solver = bilevel.FastSGD(1 / largest, 3000, tolerance=1e-13)
    found = bilevel.best_response(problem(head_set=bilevel.Box(*box)), ONE, solver)
    assert found.status is Status.CONVERGED
    assert distance(found.head, expected[:, None]) <= 1e-12
    assert found.bound >= distance(found.head, expected[:, None])
    active = [x for x in expected if float(x) in box]
    assert (len(active) > 0) == (box != (-5.0, 5.0))


def test_the_projection_of_the_free_head_is_another_point():
    """Why ClosedForm flags OUTSIDE_SET, and FastSGD is what it advises."""
    matrix, moment = exact_system(Z, Y, penalty=RIDGE)
    box = (-0.1, 0.1)
    expected = exact_box_head(matrix[0], moment[0], *box)
    boxed = problem(head_set=bilevel.Box(*box))
    clipped = bilevel.best_response(boxed, ONE, bilevel.ClosedForm())
    assert clipped.status is Status.OUTSIDE_SET
    assert "FastSGD" in clipped.status.message
    assert 1e-4 < distance(clipped.head, expected[:, None]) <= clipped.bound


def test_batches_are_refused_at_a_single_point():
    with pytest.raises(ArgumentError, match=r"Leave `batch_size=None` at a single point"):
        bilevel.best_response(problem(), ONE, bilevel.FastSGD(0.1, 5, batch_size=3))


def test_one_rate_for_each_run_is_refused_at_a_single_point():
    with pytest.raises(ArgumentError, match="single numbers"):
        bilevel.best_response(problem(), ONE, bilevel.FastSGD(torch.tensor([0.1, 0.2, 0.3]), 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0.0, "steps": 3}, "`lr` must be positive"),
        ({"lr": -0.1, "steps": 3}, "`lr` must be positive"),
        ({"lr": float("nan"), "steps": 3}, "`lr` must be positive"),
        ({"lr": 0.1, "steps": 0}, "`steps` must be a positive integer"),
        ({"lr": 0.1, "steps": 2.5}, "`steps` must be a positive integer"),
        ({"lr": 0.1, "steps": True}, "`steps` must be a positive integer"),
        ({"lr": 0.1, "steps": 3, "batch_size": 0}, "`batch_size`"),
        ({"lr": 0.1, "steps": 3, "tolerance": 0.0}, "`tolerance` must be positive"),
        ({"lr": 0.1, "steps": 3, "tolerance": 1e-3, "batch_size": 4}, "`tolerance` needs"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        bilevel.FastSGD(**arguments)


def tanh_features(w, x):
    return torch.tanh(w * x)


def moving(**options):
    return build(Z, Y, ridge=RIDGE, start=START, features=tanh_features, **options)


def test_in_training_it_follows_the_exact_best_response():
    """With enough inner steps the trajectory of the body is that of the closed form."""
    optimizer = bilevel.SGD()
    fast = bilevel.FastSGD(1.5, 400, tolerance=1e-13)
    runs = [
        bilevel.solve(
            moving(), bilevel.BestResponse(0.5, solver, optimizer=optimizer), steps=6, seeds=1,
            batch_size=None, every=2, dtype=torch.float64,
        )
        for solver in (None, fast)
    ]  # fmt: skip
    assert not torch.equal(runs[0].body[0], ONE)
    torch.testing.assert_close(runs[1].body, runs[0].body, rtol=1e-11, atol=0)
    torch.testing.assert_close(runs[1].head, runs[0].head, rtol=1e-9, atol=1e-12)
    assert set(runs[1].status) == {Status.COMPLETED}


def test_in_training_its_statuses_come_through():
    strategy = bilevel.BestResponse(0.1, bilevel.FastSGD(0.5, 2, tolerance=1e-12))
    found = bilevel.solve(moving(), strategy, steps=3, seeds=1, batch_size=None)
    assert set(found.status) == {Status.NOT_CONVERGED}


def test_in_training_it_draws_its_own_rows():
    """A batch of inner rows: another head than with all rows, the same one every time."""
    heads = []
    for size in (None, 5, 5):
        strategy = bilevel.BestResponse(0.1, bilevel.FastSGD(0.2, 3, batch_size=size))
        found = bilevel.solve(
            moving(), strategy, steps=2, seeds=3, batch_size=6, dtype=torch.float64, every=1
        )
        heads.append(found.head)
    assert torch.equal(heads[1], heads[2])
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1][0], heads[1][1])  # each seed draws its own
