"""Users' own data: CSV files, arrays, and every reason to refuse them."""

import csv

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import (
    ArgumentError,
    BilevelError,
    DataError,
    MissingDataError,
    ShapeError,
    UnknownNameError,
)
from bilevel.problem.network.hidden_layers import Network
from bilevel.tables.csv_file import read_columns
from problems.table import from_arrays, table

ROWS = 50
RANDOM = np.random.default_rng(5)
INPUTS = RANDOM.normal(size=(ROWS, 3)) * [1.0, 30.0, 0.2] + [0.0, 100.0, -7.0]
TARGETS = INPUTS @ [3.0, 0.1, -4.0] + RANDOM.normal(size=ROWS)
NAMES = ["age", "floor area", "distance"]


def written(path, header=(*NAMES, "price"), rows=None, delimiter=","):
    """A CSV file with the rows, by default those above."""
    rows = np.column_stack([INPUTS, TARGETS]).tolist() if rows is None else rows
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows])
    return path


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "homes.csv")


def rows_with(changes):
    """The rows as text, with other cells at (row, column)."""
    rows = [[str(x) for x in row] for row in np.column_stack([INPUTS, TARGETS])]
    for (row, column), cell in changes.items():
        rows[row][column] = cell
    return rows


def groups_of(problem, seed=0):
    return {name: (x.numpy(), y.numpy()) for name, (x, y) in problem.data(seed).items()}


@pytest.mark.parametrize("seed", [0, 3])
def test_groups_are_disjoint_complete_and_standardised_with_training_rows(file, seed):
    groups = groups_of(table(file, "price", test=0.3), seed)
    assert {name: len(y) for name, (_, y) in groups.items()} == {
        "train": 25,
        "test": 15,
        "validation": 10,
    }
    found_inputs, found_targets = (
        np.concatenate([pair[k] for pair in groups.values()]) for k in (0, 1)
    )
    # undo the standardisation by matching each column's order with the file's
    order = np.argsort(found_targets)[np.argsort(np.argsort(TARGETS))]
    train = order < 25  # the rows of the file that were drawn for training
    for raw, found in ((INPUTS, found_inputs[order]), (TARGETS, found_targets[order])):
        expected = (raw - raw[train].mean(0)) / raw[train].std(0)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_arrays_tensors_and_the_file_give_the_same_problem(file):
    expected = groups_of(table(file, "price"), 4)
    as_tensors = torch.from_numpy(INPUTS), torch.from_numpy(TARGETS)
    for inputs, targets in ((INPUTS, TARGETS), as_tensors, (INPUTS.tolist(), TARGETS.tolist())):
        found = groups_of(from_arrays(inputs, targets), 4)
        assert found.keys() == expected.keys()
        for name, pair in expected.items():
            for a, b in zip(found[name], pair, strict=True):
                np.testing.assert_array_equal(a, b)


def test_integers_booleans_and_half_precision_are_numbers():
    whole = np.round(INPUTS * 10)
    expected = groups_of(from_arrays(whole, TARGETS))["train"][0]
    for inputs in (whole.astype(np.int16), torch.from_numpy(whole).int(), whole.astype(">f4")):
        np.testing.assert_array_equal(groups_of(from_arrays(inputs, TARGETS))["train"][0], expected)
    yes = groups_of(from_arrays(INPUTS, np.sign(TARGETS - np.median(TARGETS)) > 0))["train"][1]
    assert len(np.unique(yes)) == 2
    half = torch.from_numpy(INPUTS).bfloat16().requires_grad_()
    assert groups_of(from_arrays(half, TARGETS))["train"][0].dtype == np.float64


def test_arrays_are_copied():
    inputs, targets = INPUTS.copy(), TARGETS.copy()
    problem = from_arrays(inputs, targets)
    before = groups_of(problem)
    inputs += 5.0 * np.arange(3)[None] * targets[:, None]
    targets[:] = 0.0
    for name, pair in groups_of(problem).items():
        np.testing.assert_array_equal(pair[0], before[name][0])
        np.testing.assert_array_equal(pair[1], before[name][1])


