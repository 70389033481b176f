"""Ridge regression on rows in pieces and from memory maps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from bilevel import GramAccumulator
from bilevel.errors import ArgumentError, DataError, ShapeError, SingularHeadError
from bilevel.linear.gram import QUICK_ROUNDING, add_rows, nothing
from bilevel.point import accumulator

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "streaming.py"
N, M, K = 2100, 70, 2  # two pieces of 1,024 rows and some; a block of 64 columns and some


def regression(seed, condition=1e2, outputs=None, rows=N):
    """Inputs with Z'Z/n of about this condition number, and noisy targets."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.standard_normal((M, M)))[0]
    scales = np.logspace(0, -0.5 * np.log10(condition), M)
    x = (random.standard_normal((rows, M)) * scales) @ basis.T
    columns = 1 if outputs is None else outputs
    y = x @ random.standard_normal((M, columns)) + random.standard_normal((rows, columns)) + 1.0
    return x, y[:, 0] if outputs is None else y


def mapped(folder, *arrays, dtype=np.float32):
    found = []
    for i, array in enumerate(arrays):
        np.save(folder / f"{i}.npy", array.astype(dtype))
        found.append(np.load(folder / f"{i}.npy", mmap_mode="r"))
    return found


def reference(x, y, ridge, bias=False):
    """By refinement with residuals in long double."""
    z = np.concatenate([x, np.ones((len(x), 1))], 1) if bias else x
    z, y = z.astype(np.longdouble), y.astype(np.longdouble)
    penalty = np.full(z.shape[1], ridge, np.longdouble)
    if bias:
        penalty[-1] = 0
    matrix = z.T @ z / len(z) + np.diag(penalty)
    right, rough = z.T @ y / len(z), matrix.astype(float)
    theta = np.linalg.solve(rough, right.astype(float)).astype(np.longdouble)
    for _ in range(10):
        theta = theta - np.linalg.solve(rough, (matrix @ theta - right).astype(float))
    return theta


@pytest.mark.parametrize("penalize_bias", [None, False, True])
@pytest.mark.parametrize("outputs", [None, K])
def test_pieces_of_any_size_are_all_rows_at_once(outputs, penalize_bias):
    x, y = regression(0, outputs=outputs)
    bias = penalize_bias is not None
    rows = GramAccumulator(fit_bias=bias, penalize_bias=bool(penalize_bias))
    for start, stop in ((0, 3), (3, 4), (4, 1500), (1500, N)):
        assert rows.add(x[start:stop], torch.from_numpy(y[start:stop])) is rows
        assert rows.rows == stop
    for ridge in (0.3, 0.0):
        found = rows.solve(ridge)
        if not penalize_bias:
            np.testing.assert_allclose(found.head, reference(x, y, ridge, bias), rtol=1e-10)
        z = np.concatenate([x, np.ones((N, 1))], 1) if bias else x
        slope = z.T @ (z @ found.head.numpy() - y) / N
        slope[: M + bool(penalize_bias)] += ridge * found.head.numpy()[: M + bool(penalize_bias)]
        assert np.abs(slope).max() < 1e-13
        assert found.mu == pytest.approx(ridge + 1e-2, abs=0.02)


def test_scikit_learn_agrees():
    x, y = regression(1)
    found = GramAccumulator(fit_bias=True).add(x, y).solve(ridge=0.05).head.numpy()
    model = Ridge(alpha=0.05 * N, solver="cholesky").fit(x, y)
    np.testing.assert_allclose(found[:-1], model.coef_, rtol=1e-9)
    np.testing.assert_allclose(found[-1], model.intercept_, rtol=1e-9)


