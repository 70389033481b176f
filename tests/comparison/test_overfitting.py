"""When a strategy is said to overfit: the rule by hand, its false alarms, and what is printed.

The false alarms on simulated plateaus, and the diabetes networks of the documentation, in minutes:

    make test ARGS="-m slow -n 0 tests/comparison/test_overfitting.py"
"""

import numpy as np
import pytest
from comparison_example import example
from scipy import stats

import bilevel
from bilevel.comparison.statistics.overfitting import overfit
from bilevel.report import first_page
from bilevel.report.units import UNITS

RECORDS, STEPS = 50, np.arange(50) * 30


def plateau(generator, memory, seeds, spread):
    """Curves that fall and then go up and down around one level, each seed for itself."""
    places = np.arange(RECORDS)[:, None]
    fall = generator.uniform(0.5, 3) * np.exp(-places / generator.uniform(1, 8))
    noise = generator.normal(size=(RECORDS, seeds))
    for k in range(1, RECORDS):
        noise[k] = memory * noise[k - 1] + np.sqrt(1 - memory**2) * noise[k]
    return np.exp(fall + spread * noise + generator.normal(0, 0.15, seeds))


def training(generator, seeds):
    """Curves that fall to the end: nothing then keeps the rule from a false alarm."""
    noise = 0.001 * generator.normal(size=(RECORDS, seeds))
    return np.exp(-0.02 * np.arange(RECORDS)[:, None] + noise)


def false_alarms(count, memory, seeds, spread):
    generator = np.random.default_rng(1)
    return np.mean(
        [
            overfit(STEPS, plateau(generator, memory, seeds, spread), training(generator, seeds))
            is not None
            for _ in range(count)
        ]
    )


def test_few_plateaus_are_called_overfitting():
    assert false_alarms(400, 0.0, 10, 0.08) < 0.03
    assert false_alarms(400, 0.9, 10, 0.08) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("spread", [0.03, 0.08])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.98])
def test_false_alarms_are_below_three_percent(memory, spread, seeds):
    assert false_alarms(5000, memory, seeds, spread) < 0.03


def rising(seeds=8, slope=0.004, noise=0.02):
    """Validation curves whose mean falls to record 10 and rises after it."""
    generator, places = np.random.default_rng(3), np.arange(RECORDS)[:, None]
    shape = np.where(places < 10, 0.1 * (10 - places), slope * (places - 10))
    return np.exp(shape + noise * generator.normal(size=(RECORDS, seeds)))


def by_hand(validation, train):
    """The rule, seed by seed and with SciPy's interval."""
    rises, falls = [], []
    for seed in range(validation.shape[1]):
        others = np.delete(validation, seed, axis=1)
        best = int(np.argmin(stats.gmean(others, axis=1)))
        rises.append(np.log(validation[-1, seed] / validation[best, seed]))
        falls.append(np.log(train[-1, seed] / train[best, seed]))
    ends = [
        stats.t.interval(0.99, len(changes) - 1, np.mean(changes), stats.sem(changes))
        for changes in (rises, falls)
    ]
    said = ends[0][0] > 0 and np.mean(rises) > np.log(1.02) and ends[1][1] < 0
    return said, np.expm1(np.mean(rises)), np.expm1(np.mean(falls))


@pytest.mark.parametrize("slope", [0.0, 0.0004, 0.001, 0.004])
@pytest.mark.parametrize("noise", [0.002, 0.02, 0.1])
def test_the_rule_is_that_of_loops_over_seeds(slope, noise):
    validation, train = rising(8, slope, noise), training(np.random.default_rng(4), 8)
    said, rise, fall = by_hand(validation, train)
    found = overfit(STEPS, validation, train)
    assert (found is not None) == said
    if found:
        assert (found.rise, found.fall) == pytest.approx((rise, fall), rel=1e-12)
        assert found.step == 30 * int(np.argmin(stats.gmean(validation, axis=1)))
        assert found.low <= found.step <= found.high


