"""The linear system behind a head: against dense NumPy, and what happens to bad runs."""

import numpy as np
import pytest
import scipy.linalg
import torch
from linear_heads import dense, normal
from operations import Count

from bilevel.core.live_bytes import LiveBytes
from bilevel.core.status import Status
from bilevel.derivatives.linear_parts import LinearParts
from bilevel.linear import centre
from bilevel.linear.centre import Joined
from bilevel.linear.cholesky import EPS, factorise
from bilevel.linear.dual import DualSystem, linear_system
from bilevel.linear.systems import PrimalSystem

RUNS = 3
SHAPES = [(9, 4), (4, 9), (6, 6)]
PENALTIES = ["scalar", "vector", "matrix"]


def penalties(kind, m, k):
    """(R, M) or (R, M, K) positive penalties, different in every run."""
    if kind == "scalar":
        return np.repeat(np.array([[0.3], [0.02], [1.5]]), m, axis=1)
    shape = (RUNS, m) if kind == "vector" else (RUNS, m, k)
    return 0.05 + np.abs(normal([1, m], *shape))


def parts(n, m, k, *, weighted, kind, drawn=False):
    """Random parts of R runs; `k` None means targets without an output axis."""
    design, targets = normal([n, m], RUNS, n, m), normal([n, m, 9], RUNS, n, k or 1)
    each = (k,) if weighted == "outputs" else ()
    weights = 0.1 + np.abs(normal([n, 5], RUNS, n, *each)) if weighted else None
    prior = torch.from_numpy(normal([n, m, 8], RUNS, m, k or 1))
    return LinearParts(
        torch.from_numpy(design),
        torch.from_numpy(targets if k else targets[..., 0]),
        torch.from_numpy(weights) if weighted else None,
        torch.from_numpy(penalties(kind, m, k or 1)),
        (prior if k else prior.squeeze(2)) if drawn else None,
    )


def references(given):
    """Per run: H (K, M, M) and b (K, M)."""
    found = []
    for run in range(RUNS):
        weights = None if given.weights is None else given.weights[run].numpy()
        found.append(
            dense(
                given.design[run].numpy(),
                given.targets[run].numpy(),
                weights,
                given.penalty[run].numpy(),
                0.0 if given.prior is None else given.prior[run].numpy(),
            )
        )
    return found


CASES = [
    pytest.param(*case, id="{}x{}-{}-{}-{}".format(*case) + ("-prior" if case[5] else ""))
    for n, m in SHAPES
    for k in (None, 2)
    for weighted in (False, "rows", "outputs")
    for kind in PENALTIES
    for case in [(n, m, k, weighted, kind, False), (n, m, k, weighted, kind, True)]
    if not (k is None and (kind == "matrix" or weighted == "outputs"))
]


@pytest.mark.parametrize(("n", "m", "k", "weighted", "kind", "drawn"), CASES)
def test_system_against_dense_algebra(n, m, k, weighted, kind, drawn):
    given = parts(n, m, k, weighted=weighted, kind=kind, drawn=drawn)
    system = linear_system(given, penalised=True)
    assert isinstance(system, DualSystem if n < m else PrimalSystem)
    theta, status = system.solve()
    assert theta.shape == (RUNS, m, k or 1)
    assert status.tolist() == [int(Status.CONVERGED)] * RUNS
    elsewhere = torch.from_numpy(normal(77, RUNS, m, k or 1))
    slopes, zero = system.gradient_norm(elsewhere), system.gradient_norm(theta)
    low, high = system.curvature()
    for run, (matrix, moment) in enumerate(references(given)):
        expected = np.stack(
            [scipy.linalg.solve(a, b, assume_a="pos") for a, b in zip(matrix, moment, strict=True)],
            axis=1,
        )
        np.testing.assert_allclose(theta[run], expected, rtol=1e-10, atol=1e-12)
        slope = np.einsum("kij,jk->ik", matrix, elsewhere[run].numpy()) - moment.T
        np.testing.assert_allclose(float(slopes[run]), np.linalg.norm(slope), rtol=1e-12)
        assert float(zero[run]) <= 1e-14 * np.linalg.norm(moment) * np.linalg.cond(matrix).max()
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert 0 < float(low[run]) <= eigenvalues.min() * (1 + 1e-12)
        assert float(high[run]) >= eigenvalues.max() * (1 - 1e-12)
        if isinstance(system, PrimalSystem):  # known exactly; the dual form only has bounds
            np.testing.assert_allclose(float(low[run]), eigenvalues.min(), rtol=1e-10)
            np.testing.assert_allclose(float(high[run]), eigenvalues.max(), rtol=1e-10)
        else:  # the trace is at most n times the largest eigenvalue
            assert float(high[run]) <= (n + 1) * eigenvalues.max()


