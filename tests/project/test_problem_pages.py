"""The pages of the problems: fixed sections, short; the long record is under Reproductions."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(set((DOCS / "problems").glob("*.md")) - {DOCS / "problems/index.md"})
SECTIONS = [
    "Problem",
    "Equations",
    "Data",
    "Usage",
    "Metrics",
    "Reference values",
    "Differences from the source",
]
CODE = re.compile(r"^ *```.*?^ *```\n", re.MULTILINE | re.DOTALL)
SEVERAL = [
    "classification",
    "hyper-cleaning",
    "linear-networks",
    "policy-evaluation",
    "regression",
]
"""Problems with a long record: a box at the top of the page says what was found."""


def words(text):
    """Of what is read: without code and display formulas; a formula in a line is one word."""
    text = re.sub(r"\\\[.*?\\\]", " ", CODE.sub("", text), flags=re.DOTALL)
    text = re.sub(r"\\\(.*?\\\)", "formula", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # where links lead
    return len(re.findall(r"[^\W_][\w.'-]*", text))


def test_words_are_counted_as_they_are_read():
    text = (
        "Two words\n\n\\[\na b c\n\\]\n\n```python\nx = 1\n```\n\\(a + b\\) [link me](../x/y.md)\n"
    )
    assert words(text) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_the_fixed_sections(page):
    text = CODE.sub("", page.read_text())
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short(page):
    assert words(page.read_text()) <= 900


@pytest.mark.parametrize("name", SEVERAL)
def test_findings_stand_in_a_box_at_the_top(name):
    top = (DOCS / f"problems/{name}.md").read_text().split("## Problem")[0]
    assert '!!! note "Findings"' in top
    assert "](../reproductions/" in top