def test_options_reach_the_problem(file):
    options = {"width": 7, "depth": 2, "activation": "tanh", "ridge": 0.5, "weight_decay": 0.25}
    for problem in (table(file, "price", **options), from_arrays(INPUTS, TARGETS, **options)):
        assert problem.network == Network(7, 2, "tanh")
        assert (problem.ridge, problem.weight_decay) == (0.5, 0.25)


def test_it_learns_what_is_there(file):
    """A linear target with noise of variance 1 of about 30: far better than the mean."""
    solution = bilevel.solve(
        table(file, "price", width=16), bilevel.BestResponse(1e-3), steps=50, batch_size=16, seeds=4
    )
    assert float(solution.history["test_r2"][-1].mean()) > 0.5


def test_without_validation_rows(file):
    problem = table(file, "price", validation=0)
    assert {name: len(y) for name, (_, y) in groups_of(problem).items()} == {
        "train": 40,
        "test": 10,
    }
    pair = {"slow": bilevel.uniform(1e-3), "best": bilevel.BestResponse(1e-3)}
    comparison = bilevel.compare(problem, pair, seeds=2, steps=4)
    assert "test MSE" in comparison.table()
    assert "validation" not in problem.note


@pytest.mark.parametrize("drop", ["age, distance", ("age", "distance"), ["distance", "age"]])
def test_dropped_columns_may_hold_anything(tmp_path, drop):
    rows = rows_with({(0, 0): "old", (1, 0): "", (3, 2): "inf"})
    file = written(tmp_path / "homes.csv", rows=rows)
    groups = groups_of(table(file, "price", drop=drop))
    assert groups["train"][0].shape == (30, 1)
    expected = groups_of(from_arrays(INPUTS[:, 1:2], TARGETS))["train"][0]
    np.testing.assert_array_equal(groups["train"][0], expected)


def test_columns_named_by_numbers(tmp_path):
    """As they come from a command line, where 2020 and 7 are literals."""
    file = written(tmp_path / "years.csv", header=["2018", "2019", "x", "2020"])
    assert table(file, 2020, drop=2018).columns == 2
    assert table(file, 2020, drop=(2018, 2019)).columns == 1


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_found(tmp_path, file, delimiter):
    other = written(tmp_path / "other.csv", delimiter=delimiter)
    np.testing.assert_array_equal(read_columns(other).values, read_columns(file).values)
    assert read_columns(other).names == (*NAMES, "price")


def test_what_spreadsheets_write_is_read(tmp_path, file):
    """A byte order mark, Windows line ends, quotes, empty lines, spaces, a comma in a name."""
    text = file.read_text().replace("floor area", '"area, m2"').replace("\n", "\r\n\r\n")
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf\r\n" + text.replace(",", ", ").encode())
    found = read_columns(tmp_path / "excel.csv")
    assert found.names == ("age", "area,  m2", "distance", "price")
    np.testing.assert_array_equal(found.values, read_columns(file).values)


