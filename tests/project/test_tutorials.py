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
    """Else run `python docs/figures/tutorials.py NAME`."""
    page, svg = tutorials.PAGES[name].read_text(), tutorials.target(name).read_text()
    assert tutorials.said(svg) == tutorials.digest(page)
    assert len(svg) < LARGEST


@pages
def test_it_shows_one_figure_with_words_for_it(name):
    shown = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", tutorials.PAGES[name].read_text())
    assert [path for _, path in shown] == [f"../assets/tutorials/{name}.svg"]
    assert len(shown[0][0].split()) >= 10


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
TIMED = re.compile(r" +[\d.]+ +(?=\d+ completed)")
"""Seconds of a run in the table of a comparison."""
NAMES = re.compile(r"<desc>.*?</desc>|\b[mp][0-9a-f]{10}\b")
"""In a figure: the digest, and names that are made of numbers."""


def numbers_and_rest(text):
    return [float(x) for x in NUMBER.findall(text)], NUMBER.sub("", text)


@pytest.mark.slow
@pages
def test_its_code_makes_them_again(name):
    """`python -m pytest -m slow tests/project/test_tutorials.py`, a minute."""
    there = tutorials.PAGES[name].read_text(), tutorials.target(name).read_text()
    page, svg = tutorials.ran(there[0], name)
    found, rest = numbers_and_rest(TIMED.sub("", page))
    wanted, as_shown = numbers_and_rest(TIMED.sub("", there[0]))
    assert rest == as_shown
    assert found == pytest.approx(wanted, rel=0.02, abs=0.005)
    made, drawn = (NAMES.sub("", text) for text in (svg, there[1]))
    found, rest = numbers_and_rest(made)
    wanted, as_drawn = numbers_and_rest(drawn)
    assert rest == as_drawn
    assert found == pytest.approx(wanted, rel=0.01, abs=1)
