"""`compare()`: the numbers of separate trainings, in few trainings, and nothing is lost."""

import numpy as np
import pytest
import torch
from small_problems import ROUNDING, Scalar, Smooth, TrueBilevel

import bilevel
from bilevel import (
    SGD,
    Adam,
    BestResponse,
    Box,
    FastSGD,
    Polynomial,
    RMSProp,
    TwoTimescale,
    compare,
    preset_strategies,
    solve,
    uniform,
)
from bilevel.comparison import compare as compare_module
from bilevel.core.parts import structure
from bilevel.core.status import Status
from bilevel.errors import (
    AllRunsFailedError,
    ArgumentError,
    DataError,
    IncompatibleError,
    ShapeError,
    SingularHeadError,
    UnknownNameError,
)
from bilevel.training.cohort import Cohort
from problems.toy import ScalarProduct

STRATEGIES = {
    "slow": uniform(0.005),
    "two": TwoTimescale(0.005, 0.05, RMSProp(smoothing=0.9)),
    "exact": BestResponse(0.005),
    "jacobi": TwoTimescale(0.005, 0.05, order="simultaneous"),
    "falling": TwoTimescale(Polynomial(0.01, 0.6), Polynomial(0.05, 0.4)),
    "fast": uniform(0.05),
    "falling slowly": TwoTimescale(Polynomial(0.01, 0.3), Polynomial(0.05, 0.2)),
    "sgd": TwoTimescale(0.01, 0.1, SGD()),
    "momentum": TwoTimescale(0.01, 0.1, SGD(0.8)),
    "exact, quick": BestResponse(0.01),
    "inner": BestResponse(0.01, FastSGD(0.2, 2, batch_size=4)),
    "inner, slower": BestResponse(0.01, FastSGD(0.1, 2, batch_size=4)),
}
GROUPS = [
    ("slow", "two", "fast"),
    ("exact", "exact, quick"),
    ("jacobi",),
    ("falling", "falling slowly"),
    ("sgd", "momentum"),
    ("inner", "inner, slower"),
]
PAIR = {"slow": uniform(0.005), "exact": BestResponse(0.005)}
OPTIONS = {"seeds": [4, 0, 2], "batch_size": 6, "dtype": torch.float64}


TRUE_SECONDS = compare_module.seconds_per_step


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


@pytest.mark.parametrize("redraws", [False, True])
def test_the_numbers_are_those_of_separate_trainings(redraws):
    problem = Smooth(redraws_data=redraws, fit_bias=True)
    found = compare(problem, STRATEGIES, steps=40, every=15, **OPTIONS)
    assert list(found.strategies) == list(STRATEGIES)
    assert found.settings["seeds"] == [4, 0, 2]
    assert found.steps.tolist() == [0, 15, 30, 40]
    for name, strategy in STRATEGIES.items():
        if redraws and name not in ("two", "exact", "inner, slower"):
            continue
        alone = solve(problem, strategy, steps=40, every=15, **OPTIONS)
        assert found.status[name] == [status.name for status in alone.status]
        assert set(found.history[name]) == set(alone.history)
        for metric, values in alone.history.items():
            # the gap of an exact head is rounding itself
            atol = 1e-12 if metric in ROUNDING else 0
            atol = 1e-14 if metric.endswith("r2") else atol  # 1 - a ratio, which may be near 1
            np.testing.assert_allclose(
                found.history[name][metric], values.numpy(), rtol=1e-12, atol=atol, err_msg=metric
            )
    final = found.final("objective")
    assert len({float(values[0]) for values in final.values()}) == len(STRATEGIES)


def test_equal_structures_are_one_training():
    seen, made = [], []
    true = Cohort.__init__

    def count(self, assembly, strategy, **options):
        made.append(len(assembly.data.seeds))
        true(self, assembly, strategy, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "__init__", count)
        compare(Smooth(), STRATEGIES, steps=2, every=2, callback=seen.append, **OPTIONS)
    assert made == [3 * len(names) for names in GROUPS]
    assert [p.strategies for p in seen] == [names for names in GROUPS for _ in range(2)]
    assert [p.step for p in seen] == [0, 2] * len(GROUPS)
    assert {(p.steps, p.total) for p in seen} == {(2, len(STRATEGIES))}
    assert [p.done for p in seen][::2] == [0, 3, 5, 6, 8, 10]


def test_the_presets_are_two_trainings_and_a_grid_is_one():
    seen = []
    compare(Smooth(), preset_strategies(0.01, 0.1), steps=1, callback=seen.append, **OPTIONS)
    assert len({p.strategies for p in seen}) == 2
    seen.clear()
    rates = (0.001, 0.01, 0.1)
    grid = {f"{a}, {b}": TwoTimescale(a, b, Adam(beta1=b)) for a in rates for b in rates}
    found = compare(Smooth(), grid, steps=1, callback=seen.append, **OPTIONS)
    assert len({p.strategies for p in seen}) == 1
    assert len(found.strategies) == 9