@pytest.mark.parametrize("at_once", [1, 40, 130, 10**6], ids=["rows", "some rows", "runs", "all"])
@pytest.mark.parametrize("bias", [None, "free", "penalised"])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_multiplied_a_few_at_a_time(weighted, bias, at_once, monkeypatch):
    """By runs, or by rows of one run, a bias written down or left out: the same products."""
    given = parts(11, 4, 2, weighted=weighted, kind="vector")
    if bias is not None:
        given = given._replace(penalty=torch.cat([given.penalty, given.penalty[:, :1]], 1))
    rows = Joined.of(given.whole, bias).rows()
    expected = rows.mT @ rows / 11
    monkeypatch.setattr(centre, "AT_ONCE", at_once)
    for some in (given, given.whole):
        joined = Joined.of(some, bias)
        torch.testing.assert_close(joined.products(), expected, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(joined._beside(), rows, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bias", [None, "penalised"])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_those_of_the_products(weighted, bias):
    given = parts(11, 4, 2, weighted=weighted, kind="vector")
    joined = Joined.of(given, bias)
    m, product = given.penalty.shape[1], joined.products()
    for part, expected in zip(
        joined.moments(), (product[:, :m, :m], product[:, :m, m:]), strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=1e-13, atol=1e-14)


def test_rows_in_float64_are_multiplied_where_they_lie():
    """Nothing is to be cast, shifted or weighed: to copy them takes longer than to multiply."""
    joined = Joined.of(parts(11, 4, 2, weighted=False, kind="vector"))
    with Count() as count:
        joined.moments()
    assert count.of("bmm") == 2
    assert not count.of("copy", "clone", "cat")


def test_the_memory_of_products_does_not_grow_with_runs():
    design = torch.zeros(1, 2000, 30).expand(60, -1, -1)
    given = LinearParts(design, design[..., 0], None, torch.ones(60, 31))
    with LiveBytes() as live:
        Joined.of(given, "penalised").products()
    assert live.peak < 8 * 2 * centre.AT_ONCE + 8 * 3 * 60 * 32**2  # all rows in float64: 31 MB


@pytest.mark.parametrize("kind", PENALTIES)
def test_dual_and_primal_agree(kind):
    given = parts(5, 8, 2, weighted=True, kind=kind)
    dual, primal = (linear_system(given, penalised=chosen) for chosen in (True, False))
    assert isinstance(dual, DualSystem)
    assert isinstance(primal, PrimalSystem)
    torch.testing.assert_close(dual.solve()[0], primal.solve()[0], rtol=1e-10, atol=1e-12)
    theta = torch.from_numpy(normal(3, RUNS, 8, 2))
    torch.testing.assert_close(
        dual.gradient_norm(theta), primal.gradient_norm(theta), rtol=1e-12, atol=0
    )


def test_unpenalised_bias_keeps_the_primal_form():
    given = parts(5, 7, None, weighted=False, kind="scalar")
    design = torch.cat([given.design, torch.ones(RUNS, 5, 1, dtype=torch.float64)], dim=2)
    penalty = torch.cat([given.penalty, torch.zeros(RUNS, 1, dtype=torch.float64)], dim=1)
    given = given._replace(design=design, penalty=penalty)
    system = linear_system(given, penalised=False)
    assert isinstance(system, PrimalSystem)
    theta, status = system.solve()
    assert status.tolist() == [int(Status.CONVERGED)] * RUNS
    low, _ = system.curvature()
    for run, (matrix, moment) in enumerate(references(given)):
        np.testing.assert_allclose(theta[run, :, 0], np.linalg.solve(matrix[0], moment[0]), 1e-9)
        np.testing.assert_allclose(float(low[run]), np.linalg.eigvalsh(matrix).min(), rtol=1e-9)


def test_floor_is_the_smallest_penalty():
    """Where the features have no rank at all, mu is the penalty to the last bit."""
    given = parts(6, 3, None, weighted=False, kind="vector")
    given = given._replace(design=torch.zeros_like(given.design))
    low, _ = linear_system(given, penalised=True).curvature()
    assert torch.equal(low, given.penalty.amin(1))


def spd(seed, size, condition=10.0):
    """A random positive definite matrix of given condition."""
    q, _ = np.linalg.qr(normal(seed, size, size))
    return torch.from_numpy(q @ np.diag(np.geomspace(1, condition, size)) @ q.T)


def four_runs():
    return torch.stack([spd(seed, 5) for seed in range(4)]).unsqueeze(1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_run_that_is_not_finite_harms_no_other(value):
    good = four_runs()
    bad = good.clone()
    bad[2, 0, 1, 3] = value
    factor, matrix, status = factorise(bad)
    clean, _, _ = factorise(good)
    others = [0, 1, 3]
    assert torch.equal(factor[others], clean[others])
    assert torch.equal(matrix[others], good[others])
    assert factor[2].isnan().all()
    assert matrix[2].isfinite().all()  # replaced, so that nothing downstream meets a NaN
    expected = [Status.CONVERGED, Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert status.tolist() == [int(code) for code in expected]


def test_factor_is_a_factor():
    good = four_runs()
    factor, matrix, status = factorise(good)
    assert torch.equal(matrix, good)
    torch.testing.assert_close(factor @ factor.mT, good, rtol=1e-13, atol=1e-13)
    assert status.tolist() == [int(Status.CONVERGED)] * 4


def test_a_singular_run_is_jittered_and_says_so():
    matrix = four_runs()
    column = torch.from_numpy(normal(8, 5, 2))
    matrix[1, 0] = column @ column.T  # rank 2 of 5
    factor, used, status = factorise(matrix)
    clean, _, _ = factorise(four_runs())
    others = [0, 2, 3]
    assert torch.equal(factor[others], clean[others])
    assert torch.equal(used[others], matrix[others])
    assert status.tolist() == [1, int(Status.JITTERED), 1, 1]
    added = used[1, 0] - matrix[1, 0]
    scale = float(matrix[1, 0].diagonal().max())
    jitter = float(added.diagonal().mean())
    assert 0 < jitter <= 1e-11 * scale  # the smallest that works, not a round number
    torch.testing.assert_close(factor[1, 0] @ factor[1, 0].mT, used[1, 0], rtol=0, atol=1e-14)


def test_a_jittered_solution_solves_the_jittered_system():
    design = np.zeros((RUNS, 6, 3))
    design[:] = normal(4, RUNS, 6, 3)
    design[1, :, 2] = design[1, :, 0]  # two equal features, no penalty
    given = LinearParts(
        torch.from_numpy(design),
        torch.from_numpy(normal(5, RUNS, 6)),
        None,
        torch.zeros(RUNS, 3, dtype=torch.float64),
    )
    theta, status = linear_system(given, penalised=False).solve()
    assert status.tolist() == [1, int(Status.JITTERED), 1]
    # the smallest solution of the least squares problem, up to the jitter
    expected = np.linalg.lstsq(design[1], given.targets[1].numpy(), rcond=1e-10)[0]
    np.testing.assert_allclose(theta[1, :, 0], expected, rtol=1e-3)


def test_an_indefinite_run_gives_no_numbers():
    """No jitter makes sense of a negative matrix: NaN and a failed status, never a guess."""
    matrix = four_runs()
    matrix[3, 0] = -2 * torch.eye(5, dtype=torch.float64)
    factor, _, status = factorise(matrix)
    assert factor[3].isnan().all()
    assert Status(int(status[3])).failed
    assert status[:3].tolist() == [int(Status.CONVERGED)] * 3
    assert torch.equal(factor[:3], factorise(four_runs())[0][:3])


def test_one_matrix_for_each_output_is_judged_as_a_run():
    """A run whose second output is singular is jittered as a run; the other run is not."""
    matrix = torch.stack([spd(0, 3), spd(1, 3), spd(2, 3), spd(3, 3)]).reshape(2, 2, 3, 3)
    matrix[1, 1] = 1.0  # rank 1
    _, used, status = factorise(matrix)
    assert status.tolist() == [int(Status.CONVERGED), int(Status.JITTERED)]
    assert torch.equal(used[0], matrix[0])


@pytest.mark.parametrize("size", [2, 5, 30])
@pytest.mark.parametrize("seed", range(5))
def test_curvature_is_outside_of_the_true_spectrum(size, seed):
    """Known eigenvalues, one of them at the level of rounding."""
    smallest = size * EPS
    q, _ = np.linalg.qr(normal(seed, size, size))
    values = np.geomspace(1, 3, size)
    values[0] = smallest
    matrix = torch.from_numpy(q @ np.diag(values) @ q.T)
    matrix = 0.5 * (matrix + matrix.mT)
    system = PrimalSystem(
        matrix[None, None], torch.ones(1, 1, size, 1).double(), torch.zeros(1).double()
    )
    low, high = system.curvature()
    assert float(low) <= 4 * smallest
    assert float(high) >= values.max() * (1 - size * EPS)
