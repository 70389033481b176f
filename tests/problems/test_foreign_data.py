"""Every place that takes arrays: foreign ones give the same numbers, or an error of ours."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from foreign_arrays import NO_ARRAYS, REFUSED, TAKEN

import bilevel
from bilevel import trees
from bilevel.errors import BilevelError
from bilevel.problem.network.hidden_layers import Network
from bilevel.testing import check_problem
from problems.classification import Classification
from problems.mspbe import Logged, from_transitions
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.sources import Transitions
from problems.regression import Regression
from problems.table import from_arrays

RANDOM = np.random.default_rng(1)
INPUTS = RANDOM.normal(size=(24, 3))
TARGETS = INPUTS @ [1.0, -2.0, 0.5] + 0.1 * RANDOM.normal(size=24)
ONES, LABELS = np.ones(24), (np.arange(24) % 2).astype(float)
STEPS = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
BODY = torch.ones(3, dtype=torch.float64)


class Ridge(bilevel.LinearHeadProblem):
    """Features are the inputs times the body; what is given takes the place of what there is."""

    ridge = 1e-2

    def __init__(self, inputs=INPUTS, targets=TARGETS, **returned):
        self.rows = bilevel.Batch(inputs, targets)
        self.returned = returned

    def data(self, seed=None):
        return {"train": self.rows}

    def init_body(self, generator):
        return self.returned.get("body", torch.ones(3))

    def init_head(self, generator):
        return self.returned.get("head", torch.zeros(3))

    def features(self, body, inputs):
        return inputs * body


class Weighted(Ridge):
    def row_weights(self, body, batch):
        return self.returned["weights"]


class Penalised(Ridge):
    def penalty(self, body):
        return self.returned["penalty"]


class Measured(Ridge):
    def metrics(self, body, head, data):
        return {"test_mine": self.returned["metric"]}


def head_of(problem):
    return bilevel.best_response(problem, BODY).head


def trained(problem):
    options = {"steps": 1, "seeds": 1, "dtype": torch.float64}
    return bilevel.solve(problem, bilevel.TwoTimescale(0.01, 0.1), **options).head


def accumulated(inputs, targets):
    return bilevel.GramAccumulator().add(inputs, targets).solve(0.1).head


def boxed(low):
    class Boxed(Ridge):
        head_set = bilevel.Box(low, torch.ones(3))

    return trained(Boxed())


def logged(**changes):
    """Logged transitions that end, from rows that somebody put together."""
    rows = Transitions(INPUTS, INPUTS + 1, TARGETS, ONES, np.arange(24) % 3 > 0, ONES)
    return Logged(rows._replace(**changes), 1.0).train


def regression(train):
    groups = {"train": train, "test": (INPUTS, TARGETS)}
    return Regression(lambda seed: groups, Network(2)).data(0)


def classification(train):
    groups = {"train": train, "test": (INPUTS, LABELS)}
    return Classification(lambda seed: groups, 2, Network(2)).data(0)


SOLVED = bilevel.solve(Ridge(), bilevel.BestResponse(0.01), steps=1, seeds=1)
PLACES = {
    "from_arrays, inputs": (INPUTS, lambda v: from_arrays(v, TARGETS).data(0)),
    "from_arrays, targets": (TARGETS, lambda v: from_arrays(INPUTS, v).data(0)),
    "data, inputs": (INPUTS, lambda v: head_of(Ridge(v))),
    "data, targets": (TARGETS, lambda v: head_of(Ridge(INPUTS, v))),
    "data of a training": (TARGETS, lambda v: trained(Ridge(INPUTS, v))),
    "batch": (
        INPUTS,
        lambda v: (
            bilevel.best_response(Ridge(), BODY, batch={"train": bilevel.Batch(v, TARGETS)}).head
        ),
    ),
    "predict": (INPUTS, lambda v: SOLVED.predict(v)),
    "accumulator, inputs": (INPUTS, lambda v: accumulated(v, TARGETS)),
    "accumulator, targets": (TARGETS, lambda v: accumulated(INPUTS, v)),
    "drawn inputs": (INPUTS, lambda v: regression((v, TARGETS))),
    "drawn targets": (TARGETS, lambda v: regression((INPUTS, v))),
    "drawn inputs of classes": (INPUTS, lambda v: classification((v, LABELS))),
    "drawn labels": (LABELS, lambda v: classification((INPUTS, v))),
    "states": (INPUTS, lambda v: from_transitions(v, None, TARGETS, INPUTS)),
    "next states": (INPUTS, lambda v: from_transitions(INPUTS, None, TARGETS, v)),
    "rewards": (TARGETS, lambda v: from_transitions(INPUTS, None, v, INPUTS)),
    "terminated": (ONES, lambda v: from_transitions(INPUTS, None, TARGETS, INPUTS, v)),
    "ratios": (ONES, lambda v: from_transitions(INPUTS, None, TARGETS, INPUTS, None, v)),
    "logged inputs": (INPUTS, lambda v: logged(inputs=v)),
    "logged ratios": (ONES, lambda v: logged(ratios=v)),
    "process, inputs": (STEPS, lambda v: MarkovRewardProcess(v, STEPS, STEPS, 0.9).model),
    "process, transitions": (STEPS, lambda v: MarkovRewardProcess(STEPS, v, STEPS, 0.9).model),
    "process, rewards": (STEPS, lambda v: MarkovRewardProcess(STEPS, STEPS, v, 0.9).model),
    "process, weights": (
        np.array([0.5, 0.25, 0.25]),
        lambda v: MarkovRewardProcess(STEPS, STEPS, STEPS, 0.9, weights=v).model,
    ),
    "box": (-np.ones(3), boxed),
}
"""Where arrays of NumPy are taken, too."""
TENSORS_ONLY = {
    "body": (np.ones(3), lambda v: bilevel.best_response(Ridge(), v)),
    "init_body": (np.ones(3), lambda v: trained(Ridge(body=v))),
    "init_head": (np.ones(3), lambda v: trained(Ridge(head=v))),
    "row_weights": (ONES, lambda v: head_of(Weighted(weights=v))),
    "penalty": (np.ones(3), lambda v: head_of(Penalised(penalty=v))),
    "metrics": (np.array(2.0), lambda v: trained(Measured(metric=v))),
}
"""Where tensors are asked for."""

OPTIONAL = ("terminated", "ratios", "process, weights", "row_weights")
"""Where None means something."""


@pytest.mark.parametrize("place", PLACES)
def test_every_layout_gives_the_same_numbers(place):
    plain, use = PLACES[place]
    expected = trees.leaves(use(plain))
    assert any(bool(leaf.any()) for leaf in expected)
    for layout, make in TAKEN.items():
        if layout in ("parameter", "with a graph") and place.startswith("accumulator"):
            continue  # refused: its sums carry none
        for found, leaf in zip(trees.leaves(use(make(plain.copy()))), expected, strict=True):
            # means of columns are added up in the order of the layout
            apart = 1e-12 if place == "drawn inputs" else 0
            torch.testing.assert_close(found, leaf, rtol=apart, atol=apart)


@pytest.mark.parametrize("place", [*PLACES, *TENSORS_ONLY])
def test_nothing_is_fitted_that_is_hidden_or_no_number(place):
    """Nor does anything end in an error of torch or NumPy."""
    plain, use = (PLACES | TENSORS_ONLY)[place]
    kinds = {kind: make for kind, (make, _) in REFUSED.items()} | NO_ARRAYS
    left_out = ["None"] if place in OPTIONAL else []
    if not plain.ndim:
        left_out = ["mkldnn", "nested", *NO_ARRAYS]  # these have no form without axes
    taken = []
    for kind in [kind for kind in kinds if kind not in left_out]:
        with contextlib.suppress(BilevelError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # prototypes of torch
            use(kinds[kind](plain))
            taken.append(kind)
    assert not taken


@pytest.mark.parametrize("kind", ["read-only", "negative strides", "other byte order"])
def test_problems_of_every_layout_are_checked(kind):
    check_problem(Ridge(TAKEN[kind](INPUTS.copy()), TAKEN[kind](TARGETS.copy())))


def test_actions_are_not_hidden_either():
    masked = np.ma.masked_less(TARGETS, 0)
    for actions in (masked, torch.from_numpy(TARGETS).to("meta")):
        with pytest.raises(BilevelError, match="`actions` is a"):
            from_transitions(INPUTS, actions, TARGETS, INPUTS)
    words = np.array(["left", "right"] * 12)
    assert from_transitions(INPUTS, words, TARGETS, INPUTS).rewards.shape == (24,)
    for actions in (["left", "right"] * 12, NO_ARRAYS["scipy"](INPUTS)):  # as they are
        assert from_transitions(INPUTS, actions, TARGETS, INPUTS).rewards.shape == (24,)
    for actions in (np.float64(3), torch.zeros(()), 3):
        with pytest.raises(BilevelError, match="`actions` has 1 entries"):
            from_transitions(INPUTS, actions, TARGETS, INPUTS)