def test_it_is_not_said_where_the_training_metric_rises_or_seeds_are_few():
    train = training(np.random.default_rng(4), 8)
    assert overfit(STEPS, rising(), train)
    assert overfit(STEPS, rising(), 1 / train) is None
    assert overfit(STEPS, rising(2), train[:, :2]) is None


def with_curves(name, validation, train, **changes):
    """The example with other curves of one strategy."""
    made = example(8, RECORDS)
    table = {"objective": train, "train_mse": train, "validation_mse": validation,
             "test_mse": validation}  # fmt: skip
    history = {**made.history, name: table}
    status = dict.fromkeys(made.status, ["COMPLETED"] * 8)
    return example(8, RECORDS, history=history, status={**status, **changes})


def test_the_first_page_says_from_which_step_on():
    train = training(np.random.default_rng(4), 8)
    found = with_curves("swapped", rising(), train)
    text = first_page.overfits(found.content())
    one = found.content()["overfitting"]["found"]["swapped"]
    rise = f"swapped (+{100 * one['rise']:.0f} %)"
    assert text.startswith(f"Overfits: {rise} from step {one['step']} on (90 % range {one['low']}")
    assert "its validation MSE from there to the end, while its train MSE falls" in text
    assert text in found.table()


@pytest.mark.parametrize(
    ("first", "words"),
    [(9, "from step 50 or earlier. "), (10, "from the start. ")],
)
def test_a_first_record_that_is_best_may_be_later_than_the_best_step(first, words):
    validation = rising(noise=1e-4)[first:]
    validation = np.vstack([validation, np.repeat(validation[-1:], first, 0)])
    train = training(np.random.default_rng(4), 8)
    text = first_page.overfits(with_curves("swapped", validation, train).content())
    assert f" %) {words}" in text


def test_strategies_that_begin_together_are_named_together():
    one = {"step": 50, "earlier": True, "low": 0, "high": 100, "rise": 0.123, "fall": -0.1}
    found = {"b": one, "a": {**one, "rise": 2.0}, "c": {**one, "earlier": False, "low": 50}}
    told = {"validation": "validation_mse", "train": "objective", "found": found}
    content = {"overfitting": told, "strategies": ["a", "b", "c"], "unit": UNITS["steps"]}
    assert first_page.overfits(content).startswith(
        "Overfits: a (+200 %) and b (+12 %) from step 50 or earlier (90 % range up to 100); "
        "c (+12 %) from step 50 on (90 % range 50 to 100). In brackets, the rise of their "
        "validation MSE from there to the end, while their training objective g falls."
    )


def test_runs_that_failed_are_left_out_and_converged_ones_keep_their_value():
    validation, train = rising(), training(np.random.default_rng(4), 8)
    train[30:, 0] = validation[30:, 0] = np.nan
    status = ["DIVERGED"] + ["COMPLETED"] * 7
    assert found_in("swapped", validation, train, status)["seeds"] == 7
    assert found_in("swapped", validation, train, ["CONVERGED"] + ["COMPLETED"] * 7)["seeds"] == 8


def found_in(name, validation, train, status):
    made = with_curves(name, validation, train, **{name: status})
    return made.content()["overfitting"]["found"][name]


def test_metrics_that_rise_when_they_get_better_are_not_looked_at():
    made = with_curves("swapped", rising(), training(np.random.default_rng(4), 8))
    history = {
        name: {key.replace("mse", "r2"): values for key, values in table.items()}
        for name, table in made.history.items()
    }
    found = example(8, RECORDS, history=history, status=made.status, headline="test_r2").content()
    assert found["overfitting"] == {"validation": None, "train": None, "found": {}}
    assert first_page.overfits(found) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("ridge", "count"), [(1e-4, 6), (1e-2, 5), (1e-1, 2), (1.0, 0)])
def test_diabetes_overfits_without_a_ridge(ridge, count):
    """At 1,500 steps, ten seeds; the documentation has these counts."""
    found = bilevel.compare(
        bilevel.load_problem("diabetes", ridge=ridge),
        bilevel.preset_strategies(5e-4, 5e-3),
        seeds=10,
        steps=1500,
    )
    assert len(found.content()["overfitting"]["found"]) == count
