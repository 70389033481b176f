"""Every number on the site names the command that repeats it; the script that lists them works."""

import re

import pytest
import site_numbers
from site_numbers import ROOT, _code, commands, items, measured, pages, without_command

COMMANDS = sorted({one for page in pages() for item in items(page) for one in item.commands[:1]})


def test_every_table_and_figure_has_a_command():
    listed = [f"{item.page.relative_to(ROOT)}:{item.lines[0]}" for item in without_command()]
    assert listed == []


def test_they_are_found():
    found = [item for page in pages() for item in items(page)]
    assert sum(item.what.endswith((".svg", ".png")) for item in found) > 20
    assert len(found) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_there(command):
    scripts = re.findall(r"(?<=python )(?!-m)\S+\.py", command)
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    if scripts or command.startswith("make bench"):
        assert measured(command)


def test_the_nearest_command_of_the_section_counts(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n`make bench BENCH=core`\n\n## One\n\n`bilevel advise digits` and "
        "`python benchmarks/exact.py`:\n\n| a | b |\n|---|---|\n| .1 | .2 |\n| .3 | .4 |\n\n"
        "## Two\n\n<!-- numbers: closed forms -->\n| a |\n|---|\n| .1 .2 .3 .4 |\n"
    )
    one, two = items(page)
    assert one.commands[0] == "python benchmarks/exact.py"
    assert one.lines == (9, 12)
    assert two.commands == ("make bench BENCH=core",)
    assert two.said == "closed forms"


def test_commands_of_blocks_and_spans():
    text = "see `bilevel doctor`\n\n```sh\nmake bench BENCH=core  # minutes\nls\n```\n"
    assert [one for _, one in commands(text)] == ["bilevel doctor", "make bench BENCH=core"]


def test_what_a_command_measures():
    files = {str(path.relative_to(ROOT)) for path in measured("make bench BENCH=exact")}
    assert {"benchmarks/exact.py", "bilevel/exact/ridge.py"} <= files
    files = {
        str(path.relative_to(ROOT)) for path in measured("bilevel compare friedman1 --seeds 5")
    }
    assert "problems/regression.py" in files
    assert not any(name.startswith("bilevel/storage/") for name in files)


def test_docstrings_and_comments_are_no_change_of_code():
    before = 'def f():\n    """One."""\n    return 1\n'
    assert _code(before) == _code('def f():\n    """Two."""\n    return 1  # one\n')
    assert _code(before) != _code(before.replace("return 1", "return 2"))


def test_a_number_is_older_than_a_later_change(monkeypatch):
    item = next(item for page in pages() for item in items(page) if measured(item.commands[0]))
    monkeypatch.setattr(site_numbers, "written", lambda item: 0)
    assert site_numbers.newer(item)
    monkeypatch.setattr(site_numbers, "written", lambda item: 2**40)
    assert site_numbers.newer(item) == []