def test_the_home_folder_is_known(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert table("~/homes.csv", "price").columns == 3


def test_the_note_says_what_the_data_are(file, tmp_path):
    assert table(file, "price", test=0.25).note == (
        "homes.csv: 50 rows, target 'price' from 3 columns. Split anew for every seed, 20% "
        "validation, 25% test; standardised with training rows."
    )
    rows = np.column_stack([INPUTS[:, 0], np.full(ROWS, 4.0), INPUTS[:, 2], np.arange(ROWS) % 3])
    labelled = table(written(tmp_path / "labels.csv", rows=rows.tolist()), "price").note
    assert "of no use: 'floor area'" in labelled
    assert "only 3 values, all whole numbers: if they stand for classes" in labelled
    assert "only" not in from_arrays(INPUTS, np.arange(ROWS) % 11).note
    assert "only" not in from_arrays(INPUTS, (np.arange(ROWS) % 3) / 2).note
    assert from_arrays(INPUTS, TARGETS, note="Mine.").note.startswith("Mine. Split anew")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty: it needs a line of column names"),
        (b" \n\n ", "empty: it needs a line of column names"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8.*Save it as CSV"),
        (b"a,price\n1,\xe9\n", "not UTF-8 text: byte 10"),
        (b"1,2\n3,4\n", r"no header: .* numbers only \(1, 2\).*Put a line of column names"),
        (b"a,price\n", "0 rows are too few"),
        (b"price\n" + b"1\n2\n" * 20, "no column beside the target"),
        (b",a,price\n0,1,2\n", "column 1 is without a name.*index=False"),
        (b"a,,b,,price\n", "columns 2, 4 are without a name"),
        (b"a,b,a,price,b\n", "more than one column is called 'a', 'b'. Rename"),
        (b"a,price\n1,2\n\n1,2,3\n", r"line 4 has 3 values, but there are 2 columns"),
        (b"a,price\n1,2\n1\n", r"line 3 has 1 value, .*decimals are written with a point"),
        (b'a,price\n1,2\n1,"2\n', "line 3 cannot be read as CSV.*quotation mark"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
    (tmp_path / "bad.csv").write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path / "bad.csv", "price")
    assert "bad.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {(4, 1): "", (9, 1): "NA"},
            "'floor area' lacks 2 of 50 values, the first in line 6: .*im",
        ),
        ({(0, 3): "nan"}, "'price' lacks 1 of 50 values, the first in line 2"),
        ({(2, 0): "old"}, "'age' holds text in 1 of 50 rows, such as 'old' in line 4: correct"),
        ({(2, 0): "1_000"}, "such as '1_000' in line 4: correct"),
        ({(k, 0): "old" for k in range(50)}, "text in 50 of 50 rows.*columns of 0 and 1"),
        ({(k, 3): "yes" for k in range(50)}, "'price' holds text in 50 of 50 rows"),
        ({(k, 0): f"{k - 9} %" for k in range(50)}, "'-9 %' in line 2: write bare numbers"),
        ({(k, 0): f"$1 {k:03}.5" for k in range(50)}, "text in 50 of 50 .*: write bare numbers"),
        ({(k, 0): f"{k}A" for k in range(50)}, "text in 50 of 50 rows.*columns of 0 and 1"),
        ({(7, 2): "3,14"}, "such as '3,14' in line 9: write a point before the decimals"),
        ({(1, 2): "-inf"}, "'distance' is infinite or beyond 1e.150 in 1 of 50 rows.*line 3"),
        ({(1, 2): "1e160"}, "'distance' is infinite or beyond 1e.150 in 1 of 50 rows.*line 3"),
        ({(0, 0): "?", (1, 3): "a"}, "'age' lacks 1 .*'price' holds text.*--set drop=NAME"),
        ({(k, 3): "7" for k in range(50)}, "column 'price' is 7 in every row: .*another target"),
        ({(k, j): "7" for k in range(50) for j in range(3)}, "all columns but the target"),
    ],
)
def test_columns_that_are_no_numbers(tmp_path, changes, message):
    file = written(tmp_path / "bad.csv", rows=rows_with(changes))
    with pytest.raises(DataError, match=message) as caught:
        table(file, "price")
    assert "bad.csv" in str(caught.value)


def test_many_bad_columns_are_counted(tmp_path):
    header = [*(f"c{k}" for k in range(9)), "price"]
    file = written(tmp_path / "bad.csv", header, [["x"] * 9 + ["1"]] * 30)
    with pytest.raises(
        DataError, match=r"'c4' holds text.* There are 4 more such columns"
    ) as caught:
        table(file, "price")
    assert "c5" not in str(caught.value)


def test_too_few_rows(tmp_path):
    rows = np.column_stack([INPUTS, TARGETS]).tolist()
    with pytest.raises(DataError, match=r"19 rows are too few.*at least 20"):
        table(written(tmp_path / "small.csv", rows=rows[:19]), "price")
    assert table(written(tmp_path / "small.csv", rows=rows[:20]), "price").columns == 3