@pytest.mark.parametrize(
    ("condition", "ridge", "bias", "settles"),
    [
        (1, 0.0, False, False),
        (1, 0.0, True, False),
        (1e3, 0.0, False, True),
        (1e3, 1e-2, True, False),
        (1e8, 1e-5, False, False),
        (1e8, 1e-5, True, True),  # nothing is known of the smallest eigenvalue without a penalty
    ],
)
def test_float32_maps_are_solved_to_float64(condition, ridge, bias, settles, tmp_path):
    x, y = mapped(tmp_path, *regression(2, condition))
    rows, passes = GramAccumulator(fit_bias=bias).add(x, y), []
    expected = reference(np.asarray(x), np.asarray(y), ridge, bias)
    size = float(np.linalg.norm(expected))
    rough = float(np.linalg.norm(rows._system(ridge).solve()[0][0, :, 0].numpy() - expected))
    found = rows.solve(ridge, progress=lambda done, total: passes.append(done == total))
    error = float(np.linalg.norm(found.head.numpy() - expected))
    assert rough > 1e-8 * size  # there is something to refine
    assert error <= 1e-12 * size * (1 + min(condition, 1 / max(ridge, 1e-16)))
    assert error <= found.bound
    assert found.bound_kind == "proven"
    eigenvalues = np.linalg.eigvalsh(np.asarray(x, dtype=float).T @ x / N)
    assert found.mu <= eigenvalues[0] + ridge + 1e-12
    assert (rows._quick is None) == settles  # multiplied in float64 after all
    assert 1 <= sum(passes) <= 6


def test_maps_and_pieces_together(tmp_path):
    x, y = (a.astype(np.float32) for a in regression(3, outputs=K))
    maps = mapped(tmp_path, x[:1500], y[:1500])
    rows = GramAccumulator(fit_bias=True).add(*maps).add(x[1500:], y[1500:])
    assert rows.rows == N
    expected = reference(x, y, 0.1, bias=True)
    np.testing.assert_allclose(rows.solve(0.1).head, expected, rtol=1e-11)
    assert rows._quick is not None
    rows.solve(0.2)
    rows._settle(None)
    np.testing.assert_allclose(rows.solve(0.1).head, expected, rtol=1e-11)
    assert rows.rows == N


@pytest.mark.parametrize("layout", ["columns first", "strided", "reversed", "float64", ">f4"])
def test_maps_of_any_layout(layout, tmp_path):
    x, y = (a.astype(np.float32) for a in regression(4))
    if layout == "columns first":
        np.save(tmp_path / "x.npy", np.asfortranarray(x))
        maps = np.load(tmp_path / "x.npy", mmap_mode="r"), y
        assert not maps[0].flags.c_contiguous
    elif layout == "strided":
        maps = [m[::2] for m in mapped(tmp_path, x.repeat(2, 0), y.repeat(2))]
    elif layout == "reversed":
        maps = [m[::-1] for m in mapped(tmp_path, x[::-1], y[::-1])]
    else:
        maps = mapped(tmp_path, x, y, dtype=layout)
    found = GramAccumulator().add(*maps).solve(0.1).head
    np.testing.assert_allclose(found, reference(x, y, 0.1), rtol=1e-11)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("quick", [False, True])
def test_sums_against_long_double(quick, runs):
    """Several blocks of columns, several pieces of rows; the error of quick sums is bounded."""
    random = np.random.default_rng(5)
    a = random.standard_normal((runs, N, M)).astype(np.float32) + 3  # not centred: sums are large
    u = random.standard_normal((runs, N, K)).astype(np.float32)
    sums = nothing(runs, M, K)
    for part in (slice(0, 1100), slice(1100, N)):
        tensors = (torch.from_numpy(x[:, part]) for x in (a, u))
        sums = add_rows(sums, *tensors, quick=quick)
    long, aims = a.astype(np.longdouble), u.astype(np.longdouble)
    exact = long.swapaxes(1, 2) @ long / N
    matrix, moment = sums.moments()
    error = np.abs(matrix.numpy() - exact)
    limit = QUICK_ROUNDING if quick else 1e-14
    size = np.einsum("rij,rik->rjk", np.abs(long), np.abs(long)) / N
    assert (error <= limit * size).all()
    assert bool((error > 1e-9 * size).any()) == quick
    limit = 1e-6 if quick else 1e-13
    np.testing.assert_allclose(moment, long.swapaxes(1, 2) @ aims / N, rtol=0, atol=limit * 10)
    assert torch.equal(matrix, matrix.mT)
    design, targets = sums.norms()
    np.testing.assert_allclose(design, np.linalg.norm(a.reshape(runs, -1), axis=1), rtol=1e-6)
    np.testing.assert_allclose(targets, np.linalg.norm(u.reshape(runs, -1), axis=1), rtol=1e-6)


