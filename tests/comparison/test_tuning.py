"""Tuned rates: equal effort for all, seeds of their own, never a look at the test rows."""

import numpy as np
import pytest
import torch
from own_loops import in_place
from small_problems import Scalar, Smooth

import bilevel
from bilevel import (
    SGD,
    BestResponse,
    OwnLoop,
    Polynomial,
    Tuning,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.training.cohort import Cohort

OPTIONS = {"seeds": [4, 0, 2], "steps": 8, "every": 4, "batch_size": 6, "dtype": torch.float64}
FACTORS = (0.3, 1, 3)


pytestmark = pytest.mark.usefixtures("untimed")


class Quadratic(bilevel.StackelbergProblem):
    """g = L/2 w^2 + M/2 theta^2 without data: plain SGD with rates 1/L and 1/M needs one step."""

    steep, head_steep = 4.0, 0.5

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return 1 + torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return 1 + torch.rand((), generator=generator, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * self.steep * body**2 + 0.5 * self.head_steep * head**2


# the best rates are found


def test_the_known_best_rates_are_found():
    """1/L = 0.25 and 1/M = 2."""
    rates = {
        "two": TwoTimescale(0.125, 0.25, SGD()),
        "exact": BestResponse(0.0625, optimizer=SGD()),
    }
    found = compare(Quadratic(), rates, tune=(0.5, 2, 8), **OPTIONS)
    tuned = found.settings["tuning"]["strategies"]
    assert tuned["two"]["factors"] == {"body_lr": 2, "head_lr": 8}
    assert found.strategies["two, tuned"] == repr(TwoTimescale(0.25, 2.0, SGD()))
    assert found.final("objective")["two, tuned"].max() == 0
    assert tuned["two"]["edge"]  # of 0.5, 2, 8
    # nine factors from 0.5 to 8: 0.0625 * 4 = 1/L
    assert tuned["exact"]["factors"] == {"body_lr": 4.0}
    assert not tuned["exact"]["edge"]
    assert found.strategies["exact, tuned"] == repr(BestResponse(0.25, optimizer=SGD()))
    assert found.final("objective")["exact, tuned"].max() == 0
    assert found.final("objective")["exact"].min() > 0


def test_every_strategy_gets_as_many_trials_from_the_same_seeds():
    strategies = {
        "two": TwoTimescale(0.005, 0.05),
        "one": uniform(0.02),
        "exact": BestResponse(0.005),
        "falling": TwoTimescale(Polynomial(0.01, 0.6), Polynomial(0.05, 0.4)),
    }
    tuning = Tuning.of((0.1, 1, 10), [4, 0, 2], strategies)
    assert tuning.seeds == [5, 6, 7, 8, 9]
    trials = tuning.trials(strategies)
    assert {name: len(tried) for name, tried in trials.items()} == dict.fromkeys(strategies, 9)
    two = [tuple(trial.factors.values()) for trial in trials["two"]]
    assert two == [(a, b) for a in (0.1, 1, 10) for b in (0.1, 1, 10)]
    assert all((t.strategy.body_lr(0), t.strategy.head_lr(0)) == (0.005 * a, 0.05 * b)
               for t, (a, b) in zip(trials["two"], two, strict=True))  # fmt: skip
    one = [0.1, 0.178, 0.316, 0.562, 1.0, 1.78, 3.16, 5.62, 10.0]
    assert [trial.factors for trial in trials["one"]] == [{"body_lr = head_lr": f} for f in one]
    assert all(trial.strategy.is_uniform for trial in trials["one"])
    assert [trial.strategy.body_lr(0) for trial in trials["one"]] == [0.02 * f for f in one]
    assert [trial.factors for trial in trials["exact"]] == [{"body_lr": f} for f in one]
    assert [trial.edge for trial in trials["exact"]] == [True, *[False] * 7, True]
    assert [trial.edge for trial in trials["two"]] == [True] * 4 + [False] + [True] * 4


def test_strategies_of_one_rate_alone_get_the_factors_as_they_are():
    trials = Tuning((3, 1, 0.1, 1)).trials({"one": uniform(0.02)})
    assert [trial.factors for trial in trials["one"]] == [
        {"body_lr = head_lr": factor} for factor in (0.1, 1.0, 3.0)
    ]


def test_trials_are_the_steps_of_the_comparison():
    """9 trials of each of two structures, 2 seeds of their own; recorded at both ends."""
    made, seen = [], []
    true = Cohort.__init__

    def count(self, assembly, strategy, **options):
        made.append(list(assembly.data.seeds))
        true(self, assembly, strategy, **options)

    pair = {"two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.005)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "__init__", count)
        tuning = Tuning(FACTORS, seeds=[11, 9])
        found = compare(Smooth(), pair, tune=tuning, callback=seen.append, **OPTIONS)
    # the comparison that is checked first, the trials, and the comparison with what they found
    assert made == [[4, 0, 2]] * 2 + [[11, 9] * 9] * 2 + [[4, 0, 2] * 2] * 2
    tuned = [p for p in seen if p.stage == "tuning"]
    assert [(p.step, p.steps, p.done, p.total) for p in tuned] == [
        (0, 8, 0, 18), (8, 8, 0, 18), (0, 8, 9, 18), (8, 8, 9, 18)
    ]  # fmt: skip
    assert [p.stage for p in seen] == ["tuning"] * 4 + ["training"] * 6
    described = found.settings["tuning"]
    assert described["seeds"] == [11, 9]
    assert described["factors"] == [0.3, 1.0, 3.0]
    assert {row["trials"] for row in described["strategies"].values()} == {9}


@pytest.mark.parametrize("name", ["two", "exact"])
def test_the_best_trial_is_the_best_of_separate_trainings(name):
    pair = {"two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.005)}
    found = compare(Smooth(), pair, tune=Tuning(FACTORS, seeds=2), **OPTIONS)
    row = found.settings["tuning"]["strategies"][name]
    trials = Tuning.of(FACTORS, [4, 0, 2], pair).trials(pair)[name]
    options = OPTIONS | {"seeds": [5, 6]}
    scores = [
        float(solve(Smooth(), trial.strategy, **options).history["validation_mse"][-1].mean())
        for trial in trials
    ]
    assert found.settings["tuning"]["metric"] == "validation_mse"
    assert row["score"] == pytest.approx(min(scores), rel=1e-12)
    best = trials[int(np.argmin(scores))]
    assert row["factors"] == best.factors
    assert row["edge"] == best.edge
    assert found.strategies[f"{name}, tuned"] == repr(best.strategy)


# what is looked at


class Judged(Quadratic):
    """Each group would choose another rate for the body; no group is trained on."""

    def __init__(self, *groups):
        self.names = groups

    def data(self, seed=None):
        return {name: bilevel.Batch(torch.ones(3, 1), torch.ones(3)) for name in self.names}

    def metrics(self, body, head, data):
        # after one step w = (1 - lr L) w0: validation likes lr = 0, test lr = 2/L
        small, large = {"mse": (body - 1) ** 2}, {"mse": (body + 1) ** 2, "r2": -((body + 1) ** 2)}
        small["r2"] = -small["mse"]
        found = {f"validation_{key}": value for key, value in small.items()}
        return {
            **(found if "validation" in self.names else {}),
            **{f"test_{key}": value for key, value in large.items()},
            "distance": body**2 * 0,
        }

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)


LIKED = {"validation": 0.01, "objective": 1.0, "test": 2.0}
JUDGED = [
    (("train", "validation", "test"), None, "validation_mse", "validation"),
    (("train", "validation", "test"), "test_r2", "validation_r2", "validation"),
    (("train", "validation", "test"), "validation_r2", "validation_r2", "validation"),
    (("train", "validation", "test"), "objective", "objective", "objective"),
    (("train", "validation", "test"), "distance", "validation_mse", "validation"),
    (("train", "test"), None, "objective", "objective"),
    (("train", "test"), "test_r2", "objective", "objective"),
]


@pytest.mark.parametrize(("groups", "headline", "metric", "like"), JUDGED)
def test_rates_are_chosen_by_validation_or_training_rows(groups, headline, metric, like):
    strategies = {"exact": BestResponse(0.25, optimizer=SGD())}
    options = OPTIONS | {"steps": 1, "headline": headline, "tune": tuple(LIKED.values())}
    found = compare(Judged(*groups), strategies, **options)
    tuning = found.settings["tuning"]
    assert tuning["metric"] == metric
    assert tuning["strategies"]["exact"]["factors"] == {"body_lr": LIKED[like]}
    assert found.headline == (headline or "test_mse")
    best = found.final("test_mse")["exact, tuned"]
    assert (best > 0.9).all()  # the test rows would have chosen 0


def test_test_rows_change_no_choice():
    """Other test rows, or none: the same trials win, with the same scores."""
    two, tuned = {"two": TwoTimescale(0.005, 0.05)}, []
    for rows in ("as they are", "others"):
        problem = Smooth()
        problem.groups = problem.data()
        if rows == "others":
            problem.groups["test"] = bilevel.Batch(*(-7 * x for x in problem.groups["test"]))
        tuned.append(compare(problem, two, tune=FACTORS, **OPTIONS).settings["tuning"])
    assert tuned[0] == tuned[1]


# what fails


def test_failed_trials_lose():
    strategies = {"two": TwoTimescale(0.01, 0.1, SGD())}
    options = OPTIONS | {"steps": 40, "tune": (0.1, 1, 1e200)}
    found = compare(Scalar(), strategies, **options).settings["tuning"]["strategies"]["two"]
    assert found["failed"] == 5
    assert found["factors"] == {"body_lr": 1.0, "head_lr": 1.0}
    assert not found["edge"]
    assert np.isfinite(found["score"])


class Steep(Scalar):
    """One of the seeds of the tuning starts where a rate of 0.1 diverges and 0.001 does not."""

    def init_body(self, generator):
        start = super().init_body(generator)
        steep = super().init_body(bilevel.data.sampler.generator(6, "body"))
        return torch.where(start == steep, 12.0, start)


def test_one_failed_seed_of_a_trial_loses_it():
    strategies = {"two": uniform(0.1, SGD())}
    options = OPTIONS | {"steps": 40, "tune": Tuning((0.01, 1), seeds=[5, 6, 7])}
    quiet = compare(Scalar(), strategies, **options).settings["tuning"]["strategies"]["two"]
    assert (quiet["failed"], quiet["factors"]) == (0, {"body_lr = head_lr": 1.0})
    found = compare(Steep(), strategies, **options).settings["tuning"]["strategies"]["two"]
    assert (found["failed"], found["factors"]) == (1, {"body_lr = head_lr": 0.01})


@pytest.mark.usefixtures("undrawn")
def test_a_search_in_which_all_trials_fail_says_so(tmp_path):
    strategies = {"good": uniform(0.01, SGD()), "bad": uniform(1e200, SGD())}
    found = compare(Scalar(), strategies, **(OPTIONS | {"steps": 40, "tune": (0.5, 1)}))
    row = found.settings["tuning"]["strategies"]["bad"]
    assert (row["failed"], row["trials"]) == (2, 2)
    assert found.status["bad, tuned"] == ["DIVERGED"] * 3
    found.report(tmp_path / "kept")
    assert bilevel.Comparison.load(tmp_path / "kept").status == found.status


# beside the strategies as they are


def test_names_and_baselines_and_the_numbers_of_the_others():
    strategies = {
        "two": TwoTimescale(0.005, 0.05),
        "own": OwnLoop(in_place),
        "slow": uniform(0.005),
        "exact": BestResponse(0.005),
    }
    plain = compare(Smooth(), strategies, **OPTIONS)
    found = compare(Smooth(), strategies, tune=FACTORS, **OPTIONS)
    assert list(found.strategies) == [*strategies, "two, tuned", "slow, tuned", "exact, tuned"]
    assert plain.baselines == ("slow",)
    assert found.baselines == ("slow", "slow, tuned")
    for name, table in plain.history.items():
        assert found.status[name] == plain.status[name]
        for metric, values in table.items():
            assert np.array_equal(found.history[name][metric], values, equal_nan=True), metric
    named = compare(Smooth(), strategies, tune=FACTORS, baselines=["own", "two"], **OPTIONS)
    assert named.baselines == ("own", "two", "two, tuned")


def test_tuning_with_a_budget_of_gradients():
    pair = {"two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.005)}
    options = OPTIONS | {"steps": 30, "every": 10, "budget": "gradients", "tune": FACTORS}
    seen = []
    found = compare(Smooth(), pair, callback=seen.append, **options)
    assert [(p.step, p.unit) for p in seen if p.stage == "tuning"] == 2 * [
        (0, "gradients"),
        (30, "gradients"),
    ]
    trials = Tuning.of(FACTORS, [4, 0, 2], pair).trials(pair)["exact"]
    factor = found.settings["tuning"]["strategies"]["exact"]["factors"]["body_lr"]
    best = next(trial for trial in trials if trial.factors["body_lr"] == factor)
    steps = int(30 / (1 + 23 / 6))
    alone = solve(Smooth(), best.strategy, **(OPTIONS | {"steps": steps, "seeds": range(5, 10)}))
    score = float(alone.history["validation_mse"][-1].mean())
    assert found.settings["tuning"]["strategies"]["exact"]["score"] == pytest.approx(score)
