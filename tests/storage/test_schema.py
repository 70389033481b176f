"""Schemas say what is wrong with a file: where, what is there, what should be."""

import math
from pathlib import Path

import pytest

from bilevel.errors import ResultsError
from bilevel.storage.reading import parsed, read_csv, read_json
from bilevel.storage.schema import NATURAL, check

PATH = Path("folder/file.json")
SCHEMA = {
    "name": str,
    "count": NATURAL,
    "way": ("up", "down"),
    "rate": (float, None),
    "rows": [{"a": bool}],
    "by name?": {"*": [int]},
}
RIGHT = {"name": "x", "count": 0, "way": "up", "rate": 2, "rows": [{"a": True}, {"a": False}]}


@pytest.mark.parametrize("more", [{}, {"rate": None}, {"rate": 0.5}, {"rows": []},
                                  {"by name": {}}, {"by name": {"": [-1, 2]}}])  # fmt: skip
def test_what_fits_is_accepted(more):
    check(RIGHT | more, SCHEMA, PATH, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"`name` is 3 \(a whole number\), expected a text"),
        ({"name": None}, r"`name` is null, expected a text"),
        ({"count": True}, r"`count` is True \(true or false\), expected a whole number from 0"),
        ({"count": -1}, r"`count` is -1 .*expected a whole number from 0"),
        ({"count": 1.0}, r"`count` is 1\.0 \(a number\)"),
        ({"way": "left"}, r"`way` is 'left' .*expected 'up' or 'down'"),
        ({"way": ["up"]}, r"`way` is \['up'\] \(a list\)"),
        ({"rate": "2"}, r"`rate` is '2' \(a text\), expected a number or null"),
        ({"rate": True}, "`rate` is True"),
        ({"rate": 10**400}, r"`rate` is 1000.*expected a number or null"),
        ({"rows": {}}, r"`rows` is {} \(an object\), expected a list"),
        ({"rows": [{"a": True}, {}]}, r"`rows\[1\]\.a` is missing"),
        ({"rows": [{"a": 1}]}, r"`rows\[0\]\.a` is 1"),
        ({"rows": [{"a": True, "b": 1}]}, r"`rows\[0\]\.b` is not known"),
        ({"by name": {"x": [1.5]}}, r"`by name\.x\[0\]` is 1\.5"),
        ({"more": 1}, "`more` is not known"),
        ({"rows": "x" * 10**6}, "`rows` is 'xxx"),
    ],
)
def test_the_place_what_is_there_and_what_should_be_are_said(change, message):
    with pytest.raises(ResultsError, match=message) as caught:
        check(RIGHT | change, SCHEMA, PATH, "Do this.")
    text = str(caught.value)
    assert text.startswith("folder/file.json is malformed: ")
    assert text.endswith("Do this.")
    assert len(text) < 300


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "3", "null", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}',
     '{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"\\udfff": 1}', '{"a": ' + "9" * 5000 + "}",
     '{"a": ' + "[" * 60 + "]" * 60 + "}", '{"a": ' + "[" * 10**5 + "]" * 10**5 + "}",
     "\ufeff{}", "{}{}"],
)  # fmt: skip
def test_what_is_no_json_of_ours_is_refused_by_name(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ResultsError, match=r"a\.json"):
        read_json(path)


def test_states_may_hold_numbers_that_are_not_finite():
    assert math.isnan(parsed('{"a": NaN}', PATH)["a"])


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\u2028b", "a\x1cb", 'a, "b"', "", " a", "\0"])
def test_names_of_any_letters_come_back(name, tmp_path):
    from bilevel.storage.folder import write_csv

    write_csv(tmp_path / "a.csv", ["k", name], [[name, 1.5]])
    assert read_csv(tmp_path / "a.csv") == (["k", name], [[name, "1.5"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2", "cut off"), ('a,b\n"1,2\n', "not a table"), ("a,b\n1\n", "line 2 has 1 cells"),
     ("a,b\n" + "9" * 200_000 + ",1\n", "not a table"), ("", "empty")],
)  # fmt: skip
def test_what_is_no_table_of_ours_is_refused_by_name(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ResultsError, match=rf"a\.csv.*{message}"):
        read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["folder", "below a file", "missing", "loop", "no name"])
def test_what_is_no_file_is_refused_by_name(kind, tmp_path):
    path = {"below a file": tmp_path / "file" / "a.json", "no name": tmp_path / "\0"}.get(
        kind, tmp_path / "a.json"
    )
    (tmp_path / "file").write_text("")
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    for read in (read_json, read_csv):
        with pytest.raises(ResultsError):
            read(path)
