"""Tutorials: short, and with figures and outputs that are made by their own code."""

import re

import pytest
import tutorials

LONGEST = 40
"""Lines of code of a tutorial."""
LARGEST = 60_000
"""Bytes of a figure."""

pages = pytest.mark.parametrize("name", tutorials.PAGES)


@pages
def test_it_is_short(name):
    assert 0 < tutorials.code_lines(tutorials.PAGES[name].read_text()) < LONGEST


@pages
def test_its_figure_and_outputs_are_those_of_its_code(name):
    """Else run `python tests/project/tutorials.py NAME`."""
    page, svg = tutorials.PAGES[name].read_text(), tutorials.target(name).read_text()
    assert tutorials.said(svg) == tutorials.digest(page)
    assert len(svg) < LARGEST


@pages
def test_it_shows_one_figure_with_words_for_it(name):
    shown = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", tutorials.PAGES[name].read_text())
    assert [path for _, path in shown] == [f"../assets/tutorials/{name}.svg"]
    assert len(shown[0][0].split()) >= 10


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.mark.slow
@pages
def test_its_code_makes_them_again(name):
    """`python -m pytest -m slow tests/project/test_tutorials.py`, half a minute."""
    page, svg = tutorials.ran(tutorials.PAGES[name].read_text(), name)
    shown = tutorials.PAGES[name].read_text()
    there = tutorials.target(name).read_text()
    assert NUMBER.sub("", page) == NUMBER.sub("", shown)
    found, wanted = ([float(x) for x in NUMBER.findall(text)] for text in (page, shown))
    assert found == pytest.approx(wanted, rel=0.02, abs=0.005)
    there = re.sub(r"\n <desc>.*?</desc>", "", there)
    assert NUMBER.sub("", svg) == NUMBER.sub("", there)
    found, wanted = ([float(x) for x in NUMBER.findall(text)] for text in (svg, there))
    assert found == pytest.approx(wanted, abs=0.5)  # points: a tick of rounding is not seen
