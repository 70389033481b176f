"""CSV files of other programs: encodings, separators, names, and bytes that are no text."""

import contextlib

import numpy as np
import pytest

from bilevel.errors import ArgumentError, BilevelError, DataError, UnknownNameError
from bilevel.tables.csv_file import read_cells, read_columns
from problems.boston import boston
from problems.mspbe import load_transitions
from problems.table import table

VALUES = np.random.default_rng(4).normal(size=(24, 3))


def text_of(header=("a", "b", "y"), separator=",", end="\n", first=""):
    """A table with these names."""
    rows = [separator.join(repr(float(x)) for x in row) for row in VALUES]
    return first + end.join([separator.join(header), *rows, ""])


@pytest.fixture
def written(tmp_path):
    def write(content, encoding="utf-8"):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_a_mark_tells(written, encoding, end):
    """A name that is longer in bytes than in characters is among them."""
    found = read_columns(written(text_of(["größe", "b", "年"], "\t", end), encoding))
    assert found.names == ("größe", "b", "年")
    np.testing.assert_array_equal(found.values, VALUES)


@pytest.mark.parametrize("order", ["le", "be"])
def test_both_orders_of_utf_16_are_read_with_a_mark_and_refused_without(written, order):
    encoded = text_of().encode(f"utf-16-{order}")
    mark = {"le": b"\xff\xfe", "be": b"\xfe\xff"}[order]
    np.testing.assert_array_equal(read_columns(written(mark + encoded)).values, VALUES)
    with pytest.raises(DataError, match="line 1 holds a zero byte: it is UTF-16 without the mark"):
        table(written(encoded), "y")


@pytest.mark.parametrize(
    ("line", "separator"),
    [
        ("sep=;", ";"),
        ('"sep=;"', ";"),
        ("SEP=|", "|"),
        ("sep=,,,", ","),
        ("sep=^", "^"),
        ("sep=\t", "\t"),
        (r"sep=\t", "\t"),
        ("sep= ", " "),
        ("sep=·", "·"),
    ],
)
def test_spreadsheets_tell_their_separator(written, line, separator):
    for end in ("\n", "\r\n"):
        found = read_columns(written(text_of(separator=separator, end=end, first=line + end)))
        assert found.names == ("a", "b", "y")
        np.testing.assert_array_equal(found.values, VALUES)


def test_lines_are_numbered_as_an_editor_does_below_a_told_separator(written):
    for bad, message in (("1;x;3", "'x' in line 28"), ("1;2", "line 28 has 2 values")):
        file = written(text_of(separator=";", first="sep=;\n") + "\n" + bad)
        with pytest.raises(DataError, match=message):
            table(file, "y")
    with pytest.raises(DataError, match="line 28 cannot be read as CSV: unexpected end"):
        table(written(text_of(separator=";", first="sep=;\n") + '\n1;"2;3'), "y")


@pytest.mark.parametrize("sign", ["1", "x", ".", "-", '"', "é"])
def test_separators_that_are_parts_of_values_are_refused(written, sign):
    with pytest.raises(DataError, match="separates the values, which is a part of them"):
        table(written(f"sep={sign}\na{sign}y\n"), "y")


def test_first_lines_of_any_length(written):
    """Tables of gene expressions have few rows and many columns; no single name is so long."""
    names = [f"gene_{k:05d}" for k in range(13_000)]
    line = ",".join(["0.5"] * len(names))
    cells = read_cells(written(",".join(names) + f"\n{line}\n"))
    assert cells.names == tuple(names)
    assert len(cells.lines[0][1]) == len(names)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_names_may_hold_separators_quotes_and_line_ends(written, separator):
    quoted = ['"a, b; c\td | e"', '"first\r\nsecond"', '"the ""best"", so far"']
    cells = read_cells(written(text_of(quoted, separator)))
    assert cells.names == ("a, b; c\td | e", "first\r\nsecond", 'the "best", so far')
    assert cells.lines[0][0] == 3  # below a line of names that takes two


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sep=;\n", "is empty"),
        (b"sep=;", "is empty"),
        (b"\xff\xfe", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b",,,\n,,\n", "There is no column"),
        ("a" * 200_000 + ",y\n1,2\n", "line 1 cannot be read as CSV: .*a value that is too long"),
        ("a,y\n1," + "7" * 200_000, "line 2 cannot be read as CSV: .*a value that is too long"),
        ("a,y\n1," + "7" * 131_000, "'y' is infinite or beyond"),
        (text_of().encode("utf-16")[:-1], "is not UTF-16 text: byte"),
        ("größe,y\n".encode("latin-1"), "is not UTF-8 text: byte 2 "),
        (text_of().encode() + bytes(4096), "line 26 holds a zero byte: .*damaged"),
        (text_of(["a", "a ", "y"]), "more than one column is called 'a'"),
    ],
)
def test_what_is_no_table(written, content, message):
    with pytest.raises(BilevelError, match=message):
        table(written(content), "y")


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="is a folder: name a CSV file"):
        table(tmp_path, "y")
    with pytest.raises(BilevelError, match=r"x\.\.\. names no place: names of files are shorter"):
        table(tmp_path / ("x" * 300), "y")
    with pytest.raises(DataError, match="/dev/null is no file: name a CSV file"):
        table("/dev/null", "y")


