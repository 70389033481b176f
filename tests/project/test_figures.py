"""Figures of the documentation are those of the scripts in docs/figures."""

import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

FIGURES = Path(__file__).parents[2] / "docs/figures"
ASSETS = FIGURES.parent / "assets"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FIGURES)

    def load(name):
        module = __import__(name)
        for loaded in ("home", "concepts", "look"):
            monkeypatch.delitem(sys.modules, loaded, raising=False)
        return module

    return load


def test_the_picture_of_the_home_page(script):
    home = script("home")
    for scheme, colours in home.SCHEMES.items():
        assert (ASSETS / f"home-{scheme}.svg").read_text() == home.picture(colours)


def contrast(colour, ground):
    """Of WCAG 2: (L + .05) / (l + .05) of the relative luminances."""

    def luminance(text):
        parts = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(x * share for x, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_its_words_can_be_read_in_both_schemes(script):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for colours in script("home").SCHEMES.values():
        ground = colours["ground"]
        assert min(contrast(colours[name], ground) for name in ("text", "body", "head")) >= 4.5
        assert contrast(colours["line"], ground) >= 3


def test_figures_of_the_concepts(script):
    """All that is drawn; numbers to half a point, which fonts of other machines may move."""
    concepts = script("concepts")
    for name, draw in concepts.FIGURES.items():
        with mpl.rc_context(concepts.LOOK):
            drawn = concepts.svg(draw())
        there = (ASSETS / "concepts" / f"{name}.svg").read_text()
        assert NUMBER.sub("", drawn) == NUMBER.sub("", there), name
        found, wanted = ([float(x) for x in NUMBER.findall(text)] for text in (drawn, there))
        assert found == pytest.approx(wanted, abs=0.5), name
