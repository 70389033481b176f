"""Ordinary mistakes: each is refused before a step is made, and the message says what to change."""

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import ArgumentError, ProblemError

TWO = bilevel.TwoTimescale(1e-3, 1e-2)
INPUTS = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).double()


class Good(bilevel.LinearHeadProblem):
    ridge = 0.1

    def data(self, seed=None):
        return {"train": bilevel.Batch(INPUTS, INPUTS.sum(1))}

    def init_body(self, generator):
        return torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(3, dtype=torch.float64)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body)


def refused(problem, message, error=ProblemError, strategy=TWO):
    with pytest.raises(error, match=message):
        bilevel.solve(problem, strategy, steps=2, seeds=2, batch_size=5)


def test_the_problem_that_the_mistakes_are_made_in_is_good():
    assert bilevel.solve(Good(), TWO, steps=2, seeds=2, batch_size=5).status


def test_a_start_that_ignores_the_generator():
    class Mistake(Good):
        def init_body(self, generator):
            return torch.from_numpy(np.random.default_rng().normal(size=(2, 3)))

    refused(Mistake(), "two different points for one seed")


def test_redrawn_data_that_ignore_the_seed():
    class Mistake(Good):
        redraws_data = True

        def data(self, seed=None):
            noise = torch.from_numpy(np.random.default_rng().normal(size=12))
            return {"train": bilevel.Batch(INPUTS, INPUTS.sum(1) + noise)}

    refused(Mistake(), "two different answers for one seed")


def test_features_that_change_the_data_in_place():
    class Mistake(Good):
        def features(self, body, inputs):
            inputs *= 1.1
            return torch.tanh(inputs @ body)

    before = INPUTS.clone()
    refused(Mistake(), "changes its data in place")
    with pytest.raises(ProblemError, match="in place"):
        bilevel.hypergradient(Mistake(), torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(INPUTS, before)


def test_random_numbers_that_torch_does_not_see():
    random = np.random.default_rng(0)

    class Mistake(Good):
        def features(self, body, inputs):
            return torch.tanh(inputs @ body) * (1 + 0.3 * random.normal())

    refused(Mistake(), "gives two values at one point")


def test_a_constant_of_another_type():
    class Mistake(Good):
        def features(self, body, inputs):
            return torch.tanh(inputs @ body @ torch.eye(3, dtype=torch.float32))

    assert bilevel.SGD(momentum=0.5).momentum == 0.5
    refused(Mistake(), "fails in float64, in which records are computed")
    with pytest.raises(ProblemError, match="must come from `data`"):
        bilevel.best_response(Mistake(), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["ridge", "row_weights"])
def test_negative_penalties_and_weights(name):
    class Mistake(Good):
        pass

    if name == "ridge":
        Mistake.ridge = -1.0
    else:
        Mistake.row_weights = lambda self, body, batch: -torch.ones_like(batch["train"].targets)
    refused(Mistake(), "must be at least 0, or the head has no minimiser")


@pytest.mark.parametrize(
    ("name", "value"), [("criterion", "mse"), ("head_set", "box"), ("body_set", bilevel.Box)]
)
def test_settings_of_the_wrong_kind(name, value):
    problem = Good()
    setattr(problem, name, value)
    with pytest.raises(ArgumentError, match=f"`{name}` must be an object such as"):
        bilevel.best_response(problem, torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: bilevel.TwoTimescale(1e-3, 1e-2, "adam"),
        lambda: bilevel.TwoTimescale(1e-3, 1e-2, bilevel.Adam),
        lambda: bilevel.BestResponse(1e-3, "closed form"),
        lambda: bilevel.BestResponse(1e-3, gradient="envelope"),
        lambda: bilevel.solve(Good, TWO, steps=2),
        lambda: bilevel.solve(TWO, Good(), steps=2),
        lambda: bilevel.compare(Good, {"two": TWO}, seeds=2, steps=2),
        lambda: bilevel.compare(Good(), [TWO, TWO], seeds=2, steps=2),
        lambda: bilevel.compare(Good(), {1: TWO, 2: TWO}, seeds=2, steps=2),
        lambda: bilevel.hypergradient(Good(), torch.ones(2, 3), bilevel.ClosedForm()),
        lambda: bilevel.best_response(Good(), torch.ones(2, 3), "closed form"),
    ],
)
def test_objects_of_the_wrong_kind(make):
    with pytest.raises(ArgumentError, match="must be"):
        make()


@pytest.mark.parametrize("optimizer", [bilevel.RMSProp, bilevel.Adam])
def test_a_step_size_does_not_become_a_smoothing(optimizer):
    with pytest.raises(TypeError, match="positional"):
        optimizer(1e-3)


def test_a_solution_prints_short():
    text = repr(bilevel.solve(Good(), TWO, steps=2, seeds=2))
    assert text.startswith("Solution of Good: 2 runs, 2 steps")
    assert len(text) < 200


def test_no_bound_is_proven_where_there_is_none():
    class Concave(bilevel.StackelbergProblem):
        def data(self, seed=None):
            return {}

        def init_body(self, generator):
            return torch.ones((), dtype=torch.float64)

        def init_head(self, generator):
            return torch.ones((), dtype=torch.float64)

        def head_objective(self, w, theta, batch):
            return w - theta**2

    solver = bilevel.FastSGD(0.1, 3)
    found = bilevel.best_response(Concave(), torch.ones((), dtype=torch.float64), solver)
    assert found.bound_kind == "unknown"
