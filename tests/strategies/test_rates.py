"""The rates of strategies, how they are scaled, and searches that are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from own_loops import in_place
from small_problems import Smooth

import bilevel
from bilevel import (
    Adam,
    BestResponse,
    OwnLoop,
    Polynomial,
    Tuning,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.comparison.tuning import scaled
from bilevel.core.schedules import AbstractSchedule, Constant, Scaled
from bilevel.errors import ArgumentError
from bilevel.training.cohort import Cohort

OPTIONS = {"seeds": [4, 0, 2], "steps": 8, "every": 4, "batch_size": 6, "dtype": torch.float64}
FACTORS = (0.3, 1, 3)


pytestmark = pytest.mark.usefixtures("untimed")


class Halving(AbstractSchedule):
    """A schedule of a user, which is no dataclass."""

    def __call__(self, k):
        return 0.1 * 0.5**k


def test_schedules_of_every_kind_scale():
    polynomial = Polynomial(0.01, 0.6, 3.0)
    rates = (polynomial, Constant(0.2), Halving(), Scaled(Halving(), 3.0))
    for rate in rates:
        times = rate.scaled(2.5)
        for k in (0, 1, 7):
            assert times(k) == pytest.approx(2.5 * rate(k), rel=1e-15)
    assert type(polynomial.scaled(2)) is Polynomial
    assert type(rates[1].scaled(2)) is Constant
    for factor in (0.0, -1.0, float("inf"), float("nan"), "x"):
        with pytest.raises(ArgumentError, match="`factor`"):
            Scaled(Halving(), factor)


def test_strategies_with_schedules_are_tuned():
    strategies = {
        "falling": TwoTimescale(Polynomial(0.01, 0.6), Polynomial(0.05, 0.4)),
        "halving": TwoTimescale(Halving(), 0.1),
    }
    found = compare(Smooth(), strategies, tune=(0.5, 1, 2), **OPTIONS)
    for name in strategies:
        factors = found.settings["tuning"]["strategies"][name]["factors"]
        groups = {(rate,): factor for rate, factor in factors.items()}
        alone = solve(Smooth(), scaled(strategies[name], groups), **OPTIONS)
        np.testing.assert_allclose(
            found.history[f"{name}, tuned"]["objective"],
            alone.history["objective"].numpy(),
            rtol=1e-12,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Strange(TwoTimescale):
    """A strategy with a field that ends like a rate and is none."""

    no_lr: str = "text"

    @property
    def rates(self):
        return bilevel.AbstractStrategy.rates.fget(self)


def test_the_rates_of_strategies():
    assert TwoTimescale(0.1, 0.2).rates == (("body_lr",), ("head_lr",))
    assert uniform(0.1).rates == (("body_lr", "head_lr"),)
    assert BestResponse(0.1).rates == (("body_lr",),)
    assert OwnLoop(in_place).rates == ()
    assert Strange(0.1, 0.1).rates == (("body_lr",), ("head_lr",))
    shared = uniform(Polynomial(0.1, 0.5))
    assert shared.rates == (("body_lr", "head_lr"),)
    tuned = scaled(shared, {("body_lr", "head_lr"): 2.0})
    assert tuned.is_uniform
    assert tuned.body_lr(0) == tuned.head_lr(0) == 0.2
    optimizer = Adam(beta1=0.7)
    strategy = TwoTimescale(0.1, 0.2, optimizer, "simultaneous", head_steps=3)
    tuned = scaled(strategy, {("body_lr",): 2.0, ("head_lr",): 3.0})
    assert (tuned.body_lr(0), tuned.head_lr(0)) == (0.2, pytest.approx(0.6))
    assert (tuned.optimizer, tuned.order, tuned.head_steps) == (optimizer, "simultaneous", 3)


# bad arguments

PAIR = {"two": TwoTimescale(0.005, 0.05), "one": uniform(0.005)}
BAD = {
    "number": (PAIR, 3, "`tune` must be factors such as .* got 3"),
    "true": (PAIR, True, "`tune` must be factors such as .* got True"),
    "one": (PAIR, (1,), "at least two factors"),
    "one twice": (PAIR, (2, 2.0), "at least two factors"),
    "none": (PAIR, (), "at least two factors"),
    "negative": (PAIR, (-1, 2), "`tune` must be positive and finite, got -1"),
    "zero": (PAIR, (0, 2), "`tune` must be positive"),
    "infinite": (PAIR, (1, float("inf")), "`tune` must be positive and finite"),
    "text": (PAIR, "abc", "`tune` must be a number, got 'a'"),
    "rows": (PAIR, ((1, 2), (3, 4)), "`tune` must be a number"),
    "seeds": (PAIR, lambda: Tuning(FACTORS, seeds=[7, 2, 0]), r"but both have \[0, 2\]"),
    "no seeds": (PAIR, lambda: Tuning(FACTORS, seeds=0), "`seeds`"),
    "seeds as text": (PAIR, lambda: Tuning(FACTORS, seeds="5"), "`seeds`"),
    "no rates": ({"own": in_place}, FACTORS, "no strategy has any"),
    "name": (PAIR | {"two, tuned": uniform(0.1)}, FACTORS, "'two, tuned'.* rename"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_searches_are_refused_before_anything_is_done(name, tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("training started")

    monkeypatch.setattr(Cohort, "step", fail)
    strategies, tune, message = BAD[name]
    folder = tmp_path / "kept"
    tune = tune() if callable(tune) else tune
    with pytest.raises(ArgumentError, match=message):
        compare(Smooth(), strategies, tune=tune, checkpoint=folder, **OPTIONS)
    assert not folder.exists()
