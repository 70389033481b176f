"""Comparisons of more strategies than pairs can be read of, or lines told apart."""

import numpy as np
import pytest
from odd_results import odd, read

from bilevel.comparison.statistics import paired
from bilevel.comparison.statistics.families import MOST, families
from bilevel.report import html, palette, shown

NAMES = [f"s{number}" for number in range(40)]


def many(names=NAMES, **fields):
    """The later ones are the better ones, on all of seven seeds."""
    spread = np.random.default_rng(0).uniform(0.9, 1.1, (len(names), 7))
    return odd({name: (50 - i) * spread[i] for i, name in enumerate(names)}, start=60.0, **fields)


@pytest.mark.parametrize(
    ("count", "baselines", "pairs"),
    [(25, 1, 300), (26, 1, 25), (25, 0, 300), (26, 0, 25), (200, 1, 199), (200, 3, 197),
     (200, 100, 300), (40, 10, 300), (200, 200, 199), (303, 303, 302)],
)  # fmt: skip
def test_pairs_are_limited(count, baselines, pairs):
    names = [f"s{number}" for number in range(count)]
    (family,) = families(names, names[:baselines], ())
    assert len(family.pairs) == pairs == len(set(family.pairs))
    assert len(family.pairs) <= max(MOST, count)
    assert set(family.pairs) <= set(family.possible)
    assert {name for name, _ in family.pairs} >= set(names[max(baselines, 1) :])


def test_what_is_not_compared_is_said():
    comparison = many()
    sentence = (
        "Only pairs with s0 are compared, 741 others are not: nobody reads so many, and each "
        "would raise the p-values of all."
    )
    assert sentence in comparison.table()
    assert len(comparison.paired()) == 39
    assert "Only pairs" not in many(NAMES[:25]).table()


def test_all_pairs_share_their_resamples(monkeypatch):
    drawn, real = [], np.random.default_rng
    paired._resamples.cache_clear()
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed))
    values = {name: real(i).uniform(1.0, 2.0, 7) for i, name in enumerate(NAMES)}
    pairs = [(name, "s0") for name in NAMES[1:]]
    together = paired.compare_pairs(values, pairs, "test_mse")
    assert drawn == [0]
    paired._resamples.cache_clear()
    (alone,) = paired.compare_pairs(values, pairs[-1:], "test_mse")
    assert (alone.low, alone.high) == (together[-1].low, together[-1].high)


@pytest.mark.usefixtures("unrendered")
def test_a_page_on_many_shows_the_best_of_them():
    content = many().content()
    drawn = html.draw(content)
    text = read(html.page(content, drawn))
    assert (
        "of the 12 strategies with the best values and of baselines; the tables have all 40" in text
    )
    assert text.count("Does s") == 12
    assert "Does s39 beat s0?" in text
    assert "Does s1 beat s0?" not in text
    assert "s1 " in text  # in the tables
    assert shown.of(content)["shown"] == ["s0", *NAMES[-12:]]
    few = many(NAMES[:28]).content()
    assert shown.of(few)["shown"] == NAMES[:28]
    assert "the tables have all" not in read(html.page(few, html.draw(few)))


def test_those_that_are_not_told_apart_are_faint_and_named_once():
    (axes,) = many().plot("test_mse").axes
    faint = [line for line in axes.lines if line.get_color() == palette.FAINT.colour]
    assert (len(faint), len(axes.lines)) == (27, 40)
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert names == [palette.OTHERS, "s0", *NAMES[-12:]]


def test_of_many_that_were_tuned_the_best_with_tuned_rates_are_shown():
    row = {"trials": 4, "failed": 0, "factors": {"body_lr": 2.0}, "score": 1.0, "edge": False}
    tuning = {"metric": "test_mse", "seeds": [8], "strategies": dict.fromkeys(NAMES[:30], row)}
    final = {name: [40.0 - i, 41.0 - i] for i, name in enumerate(NAMES[:30])}
    final |= {f"{name}, tuned": [1.0 + i, 2.0 + i] for i, name in enumerate(NAMES[:30])}
    content = odd(final, settings={"tuning": tuning}, start=60.0).content()
    names = NAMES[:12]
    assert shown.of(content)["shown"] == [*names, *(f"{name}, tuned" for name in names)]
