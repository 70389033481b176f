"""Weight decay of the hidden layers: part of both levels, exact, and nothing at all where 0."""

import pytest
import torch
from small_problems import doubles

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data import sampler as sampler_module
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError
from bilevel.training import compiled as compiled_module
from problems.regression import Regression, diabetes, friedman1, friedman2, friedman3

DECAY = 0.3
SIZES = {"train": 21, "validation": 6, "test": 9}
FACTORIES = {
    "friedman1": (friedman1, SIZES),
    "friedman2": (friedman2, SIZES),
    "friedman3": (friedman3, SIZES),
    "diabetes": (diabetes, {}),
}
SMALL = {"width": 5, "depth": 2, "activation": "tanh", "ridge": 0.05, **SIZES}


class Undecayed(Regression):
    """Without the hook, as if weight decay had never been there."""

    body_penalty = bilevel.LinearHeadProblem.body_penalty


def make(weight_decay, cls=Regression):
    given = friedman1(**SMALL, weight_decay=weight_decay)
    return cls(given.draw, given.network, given.ridge, given.note, weight_decay)


def setting(problem, batch_size=None):
    """Oracles, bodies and heads of two runs, and rows."""
    data = TrainingData(problem, [0, 4], torch.float64, "cpu")
    oracles = Oracles(problem)
    sampler = sampler_module.Sampler(data, batch_size, oracles.sampled_groups)
    body, head = data.initial(problem.init_body, "body"), data.initial(problem.init_head, "head")
    body = trees.tree_map(lambda leaf: leaf + doubles(1, *leaf.shape), body)
    return oracles, body, head, sampler.rows(3)


def objective(problem, body, head, batch):
    """g of one run, written out; biases are not in h."""
    hidden, squares = batch.inputs, 0.0
    for layer in (1, 2):
        weight = body[f"weight{layer}"]
        hidden = torch.tanh(hidden @ weight + body[f"bias{layer}"])
        squares = squares + (weight * weight).sum()
    residual = hidden @ head[:-1] + head[-1] - batch.targets
    penalty = 0.5 * problem.ridge * (head[:-1] ** 2).sum() + 0.5 * problem.weight_decay * squares
    return 0.5 * (residual**2).mean() + penalty


@pytest.mark.parametrize("batch_size", [None, 8])
def test_gradients_are_those_of_autograd(batch_size):
    problem = make(DECAY)
    oracles, body, head, rows = setting(problem, batch_size)
    found = oracles.joint_gradient(body, head, rows)
    level = oracles.direct_gradient(body, head, rows), oracles.head_gradient(body, head, rows)
    values = oracles.head_value(body, head, rows)
    for run in range(2):
        batch = bilevel.Batch(*(x[run] for x in rows.groups["train"]))
        w = {name: leaf[run].clone().requires_grad_() for name, leaf in body.items()}
        theta = head[run].clone().requires_grad_()
        value = objective(problem, w, theta, batch)
        torch.testing.assert_close(values[run], value.detach(), rtol=1e-12, atol=0)
        expected = torch.autograd.grad(value, [*w.values(), theta])
        for in_body, in_head in (found, level):
            ours = [*(in_body[name][run] for name in w), in_head[run]]
            for a, b in zip(ours, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_phi_gains_weight_decay_times_the_weights():
    """And nothing else: the best response, its bound and the biases' gradients stay."""
    with_decay, without = make(DECAY), make(0.0)
    body = trees.take(setting(without)[1], 1)
    found, plain = (bilevel.hypergradient(problem, body) for problem in (with_decay, without))
    torch.testing.assert_close(found.response.head, plain.response.head, rtol=1e-12, atol=1e-14)
    squares = sum((body[f"weight{layer}"] ** 2).sum() for layer in (1, 2))
    gained = float(found.value) - float(plain.value)
    assert gained == pytest.approx(0.5 * DECAY * float(squares), rel=1e-12)
    for name, leaf in body.items():
        extra = DECAY * leaf if name.startswith("weight") else torch.zeros_like(leaf)
        torch.testing.assert_close(
            found.body[name], plain.body[name] + extra, rtol=1e-10, atol=1e-13
        )


def test_the_gradient_is_that_of_phi():
    """Central differences of Phi, each value with its own exact head."""
    problem = make(DECAY)
    body = trees.take(setting(problem)[1], 0)
    direction = {name: doubles(i, *leaf.shape) for i, (name, leaf) in enumerate(body.items())}
    slope = bilevel.hypergradient(problem, body).body
    along = sum(float((slope[name] * direction[name]).sum()) for name in body)

    def phi(t):
        moved = {name: leaf + t * direction[name] for name, leaf in body.items()}
        return float(bilevel.hypergradient(problem, moved).value)

    measured = (phi(1e-5) - phi(-1e-5)) / 2e-5
    assert along == pytest.approx(measured, rel=1e-7)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_without_weight_decay_numbers_are_bitwise_those_without_the_hook(batch_size):
    ours, bare = setting(make(0.0), batch_size), setting(make(0.0, Undecayed), batch_size)
    for name in ("joint_gradient", "direct_gradient", "head_gradient", "head_value"):
        assert trees.equal(getattr(ours[0], name)(*ours[1:]), getattr(bare[0], name)(*bare[1:]))
    strategy = bilevel.TwoTimescale(1e-2, 1e-1)
    ends = [
        bilevel.solve(make(0.0, cls), strategy, steps=40, batch_size=8, seeds=2)
        for cls in (Regression, Undecayed)
    ]
    assert trees.equal(ends[0].body, ends[1].body)
    assert trees.equal(ends[0].head, ends[1].head)


def test_the_structure_stays_in_use_without_weight_decay():
    assert not make(0.0).overrides("body_penalty")
    assert make(DECAY).overrides("body_penalty")
    assert not make(DECAY).overrides("penalty")

    class Own(Regression):
        def body_penalty(self, body):
            return body["bias1"].square().sum()

    assert make(0.0, Own).overrides("body_penalty")
    assert make(DECAY, Own).overrides("body_penalty")


def test_weight_decay_shrinks_the_weights():
    ends = [
        bilevel.solve(
            make(decay), bilevel.TwoTimescale(1e-2, 1e-1), steps=200, batch_size=8, seeds=2
        )
        for decay in (0.0, 1.0)
    ]
    sizes = [sum(end.body[f"weight{layer}"].square().sum() for layer in (1, 2)) for end in ends]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.slow  # a compilation
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_equals_eager(monkeypatch):
    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 2)
    problem, strategy = make(DECAY), bilevel.TwoTimescale(1e-2, 1e-1)
    compiled, eager = (
        bilevel.solve(
            problem, strategy, steps=20, batch_size=8, seeds=2, dtype=torch.float64, compile=flag
        )
        for flag in (True, False)
    )
    for name, values in compiled.body.items():
        torch.testing.assert_close(values, eager.body[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(compiled.head, eager.head, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_factory_takes_weight_decay(name):
    factory, options = FACTORIES[name]
    assert factory(width=3, **options).weight_decay == 0.0
    problem = factory(width=3, weight_decay=DECAY, **options)
    body = problem.init_body(generator(0, "body"))
    expected = 0.5 * DECAY * (body["weight1"] ** 2).sum()
    torch.testing.assert_close(problem.body_penalty(body), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("value", [-1e-3, float("nan")])
def test_weight_decay_is_not_negative(value):
    with pytest.raises(ArgumentError, match="`weight_decay` must be at least 0"):
        friedman1(weight_decay=value)
