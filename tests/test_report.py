"""Sentences say what the numbers say; figures and the page are reproducible and self-contained."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from comparison_example import BASELINES, STRATEGIES, example

from bilevel.report import figures, html, words
from bilevel.report.palette import lines
from bilevel.report.svg import inline_svg, to_svg

NAN = float("nan")
RESULT = {
    "strategy": "two-timescale",
    "baseline": "uniform slow",
    "metric": "test_mse",
    "kind": "ratio",
    "effect": 0.951,
    "low": 0.89,
    "high": 1.01,
    "wins": 8,
    "losses": 4,
    "ties": 0,
    "pairs": 12,
    "lost": 0,
    "p_value": 0.387,
    "p_adjusted": 0.387,
    "significant": False,
}


def sentence(**changes):
    return words.pair_sentence(RESULT | changes)


def test_the_sentence_of_the_specification():
    assert sentence() == (
        "two-timescale is 5 % below uniform slow on test MSE, interval 0.890 to 1.01, "
        "better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"significant": True, "p_adjusted": 0.0004}, "significantly better (p < 0.001 after"),
        ({"significant": True, "wins": 1, "losses": 11}, "significantly worse"),
        ({"wins": 8, "losses": 3, "ties": 1}, "better on 8 of 12 seeds (equal on 1):"),
        ({"lost": 1}, "correction). 1 further seed is left out: a run failed there."),
        ({"lost": 2}, "2 further seeds are left out: a run failed there."),
        ({"pairs": 1, "wins": 1, "losses": 0, "low": NAN, "high": NAN}, "better on 1 of 1 seed:"),
        ({"pairs": 1, "low": NAN}, "without an interval, which needs more than one seed"),
        ({"effect": 1.0, "low": NAN}, "is equal to uniform slow on test MSE, better on"),
        ({"pairs": 0, "lost": 12, "effect": NAN}, "on none of 12 seeds did both runs end"),
        ({"metric": "test_r2", "kind": "difference", "effect": 0.012, "low": -0.01, "high": 0.03},
         "is 0.0120 above uniform slow on test R², interval of the difference -0.0100 to 0.0300"),
    ],
)  # fmt: skip
def test_sentences(changes, expected):
    assert expected in sentence(**changes)


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (1.15, "15 % above"),
        (0.9969, "0.3 % below"),
        (1.0001, "less than 0.1 % above"),
        (2.41, "2.41 times"),
        (0.004, "a factor of 250 below"),
        (1.0, "equal to"),
    ],
)
def test_change(effect, expected):
    assert words.change({"kind": "ratio", "effect": effect}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.09651, "0.0965"), (1500, "1,500"), (0, "0"), (3.2e-9, "3.20e-9"), (-2.0, "-2.00"),
     (NAN, "n/a"), (math.inf, "∞"), (99.96, "100.0")],
)  # fmt: skip
def test_number(value, expected):
    assert words.number(value) == expected


def test_a_rounded_p_value_never_contradicts_the_verdict():
    assert words.probability(0.0496) == "p = 0.0496"
    assert words.probability(0.9999) == "p = 1"
    assert words.probability(NAN) == "no p-value"


@pytest.mark.parametrize(("pairs", "seeds", "needed"), [(1, 5, 6), (12, 8, 9), (3, 2, 7)])
def test_too_few_seeds_are_said_so(pairs, seeds, needed):
    assert f"at least {needed} seeds" in words.power_note(pairs, seeds)
    assert pairs * 2.0 ** (1 - needed) < 0.05 <= pairs * 2.0 ** (2 - needed)
    assert words.power_note(pairs, needed) == ""


def test_headlines():
    means = {"a": {"value": 0.9, "low": 0.8, "high": 1.0}, "b": {"value": 0.5, "low": NAN},
             "c": {"value": NAN, "low": NAN}}  # fmt: skip
    assert (html._best(means, True), html._best(means, False)) == ("a", "b")
    assert html._best({"c": means["c"]}, True) is None
    high = words.headline("a", means["a"], "test_r2", True, 1500)
    assert high == (
        "After 1,500 steps, a has the highest mean test R²: 0.900, 95 % interval 0.800 to 1.00."
    )
    assert words.headline("b", means["b"], "test_mse", False, 1).startswith("After 1 step, b has")
    assert "No strategy" in words.headline(None, {}, "test_mse", False, 1)
    assert words.early("b", means["b"], False).endswith("best, b has the lowest: 0.500.")
    assert words.early(None, {}, False) == ""


def against(baseline, wins, significant, effect=0.9):
    return RESULT | {"baseline": baseline, "wins": wins, "losses": 12 - wins,
                     "significant": significant, "effect": effect}  # fmt: skip


@pytest.mark.parametrize(
    ("results", "short"),
    [
        ([against("uniform slow", 12, True), against("uniform fast", 12, True)], "Yes."),
        ([against("uniform slow", 12, True), against("uniform fast", 7, False)], "In part."),
        ([against("uniform slow", 12, True), against("uniform fast", 0, True)],
         "It depends on which."),
        ([against("uniform slow", 7, False), against("uniform fast", 0, True)], "No."),
        ([against("uniform slow", 9, False), against("uniform fast", 7, False)], "Not shown."),
        ([against("uniform slow", 0, False) | {"pairs": 0}], "Cannot be said."),
    ],
)  # fmt: skip
def test_short_answers(results, short):
    (card,) = words.answers(results, ["two-timescale"], BASELINES[:2])
    ((question, answer, reasons),) = card
    assert question == "Does two-timescale beat uniform rates?"
    assert answer == short
    for result in results:
        assert result["baseline"] in reasons


def test_other_baselines_get_their_own_question():
    results = [against("uniform slow", 12, True), against("swapped", 6, False)]
    (card,) = words.answers(results, ["two-timescale"], ["uniform slow", "swapped"])
    assert [question for question, _, _ in card] == [
        "Does two-timescale beat uniform rates?",
        "Is two-timescale better than swapped?",
    ]
    ((question, _, _),) = words.answers(results[1:], ["two-timescale"], ["swapped"])[0]
    assert question == "Does two-timescale beat swapped?"


def test_reasons_name_size_and_direction():
    results = [against("uniform slow", 12, True, 0.8), against("uniform fast", 6, False, 1.1)]
    ((_, _, reasons),) = words.answers(results, ["two-timescale"], BASELINES[:2])[0]
    assert reasons == (
        "Significantly better than uniform slow (20 % below); "
        "no significant difference from uniform fast (10 % above)."
    )


def test_statuses_are_counted():
    statuses = ["DIVERGED", "COMPLETED", "DIVERGED", "SOMETHING_NEW"]
    assert words.status_words(statuses) == "1 completed, 2 diverged, 1 something new"


def test_colours_are_fixed_by_name_and_distinct():
    found = lines([*STRATEGIES, "mine", "yours"])
    assert len({line.colour for line in found.values()}) >= len(STRATEGIES) + 1
    assert lines(["swapped"])["swapped"] == lines(["mine", "swapped"])["swapped"]
    many = lines([f"strategy {index}" for index in range(20)])
    assert len({(line.colour, line.dashes) for line in many.values()}) == 20


def series(values):
    values = np.asarray(values, dtype=float)
    return {"two-timescale": (np.arange(len(values)), values)}


def test_svg_is_the_same_byte_for_byte():
    curves = series(np.random.default_rng(0).uniform(0.1, 9.0, (20, 5)))
    first = to_svg(figures.curves(curves, "step", "loss"))
    assert first == to_svg(figures.curves(curves, "step", "loss"))
    assert "<dc:date>" not in first
    assert ">two-timescale<" in first


def test_svg_keeps_the_digits_of_its_text():
    svg = to_svg(figures.curves(series([[0.0011], [0.0012], [0.0014]]), "step", "loss"))
    assert re.search(r">0\.001\d+<", svg)
    assert not re.search(r'd="[^"]*\d\.\d{3}', svg)


def test_inline_svg_has_a_title_and_no_names_of_groups():
    svg = inline_svg(to_svg(figures.curves(series([[2.0], [1.0]]), "step", "loss")), "a < b & c")
    assert svg.startswith("<svg viewBox=")
    assert "<title>a &lt; b &amp; c</title>" in svg
    assert '<g id="' not in svg
    assert "http" not in svg


@pytest.mark.parametrize(
    ("values", "scale"),
    [([[1.0], [0.1]], "log"), ([[1.0], [0.9]], "linear"), ([[1.0], [-1.0]], "linear"),
     ([[NAN], [NAN]], "linear"), ([[0.0], [0.0]], "linear"), ([[1.0], [0.0]], "log")],
)  # fmt: skip
def test_axes_are_logarithmic_where_it_helps(values, scale):
    figure = figures.curves(series(values), "step", "loss")
    assert figure.axes[0].get_yscale() == scale
    to_svg(figure)


def test_an_explosion_does_not_flatten_the_others():
    calm, wild = np.linspace(1.0, 0.1, 10)[:, None], np.logspace(0, 30, 10)[:, None]
    both = series(calm) | {"uniform fast": (np.arange(10), wild)}
    assert figures.curves(both, "step", "loss").axes[0].get_ylim()[1] < 10


def test_a_start_at_zero_has_no_place_on_a_logarithmic_axis():
    both = series([[3.0], [2.0], [1.0]])
    both["best response"] = (np.array([0.0, 90.0, 180.0]), np.array([[3.0], [2.0], [1.0]]))
    axes = figures.curves(both, "seconds", "loss").axes[0]
    assert axes.get_xscale() == "log"
    for line in axes.lines:
        assert math.isnan(line.get_xdata()[0])
    assert axes.get_xlim() == (1.0, 180.0)


def test_a_band_needs_half_of_the_runs():
    values = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, NAN], [1.0, NAN, np.inf]])
    low, middle, high = figures._band(values)
    assert middle[:2] == pytest.approx([2.0, 1.5])
    assert (low[0], high[0]) == pytest.approx((1.2, 2.8))
    assert math.isnan(middle[2])


def test_rounding_errors_do_not_set_the_limits_of_the_gaps():
    assert figures.gap_limits([np.zeros((2, 2)), np.full((2, 2), NAN)]) is None
    low, high = figures.gap_limits([np.full((4, 2), 1e-15), np.array([[1.0], [0.01]])])
    assert (low, high) == pytest.approx((0.005, 2.0), rel=0.01)
    exploding = np.array([[1.0], [0.01], [1e20]])
    assert figures.gap_limits([exploding])[1] == figures.EXPLODED


def test_what_lies_below_the_axis_is_written():
    gap, bound = np.full((3, 2), 1e-9), np.full((3, 2), 0.02)
    figure = figures.gaps("best response", np.arange(3), gap, bound, (0.01, 1.0))
    assert figure.axes[0].texts[0].get_text() == "in the end below this axis:\ndistance 1.00e-9"
    assert not figures.gaps("swapped", np.arange(3), bound, None, (0.01, 1.0)).axes[0].texts


def test_empty_figures_do_not_fail():
    to_svg(figures.curves({}, "step", "loss"))
    to_svg(figures.strip({}, {}, "loss"))
    to_svg(figures.forest([], "loss"))


class Resources(HTMLParser):
    """Collects every attribute that makes a browser fetch something, and checks the nesting."""

    void = frozenset({"meta", "br", "hr", "img", "input", "link", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.found, self.tags, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        self.found += [value for key, value in attributes
                       if key in ("src", "href", "xlink:href", "action", "data")]  # fmt: skip

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()


def page(comparison):
    content = comparison.content()
    return html.page(content, html.draw(content))


@pytest.fixture(scope="module")
def text():
    return page(example())


def test_the_page_needs_nothing_from_outside(text):
    parser = Resources()
    parser.feed(text)
    assert parser.open == []
    assert parser.tags.count("svg") > 20
    assert not {"script", "link", "img", "iframe"} & set(parser.tags)
    assert all(value.startswith("#") for value in parser.found)
    assert all(url.startswith("#") for url in re.findall(r"url\((.*?)\)", text))
    assert "@import" not in text


def test_the_page_says_what_matters(text):
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text))
    for expected in (
        "How fast should body and head move on friedman1?",
        "Does two-timescale beat uniform rates?",
        "Is best response better than two-timescale or swapped?",
        "best response θ*(w)",
        "10 completed, 2 diverged",
        "seed 2 by step 450, seed 5 by step 700",
        "Failed runs (2 of uniform fast)",
        "It is proven",
        "bilevel compare friedman1 --seeds 12",
        "make_friedman1 with noise 1.0",
        "2 further seeds are left out",
    ):
        assert expected in plain.replace("\N{NO-BREAK SPACE}", " "), expected
    assert "nan" not in plain.split()


def test_the_page_is_the_same_every_time(text):
    assert page(example()) == text


def test_names_cannot_break_the_page():
    nasty = "<script>alert(1)</script>"
    text = page(example(runs=3, records=4, problem=nasty))
    assert nasty not in text
    assert "&lt;script&gt;" in text


def test_an_estimated_bound_is_called_so():
    text = page(example(runs=2, records=3, bound_kind="estimated"))
    assert "<strong>estimated</strong>" in text
    assert "<strong>proven</strong>" not in text