def test_a_target_that_hardly_varies():
    """29 zeros and a one: the one is in a single group."""
    with pytest.raises(DataError, match=r"With seed 0 all \d+ (train|test|validation) rows have"):
        from_arrays(INPUTS[:30], np.arange(30) == 7)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda f: table(f, "pirce"), UnknownNameError, "column 'pirce' in homes.csv.*'price'"),
        (lambda f: table(f, "price", drop="agee"), UnknownNameError, "'agee'.*mean 'age'"),
        (lambda f: table(f, "price", drop="price"), ArgumentError, "`drop` names the target"),
        (lambda f: table(f.parent, "price"), MissingDataError, "is a folder: name a CSV file"),
        (lambda f: table(f.parent / "no.csv", "price"), MissingDataError, "no.csv does not exist"),
        (lambda f: table(f, "price", validation=-0.1), ArgumentError, "fractions"),
        (lambda f: table(f, "price", test=0), ArgumentError, "fractions"),
        (lambda f: table(f, "price", test=10), ArgumentError, "fractions"),
        (lambda f: table(f, "price", test=0.02), ArgumentError, "2 rows each"),
        (lambda f: table(f, "price", ridge=-1), ArgumentError, "`ridge`"),
        (lambda f: table(f, "price", activation="rellu"), UnknownNameError, "'relu'"),
    ],
)
def test_wrong_arguments(file, use, error, message):
    with pytest.raises(error, match=message):
        use(file)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (INPUTS[:, 0], TARGETS, ShapeError, r"`inputs` must be \(n, D\).*inputs\[:, None\]"),
        (INPUTS[None], TARGETS, ShapeError, r"`inputs` must be \(n, D\).*\(1, 50, 3\)"),
        (INPUTS[:, :0], TARGETS, ShapeError, r"`inputs` must be \(n, D\)"),
        (INPUTS, TARGETS[:, None], ShapeError, r"\(n,\).*got \(50, 1\). Write `targets\[:, 0\]`"),
        (INPUTS, INPUTS, ShapeError, r"got \(50, 3\). Choose one column"),
        (INPUTS, TARGETS[0], ShapeError, r"`targets` must be \(n,\)"),
        (INPUTS, TARGETS[:-1], ShapeError, "50 rows and `targets` 49"),
        ([[1.0], [1.0, 2.0]], TARGETS, ShapeError, "`inputs` must be an array or a tensor"),
        (INPUTS.astype(str), TARGETS, DataError, "`inputs` must hold numbers, .* <U.*0 and 1"),
        (INPUTS, TARGETS.astype(object), DataError, "`targets` must hold.*array of object"),
        (INPUTS + 1j, TARGETS, DataError, "`inputs` must hold.*of complex128"),
        (torch.from_numpy(INPUTS) + 1j, TARGETS, DataError, "`inputs` must hold numbers"),
        (np.ma.masked_less(INPUTS, -1), TARGETS, DataError, "masked array"),
        (np.where(INPUTS > 140, np.nan, INPUTS), TARGETS, DataError, "`inputs`.*in columns 1 "),
        (INPUTS, np.where(np.arange(ROWS) > 3, TARGETS, np.inf), DataError, "`targets` holds"),
        (INPUTS * [1, 1e160, 1], TARGETS, DataError, "`inputs`.*beyond 1e.150, in columns 1 "),
        (INPUTS, np.ones(ROWS), DataError, "`targets` is 1 in every row"),
        (INPUTS[:5], TARGETS[:5], DataError, "5 rows are too few"),
    ],
)
def test_arrays_that_are_refused(inputs, targets, error, message):
    with pytest.raises(error, match=message):
        from_arrays(inputs, targets)


def test_every_refusal_is_an_error_of_the_library(tmp_path):
    """A file that cannot be opened is one too."""
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(BilevelError, match=r"loop\.csv"):
        table(tmp_path / "loop.csv", "price")
