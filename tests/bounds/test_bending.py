"""How d_theta F changes around a head: what is kept of it is that of the F that is there."""

import numpy as np
import pytest
import torch

import bilevel

ROWS, FEATURES = 30, 7
BODIES = [torch.linspace(-1.0, 0.5, FEATURES).double() + 0.3 * i for i in range(4)]


class Validated(bilevel.LinearHeadProblem):
    """Log-penalties; F is a function of predictions, targets, head and body."""

    body_free_features = True

    def __init__(self, objective, set=None):
        self.objective = objective
        self.head_set = set or bilevel.Everywhere()
        source = np.random.default_rng(0)
        self.arrays = [source.standard_normal((ROWS, FEATURES)) for _ in range(2)]
        aims = [x.sum(1) + source.standard_normal(ROWS) for x in self.arrays]
        pairs = [map(torch.from_numpy, pair) for pair in zip(self.arrays, aims, strict=True)]
        rows = [bilevel.Batch(*pair) for pair in pairs]
        self.groups = dict(zip(("train", "validation"), rows, strict=True))

    def data(self, seed=None):
        return self.groups

    def init_body(self, generator):
        return torch.zeros(FEATURES, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(FEATURES, dtype=torch.float64)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body.exp()

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return self.objective(rows.inputs @ head - rows.targets, head, body)


def squares(off, head, body):
    return off.square().mean() / 2


OBJECTIVES = {
    "squares": squares,
    "squares beside a body": lambda off, head, body: off.square().mean() + body.exp().sum(),
    "linear": lambda off, head, body: off.mean(),
    "fourth powers": lambda off, head, body: off.pow(4).mean(),
    "logistic": lambda off, head, body: torch.nn.functional.softplus(off).mean(),
    "a body beside": lambda off, head, body: off.square().mean() + body @ head,
    "a body that bends": lambda off, head, body: body.exp().sum() * off.square().mean(),
    "a body that only bends": lambda off, head, body: (
        (1 + body.detach().abs().sum()) * off.square().mean()
    ),
    "one direction": lambda off, head, body: 1e3 * head[0].square() + off.mean(),
}


def numbers(problem, body):
    found = bilevel.hypergradient(problem, body)
    return found.body, torch.tensor([found.bound, found.value, found.response.bound])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_calls_after_the_first_one_find_what_it_would_find(name):
    problem = Validated(OBJECTIVES[name])
    for body in (*BODIES, BODIES[0]):
        known, fresh = numbers(problem, body), numbers(Validated(OBJECTIVES[name]), body)
        assert torch.equal(known[0], fresh[0])
        torch.testing.assert_close(known[1], fresh[1], rtol=3e-6, atol=0, equal_nan=True)


def test_numbers_do_not_tell_which_call_it_is():
    problem = Validated(squares)
    for body in BODIES:
        known, fresh = numbers(problem, body), numbers(Validated(squares), body)
        assert all(torch.equal(a, b) for a, b in zip(known, fresh, strict=True))


@pytest.mark.parametrize("change", ["rows", "one number", "a flip"])
def test_rows_of_another_curvature_are_seen(change):
    problem, twin = Validated(squares), Validated(squares)
    for body in BODIES:
        numbers(problem, body)
    for some in (problem, twin):  # by NumPy, which nobody counts
        inputs = some.arrays[1]
        if change == "rows":
            inputs *= 3
        elif change == "one number":
            inputs[2, 3] += 1e-2
        else:
            inputs[:, 1] *= -1
    for body in BODIES:
        known, fresh = numbers(problem, body), numbers(twin, body)
        torch.testing.assert_close(known[1], fresh[1], rtol=3e-6, atol=0)


@pytest.mark.parametrize(
    ("objective", "calls"), [("squares", 3), ("fourth powers", 4), ("a body that bends", 3)]
)
def test_f_is_evaluated_a_few_times(objective, calls, monkeypatch):
    """At the head, at one beside it, at all of them where that one says otherwise, and at a body.

    Mapped over heads that is one call, as it is where the body has a say in the slope.
    """
    problem, made = Validated(OBJECTIVES[objective]), []
    bilevel.hypergradient(problem, BODIES[0])
    function = Validated.body_objective
    monkeypatch.setattr(
        Validated, "body_objective", lambda *some: made.append(1) or function(*some)
    )
    bilevel.hypergradient(problem, BODIES[1])
    assert len(made) == calls


def test_a_set_of_heads_is_looked_at_anew():
    """Ways around the head end at its boundary."""
    box = bilevel.Box(-0.5, 0.7)
    problem = Validated(squares, box)
    for body in BODIES:
        known, fresh = numbers(problem, body), numbers(Validated(squares, box), body)
        torch.testing.assert_close(known[1], fresh[1], rtol=3e-6, atol=0, equal_nan=True)
