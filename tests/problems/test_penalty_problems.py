"""Penalties by group and by feature: against NumPy, SciPy and the example of another library."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import bilevel
from bilevel.errors import ArgumentError
from problems.hyperparameters import group_ridge, logistic_penalties

SMALL = {"rows": 60, "scales": (1.0, 0.3, 0.0), "columns": 4, "targets": 3, "test": 50}


def splits(problem, seed):
    """Rows that heads are fitted to, and those that judge them, raw, in NumPy."""
    x, y = problem.drawn(seed)
    n = problem.rows
    if not problem.folds:
        some = n - n // 4
        return [((x[:some], y[:some]), (x[some:n], y[some:n]))]
    held = np.arange(n) // (n // problem.folds)
    return [
        ((x[:n][held != k], y[:n][held != k]), (x[:n][held == k], y[:n][held == k]))
        for k in range(problem.folds)
    ]


def validation_error(problem, seed, body):
    """F by solving with a centred, standardised X'X/n + P, in NumPy."""
    penalties = np.repeat(np.exp(body), problem.columns)
    found = []
    for (x, y), (z, t) in splits(problem, seed):
        mean, scale = x.mean(0), x.std(0)
        level, unit = y.mean(0), y.std(0)
        x, z, y, t = (x - mean) / scale, (z - mean) / scale, (y - level) / unit, (t - level) / unit
        head = np.linalg.solve(x.T @ x / len(x) + np.diag(penalties), x.T @ y / len(x))
        found.append(0.5 * np.square(z @ head - t).sum(1).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("folds", [0, 3])
@pytest.mark.parametrize("targets", [1, 3])
def test_phi_is_the_error_of_rows_that_were_held_out(folds, targets):
    problem = group_ridge(**{**SMALL, "targets": targets}, folds=folds)
    for seed, body in ((0, [0.0, 0.0, 0.0]), (4, [-3.0, 1.0, 4.0])):
        rows = {name: rows for name, rows in problem.data(seed).items() if name != "test"}
        found = bilevel.hypergradient(problem, torch.tensor(body).double(), batch=rows)
        assert found.value == pytest.approx(validation_error(problem, seed, body), rel=1e-10)
        slope = optimize.approx_fprime(
            np.array(body), lambda u, seed=seed: validation_error(problem, seed, u), 1e-6
        )
        np.testing.assert_allclose(found.body.numpy(), slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("folds", [0, 3])
def test_the_lowest_point_is_that_of_scipy_without_gradients(folds):
    """Powell between the same bounds, on the formula in NumPy."""
    problem = group_ridge(**SMALL, folds=folds)
    bounds = [(math.log(1e-5), math.log(1e5))] * 3
    reference = optimize.minimize(
        lambda u: validation_error(problem, 1, u), np.zeros(3), method="Powell", bounds=bounds,
        options={"xtol": 1e-8, "ftol": 1e-14},
    )  # fmt: skip
    found = bilevel.minimize(problem, seed=1)
    assert found.status is bilevel.Status.CONVERGED
    assert found.value <= reference.fun + 1e-12
    assert found.value == pytest.approx(reference.fun, rel=1e-6)
    assert found.value == pytest.approx(validation_error(problem, 1, found.body.numpy()), rel=1e-10)


def test_test_rows_judge_the_head_of_all_rows_after_cross_validation():
    """One record of `solve` at the first penalties: r2 in NumPy."""
    problem = group_ridge(**SMALL, folds=3)
    solution = bilevel.solve(
        problem, bilevel.BestResponse(1e-9), steps=1, seeds=1, batch_size=None, dtype=torch.float64
    )
    x, y = problem.drawn(0)
    (x, z), (y, t) = ((part[:60], part[60:]) for part in (x, y))
    z, t = (z - x.mean(0)) / x.std(0), (t - y.mean(0)) / y.std(0)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    head = np.linalg.solve(x.T @ x / 60 + np.eye(12), x.T @ y / 60)
    squares, spread = np.square(z @ head - t).sum(), np.square(t - t.mean(0)).sum()
    assert float(solution.history["test_r2"][0, 0]) == pytest.approx(1 - squares / spread, rel=1e-9)


def test_groups_that_say_nothing_get_the_largest_penalties():
    problem = group_ridge(rows=200, columns=10, targets=8, folds=5)
    body = bilevel.minimize(problem).body
    assert bool((body[:2].max() < body[2:].min()) & (body[0] < body[1]))


@pytest.mark.parametrize(
    "problem",
    [group_ridge(**SMALL), group_ridge(**SMALL, folds=3), logistic_penalties(rows=60, inputs=4)],
)
def test_their_strategies_train(problem):
    """The objective of validation falls, and every strategy ends well."""
    strategies = problem.strategies(0.02, 0.05)
    assert "best response" in strategies
    comparison = bilevel.compare(problem, strategies, seeds=2, steps=30, every=30, batch_size=None)
    for name in strategies:
        values = comparison.history[name]["body_objective"]
        assert bool((values[-1] < values[0]).all()), name


def test_rows_of_seeds_differ_and_are_repeated():
    for problem in (group_ridge(**SMALL), logistic_penalties()):
        first, other = problem.data(0)["train"].inputs, problem.data(1)["train"].inputs
        assert not bool((first == other).all())
        assert bool((problem.data(1)["train"].inputs == other).all())


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (group_ridge, {"rows": 50, "folds": 3}, "`rows` must be a multiple"),
        (group_ridge, {"folds": 1}, "`folds`"),
        (group_ridge, {"rows": 4}, "`rows`"),
        (group_ridge, {"scales": ()}, "`scales`"),
        (group_ridge, {"scales": "abc"}, "`scales`"),
        (group_ridge, {"scales": (1.0, -1.0)}, "`scales`"),
        (group_ridge, {"columns": 0}, "`columns`"),
        (group_ridge, {"start": 1e6}, "`start`"),
        (group_ridge, {"lowest": 0.0}, "`lowest`"),
        (logistic_penalties, {"rows": 2}, "`rows`"),
        (logistic_penalties, {"noise": -1.0}, "`noise`"),
        (logistic_penalties, {"highest": 0.5}, "`start`"),
    ],
)
def test_options_that_cannot_work_are_named(make, options, match):
    with pytest.raises(ArgumentError, match=match):
        make(**options)