@pytest.mark.parametrize("partner", ["one training", "two trainings"])
def test_a_failing_strategy_leaves_the_others_alone(partner):
    other = SGD() if partner == "one training" else RMSProp()
    pair = {"good": uniform(0.01, SGD()), "bad": TwoTimescale(1e300, 1e300, other)}
    assert len(set(map(structure, pair.values()))) == (1 if partner == "one training" else 2)
    found = compare(Scalar(), pair, steps=40, every=10, **OPTIONS)
    alone = compare(Scalar(), {"good": pair["good"]}, steps=40, every=10, **OPTIONS)
    assert found.status == {"good": ["COMPLETED"] * 3, "bad": ["DIVERGED"] * 3}
    assert found.steps.tolist() == [0, 10, 20, 30, 40]
    for metric, values in alone.history["good"].items():
        np.testing.assert_allclose(found.history["good"][metric], values, rtol=1e-12, atol=0)
    assert np.isnan(found.final("objective")["bad"]).all()
    assert np.isfinite(found.final("objective")["good"]).all()
    assert np.isfinite(found.history["bad"]["objective"][0]).all()
    assert "bad" in found.table()


def test_one_diverging_seed_is_one_lost_run():
    """One seed starts where the step size is too large."""

    class Steep(Scalar):
        def init_body(self, generator):
            start = super().init_body(generator)
            return torch.where(start == start0, 1e30, start)

    start0 = Scalar().init_body(bilevel.data.sampler.generator(0, "body"))
    pair = {"slow": uniform(0.01, SGD()), "two": TwoTimescale(0.01, 0.02, SGD())}
    found = compare(Steep(), pair, steps=40, every=10, **OPTIONS)
    assert found.status == {name: ["COMPLETED", "DIVERGED", "COMPLETED"] for name in pair}
    assert np.isnan(found.final("objective")["two"]).tolist() == [False, True, False]


def test_all_runs_failing_raises():
    bad = {"a": uniform(1e300, SGD()), "b": uniform(1e300)}
    with pytest.raises(AllRunsFailedError, match=r"of all strategies failed.*smaller") as caught:
        compare(Wild(), bad, steps=20, every=10, **OPTIONS)
    assert {s for x in caught.value.solution.values() for s in x.status} == {Status.DIVERGED}


class Wild(Scalar):
    def head_objective(self, body, head, batch):
        return torch.exp(body**2 + head**2)


# baselines and the headline


def baselines_of(strategies, **options):
    return compare(Smooth(), strategies, steps=1, **OPTIONS, **options).baselines


def test_default_baselines():
    presets = preset_strategies(0.01, 0.1)
    controls = ("uniform slow", "uniform fast", "swapped", "uniform sqrt")
    assert baselines_of(presets) == controls
    two = presets["two-timescale"]
    assert baselines_of({"mine": two, "one rate": uniform(0.1)}) == ("one rate",)
    assert baselines_of({"mine": two, "other": TwoTimescale(0.1, 0.2)}) == ("mine",)
    assert baselines_of({"a": uniform(0.1), "b": uniform(0.2)}) == ("a",)


def test_explicit_baselines():
    assert baselines_of(PAIR, baselines=["exact"]) == ("exact",)
    assert baselines_of(PAIR, baselines=[]) == ()


def test_headlines():
    assert compare(Smooth(), PAIR, steps=1, **OPTIONS).headline == "test_mse"
    assert compare(Scalar(), PAIR, steps=1, **OPTIONS).headline == "objective"
    found = compare(Smooth(), PAIR, steps=1, headline="validation_r2", **OPTIONS)
    assert found.headline == "validation_r2"


# Ctrl-C


def interrupt(strategy, step):
    def callback(progress):
        if strategy in progress.strategies and progress.step == step:
            raise KeyboardInterrupt

    return callback


def test_an_interrupt_in_the_first_group_keeps_it():
    options = OPTIONS | {"steps": 30, "every": 10, "baselines": ["exact"]}
    whole = compare(Smooth(), PAIR, **options)
    found = compare(Smooth(), PAIR, callback=interrupt("slow", 20), **options)
    assert list(found.strategies) == ["slow"]
    assert found.status == {"slow": ["INTERRUPTED"] * 3}
    assert found.steps.tolist() == [0, 10, 20]
    assert found.baselines == ()
    for metric, values in found.history["slow"].items():
        assert np.array_equal(values, whole.history["slow"][metric][:3])
    assert "slow" in found.table()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupt_in_the_second_group_keeps_both(tmp_path):
    options = OPTIONS | {"steps": 30, "every": 10}
    whole = compare(Smooth(), PAIR, **options)
    found = compare(Smooth(), PAIR, callback=interrupt("exact", 10), **options)
    assert found.status == {"slow": ["COMPLETED"] * 3, "exact": ["INTERRUPTED"] * 3}
    assert found.steps.tolist() == [0, 10, 20, 30]
    for metric, values in whole.history["slow"].items():
        assert np.array_equal(found.history["slow"][metric], values)
    for metric, values in whole.history["exact"].items():
        assert np.array_equal(found.history["exact"][metric][:2], values[:2])
        assert np.isnan(found.history["exact"][metric][2:]).all()
    assert found.step == 10
    for name, values in found.final("objective").items():
        assert np.array_equal(values, whole.history[name]["objective"][1])
    assert "Compared at step 10 of 30; training was interrupted." in found.table()
    found.report(tmp_path / "kept")
    again = bilevel.Comparison.load(tmp_path / "kept")
    assert again.status == found.status


