"""Figures and the page are reproducible and self-contained."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from comparison_example import STRATEGIES, example, small
from drawn import curves, series
from matplotlib.figure import Figure

import bilevel
from bilevel.report import figures, html
from bilevel.report.palette import lines
from bilevel.report.scales import scale_ratios
from bilevel.report.svg import to_svg

NAN = float("nan")


def test_colours_are_fixed_by_name_and_distinct():
    found = lines([*STRATEGIES, "mine", "yours"])
    assert len({line.colour for line in found.values()}) >= len(STRATEGIES) + 1
    assert lines(["swapped"])["swapped"] == lines(["mine", "swapped"])["swapped"]
    many = lines([f"strategy {index}" for index in range(20)])
    assert len({(line.colour, line.dashes) for line in many.values()}) == 20


@pytest.mark.parametrize(
    ("values", "scale"),
    [([[1.0], [0.1]], "log"), ([[1.0], [0.9]], "linear"), ([[1.0], [-1.0]], "linear"),
     ([[NAN], [NAN]], "linear"), ([[0.0], [0.0]], "linear"), ([[1.0], [0.0]], "log")],
)  # fmt: skip
def test_axes_are_logarithmic_where_it_helps(values, scale):
    figure = curves(series(values))
    assert figure.axes[0].get_yscale() == scale
    to_svg(figure)


def test_an_explosion_does_not_flatten_the_others():
    calm, wild = np.linspace(1.0, 0.1, 10)[:, None], np.logspace(0, 30, 10)[:, None]
    both = series(calm) | {"uniform fast": (np.arange(10), wild)}
    assert curves(both).axes[0].get_ylim()[1] < 10


def test_a_start_at_zero_has_no_place_on_a_logarithmic_axis():
    both = series([[3.0], [2.0], [1.0]])
    both["best response"] = (np.array([0.0, 90.0, 180.0]), np.array([[3.0], [2.0], [1.0]]))
    axes = curves(both).axes[0]
    assert axes.get_xscale() == "log"
    for line in axes.lines:
        assert math.isnan(line.get_xdata()[0])
    assert axes.get_xlim() == (1.0, 180.0)


def test_a_band_needs_half_of_the_runs():
    values = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, NAN], [1.0, NAN, np.inf]])
    low, middle, high = figures.quantiles(values)
    assert middle[:2] == pytest.approx([2.0, 1.5])
    assert (low[0], high[0]) == pytest.approx((1.2, 2.8))
    assert math.isnan(middle[2])


@pytest.mark.parametrize(
    "ends",
    [[0.9, 0.95], [1.3, 9.0], [0.5, 1.001], [0.999, 3.0], [1e-9, 2.0], [0.2, 1.9], [1.0],
     [0.77, 1.13], [0.96, 40.0], [3e-5, 0.9], [0.9, 3e40], [0.9999, 1.0002], [0.1, 0.11]],
)  # fmt: skip
def test_ratios_have_a_label_at_1_and_on_each_side(ends):
    axes = Figure(figsize=(figures.WIDTH, 2)).add_subplot()
    scale_ratios(axes, ends)
    (low, high), ticks = axes.get_xlim(), axes.get_xticks()
    assert 1.0 in ticks
    assert low <= min(ends) * (1 + 1e-12)
    assert max(ends) <= high * (1 + 1e-12)
    assert all(low <= tick <= high for tick in ticks)
    assert min(ends) >= 1 or min(ticks) < 1
    assert max(ends) <= 1 or max(ticks) > 1
    assert len(ticks) == 1 or np.diff(np.log(ticks)).min() > 0.9 * 0.14 * np.log(high / low)


def test_figures_of_a_part_have_the_colours_of_the_whole():
    drawn = html.draw(small(baselines=()).content())
    colour = lines(["fast", "slow"])["slow"].colour
    assert colour != lines(["slow"])["slow"].colour
    (part,) = small(baselines=()).plot("validation_mse").axes[0].lines  # of the first alone
    assert part.get_color() == lines(["fast", "slow"])["fast"].colour
    assert colour.lower() in drawn["paired"][1]
    assert lines(["slow"])["slow"].colour.lower() not in drawn["paired"][1]


def test_a_difference_next_to_none_leaves_room_for_the_names():
    result = {"strategy": "two-timescale", "baseline": "uniform slow", "kind": "ratio"}
    result |= {"effect": 0.9999, "low": 0.99, "high": 1.01, "pairs": 3, "significant": False}
    svg = to_svg(figures.forest([result], lines(["two-timescale"]), title="loss"))
    assert ">&lt; 0.1 % below<" in svg
    assert "less than" not in svg


def test_numbers_below_dots_leave_room_for_intervals_that_reach_further():
    values = {"a": np.array([0.08, 0.1, 0.3]), "b": np.array([0.3, 0.4, 0.5])}
    ends = {"a": {"value": 0.16, "low": 0.0035, "high": 0.4}}
    ends["b"] = {"value": 0.4, "low": 0.3, "high": 0.5}
    axes = figures.strip(values, lines(["a", "b"]), intervals=ends, title="loss").axes[0]
    low, high = axes.get_xlim()
    assert low < 0.0035
    assert [tick for tick in axes.get_xticks() if low < tick < high] == pytest.approx(
        [0.003, 0.01, 0.03, 0.1, 0.3]
    )


def test_names_of_level_lines_that_lie_close_do_not_overlap():
    levels = {"the least-squares line": 20.4, "predicting the mean": 20.2, "far below": 12.0}
    rising = np.linspace(11, 21, 5)[:, None]
    at = {"a": (np.arange(5), rising)}
    figure = figures.curves(at, lines(["a"]), xlabel="step", title="loss", levels=levels)
    places = {text.get_text(): text.get_va() for text in figure.axes[0].texts}
    assert places == {
        "least-squares line": "bottom", "predicting the mean": "top", "far below": "bottom",
    }  # fmt: skip


def test_empty_figures_do_not_fail():
    to_svg(curves({}))
    to_svg(figures.strip({}, {}, intervals={}, title="loss"))
    to_svg(figures.forest([], {}, title="loss"))


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


def test_only_strategies_with_a_value_of_every_run_are_ranked(unrendered):
    comparison = example()
    comparison.history["uniform fast"]["test_mse"][-1] *= 1e-3  # its ten survivors are the best
    text = page(comparison)
    best = re.findall(r'</svg>([^<]*)</th>\s*<td class="n best">', text, re.DOTALL)
    assert len(best) == 1
    assert best != ["uniform fast"]
    assert "<small>(10 of 12 runs)</small>" in text
    lead = re.search(r'<p class="lead">(.*?)</p>', text, re.DOTALL)[1]
    assert lead.startswith(f"After 1,500 steps, {best[0]} has the lowest")


def test_figures_of_names_that_look_alike_are_all_there(unrendered):
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


def words_of(comparison):
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page(comparison)))
    return plain.replace("\N{NO-BREAK SPACE}", " ")


def part_of(names, runs):
    """The small comparison with some of its strategies and seeds, all completed."""
    whole = small()
    history = {name: {metric: values[:, :runs] for metric, values in whole.history[name].items()}
               for name in names}  # fmt: skip
    parts = {part: {name: getattr(whole, part)[name] for name in names}
             for part in ("strategies", "gradients_per_step", "seconds_per_step")}  # fmt: skip
    status = {name: ["COMPLETED"] * runs for name in names}
    return small(**parts, history=history, status=status, baselines=names[-1:],
                 settings={"seeds": list(range(runs))})  # fmt: skip


def test_strategies_of_ones_own_have_no_column_of_words(undrawn):
    text = page(small())
    assert "In words" not in text
    assert "slow<small>baseline</small>" in text
    assert "In words" in page(example(runs=2, records=3))


def test_kinds_are_told_in_words_whatever_their_names(undrawn):
    loop, still = bilevel.SingleLoop(0.1, 0.1, 0.1), bilevel.SingleLoop(0.0, 0.1, 0.1)
    steps = bilevel.BestResponse(
        0.1, bilevel.FastSGD(0.1, steps=3, restart=True), bilevel.Unrolled(3)
    )
    batches, running = (
        bilevel.BestResponse(0.1, bilevel.ClosedForm(data()))
        for data in (bilevel.BatchData, bilevel.RunningData)
    )
    for strategy, words in (
        (loop, "One step each of the head"),
        (still, "A control: the body stays"),
        (steps, "whose gradient is taken through them"),
        (bilevel.TwoTimescale(0.1, 0.1, head_steps=12), "Several steps of the head for each one"),
        (batches, "The head is solved exactly on the rows of every step"),
        (running, "The head is solved on running averages"),
        (bilevel.BestResponse(0.1, bilevel.FastSGD(0.1, 3)), "Some steps of the head before"),
        (bilevel.BestResponse(0.1), "The head is solved before every step of the body"),
    ):
        assert words in page(small(strategies={"slow": repr(strategy), "fast": "mine"}))
    plain = repr(bilevel.TwoTimescale(0.1, 0.1))
    assert "In words" not in page(small(strategies={"slow": plain, "fast": "mine"}))


@pytest.mark.parametrize("runs", [1, 2])
def test_one_strategy_is_not_compared(runs, undrawn):
    text = words_of(part_of(("fast",), runs))
    for claim in ("lowest", "baseline", "all strategies started", "1 seeds", "in bold", "luck"):
        assert claim not in text, claim
    assert ("the mean test MSE of fast is 2.50" in text) == (runs == 2)
    assert ("the test MSE of fast is 2.00" in text) == (runs == 1)


def test_one_seed_has_no_mean(unrendered):
    text = words_of(part_of(("fast", "slow"), 1))
    for claim in ("lowest mean", "Means over seeds", "1 seeds", "luck", "The line is the median"):
        assert claim not in text, claim
    assert "fast has the lowest test MSE: 2.00." in text
    assert "With the one seed all strategies started" in text


def test_too_few_seeds_are_said_before_the_verdicts(undrawn):
    text = words_of(small())
    assert text.index("at least 6 seeds") < text.index("Not shown.")
    assert text.count("at least 6 seeds") == 1


def test_names_cannot_break_the_page(undrawn):
    nasty = "<script>alert(1)</script>"
    text = page(example(runs=3, records=4, problem=nasty))
    assert nasty not in text
    assert "&lt;script&gt;" in text


def test_an_estimated_bound_is_called_so(undrawn):
    text = page(example(runs=2, records=3, bound_kind="estimated"))
    assert "<strong>estimated</strong>" in text
    assert "<strong>proven</strong>" not in text


def test_what_was_not_validated_is_not_explained(undrawn):
    assert "Validation-best" in words_of(small())
    whole = small()
    tests = {name: {"test_mse": part["test_mse"]} for name, part in whole.history.items()}
    assert "alidation" not in words_of(small(history=tests))


def test_accuracy_stands_beside_the_cross_entropy(undrawn):
    """The mean over seeds; without its interval, which may reach beyond 1."""
    table = {
        "test_cross_entropy": np.array([[2.3, 2.3, 2.3], [0.5, 0.7, 0.8]]),
        "test_accuracy": np.array([[0.1, 0.1, 0.1], [0.75, 1.0, 0.875]]),
    }
    part = {
        "history": dict.fromkeys(small().strategies, table),
        "status": {name: ["COMPLETED"] * 3 for name in small().strategies},
        "steps": np.array([0, 10]),
    }
    comparison = small(**part, headline="test_cross_entropy")
    shown = words_of(comparison)
    assert "Final test cross-entropy Accuracy" in shown
    assert "0.875" in shown
    assert "0.875" in comparison.table()
    other = small(**part, headline="test_accuracy")
    assert other.content()["accuracy"] == {}  # it is judged by accuracy itself
    assert small().content()["accuracy"] == {}


def test_the_note_says_what_the_numbers_compare(undrawn):
    """A ratio of values that may be negative says nothing."""
    assert "Percentages compare the final test MSE" in words_of(small())
    history = {
        name: {"test_r2": np.array([[-1.0] * 3, [value, 0.1, 0.2]])}
        for name, value in zip(small().strategies, (0.3, -0.3), strict=True)
    }
    found = words_of(small(history=history, headline="test_r2", steps=np.array([0, 10])))
    assert "Differences compare the final test R²" in found