def test_few_rows_are_looked_at_at_once(tmp_path, monkeypatch):
    x, y = regression(6, rows=20_000)
    sizes = []

    def counted(sums, design, targets, *, quick=False):
        sizes.append(design.shape[1])
        return add_rows(sums, design, targets, quick=quick)

    monkeypatch.setattr(accumulator, "add_rows", counted)
    calls = []
    maps = mapped(tmp_path, x, y)
    rows = GramAccumulator().add(*maps, progress=lambda *c: calls.append(c))
    assert sizes == [8192, 8192, 20_000 - 2 * 8192]
    assert calls == [(8192, 20_000), (16384, 20_000), (20_000, 20_000)]
    calls.clear()
    rows.solve(0.1, progress=lambda *c: calls.append(c))
    assert calls[:3] == [(8192, 20_000), (16384, 20_000), (20_000, 20_000)]


X, Y = regression(7, rows=200)


def with_value(array, row, value):
    changed = array.copy()
    changed[row] = value
    return changed


BAD = {
    "integer inputs": ((X.astype(int), Y), DataError, "`inputs` must be .*floating.*got int64"),
    "integer targets": ((X, Y > 0), DataError, "`targets` must be .* got bool"),
    "lists": ((X.tolist(), Y), DataError, "`inputs` must be a tensor or a NumPy array.*got list"),
    "nan": ((with_value(X, 123, np.nan), Y), DataError, "`inputs` holds 70 values.*row 123"),
    "inf": ((X, with_value(Y, 199, np.inf)), DataError, "`targets` holds 1 values.*row 199"),
    "n": ((X, Y[:-1]), ShapeError, r"`targets` must be \(200,\).*got \(199,\)"),
    "vector": ((X[:, 0], Y), ShapeError, r"`inputs` must be \(c, M\)"),
    "no rows": ((X[:0], Y[:0]), ShapeError, r"at least one row.*got \(0, 70\)"),
    "columns": ((X[:, 1:], Y), ShapeError, r"Rows so far have `inputs` \(c, 70\)"),
    "outputs": ((X, Y[:, None]), ShapeError, r"`targets` \(c,\), got .*\(200, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_and_not_added(case):
    arrays, error, message = BAD[case]
    rows = GramAccumulator().add(X, Y)
    before = rows.solve(0.1).head
    with pytest.raises(error, match=message):
        rows.add(*arrays)
    assert rows.rows == 200
    assert torch.equal(rows.solve(0.1).head, before)


def test_what_has_no_solution_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="No rows were added"):
        GramAccumulator().solve(0.1)
    rows = GramAccumulator().add(X[: M - 1], Y[: M - 1])
    with pytest.raises(SingularHeadError, match=r"69 rows do not determine 70 coefficients.*ridge"):
        rows.solve()
    rows = GramAccumulator(fit_bias=True).add(*mapped(tmp_path, with_value(X.T, 3, 1.0).T, Y))
    with pytest.raises(SingularHeadError, match="drop columns that others determine"):
        rows.solve()  # a constant column beside the bias
    assert rows.solve(1e-3).bound < 1e-3
    for ridge in (-1e-3, float("nan"), "a"):
        with pytest.raises(ArgumentError, match="`ridge` must be"):
            rows.solve(ridge)


def test_a_file_takes_little_memory(tmp_path):
    """40 MB of rows, in a process of its own: less than a copy of them."""
    x, y = (np.tile(a, (20, 1) if a.ndim == 2 else 20) for a in regression(8, rows=7000))
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    command = [sys.executable, str(BENCHMARK), "--cell", "GramAccumulator", str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 0 < float(output.split()[1]) < 30
    found = np.load(tmp_path / "GramAccumulator.npy")
    slope = x[:7000].T.astype(np.float32).astype(float) @ (
        x[:7000].astype(np.float32).astype(float) @ found - y[:7000].astype(np.float32)
    )
    assert np.abs(slope / 7000 + 1e-3 * found).max() < 1e-13


@pytest.mark.slow
def test_a_million_rows_of_256_columns():
    """Memory and speed of the requirement, by the benchmark: a file of a gigabyte."""
    command = [sys.executable, str(BENCHMARK), "--rows", "1000000"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    share = float(output.split("% of it")[0].split(": ")[-1])
    lines = {line[:18].strip(): line.split()[-3:] for line in output.splitlines()[-3:]}
    assert share >= 60, output
    for way in ("GramAccumulator", "best_response"):
        _, added, off = map(float, lines[way])
        assert added < 200, output
        assert off < 1e-9, output
    assert float(lines["NumPy in memory"][1]) > 2000  # what is measured would show it