def test_damaged_files_end_in_errors_of_the_library(written):
    """No traceback of the csv module, of a codec or of NumPy in 400 mutated files."""
    logs = "state_a,next_state_a,reward\n" + "".join(f"{a},{b},{c}\n" for a, b, c in VALUES)
    readers = {text_of(): [lambda path: table(path, "y"), boston], logs: [load_transitions]}
    bits, random = b'\0\xff\xfe,;\t|"\n\r =+-.e0_\xef\xbb\xbf\x80sep', np.random.default_rng(0)
    for text, read in readers.items():
        for _ in range(200):
            raw = bytearray(text.encode())
            for _ in range(random.integers(1, 5)):
                place = random.integers(min(len(raw), random.choice([40, 10_000])) + 1)
                new = random.choice(list(bits), size=random.integers(6)).astype(np.uint8)
                raw[place : place + random.integers(12)] = new.tobytes()
            for reader in read:
                with contextlib.suppress(BilevelError):
                    reader(written(bytes(raw)))


@pytest.mark.parametrize(
    "drop",
    [
        "a, total",
        '"a, total"',
        ["a, total"],
        {"a, total"},
        np.array(["a, total"]),
        "a, total,",
    ],
)
def test_names_with_commas_can_be_dropped(written, drop):
    file = written(text_of(['"a, total"', "b", "y"]))
    assert table(file, "y", drop=drop).names == ("b",)


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        ("a, total,c", ("b", "d,")),
        ("c,a, total", ("b", "d,")),
        ('"c","a, total" , b', ("d,",)),
        ("d,,b", ("a, total", "c")),
        ("b,,c,", ("a, total", "d,")),
    ],
)
def test_names_with_and_without_commas_can_be_dropped_together(written, drop, left):
    rows = "".join(f"{k % 7},{k % 5},{k % 3},{k % 4},{k * k}\n" for k in range(30))
    file = written('"a, total",b,c,"d,",y\n' + rows)
    assert table(file, "y", drop=drop).names == left


def test_a_name_that_is_also_a_list_of_names(written):
    """Names come first; quoted, or in a sequence, it is one."""
    file = written('a,b,"a,b",y\n' + "".join(f"{k % 7},{k % 5},{k % 3},{k}\n" for k in range(30)))
    assert table(file, "y", drop="a,b").names == ("a,b",)
    for one in (("a,b",), '"a,b"'):
        assert table(file, "y", drop=one).names == ("a", "b")


def test_what_cannot_be_dropped(written):
    file = written(text_of(['"a, total"', "b", "y"]))
    with pytest.raises(UnknownNameError, match=r"no column 'total' in .*[.]csv[.]"):
        table(file, "y", drop="b, total")
    with pytest.raises(ArgumentError, match="`drop` names the target 'y'"):
        table(file, "y", drop="a, total, y")


def test_names_of_one_column_in_small_and_capital_letters(written):
    """The columns of the Boston data are known in any case, but each one once."""
    names = "crim,CRIM,ZN,INDUS,CHAS,NOX,RM,AGE,DIS,RAD,TAX,PTRATIO,LSTAT,MEDV"
    with pytest.raises(DataError, match="has 'CRIM', 'CRIM': the columns of the Boston housing"):
        boston(written(names + "\n" + ",".join(["1"] * 14) + "\n"))
