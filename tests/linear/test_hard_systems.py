"""Exact heads on scales that differ and features far from zero, against rational arithmetic."""

import mmap

import numpy as np
import pytest
import torch
from hard_systems import HARD, hard, smallest_eigenvalue
from linear_heads import ONE, distance, fractions, normal
from points import Point

import bilevel
from bilevel import BatchData, ClosedForm, GramAccumulator, RunningData, Status
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint

DIGITS = 1e-8


@pytest.mark.parametrize("name", HARD)
def test_each_coefficient_is_right_on_its_own_scale(name):
    case = HARD[name]
    exact = case.exact()
    plain = case.error(case.scaled_solve(), exact)
    found = bilevel.best_response(case.problem(), ONE)
    error = case.error(found.head, exact)
    assert found.status is Status.CONVERGED
    assert plain < DIGITS or "penalised bias" in name  # the table is one of well-posed systems
    assert error < DIGITS
    assert error < 10 * plain + 1e-14


@pytest.mark.parametrize("name", HARD)
def test_the_bound_stays_a_proven_one(name):
    """mu is that of H itself, never of the scaled or centred matrix."""
    case = HARD[name]
    found = bilevel.best_response(case.problem(), ONE)
    assert found.bound_kind == "proven"
    assert 0 < found.mu <= smallest_eigenvalue(case.hessians()) * (1 + 1e-12)
    assert distance(found.head, case.exact()) <= found.bound < float("inf")


@pytest.mark.parametrize("name", ["years", "far, penalties by output", "scales, bias"])
@pytest.mark.parametrize(
    ("solver", "attributes"),
    [
        (ClosedForm(), {"chunk_rows": 7}),
        (ClosedForm(), {"body_free_features": True}),
        (ClosedForm(BatchData()), {}),
        (ClosedForm(RunningData(0.9, 0.0)), {}),
        (ClosedForm(RunningData(0.9, 0.0)), {"chunk_rows": 7}),
    ],
    ids=["chunks", "fixed features", "batch", "averages", "averages of chunks"],
)
def test_however_the_rows_are_summed_up(name, solver, attributes):
    case = HARD[name]
    found = bilevel.best_response(case.problem(**attributes), ONE, solver)
    assert found.status is Status.CONVERGED
    assert case.error(found.head, case.exact()) < DIGITS


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("years", None), ("years", 1e9), ("far, penalties by output", None),
        ("far, penalised bias", None), ("far, penalised bias", 1e9),
    ],
)  # fmt: skip
def test_heads_by_cvxpy_are_those_of_the_closed_form(name, side):
    """Also on a box that holds nothing back."""
    attributes = {} if side is None else {"head_set": bilevel.Box(-side, side)}
    case = HARD[name]
    found = bilevel.best_response(case.problem(**attributes), ONE, bilevel.Cvxpy())
    assert found.status is Status.CONVERGED
    assert case.error(found.head, case.exact()) < DIGITS


@pytest.mark.parametrize(("bias", "far"), [("free", 1e7), ("penalised", 1e3)])
def test_averages_over_batches_that_lie_far_from_zero(bias, far):
    """Batches have different means; their average is that of all rows, however they are counted."""
    case = hard(30, n=24, mean=[far, -0.1 * far, 4.0, 0.5 * far], bias=bias)
    point, solver = Point(case.problem(), [ONE]), RunningData(1 - 1e-9, 0.0)
    pieces = zip(*(torch.as_tensor(x).split(8) for x in (case.inputs, case.targets)), strict=True)
    batches = [Rows({"train": bilevel.Batch(*piece)}, {"train": None}) for piece in pieces]
    first = HeadPoint(point.oracles, point.body, point.head, batches[0])
    state = solver.init(first)
    for batch in batches:
        system, state = solver.system(first.on(batch), state)
    theta, status = system.solve()
    assert status.tolist() == [int(Status.CONVERGED)]
    assert case.error(theta[0], case.exact()) < 1e-7  # the weights differ by 2e-9


@pytest.mark.parametrize("penalize_bias", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_pieces_that_lie_far_from_zero(mapped, penalize_bias, tmp_path):
    """Later pieces have other means than the first one, from which all are counted."""
    ridge = 1e-4
    case = hard(
        31, n=60, mean=[2e3, -5e4, 1.0, 3e2], level=1e3, penalty=np.float64(ridge),
        bias="penalised" if penalize_bias else "free",
    )  # fmt: skip
    inputs = (case.inputs + np.linspace(0, 9, 60)[:, None] ** 2).astype(np.float32)
    case = case._replace(inputs=inputs.astype(np.float64))
    rows = GramAccumulator(fit_bias=True, penalize_bias=penalize_bias)
    for start in (0, 20, 40):
        some = inputs[start : start + 20]
        if mapped:
            file = np.lib.format.open_memmap(
                tmp_path / f"{start}.npy", mode="w+", dtype=np.float32, shape=some.shape
            )
            file[:] = some
            assert isinstance(file.base, mmap.mmap)
            some = file
        rows.add(some, case.targets[start : start + 20].astype(np.float64))
    found = rows.solve(ridge)
    assert case.error(found.head, case.exact()) < DIGITS
    assert 0 < found.mu <= smallest_eigenvalue(case.hessians()) * (1 + 1e-12)
    assert distance(found.head, case.exact()) <= found.bound


@pytest.mark.parametrize("bias", [None, "free"])
def test_maps_are_refined_on_the_scale_of_each_column(bias, tmp_path):
    """The slope of a large column is rounding long before that of a small one is."""
    case = hard(
        32, n=70, m=5, scale=[1e6, 1e-5, 1.0, 1e-6, 1e4], penalty=np.float64(1e-12), bias=bias
    )
    file = np.lib.format.open_memmap(
        tmp_path / "rows.npy", mode="w+", dtype=np.float32, shape=case.inputs.shape
    )
    file[:] = case.inputs.astype(np.float32)
    case = case._replace(inputs=np.array(file, dtype=np.float64))
    found = GramAccumulator(fit_bias=bias is not None).add(file, case.targets).solve(1e-12)
    assert case.error(found.head, case.exact()) < 1e-11


@pytest.mark.parametrize("name", HARD)
def test_a_factor_is_that_of_the_whole_hessian(name):
    """Products and solves of what adjoints get, on the scale of each feature, in fractions.

    A right-hand side that leads to known numbers is known to its rounding, as is what it leads to.
    """
    case = HARD[name]
    hessians = case.hessians()
    factor = Point(case.problem(), [ONE]).solved(ClosedForm()).factor
    roots = np.sqrt(np.stack([np.diag(h).astype(float) for h in hessians], 1))
    columns = normal([40, len(roots)], *roots.shape)

    def products(table):
        return np.stack([h @ w for h, w in zip(hessians, fractions(table).T, strict=True)], 1)

    def off(found, exact, scale):
        return np.abs((fractions(found) - exact).astype(float) * scale).max()

    product = factor.product(torch.as_tensor(columns / roots).unsqueeze(0))[0].numpy()
    assert off(product, products(columns / roots), 1 / roots) < 1e-13
    solved = factor.solve(torch.as_tensor(columns * roots).unsqueeze(0))[0].numpy()
    size = 1 + np.abs(solved * roots).max()
    assert off(columns * roots, products(solved), 1 / roots) < 1e-13 * size
