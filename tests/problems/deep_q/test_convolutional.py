"""The network for frames against torch's modules."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import bilevel
from bilevel import Batch, LinearHeadProblem, trees
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.errors import ArgumentError
from problems.deep_q import convolutional
from problems.deep_q.convolutional import Convolutional

RUNS, ROWS, ACTIONS = 3, 5, 2
SMALL = Convolutional(filters=3, kernel=4, stride=2, width=7, shape=(2, 11, 10))


class Labelled(LinearHeadProblem):
    """Frames with targets, for the derivatives that the library makes."""

    outputs, ridge, fit_bias, penalize_bias = ACTIONS, 0.3, True, True

    def data(self, seed=None):
        source = torch.Generator().manual_seed(1)
        images = torch.randint(256, (ROWS, *SMALL.shape), generator=source, dtype=torch.uint8)
        return {"train": Batch(images, torch.randn(ROWS, ACTIONS, generator=source))}

    def init_body(self, generator):
        return SMALL.init_body(generator)

    def init_head(self, generator):
        return SMALL.init_head(ACTIONS, generator)

    def features(self, body, inputs):
        return SMALL.features(body, inputs)


def module(body, head):
    """The same network as one writes it."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(SMALL.flat, 7),
        nn.ReLU(),
        nn.Linear(7, ACTIONS),
    ).double()
    body = {name: leaf.double() for name, leaf in body.items()}
    for layer, weight, bias in (
        (net[0], body["weight"], body["bias"]),
        (net[3], body["hidden_weight"].T, body["hidden_bias"]),
        (net[5], head[:-1].T.double(), head[-1].double()),
    ):
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return net


@pytest.mark.parametrize("runs", [1, RUNS])
def test_a_training_is_that_of_modules(runs):
    """Ten steps of RMSprop on all rows in float64, for runs that are mapped and for one alone."""
    problem, seeds = Labelled(), list(range(runs))
    strategy = bilevel.TwoTimescale(
        1e-3, 1e-2, bilevel.RMSProp(smoothing=0.95, eps=1e-5), "simultaneous"
    )
    start = Assembly.of(TrainingData(problem, seeds, torch.float64, "cpu"), None)
    last = bilevel.solve(
        problem, strategy, steps=10, batch_size=None, seeds=seeds, dtype=torch.float64
    )
    images, targets = problem.data()["train"]
    pixels, targets = images.double() / 255, targets.double()
    for r in seeds:
        net = module(trees.take(start.body, r), start.head[r])
        before = [parameter.detach().clone() for parameter in net.parameters()]
        rates = [
            {"params": net[:5].parameters(), "lr": 1e-3},
            {"params": net[5].parameters(), "lr": 1e-2},
        ]
        optimizer = torch.optim.RMSprop(rates, alpha=0.95, eps=1e-5)
        for _ in range(10):
            fit = 0.5 * (net(pixels) - targets).square().sum(1).mean()
            head = net[5].weight.square().sum() + net[5].bias.square().sum()
            optimizer.zero_grad()
            (fit + 0.5 * problem.ridge * head).backward()
            optimizer.step()
        found = module(trees.take(last.body, r), last.head[r])
        for ours, theirs, old in zip(found.parameters(), net.parameters(), before, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
            assert (ours - old).abs().max() > 1e-3


def test_features_of_runs_are_those_of_each_run():
    source = torch.Generator().manual_seed(2)
    bodies = [SMALL.init_body(source) for _ in range(RUNS)]
    body = trees.stack(bodies)
    images = torch.randint(256, (RUNS, ROWS, *SMALL.shape), generator=source, dtype=torch.uint8)
    found = SMALL.features_of_runs(body, images)
    mapped = torch.func.vmap(SMALL.features)(body, images)
    each = [SMALL.features(*both) for both in zip(bodies, images, strict=True)]
    assert found.shape == (RUNS, ROWS, 7)
    assert torch.equal(found, torch.stack(each))
    assert torch.equal(found, mapped)
    assert len(found.unique()) > RUNS * ROWS
    shared = torch.func.vmap(SMALL.features, in_dims=(0, None))(body, images[0])
    assert torch.equal(shared[0], each[0])


def test_second_derivatives_are_those_of_plain_operations():
    """Products with the Hessian of a body, which reverse mode makes by differentiating twice."""
    source = torch.Generator().manual_seed(3)
    body = {name: leaf.double() for name, leaf in SMALL.init_body(source).items()}
    images = torch.randint(256, (ROWS, *SMALL.shape), generator=source, dtype=torch.uint8).double()
    along = torch.randn(body["weight"].shape, generator=source, dtype=torch.float64)

    def product(features):
        weight = body["weight"].clone().requires_grad_()
        value = features({**body, "weight": weight}).pow(3).sum()
        (slope,) = torch.autograd.grad(value, weight, create_graph=True)
        return torch.autograd.grad((slope * along).sum(), weight)[0]

    def plain(body):
        convolved = functional.conv2d(images / 255, body["weight"], body["bias"], 2).relu()
        return (convolved.flatten(1) @ body["hidden_weight"] + body["hidden_bias"]).relu()

    found = product(lambda body: SMALL.features(body, images))
    assert found.abs().max() > 1e-6
    torch.testing.assert_close(found, product(plain), rtol=1e-10, atol=0)


def test_many_rows_are_convolved_in_parts(monkeypatch):
    source = torch.Generator().manual_seed(4)
    body = SMALL.init_body(source)
    images = torch.randint(256, (ROWS, *SMALL.shape), generator=source, dtype=torch.uint8)
    whole = SMALL.features(body, images)
    monkeypatch.setattr(convolutional, "ROWS_AT_ONCE", 2)
    assert torch.allclose(SMALL.features(body, images), whole, atol=1e-7)


def test_it_begins_as_modules_of_torch_do():
    """The same distributions: uniform within 1/sqrt(fan in), weights and biases."""
    network, source = Convolutional(), torch.Generator().manual_seed(5)
    body, head = network.init_body(source), network.init_head(6, source)
    assert sum(leaf.numel() for leaf in body.values()) == 16 * 257 + 256 * 6401
    assert head.shape == (257, 6)
    layers = nn.Conv2d(4, 16, 8, 4), nn.Linear(6400, 256), nn.Linear(256, 6)
    ours = (
        (body["weight"], body["bias"]),
        (body["hidden_weight"].T, body["hidden_bias"]),
        (head[:-1].T, head[-1]),
    )
    for layer, (weight, bias), inputs in zip(layers, ours, (256, 6400, 256), strict=True):
        assert weight.shape == layer.weight.shape
        for one in (weight, bias):
            assert one.abs().max() <= inputs**-0.5
        assert float(weight.std() * inputs**0.5) == pytest.approx(3**-0.5, rel=0.06)
    again = network.init_body(torch.Generator().manual_seed(5))
    assert trees.equal(body, again)


@pytest.mark.parametrize("name", ["filters", "kernel", "stride", "width"])
def test_sizes_are_positive_integers(name):
    with pytest.raises(ArgumentError, match=name):
        Convolutional(**{name: 0})