def of_the_example():
    """Rows of seed 0, in the way of the notebook: one global stream."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(1)  # noqa: NPY002
        w = np.random.randn(20)  # noqa: NPY002
        x = np.random.randn(1000, 20)  # noqa: NPY002
        y = x @ w + 0.1 * np.random.randn(1000)  # noqa: NPY002
        order = np.random.permutation(1000)  # noqa: NPY002
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return x, y > 0, order


def test_rows_are_those_of_the_example():
    """Half of them for validation, the first of a permutation."""
    x, y, order = of_the_example()
    rows = logistic_penalties().data(0)
    np.testing.assert_array_equal(rows["validation"].inputs, x[order[:500]])
    np.testing.assert_array_equal(rows["train"].inputs, x[order[500:]])
    np.testing.assert_array_equal(rows["train"].targets, y[order[500:]])


def cross_entropy(x, y, head):
    margins = np.where(y, -1, 1) * (x @ head)
    return np.logaddexp(0, margins).mean()


def best_head(x, y, penalty):
    """By SciPy's Newton method."""
    sign = np.where(y, 1.0, -1.0)

    def g(head):
        return cross_entropy(x, y, head) + 0.5 * (penalty * head**2).sum()

    def slope(head):
        share = 1 / (1 + np.exp(sign * (x @ head)))
        return -(x.T @ (sign * share)) / len(x) + penalty * head

    def hessian(head):
        share = 1 / (1 + np.exp(sign * (x @ head)))
        return x.T @ (x * (share * (1 - share))[:, None]) / len(x) + np.diag(penalty)

    options = {"gtol": 1e-13}
    found = optimize.minimize(
        g, np.zeros(x.shape[1]), jac=slope, hess=hessian, method="trust-exact", options=options
    )
    return found.x


def test_the_optimum_of_the_example():
    """.0321; and F at the penalties that were found, by SciPy."""
    x, y, order = of_the_example()
    found = bilevel.minimize(logistic_penalties())
    assert found.status is bilevel.Status.CONVERGED
    assert found.value == pytest.approx(0.03211, abs=1e-5)
    assert found.iterations <= 80
    head = best_head(x[order[500:]], y[order[500:]], np.exp(found.body.numpy()))
    value = cross_entropy(x[order[:500]], y[order[:500]], head)
    assert found.value == pytest.approx(value, rel=1e-6)
    # first-order conditions between the bounds, from differences of exact heads
    free = ~found.at_bound
    assert 0 < int(free.sum()) < 20
    assert float(found.gradient.body[free].abs().max()) <= 1e-9
