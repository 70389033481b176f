"""Paired statistics against hand computations and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as draw
from scipy import stats

from bilevel.comparison.statistics.judging import (
    ROUNDING,
    bounds,
    higher_is_better,
    rounding,
)
from bilevel.comparison.statistics.paired import (
    compare_pairs,
    holm,
    mean_interval,
)
from bilevel.comparison.statistics.thresholds import steps_to_threshold
from bilevel.comparison.statistics.values import best_values, last_values

NAN, INF = float("nan"), float("inf")


def one(first, second, metric="test_mse"):
    values = {"a": np.array(first, dtype=float), "b": np.array(second, dtype=float)}
    (result,) = compare_pairs(values, [("a", "b")], metric)
    return result


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("test_mse", False), ("objective", False), ("test_accuracy", True), ("train_r2", True)],
)
def test_direction(metric, higher):
    assert higher_is_better(metric) is higher


def test_mean_interval_is_the_t_interval():
    values = np.array([1.0, 2.0, 4.0, 8.0, NAN, INF])
    expected = stats.t.interval(0.95, 3, loc=3.75, scale=stats.sem(values[:4]))
    found = mean_interval(values)
    assert found.value == 3.75
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("values", "mean"), [([], NAN), ([NAN, INF], NAN), ([3.0, NAN], 3.0)])
def test_mean_interval_does_not_guess(values, mean):
    found = mean_interval(np.array(values))
    assert found.value == pytest.approx(mean, nan_ok=True)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("scale", [1.0, 3e-200, 1e-305, 2e200, 1.1e307])
def test_an_interval_of_numbers_of_any_size_is_that_of_plain_arithmetic(scale):
    """Bit for bit where plain arithmetic works, and where it overflows up to rounding."""
    values = np.random.default_rng(2).normal(3.0, 1.0, 7)
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(7)
    half = float(stats.t.ppf(0.975, 6)) * error
    expected = (mean * scale, (mean - half) * scale, (mean + half) * scale)
    found = mean_interval(values * scale)
    assert tuple(found) == (expected if scale == 1 else pytest.approx(expected, rel=1e-12, abs=0))


def test_an_interval_is_cut_where_no_mean_can_be():
    whole = mean_interval(np.array([0.001, 0.002, 5.0]))
    assert whole.low < 0
    assert mean_interval(np.array([0.001, 0.002, 5.0]), least=0.0) == whole._replace(low=0.0)
    share = mean_interval(np.array([0.9, 1.0, 1.0]), least=0.0, most=1.0)
    assert share.high == 1.0
    assert 0 < share.low < share.value < 1
    assert (share.low, share.value) == pytest.approx((0.823, 0.967), abs=1e-3)


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [("test_mse", [0.0, 2.0], (0, INF)), ("test_mse", [-1.0, 2.0], (-INF, INF)),
     ("test_r2", [0.1, 0.9], (-INF, 1)), ("test_accuracy", [0.1, 0.9], (0, 1)),
     ("test_accuracy", [10.0, 90.0], (0, INF)), ("loss", [NAN, INF], (0, INF))],
)  # fmt: skip
def test_what_a_mean_can_be(metric, values, expected):
    known = {"a": {metric: np.array([values])}, "b": {"other": np.array([[-1.0, 7.0]])}}
    assert bounds(metric, known) == expected
    known["b"][metric] = np.array([[-1.0], [7.0]])  # all that was recorded counts
    assert bounds(metric, known) == (-INF, INF)


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [0.0, 0.0], [0.3, 0.1 + 0.2], [1e300] * 4])
def test_equal_values_have_no_interval(values):
    found = mean_interval(np.array(values))
    assert found.value == values[0] or found.value == pytest.approx(values[0], rel=1e-15)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_differences_by_rounding_are_ties():
    first = np.array([1.0, 2.0, 3.0, 400.0, 5e-9])
    second = first * (1 + 1e-7 * np.array([1, -1, 1, -1, 1]))
    values = {"a": first, "b": second, "c": first * 1.001}
    pairs = [("b", "a"), ("c", "a")]
    rough, clear = compare_pairs(values, pairs, "test_mse", rounding=ROUNDING["float32"])
    assert (rough.wins, rough.losses, rough.ties, rough.effect) == (0, 0, 5, 1.0)
    assert math.isnan(rough.low)
    assert (clear.losses, clear.ties) == (5, 0)
    (exact, _) = compare_pairs(values, pairs, "test_mse", rounding=ROUNDING["float64"])
    assert (exact.wins, exact.losses, exact.ties) == (2, 3, 0)
    assert rounding({"dtype": "float32"}) == ROUNDING["float32"]
    assert rounding({}) == rounding({"dtype": ["odd"]}) == ROUNDING["float64"]


def test_effects_that_no_float_holds():
    small, large = [1e-200, 2e-200, 3e-200], [1e200, 2e200, 2e200]
    assert one(small, large).effect == 0.0
    assert one(large, small).effect == INF
    huge = one([1e308, 1.5e308, 1e308], [-1e308, -1e308, -1.7e308])
    assert (huge.kind, huge.effect, huge.losses) == ("difference", INF, 3)
    near = one([1e308, -1.5e308, 1e308], [0.9e308, -1.6e308, 0.8e308])
    assert near.effect == pytest.approx(1.3333333333e307)
    assert (near.low, near.high) == pytest.approx((1e307, 2e307), rel=0.1)


def test_ratio_by_hand():
    result = one([1.0, 2.0, 3.0], [2.0, 4.0, 3.0])
    assert result.kind == "ratio"
    assert result.effect == pytest.approx(0.25 ** (1 / 3), rel=1e-12)
    assert (result.wins, result.losses, result.ties, result.pairs, result.lost) == (2, 0, 1, 3, 0)
    assert result.p_value == pytest.approx(0.5)  # two of two: 2 * (1/2)^2
    assert 0.25 ** (1 / 3) < result.high <= 1.0
    assert result.low >= 0.5


@pytest.mark.parametrize(("n", "least"), [(5, 0.89), (10, 0.93)])
def test_the_interval_covers_the_true_ratio(n, least):
    """The plain percentile interval covers .84 and .89 of the time."""
    changes = np.random.default_rng(1).normal(0.1, 0.3, (800, n))
    found = [one(np.exp(change), np.ones(n)) for change in changes]
    covered = np.mean([result.low <= math.exp(0.1) <= result.high for result in found])
    assert least <= covered < 0.97


def test_too_few_pairs_have_no_interval():
    assert math.isnan(one([1.0, 2.0], [2.0, 2.0]).low)
    assert math.isfinite(one([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]).low)


def test_interval_agrees_with_the_t_interval_of_logs():
    generator = np.random.default_rng(3)
    second = np.exp(generator.normal(0.0, 1.0, 60))
    first = second * np.exp(generator.normal(-0.1, 0.2, 60))
    change = np.log(first / second)
    reference = stats.t.interval(0.95, 59, loc=change.mean(), scale=stats.sem(change))
    result = one(first, second)
    assert np.log([result.low, result.high]) == pytest.approx(reference, abs=0.01)


def test_r2_and_negative_values_are_compared_by_difference():
    for metric, first in (("test_r2", [0.9, 0.8]), ("objective", [-1.0, 0.7])):
        result = one(first, [0.5, 0.5], metric)
        assert result.kind == "difference"
        assert result.effect == pytest.approx(np.mean(np.array(first) - 0.5), rel=1e-12)


@pytest.mark.parametrize(("metric", "wins"), [("test_mse", 0), ("test_accuracy", 3)])
def test_wins_follow_the_direction(metric, wins):
    result = one([0.9, 0.8, 0.7], [0.5, 0.6, 0.4], metric)
    assert (result.wins, result.losses) == (wins, 3 - wins)
    assert result.effect > 1


@pytest.mark.parametrize("metric", ["test_mse", "test_accuracy"])
def test_runs_that_are_not_finite_lose_their_pair(metric):
    result = one([1.0, NAN, 1.0, INF, NAN, NAN], [1.0, 2.0, NAN, 1.0, INF, 1.0], metric)
    assert (result.pairs, result.lost, result.effect) == (1, 5, 1.0)
    assert (result.wins, result.losses, result.ties) == (1, 3, 2)  # both failed on the fifth
    assert (result.failed, result.baseline_failed) == (4, 2)
    assert result.p_value == pytest.approx(stats.binomtest(1, 4).pvalue)
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_surviving_where_it_is_easy_is_no_advantage():
    """Better on all 7 seeds that it survived, and dead on the other 5: 7 of 12, not 7 of 7."""
    result = one([0.5] * 7 + [NAN] * 5, [1.0] * 12)
    assert (result.wins, result.losses, result.pairs, result.lost) == (7, 5, 7, 5)
    assert result.p_value == pytest.approx(stats.binomtest(7, 12).pvalue)
    assert not result.significant
    dead = one([NAN] * 12, [1.0] * 12)
    assert (dead.losses, dead.pairs) == (12, 0)
    assert dead.significant
    assert math.isnan(dead.effect)


def test_nothing_to_compare():
    result = one([NAN, INF], [INF, NAN])
    assert (result.pairs, result.lost, result.ties) == (0, 2, 2)
    assert math.isnan(result.effect)
    assert math.isnan(result.p_adjusted)
    assert not result.significant


def test_equal_strategies_have_no_interval_and_no_evidence():
    result = one([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (result.effect, result.ties, result.p_value) == (1.0, 3, 1.0)
    assert math.isnan(result.low)
    assert not result.significant


def test_a_constant_ratio_is_not_certainty():
    result = one([0.1, 0.2, 0.7], [0.3, 0.6, 2.1])  # equal up to rounding only
    assert result.effect == pytest.approx(1 / 3)
    assert math.isnan(result.low)


def test_lost_pairs_still_count_in_the_correction():
    values = {"a": np.arange(1.0, 11.0), "b": np.arange(1.0, 11.0) + 1, "c": np.full(10, NAN)}
    alone = compare_pairs(values, [("a", "b")], "test_mse")[0]
    beside = compare_pairs(values, [("a", "b"), ("c", "b")], "test_mse")[0]
    assert alone.p_value == pytest.approx(2**-9)
    assert beside.p_adjusted == pytest.approx(2 * alone.p_value)
    assert beside.significant


def test_holm_by_hand():
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.02, NAN])) == pytest.approx([0.04, NAN], nan_ok=True)
    assert holm(np.array([])).size == 0


@given(draw.lists(draw.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_only_raises(p_values):
    p_values = np.array(p_values)
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1.0, p_values.min() * p_values.size))


positive = draw.floats(1e-3, 1e3)


@given(draw.lists(draw.tuples(positive, positive), min_size=2, max_size=6))
def test_swapping_inverts_the_ratio_and_its_interval(rows):
    first, second = np.array(rows).T
    there, back = one(first, second), one(second, first)
    assert there.effect * back.effect == pytest.approx(1.0, rel=1e-9)
    assert (there.wins, there.losses, there.p_value) == (back.losses, back.wins, back.p_value)
    assert there.low == pytest.approx(1 / back.high, rel=1e-6, nan_ok=True)


def test_steps_to_threshold():
    steps = np.array([0, 10, 20])
    values = np.array([[3.0, 3.0, NAN], [1.0, 2.5, NAN], [2.0, 2.0, NAN]])
    assert steps_to_threshold(steps, values, 2.0).tolist() == [10.0, 20.0, INF]
    assert steps_to_threshold(steps, values, 2.9, higher=True).tolist() == [0.0, 0.0, INF]


def test_last_values_pass_over_what_was_not_recorded():
    table = {"a": np.array([[1.0, 5.0], [2.0, NAN]]), "b": np.array([[NAN, 6.0], [7.0, NAN]])}
    assert last_values(table, "a").tolist() == [2.0, 5.0]
    assert last_values(table, "b").tolist() == [7.0, 6.0]
    broken = {"a": np.array([[1.0], [2.0]]), "b": np.array([[1.0], [NAN]])}
    assert math.isnan(last_values(broken, "b")[0])


def test_best_values_choose_by_the_score():
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    scores = np.array([[5.0, NAN, NAN], [4.0, 9.0, NAN], [6.0, INF, NAN]])
    assert best_values(values, scores, higher=False)[:2].tolist() == [2.0, 2.0]
    assert best_values(values, scores, higher=True)[0] == 3.0
    assert math.isnan(best_values(values, scores, higher=False)[2])