def test_an_interrupt_of_the_timing_pass_keeps_everything(monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "seconds_per_step", pressed)
    found = compare(Smooth(), PAIR, steps=10, **OPTIONS)
    assert found.status == {name: ["COMPLETED"] * 3 for name in PAIR}
    assert np.isnan(list(found.seconds_per_step.values())).all()


def test_seconds_are_measured_without_touching_the_results(monkeypatch):
    monkeypatch.setattr(compare_module, "seconds_per_step", TRUE_SECONDS)
    calls = []
    found = compare(Smooth(), PAIR, steps=10, every=10, callback=calls.append, **OPTIONS)
    assert all(0 < seconds < 10 for seconds in found.seconds_per_step.values())
    assert len(calls) == 4
    rows, batch = 23, 6  # an exact head looks at all rows
    assert found.gradients_per_step == {"slow": 2.0, "exact": pytest.approx(1 + rows / batch)}


# everything is refused before the first step


class Repeated(Smooth):
    """Rank-deficient features: each column twice."""

    def features(self, body, inputs):
        return super().features(body, inputs)[:, [0, 0, 1, 1]]


def with_nan():
    problem = Smooth()
    problem.groups = problem.data()
    problem.groups["validation"].inputs[2, 1] = torch.nan
    return problem


BAD = {
    "singular": (lambda: Repeated(ridge=0.0), PAIR, {}, SingularHeadError, "Set `ridge`"),
    "true bilevel": (TrueBilevel, PAIR, {}, IncompatibleError, "`Implicit`"),
    "nan": (with_nan, PAIR, {}, DataError, "NaN or infinite"),
    "set": (lambda: Smooth(body_set=Box(torch.zeros(9), 1)), PAIR, {}, ShapeError, "Box"),
    "nothing": (Smooth, {}, {}, ArgumentError, "nothing to compare"),
    "no strategy": (Smooth, {"a": 0.1}, {}, ArgumentError, "A strategy is an instance"),
    "a class": (Smooth, {"a": TwoTimescale}, {}, ArgumentError, "A strategy is an instance"),
    "rates per run": (
        Smooth,
        {"a": uniform(torch.full((3,), 0.1))},
        {},
        ArgumentError,
        r"for \[3\] runs",
    ),
    "budget": (Smooth, PAIR, {"budget": "time"}, ArgumentError, "`budget`"),
    "steps": (Smooth, PAIR, {"steps": 0}, ArgumentError, "`steps`"),
    "every": (Smooth, PAIR, {"every": 0}, ArgumentError, "`every`"),
    "seeds": (Smooth, PAIR, {"seeds": [1, 1]}, ArgumentError, "`seeds`"),
    "batch": (Smooth, PAIR, {"batch_size": 0}, ArgumentError, "`batch_size`"),
    "dtype": (Smooth, PAIR, {"dtype": torch.float16}, ArgumentError, "`dtype`"),
    "baseline": (
        Smooth,
        PAIR,
        {"baselines": ["slwo"]},
        UnknownNameError,
        r"no strategy 'slwo'\. Did you mean 'slow'\? Known: exact, slow",
    ),
    "headline": (
        Smooth,
        PAIR,
        {"headline": "test_mes"},
        UnknownNameError,
        r"no metric 'test_mes'\. Did you mean 'test_mse'\?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_come_before_the_first_step_of_any_strategy(name, monkeypatch):
    def fail(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(Cohort, "step", fail)
    make, strategies, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        compare(make(), strategies, **(OPTIONS | {"steps": 5} | options))


def test_the_toy_reaches_its_optimum_with_both_strategies():
    pair = {"two": TwoTimescale(0.4, 0.5, SGD()), "exact": BestResponse(2.0, optimizer=SGD())}
    found = compare(ScalarProduct(), pair, steps=200, every=100, **OPTIONS)
    for name in pair:
        assert found.final("objective")[name] == pytest.approx([0.2662277660168] * 3, abs=1e-13)
        assert found.final("body_error")[name].max() < 1e-12


@pytest.mark.parametrize("name", ["seeds", "every", "tuning", "same_runs"])
def test_settings_of_the_comparison_s_own_are_not_replaced(name):
    with pytest.raises(ArgumentError, match=f"`settings` are further ones: {name} is said already"):
        compare(ScalarProduct(), {"a": uniform(0.01)}, seeds=2, steps=2, settings={name: "x"})
