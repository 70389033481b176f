"""Both ends of spectra by Lanczos' method."""

import pytest
import torch
from small_problems import doubles

from bilevel.bounds.lanczos import ends


def symmetric(values, seed=0):
    basis = torch.linalg.qr(doubles(seed, len(values), len(values))).Q
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def found(matrices, most=100, tolerance=1e-9):
    stacked = torch.stack(matrices)
    calls = []

    def product(vectors):
        calls.append(vectors)
        return (stacked @ vectors.unsqueeze(2)).squeeze(2)

    start = doubles(9, stacked.shape[1])
    start = (start / start.norm()).expand(stacked.shape[:2])
    made = ends(product, start, tolerance=tolerance, most=most)
    assert made.products == len(calls)
    return made


@pytest.mark.parametrize(
    "values",
    [
        list(range(-20, 31)),  # both signs
        [2.0 + 0.1 * i for i in range(51)],  # far from zero
        [-3.0 - 0.1 * i for i in range(51)],
        [5.0] * 51,  # a multiple of the identity: one step spans all
        [1.0] * 25 + [4.0] * 26,
        [0.0] * 51,
        [0.0] * 50 + [1e-9],
        [1e12] + [1.0] * 50,
        [10.0**-i for i in range(51)],
    ],
)
def test_they_are_the_ends(values):
    made = found([symmetric(values), symmetric(values, 1), torch.eye(51).double()])
    scale = max(map(abs, values)) or 1.0
    for run in range(2):
        assert float(made.high[run]) == pytest.approx(max(values), abs=1e-9 * scale)
        assert float(made.low[run]) == pytest.approx(min(values), abs=1e-9 * scale)
    assert made.high[2] == pytest.approx(1.0)
    assert made.low[2] == pytest.approx(1.0)


def test_products_end_when_both_are_found():
    values = [float(i) for i in range(400)]
    made = found([symmetric(values)], most=400, tolerance=1e-6)
    assert 20 < made.products < 200
    assert float(made.residual[0]) <= 1e-6 * 399
    short = found([symmetric(values)], most=7, tolerance=1e-6)
    assert short.products == 7
    assert float(short.residual[0]) > 1.0  # and says so
    assert 0 <= float(short.low[0]) < float(short.high[0]) <= 399


def test_a_matrix_that_is_not_finite_harms_no_other():
    bad = symmetric([1.0, 2.0, 3.0])
    bad[0, 0] = torch.nan
    made = found([symmetric([1.0, 2.0, 3.0]), bad])
    assert made.high.isnan().tolist() == made.low.isnan().tolist() == [False, True]
    assert float(made.high[0]) == pytest.approx(3.0)
