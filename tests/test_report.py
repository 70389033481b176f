"""Figures and the page are reproducible and self-contained."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from comparison_example import STRATEGIES, example

from bilevel.report import figures, html
from bilevel.report.palette import lines
from bilevel.report.svg import inline_svg, to_svg

NAN = float("nan")


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
        "2 runs of uniform fast failed and count as losses",
        "uniform fast (10 of 12 runs) is not ranked",
        "Seed by seed, a failed run loses.",
    ):
        assert expected in plain.replace("\N{NO-BREAK SPACE}", " "), expected
    assert "nan" not in plain.split()


def test_only_strategies_with_a_value_of_every_run_are_ranked():
    comparison = example()
    comparison.history["uniform fast"]["test_mse"][-1] *= 1e-3  # its ten survivors are the best
    text = page(comparison)
    best = re.findall(r'</svg>([^<]*)</th>\s*<td class="n best">', text, re.DOTALL)
    assert len(best) == 1
    assert best != ["uniform fast"]
    assert "<small>(10 of 12 runs)</small>" in text
    lead = re.search(r'<p class="lead">(.*?)</p>', text, re.DOTALL)[1]
    assert lead.startswith(f"After 1,500 steps, {best[0]} has the lowest")


def test_figures_of_names_that_look_alike_are_all_there():
    comparison = example(2, 3)
    names = ["lr=0.1", "lr 0.1", "LR-0-1", "lr-0-1-2", "a", "b"]
    renamed = dict(zip(names, comparison.strategies, strict=True))
    parts = {
        part: {new: getattr(comparison, part)[old] for new, old in renamed.items()}
        for part in ("strategies", "history", "status", "gradients_per_step", "seconds_per_step")
    }
    drawn = html.draw(example(2, 3, baselines=("a",), **parts).content())
    files = [name for name in drawn if name.startswith("head-gap-")]
    assert len({name.casefold() for name in files}) == len(names)
    assert [drawn[name][0].split(":")[0] for name in files] == names


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
