"""Standardised columns: huge means, tiny spreads, large squares, and digits that float64 loses."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from bilevel.errors import DataError
from bilevel.problem.network.hidden_layers import Network
from bilevel.tables.csv_file import read_columns
from bilevel.tables.scaling import Scaling, few_digits, only_rounding
from problems.classification import standardised
from problems.regression import Regression
from problems.table import from_arrays, table

ROWS = 40
RANDOM = np.random.default_rng(8)
NOISE = RANDOM.normal(size=ROWS)
OTHER = RANDOM.normal(size=ROWS)
TARGETS = OTHER - 2 * NOISE


def reference(train, rows):
    """Standardised in rational numbers, but for the root; anything that Fraction takes."""
    exact = [Fraction(x) for x in train]
    mean = sum(exact) / len(exact)
    variance = sum((x - mean) ** 2 for x in exact) / len(exact)
    squares = [(Fraction(x) - mean) ** 2 / variance for x in rows]
    signs = [1 if Fraction(x) >= mean else -1 for x in rows]
    return np.array([s * float(q) ** 0.5 for s, q in zip(signs, squares, strict=True)])


COLUMNS = {
    "ordinary": 3.0 + 2.0 * NOISE,
    "mean 1e12": 1e12 + NOISE,
    "mean 1e16, steps of 2": 1e16 + np.round(30 * NOISE) * 2,
    "mean -4e17, steps of 64": -4e17 + np.round(20 * NOISE) * 64,
    "spread 1e-170": 1e-170 * NOISE,
    "spread 1e-9 about 7e-3": 7e-3 + 1e-9 * NOISE,
    "spread 1e-300": 1e-300 * NOISE,
    "below the normal numbers": 1e-310 * NOISE,
    "squares overflow": 1e200 * NOISE,
    "near the largest number": 4e307 * np.tanh(NOISE),
    "an outlier first": np.concatenate([[1e18], NOISE[1:]]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_anywhere_are_centred_and_scaled(name):
    column = COLUMNS[name]
    train, rest = column[:25], column[25:]
    assert np.ptp(rest) > 0
    scaling = Scaling.of(train[:, None])
    for rows in (train, rest):
        np.testing.assert_allclose(
            scaling(rows[:, None])[:, 0], reference(train, rows), rtol=1e-13, atol=1e-14
        )


@pytest.mark.parametrize("name", COLUMNS)
def test_every_problem_that_standardises_uses_it(name):
    column = COLUMNS[name]
    inputs = np.column_stack([OTHER, column])
    splits = {"train": (inputs[:25], column[:25]), "test": (inputs[25:], column[25:])}
    groups = Regression(lambda seed: splits, Network(3)).data(0)
    labelled = standardised(splits)
    for group, rows in (("train", slice(25)), ("test", slice(25, None))):
        expected = reference(column[:25], column[rows])
        for found in (groups[group].inputs[:, 1], groups[group].targets, labelled[group][0][:, 1]):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def test_a_mean_that_many_rows_make_look_constant():
    """The more rows, the wider the band in which a sum of squares is taken for rounding."""
    column = 5e7 + 1e-3 * np.random.default_rng(1).normal(size=200_000)
    found = Scaling.of(column[:, None])(column[:, None])
    assert abs(found.mean()) < 1e-9
    assert found.std() == pytest.approx(1, abs=1e-9)
    centred = column - 5e7 - (column - 5e7).mean()
    np.testing.assert_allclose(found[:, 0] * centred.std(), centred, rtol=1e-9, atol=1e-15)


def test_single_precision_stays_and_is_right():
    pixels = (1000 + NOISE).astype(np.float32)[:, None]
    found = Scaling.of(pixels)(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], reference(pixels[:, 0].tolist(), pixels[:, 0].tolist()),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_columns_that_do_not_vary_keep_their_unit():
    train = np.column_stack([np.full(9, 0.1), 0.3 + np.arange(9) % 2 * np.spacing(0.3)])
    scaling = Scaling.of(train)
    assert abs(scaling(train)).max() < 1e-16
    np.testing.assert_allclose(scaling(train + 2.0), 2.0)
    assert only_rounding(train).tolist() == [False, True]
    whole = 2.0**53 + 2 * np.arange(9)[:, None]
    assert not only_rounding(whole).any()
    assert few_digits(whole).all()
    assert not few_digits(NOISE[:, None]).any()


@pytest.mark.parametrize(
    ("train", "rest", "message"),
    [
        ([1.0, np.inf, 2.0], [1.0], r"'b' cannot be standardised: .* not finite"),
        ([1.7e308, -1.7e308, 2.0], [1.0], r"'b' cannot be standardised: .* further apart"),
        ([1e-200, 2e-200, 4e-200], [1.0], r"'b' cannot be standardised with the training rows"),
        ([1.0, 2.0, 4.0], [np.nan], r"'b' cannot be standardised with the training rows"),
        ([5.0, 5.0, 5.0], [1e60], r"'b' cannot be standardised with the training rows"),
    ],
)
def test_what_cannot_be_standardised_is_named(train, rest, message):
    train, rest = (np.column_stack([np.arange(len(x)), x]) for x in (train, rest))
    with pytest.raises(DataError, match=message):
        Scaling.of(train, ("a", "b"))(rest)
    with pytest.raises(DataError, match=r"Column 1 \(from 0\)"):
        Scaling.of(train)(rest)


def test_a_target_that_cannot_be_standardised_is_named():
    far = np.where(np.arange(ROWS) == 35, 1.0, 1e-300 * NOISE)
    splits = {"train": (OTHER[:30, None], far[:30]), "test": (OTHER[30:, None], far[30:])}
    with pytest.raises(DataError, match="Column 'price' cannot be standardised with the training"):
        Regression(lambda seed: splits, Network(3), target="price").data(0)


# numbers as they are written, of which float64 loses digits


WRITTEN = {
    "nanoseconds": [str(1_650_000_000_000_000_123 + round(900 * x)) for x in NOISE],
    "negative": [str(-(10**21) + round(50 * x)) for x in NOISE],
    "decimals": [f"{Decimal(1_650_000_000) + round(Decimal(x), 3) / 10**6:f}" for x in NOISE],
    "exponents": [f"{10**18 + k}e3" for k in range(ROWS)],
    "wide": [str(2**63 + 977 * k * 2**45 + k) for k in range(ROWS)],
}


def written(path, column, target=TARGETS):
    lines = [f"{t},{x},{y}" for t, x, y in zip(column, OTHER, target, strict=True)]
    path.write_text("\n".join(["stamp,other,price", *lines]))
    return path


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("as_target", [False, True])
def test_digits_of_a_file_are_not_lost(tmp_path, name, as_target):
    column = WRITTEN[name]
    order = np.random.default_rng([3, ROWS]).permutation(ROWS)  # of `random_split` for seed 3
    parts = {"train": order[:24], "validation": order[24:32], "test": order[32:]}
    wanted = "stamp" if as_target else "price"
    problem = table(written(tmp_path / "t.csv", column), wanted)
    assert "Counted from the first row, for float64 loses digits of the numbers: 'stamp'." in (
        problem.note
    )
    assert "in every row" not in problem.note
    assert "few digits" not in problem.note
    train = [column[k] for k in parts["train"]]
    for group, rows in problem.data(3).items():
        found = rows.targets if as_target else rows.inputs[:, 0]
        expected = reference(train, [column[k] for k in parts[group]])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["int64", "uint64", "tensor"])
def test_whole_numbers_in_arrays_are_not_lost(kind):
    start = 2**63 + 5 if kind == "uint64" else 2**61 + 5
    stamps = np.array([start + 3 * k for k in range(ROWS)], dtype=kind if kind != "tensor" else int)
    small = np.arange(ROWS).astype(stamps.dtype)
    inputs = np.column_stack([small, stamps])
    assert len(np.unique(inputs[:, 1].astype(float))) < ROWS / 2
    given = torch.from_numpy(inputs) if kind == "tensor" else inputs
    problem = from_arrays(given, TARGETS)
    assert "loses digits of the numbers: column 1 (from 0)." in problem.note
    for rows in problem.data(0).values():
        np.testing.assert_allclose(rows.inputs[:, 0], rows.inputs[:, 1], rtol=1e-12)
    problem = from_arrays(OTHER[:, None], stamps)
    assert "loses digits of the numbers: `targets`." in problem.note
    for rows in problem.data(0).values():
        assert len(rows.targets.unique()) == len(rows.targets)


def test_numbers_that_float64_holds_are_left_alone(tmp_path):
    """Powers of two, masses of stars, results of rounding and ordinary numbers stay the same."""
    masses = [f"{1.989 + x:.3f}e30" for x in NOISE]
    for column in (masses, [str(1e120 * x) for x in NOISE], [str(2**60 * (2 + x)) for x in NOISE]):
        found = read_columns(written(tmp_path / "m.csv", column))
        assert not found.apart
        np.testing.assert_array_equal(found.values[:, 0], [float(x) for x in column])
        assert from_arrays(found.values[:, [0]], TARGETS).note.count("digits") == 0
    powers = [str(2**60 + 2**12 * k) for k in range(ROWS)]
    assert not read_columns(written(tmp_path / "p.csv", powers)).apart
    noise = [repr(0.1 + 0.2) if k % 3 else "0.3" for k in range(ROWS)]
    found = read_columns(written(tmp_path / "n.csv", noise))
    assert not found.apart
    np.testing.assert_array_equal(found.values[:, 0], [float(x) for x in noise])
    note = table(tmp_path / "n.csv", "price").note
    assert "The same in every row but for rounding, so of no use: 'stamp'." in note
    with pytest.raises(DataError, match=r"'stamp' is 0\.3 in every row, but for rounding"):
        table(tmp_path / "n.csv", "stamp")
    same = [str(2**64 - 1)] * ROWS
    assert "The same in every row, so of no use: 'stamp'." in (
        table(written(tmp_path / "s.csv", same), "price").note
    )


def test_digits_that_were_lost_before_are_told():
    stamps = 1.65e18 + np.round(4 * NOISE) * 256
    seconds = (1.65e9 + 300 * NOISE).astype(np.float32).astype(np.float64)
    whole = np.column_stack([2.0**51 + np.arange(ROWS), 2.0**23 + np.arange(ROWS)])
    inputs = np.column_stack([OTHER, stamps, seconds, whole])
    assert few_digits(inputs).tolist() == [False, True, True, False, False]
    for given in (inputs, torch.from_numpy(inputs)):
        note = from_arrays(given, TARGETS).note
        assert "spread that few digits are left: column 1 (from 0), column 2 (from 0)." in note
    single = np.column_stack([OTHER, seconds]).astype(np.float32)
    assert "few digits are left: column 1 (from 0)." in from_arrays(single, TARGETS).note


def test_numbers_too_small_for_a_float_are_refused(tmp_path):
    column = [f"{x:.3f}e-400" for x in NOISE]
    with pytest.raises(DataError, match=r"'stamp' holds numbers that are too small .*40 of 40"):
        table(written(tmp_path / "t.csv", column), "price")
    zeros = ["0.00e-400" if k % 2 else "1" for k in range(ROWS)]
    assert "of no use" not in table(written(tmp_path / "z.csv", zeros), "price").note


def test_predictions_come_back_in_their_own_units():
    rows = RANDOM.normal(size=(30, 4)) * [1.0, 1e-170, 1e140, 5.0] + [1e9, 0.0, 0.0, -3.0]
    rows[:, 3] = 7.0
    scale = Scaling.of(rows)
    np.testing.assert_allclose(scale.inverse(scale(rows)), rows, rtol=1e-14)
    same = Scaling.identity(4)
    np.testing.assert_array_equal(same(rows[:, :1] * np.ones(4)), rows[:, :1] * np.ones(4))
    np.testing.assert_array_equal(same.inverse(rows), rows)
