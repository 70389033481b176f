"""Columns of text and with gaps: encoded as scikit-learn does, by training rows, or refused."""

import csv
import re

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bilevel.errors import ArgumentError, DataError
from bilevel.tables.csv_file import read_cells
from problems.table import table

ROWS = 60
RANDOM = np.random.default_rng(3)
AGE = RANDOM.uniform(18, 80, ROWS).round(1) + np.arange(ROWS) / 1000
CITY = RANDOM.choice(["Rome", "Oslo", "Paris", "São Paulo"], ROWS)
SIZE = np.where(RANDOM.random(ROWS) < 0.2, np.nan, RANDOM.normal(5, 2, ROWS).round(2))
RENT = AGE + (CITY == "Rome") * 20 + RANDOM.normal(size=ROWS)
BOTH = {"encode": "onehot", "impute": "median"}


def written(path, changes=(), **columns):
    """A CSV file of the columns above, other ones and other cells by (row, name)."""
    found = {"age": AGE, "city": CITY, "size": SIZE, "rent": RENT} | columns
    texts = {k: ["" if x == "nan" else x for x in map(str, v)] for k, v in found.items()}
    for (row, name), cell in dict(changes).items():
        texts[name][row] = cell
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([texts, *zip(*texts.values(), strict=True)])
    return path


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "rents.csv")


@pytest.mark.parametrize("seed", [0, 5])
def test_inputs_are_those_of_scikit_learn_fitted_to_training_rows(file, seed):
    problem = table(file, "rent", **BOTH)
    splits = problem.drawn(seed)
    order = {age: row for row, age in enumerate(AGE)}
    assert len(order) == ROWS
    rows = {name: [order[age] for age in x[:, 0]] for name, (x, _) in splits.items()}
    hot = OneHotEncoder(sparse_output=False).fit(CITY[:, None]).transform(CITY[:, None])
    own = rows["train"]
    median = SimpleImputer(strategy="median").fit(SIZE[own, None])
    # leakage would be seen: the median of all rows is another one
    assert median.statistics_[0] != np.nanmedian(SIZE)
    whole = np.column_stack([AGE, hot, median.transform(SIZE[:, None])])
    scale = StandardScaler().fit(whole[own])
    for name, (inputs, _) in problem.data(seed).items():
        np.testing.assert_allclose(inputs, scale.transform(whole[rows[name]]), atol=1e-12)


def test_the_note_tells_what_was_done(file):
    assert (
        f" A column of 0 and 1 for each text of 'city' (4 texts). {int(np.isnan(SIZE).sum())} "
        "missing numbers of 'size': the median of the training rows."
    ) in table(file, "rent", **BOTH).note


def test_without_text_and_gaps_both_settings_change_nothing(tmp_path):
    file = written(tmp_path / "plain.csv", city=np.arange(ROWS), size=AGE**2)
    plain, asked = (table(file, "rent", **options) for options in ({}, BOTH))
    assert plain.note == asked.note
    for one, other in zip(plain.data(1).values(), asked.data(1).values(), strict=True):
        np.testing.assert_array_equal(one.inputs, other.inputs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            "Column 'city' holds text in 60 of 60 rows, such as 'CITY' in line 2: encode it as "
            "numbers, such as columns of 0 and 1, or let --set encode=onehot do so. Column 'size' "
            "lacks GAPS of 60 values, the first in line FIRST: remove those rows or impute the "
            "values, or let --set impute=median fill in the median of the training rows. Columns "
            "that are not needed can be left out: --set drop=NAME,NAME in the command.",
        ),
        ({"encode": "onehot"}, "Column 'size' lacks GAPS of 60 values"),
        ({"impute": "median"}, "Column 'city' holds text in 60 of 60 rows"),
    ],
)
def test_the_refusals_stay_and_name_the_settings(file, options, said):
    gaps = np.flatnonzero(np.isnan(SIZE))
    said = said.replace("GAPS", str(len(gaps))).replace("FIRST", str(gaps[0] + 2))
    with pytest.raises(DataError, match=re.escape(f"{file}: {said.replace('CITY', CITY[0])}")):
        table(file, "rent", **options)


@pytest.mark.parametrize(
    ("changes", "columns", "said"),
    [
        (
            {(3, "rent"): ""},
            {},
            "Column 'rent' lacks 1 of 60 values, the first in line 5: remove those rows or impute "
            "the values. Columns",
        ),
        (
            {},
            {"rent": CITY},
            "'rent' holds text in 60 of 60 rows, such as 'CITY' in line 2: encode it as numbers, "
            "such as columns of 0 and 1. Columns",
        ),
        (
            {(7, "city"): "NA"},
            {},
            "Column 'city' holds text and lacks 1 of 60 values, the first in line 9: write a word "
            "there, such as unknown, or remove those rows. Columns that",
        ),
        (
            {},
            {"city": [f"person {k}" for k in range(ROWS)]},
            "Column 'city' holds 60 different texts in 60 rows, such as 'person 0': those are no "
            "categories. Columns that",
        ),
        ({(7, "age"): "old"}, {}, "'age' holds text in 1 of 60 rows, such as 'old' in line 9"),
        ({}, {"age": ["5 kg"] * 30 + ["6 kg"] * 30}, "write bare numbers, without units"),
        ({}, {"size": [""] * ROWS}, "Column 'size' lacks all values: leave it out (drop=size)"),
    ],
)
def test_what_no_setting_can_mend(tmp_path, changes, columns, said):
    file = written(tmp_path / "rents.csv", changes, **columns)
    with pytest.raises(DataError, match=re.escape(said.replace("CITY", CITY[0]))):
        table(file, "rent", **BOTH)


def test_a_column_without_a_number_in_the_training_rows(tmp_path):
    size = [""] * (ROWS - 1) + ["3"]
    others = list(range(40))
    order = [np.random.default_rng([seed, ROWS]).permutation(ROWS) for seed in others]
    seed = next(k for k in others[1:] if ROWS - 1 not in order[k][: ROWS * 3 // 5])
    assert ROWS - 1 in order[0][: ROWS * 3 // 5]  # where the problem looks when it is made
    problem = table(written(tmp_path / "r.csv", size=size), "rent", **BOTH)
    said = f"With seed {seed} column 'size' has no number in any training row, so that nothing can"
    with pytest.raises(DataError, match=f"^{said} be filled in. Leave it out: --set drop=size.$"):
        problem.data(seed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encode": "ordinal"}, "`encode` must be \"onehot\", got 'ordinal'."),
        ({"impute": "mean"}, "`impute` must be \"median\", got 'mean'."),
        ({"impute": True}, '`impute` must be "median", got True.'),
    ],
)
def test_settings_that_are_not_known(file, options, said):
    with pytest.raises(ArgumentError, match=re.escape(said)):
        table(file, "rent", **options)


def test_cells_of_a_column_know_their_lines(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("a,b\n\n1,x\n2,y\n")
    assert read_cells(path).column("b") == [(3, "x"), (4, "y")]
