"""What is said of odd results is true: of ties, runs without a value, extreme sizes, one seed."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from odd_results import odd, told

from bilevel.report import figures

NAN, INF = float("nan"), float("inf")
FIVE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
ULPS = np.array([1.0, -1.0, 2.0, 0.0, -1.0])  # of rounding, on five seeds
SINGULAR = re.compile(r"(?<![\d.,])(?<!0, )1 (runs|seeds|steps|trials|comparisons|pairs)\b")


def failing(*runs: int, of: int = 5) -> list[str]:
    return ["DIVERGED" if run in runs else "COMPLETED" for run in range(of)]


class Odd(NamedTuple):
    """Final values, what must be said of them, and what must not."""

    final: dict[str, Any]
    said: tuple[str, ...]
    never: tuple[str, ...] = ()
    more: Mapping[str, Any] = MappingProxyType({})


ROWS = {
    "two equal": Odd(
        {"a": FIVE, "b": FIVE},
        ("b is equal to a on test MSE, on all 5 seeds.",
         "a and b have the same mean test MSE, equal on every seed: 3.00, 95 % interval 1.04",
         "No: they are equal. On every seed equal to a."),
        ("lowest", "in bold", "p = 1", "would not be significant"),
    ),
    "three equal": Odd(
        {"a": FIVE, "b": FIVE, "c": FIVE},
        ("a, b and c have the same mean test MSE, equal on every seed: 3.00",
         "No: all are equal. On every seed equal to a and b."),
        ("lowest", "in bold", "would not be significant"), {"baselines": ()},
    ),
    "the best two of three": Odd(
        {"a": FIVE, "b": FIVE, "c": FIVE + 1},
        ("a and b share the lowest mean test MSE, equal on every seed: 3.00", "in bold"),
        ("has the lowest",),
    ),
    "the other two of three": Odd(
        {"a": FIVE + 1, "b": FIVE + 1, "c": FIVE},
        ("c has the lowest mean test MSE: 3.00", "b is equal to a on test MSE, on all 5 seeds."),
    ),
    "only the means are equal": Odd(
        {"a": FIVE, "b": FIVE[::-1]},
        ("a and b have the same mean test MSE: 3.00", "b is on average equal to a",
         "no comparison can count more than 4 (the rest are ties)",
         "at least 6 seeds that are no ties", "Not shown. No significant difference from a (equal "
         "on average)."),
        ("equal on every seed", "the lowest"),
    ),
    "equal up to rounding of float32": Odd(
        {"a": FIVE, "b": FIVE * (1 + 6e-8 * ULPS)},
        ("b is equal to a on test MSE, on all 5 seeds.", "equal on every seed"),
        ("lowest", "0.1 %"),
        {"settings": {"dtype": "float32"}},
    ),
    "equal up to rounding of float64": Odd(
        {"a": FIVE, "b": FIVE * (1 + 3e-16 * ULPS)},
        ("b is equal to a on test MSE, on all 5 seeds.",),
        ("lowest",),
        {"settings": {"dtype": "float64"}},
    ),
    "less than float32 rounds is a difference in float64": Odd(
        {"a": FIVE, "b": FIVE * (1 + 6e-8 * (ULPS + 1e-3))},
        ("b is less than 0.1 % above a on test MSE", "a has the lowest mean test MSE: 3.00",
         "better on 2 of 5 seeds: not"),
        ("equal on every", "1.000 to 1.00"),
        {"settings": {"dtype": "float64"}},
    ),
    "two seeds, equal": Odd(
        {"a": [1.0, 2.0], "b": [1.0, 2.0]}, ("b is equal to a on test MSE, on both seeds.",),
    ),
    "ties do not count": Odd(
        {"a": FIVE, "b": [1.0, 2.0, 2.0, 3.0, 4.0]},
        ("With 5 seeds, of which no comparison can count more than 3 (the rest are ties), and 1 "
         "comparison even a win on every seed would not be significant; that needs at least 6 "
         "seeds that are no ties.", "better on 3 of 5 seeds (equal on 2)"),
    ),
    "completed without a value": Odd(
        {"a": [1.0, 2.0, 3.0, NAN, 5.0], "b": FIVE},
        ("1 run of a has no finite value and counts as a loss",
         "b alone can be ranked, by its mean test MSE: 3.00",
         "a (4 of 5 runs) is not ranked", "runs without a value aside",
         "Runs without a finite value (1 of a) are left out of the means"),
        ("failed", "lowest mean"),
    ),
    "infinite": Odd(
        {"a": [1.0, INF, INF, 4.0, 5.0], "b": FIVE},
        ("2 runs of a have no finite value and count as losses", "5 completed"),
        ("failed", "∞"),
    ),
    "failed": Odd(
        {"a": [1.0, 2.0, 3.0, NAN, 5.0], "b": FIVE},
        ("1 run of a failed and counts as a loss", "failed runs aside",
         "Failed runs (1 of a) have no value and are left out", "a failed run loses"),
        ("finite value",),
        {"status": {"a": failing(3)}},
    ),
    "some failed, some without a value": Odd(
        {"a": [NAN, NAN, 1.0, 2.0, 3.0], "b": [1.0, NAN, 1.0, 2.0, 3.0]},
        ("1 run of a failed or has no finite value and counts as a loss",
         "neither has a finite value on 1, which counts as equal",
         "Failed runs (1 of a) and runs without a finite value (1 of a and 1 of b) are left out",
         "No strategy ended with a finite test MSE in every run."),
        ("both failed",),
        {"status": {"a": failing(0)}},
    ),
    "none with a value": Odd(
        {"a": [NAN] * 5, "b": [NAN] * 5},
        ("b cannot be compared with a on test MSE: neither has a finite value on any of 5 seeds.",
         "No strategy ended with a finite test MSE.", "Cannot be said."),
        ("failed", "would not be significant", "lowest"),
    ),
    "all failed": Odd(
        {"a": [NAN] * 5, "b": [NAN] * 5},
        ("both failed on all 5 seeds.", "Failed runs (5 of a and 5 of b)"),
        ("neither", "would not be significant", "lowest"),
        {"status": dict.fromkeys("ab", failing(*range(5)))},
    ),
    "one seed of two failed": Odd(
        {"a": [NAN, 1.0], "b": [1.5, 2.0]},
        ("b is 2.00 times a on test MSE, too few seeds for an interval, better on 1 of 2 seeds (1 "
         "run of a failed and counts as a loss)", "over the 1 seed where both ended"),
        ("1.75 (-",),
        {"status": {"a": failing(0, of=2)}},
    ),
    "one seed": Odd(
        {"a": [1.0], "b": [2.0]},
        ("a has the lowest test MSE: 1.00.", "b is 2.00 times a on test MSE, in the one run"),
        ("mean test", "interval 1"),
    ),
    "one seed, equal": Odd(
        {"a": [1.0], "b": [1.0]},
        ("a and b have the same test MSE: 1.00.", "In the one run equal to a."),
        ("lowest", "in bold"),
    ),
    "one seed, one without a value": Odd(
        {"a": [NAN], "b": [1.0]},
        ("the run of a has no finite value.", "b alone can be ranked, by its test MSE: 1.00",
         "(one of the two has no finite value)"),
        ("the run of a failed", "lowest"),
    ),
    "one seed, one failed": Odd(
        {"a": [NAN], "b": [1.0]},
        ("the run of a failed.", "(one of the two failed)"), ("finite value",),
        {"status": {"a": ["DIVERGED"]}},
    ),
    "one seed, none with a value": Odd(
        {"a": [NAN], "b": [NAN]},
        ("b cannot be compared with a on test MSE: neither has a finite value.",
         "(both have no finite value)"),
        ("both failed",),
    ),
    "one strategy": Odd({"a": FIVE}, ("the mean test MSE of a is 3.00, 95 % interval",)),
    "one strategy, one seed": Odd({"a": [1.0]}, ("the test MSE of a is 1.00.",), ("interval",)),
    "one strategy without a value": Odd(
        {"a": [NAN]}, ("No strategy ended with a finite test MSE.",), ("lowest",)
    ),
    "constant": Odd(
        {"a": [2.0] * 5, "b": [3.0] * 5},
        ("a has the lowest mean test MSE: 2.00. With", "b is 50 % above a on test MSE, better on"),
        ("2.00 to 2.00", "95 % interval below"),
    ),
    "constant up to rounding": Odd(
        {"a": 2 + 2e-7 * ULPS, "b": FIVE},
        ("a has the lowest mean test MSE: 2.00. With",),
        ("to 2.0",),
        {"settings": {"dtype": "float32"}},
    ),
    "almost constant": Odd(
        {"a": 2 + 1e-4 * ULPS, "b": FIVE},
        ("95 % interval 1.9999 to 2.0002",),
        ("2.00 to 2.00",),
        {"settings": {"dtype": "float32"}},
    ),
    "zeros": Odd(
        {"a": [0.0] * 5, "b": [0.0] * 5},
        ("b is equal to a on test MSE, on all 5 seeds.", "equal on every seed: 0."),
        ("0 to 0", "lowest"),
    ),
    "zeros against numbers": Odd(
        {"a": [0.0] * 5, "b": FIVE},
        ("b is 3.00 above a on test MSE, interval of the difference 1.20 to 4.80",), ("0 to 0",),
    ),
    "positive, and spread out": Odd(
        {"a": [0.001, 0.002, 5.0], "b": [1.0, 0.01, 3.0]},
        ("1.67 (0 to 8.84)", "95 % interval 0 to 5.12"), ("(-", "interval -"),
    ),
    "of either sign": Odd(
        {"a": [-1.0, 2.0, -3.0], "b": [1.0, 2.0, 3.0]},
        ("-0.667 (-6.92 to 5.58)", "2.00 (-0.484 to 4.48)"), (), {"metric": "value"},
    ),
    "accuracy": Odd(
        {"a": [0.99, 1.0, 1.0, 0.9], "b": [0.98, 1.0, 0.97, 0.95]},
        ("0.975 (0.942 to 1.00)",), ("to 1.05", "to 1.01)"),
        {"metric": "test_accuracy", "start": 0.1},
    ),
    "percent": Odd(
        {"a": [99.0, 100.0, 100.0, 90.0], "b": [98.0, 100.0, 97.0, 95.0]},
        ("97.5 (94.2 to 101)",), (), {"metric": "test_accuracy"},
    ),
}  # fmt: skip

EXTREME = {
    "too small a ratio": Odd(
        {"a": [1e200, 2e200, 3e200], "b": [1e-200, 2e-200, 2e-200]},
        ("b is a factor of more than 1e300 below a on test MSE, better on 3 of 3", "0 to 4.48e200"),
        ("interval 0,", "∞"),
    ),
    "too large a ratio": Odd(
        {"a": [1e-200, 2e-200, 3e-200], "b": [1e200, 2e200, 2e200]},
        ("b is more than 1e300 times a on test MSE, better on 0 of 3", "0 to 4.48e-200"), ("∞",),
    ),
    "denormal": Odd(
        {"a": [5e-324, 1e-320, 5e-324], "b": [1e-323, 5e-324, 5e-324]},
        ("b is a factor of 10.0 below a on test MSE", "equal on 1"), ("-0 to",),
    ),
    "denormal against numbers": Odd(
        {"a": [5e-324, 1e-320, 5e-324], "b": [1.0, 2.0, 3.0]},
        ("b is more than 1e300 times a on test MSE",), ("∞",),
    ),
    "a difference too large": Odd(
        {"a": [1e308, 1.5e308, 1e308], "b": [-1e308, -1e308, -1.7e308]},
        ("b is more than 1e300 below a on test MSE, better on 3 of 3 seeds", "1.17e308"), ("nan",),
        {"start": 1e308},
    ),
    "a variance too large": Odd(
        {"a": [1e308, 1.5e308, 1e308], "b": [1.2e308, 1.6e308, 1e308]},
        ("b is 9 % above a on test MSE, interval 1.00 to 1.20", "1.17e308 (4.50e307 to ∞)"),
    ),
    "almost nothing": Odd(
        {"a": [2e-320] * 3, "b": [0.0] * 3}, ("b is 2.00e-320 below a on test MSE",), (),
        {"start": 0.0},
    ),
}  # fmt: skip


def check(row: Odd) -> None:
    text = told(odd(row.final, **row.more))
    for sentence in row.said:
        assert sentence in text, f"{sentence!r} is not said:\n{text}"
    for sentence in (*row.never, "nan ", "of 1 runs"):
        assert sentence not in text, f"{sentence!r} is said:\n{text}"
    assert not SINGULAR.search(text), SINGULAR.search(text)


DRAWN = (
    *(
        "equal up to rounding of float32",
        "infinite",
        "failed",
        "none with a value",
        "of either sign",
    ),
    *("one seed, one without a value", "one strategy", "one strategy without a value", "zeros"),
)
"""Whose figures are made too."""


@pytest.mark.parametrize("name", ROWS)
def test_odd_results_are_told_as_they_are(name, request):
    request.getfixturevalue("unrendered" if name in DRAWN else "undrawn")
    check(ROWS[name])


@pytest.mark.parametrize("name", EXTREME)
def test_numbers_of_any_size_are_told_and_drawn(name, request):
    if name not in ("denormal", "a difference too large", "almost nothing"):  # curves see the rest
        request.getfixturevalue("unrendered")
    check(EXTREME[name])


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 0.0, 1.5e308])
def test_curves_and_gaps_of_any_size_are_drawn(scale):
    comparison = odd({"a": [scale] * 3, "b": [scale, scale / 2, -scale]}, start=scale)
    for table in comparison.history.values():
        falling = np.array([[1.0, 0.9, 0.8], [0.5, 0.4, 0.3], [0.2, 0.1, 0.05]]) * scale
        table |= dict.fromkeys(("phi", "head_gap", "head_bound"), falling)
        table["phi_gradient_norm"] = np.vstack([falling[:2], np.full((1, 3), 1e10)])
    text = told(comparison)
    assert ("first (median over seeds): a more than 1e300 and b more" in text) == (scale == 5e-324)


def test_long_names_leave_room_in_figures():
    names = "uniform rate 0.0005 with RMSProp (0.99)", "uniform rate 0.0005 with RMSProp (0.9)"
    first, second = map(figures.short, names)
    assert len(first) == len(second) == 30
    assert first != second
    assert figures.short("best response running, tuned") == "best response running, tuned"
    usual = ["best response running, tuned", "uniform slow"]
    assert figures.pair_of(*usual) == usual
    assert sum(map(len, figures.pair_of(*names))) == 42
