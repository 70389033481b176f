"""What a problem must keep to: each breach is named before training starts."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from small_problems import (
    D,
    General,
    K,
    M,
    N,
    Noisy,
    Scalar,
    Smooth,
    TrueBilevel,
    doubles,
    sampler,
)

from bilevel import Ball, Batch, Box, LinearHeadProblem, StackelbergProblem, trees
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.errors import FinalMethodError, ProblemError, ShapeError

SEEDS, BATCH = [4, 0, 2], 5


def check(problem, batch_size=BATCH):
    data = TrainingData(problem, SEEDS, torch.float64, "cpu")
    check_contract(Assembly.of(data, batch_size))


PROBLEMS = [Smooth(), Smooth(outputs=K, fit_bias=True), General(), TrueBilevel(), Scalar(), Noisy()]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("batch_size", [None, BATCH])
def test_good_problems_pass_the_check(problem, batch_size):
    check(problem, batch_size)


def general(**functions):
    """A `General` problem with other objectives."""
    return type("Custom", (General,), functions)()


OBJECTIVES = {
    "a value per row": (lambda s, w, t, b: (b["train"].inputs @ t["slope"]) ** 2, ShapeError,
                        r"must return a 0-dim tensor, got \(5,\)"),
    "one entry": (lambda s, w, t, b: (t["slope"] ** 2).sum(0, keepdim=True), ShapeError,
                  r"0-dim tensor, got \(1,\)"),
    "a float": (lambda s, w, t, b: (t["slope"] ** 2).sum().item(), ShapeError, "0-dim.*got float"),
    "item": (lambda s, w, t, b: (t["slope"] ** 2).sum() * w["scale"].sum().item(), ProblemError,
             r"vmap.*Avoid `\.item\(\)`"),
    "branch": (lambda s, w, t, b: t["offset"] if t["offset"] > -9 else w["scale"].sum(),
               ProblemError, "vmap.*branching on values"),
    "not finite": (lambda s, w, t, b: t["offset"] / 0, ProblemError, "is -?inf at the first"),
}  # fmt: skip


@pytest.mark.parametrize("which", ["head_objective", "body_objective"])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objectives_that_break_the_contract_are_refused(kind, which):
    function, error, message = OBJECTIVES[kind]
    problem = general(**{which: function})
    with pytest.raises(error, match=message):
        check(problem)


def test_sets_that_do_not_fit_are_refused():
    bounds = torch.zeros(2, dtype=torch.float64)
    for level in ("body_set", "head_set"):
        with pytest.raises(ShapeError, match=r"Box\.low has shape \(2,\)"):
            check(Smooth(**{level: Box(bounds, bounds + 1)}))
    check(Smooth(body_set=Ball(1.0), head_set=Box(-1.0, 1.0)))


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        (torch.zeros(M, 1), None, r"returned shape \(4, 1\), but `outputs = None` means \(M,\)"),
        (torch.zeros(M), K, r"means \(M, 2\)"),
        (torch.zeros(M, K + 1), K, r"means \(M, 2\)"),
        (torch.zeros(M + 1), None, r"`init_head` must return \(4,\)"),
        ({"w": torch.zeros(M)}, None, "must return one tensor, got dict"),
    ],
)
def test_heads_that_do_not_fit_are_refused(head, outputs, message):
    problem = Smooth(outputs=outputs)
    problem.init_head = lambda generator: trees.cast(head, torch.float64)
    with pytest.raises(ShapeError, match=message):
        check(problem)


@pytest.mark.parametrize("shape", [(N, M, 1), (M, N), (N,)])
def test_features_that_do_not_fit_are_refused(shape):
    problem = Smooth()
    problem.features = lambda body, inputs: body["weight"].sum() * torch.ones(shape).double()
    with pytest.raises(ShapeError, match=r"`features` must return \(n, M\)"):
        check(problem, None)


@pytest.mark.parametrize(
    ("targets", "outputs", "error", "message"),
    [
        (doubles(1, N, 1), None, ShapeError, r"\(23, 1\).*`outputs = None` means \(23,\)"),
        (doubles(1, N), 1, ShapeError, r"`outputs = 1` means \(23, 1\)"),
        (torch.ones(N), None, TypeError, ""),
    ],
)
def test_targets_are_checked_by_shape(targets, outputs, error, message):
    problem = Smooth(outputs=outputs)
    problem.groups = {"train": Batch(doubles(2, N, D), targets)}
    error, message = (error, message) if message else (ValueError, "targets are all equal")
    with pytest.raises(error, match=message):
        sampler(problem)


def test_every_seed_has_its_targets_checked():
    problem = Smooth(redraws_data=True)
    problem.data = lambda seed=None: {"train": Batch(doubles(2, N, D), doubles(3, N) * (seed != 2))}
    with pytest.raises(ValueError, match="all equal"):
        sampler(problem, SEEDS)


def test_the_base_class_cannot_be_instantiated():
    with pytest.raises(TypeError, match="abstract"):
        StackelbergProblem()


@pytest.mark.parametrize("name", ["head_objective", "predict", "design"])
def test_overriding_a_final_method_is_refused_at_class_creation(name):
    with pytest.raises(FinalMethodError, match=rf"Mine\.{name} overrides a final method"):
        type("Mine", (Smooth,), {name: lambda self, *arguments: torch.zeros(())})
    mixin = type("Mixin", (), {name: lambda self, *arguments: torch.zeros(())})
    with pytest.raises(FinalMethodError, match=name):
        type("Mine", (mixin, LinearHeadProblem), {})


@pytest.mark.parametrize("name", ["data", "design", "features", "head_objective", "penalty"])
@pytest.mark.parametrize("value", [torch.ones(3), 0.1, None])
def test_data_that_would_hide_a_method_are_refused_where_they_are_set(name, value):
    with pytest.raises(ProblemError, match=f"`{name}` of Smooth is .*hide the method"):
        Smooth(**{name: value})
    with pytest.raises(ProblemError, match=f"`{name}` of Mine is .*hide the method"):
        type("Mine", (Smooth,), {name: value})


def test_functions_of_ones_own_are_data():
    @dataclasses.dataclass
    class Mine(Smooth):
        activation: Callable | None = torch.relu

        @property
        def note(self):
            return "mine"

        def helper(self):
            return 1

    problem = Mine(activation=None)
    problem.helper = 2
    problem.features = lambda body, inputs: inputs
    assert (problem.activation, problem.helper, problem.note) == (None, 2, "mine")
    assert copy.deepcopy(problem).helper == 2


def test_hooks_may_be_overridden():
    hooks = ["features", "row_weights", "penalty", "body_penalty", "metrics", "body_objective"]
    type("Mine", (Smooth,), {name: lambda self, *arguments: None for name in hooks})
