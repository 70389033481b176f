"""What would be something else than the module once it is split: refused by its first rows."""

import copy

import pytest
import torch
import torch.nn.functional as F
from split_networks import (
    ROWS,
    TOKENS,
    Net,
    Remembers,
    Reverse,
    Scaled,
    Words,
    changed,
    net,
    problem_around,
    start,
)
from torch import nn

import bilevel
from bilevel.errors import ArgumentError, ProblemError


class Adapter(Net):
    """A low-rank term beside the head, zero at first."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.fc(self.z(x)) + self.up(self.down(self.z(x)))


class Tied(nn.Module):
    """An autoencoder whose decoder is the transposed encoder."""

    def __init__(self):
        super().__init__()
        self.middle, self.fc = nn.Linear(3, 3), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(torch.tanh(self.middle(F.linear(x, self.fc.weight.T))))


def double_gradient(x):
    """A gradient that is changed only where someone looks for it."""
    if x.requires_grad:
        x.register_hook(lambda along: 2 * along)
    return x


AFTER = ProblemError, "does something after its head"
OTHER = ProblemError, "is not the module: the (outputs|gradients) of the module differ by"
MIXED = ProblemError, "features of a row depend on the rows that are evaluated with it"
WRITES = ProblemError, "writes to its parameter 'first.weight'"
USES = ArgumentError, "uses the numbers of its head's weight or bias"


def clamps_itself(self, x):
    with torch.no_grad():
        self.first.weight.clamp_(-0.01, 0.01)
    return self.fc(self.z(x))


def divides_its_data(self, x):
    self.first.weight.data /= self.first.weight.data.norm()
    return self.fc(self.z(x))


def replaces_itself(self, x):
    self.first.weight = nn.Parameter(F.normalize(self.first.weight))
    return self.fc(self.z(x))


def kept_apart(self):
    layer = self.first
    del self.first
    self.layers, self.second = [layer], nn.Linear(4, 4)
    self.forward = lambda x: self.fc(self.second(self.layers[0](x.float()).to(x.dtype)))


def standardises_by_its_first_rows(self, x):
    if not hasattr(self, "size"):
        self.size = x.std(0)
    return self.fc(self.z(x / self.size))


REFUSED = {
    **{
        f"{name} at {far:g}": (net(lambda s, x, f=f, far=far: f(s.fc(s.z(x)), far)), *AFTER)
        for far in (3.0, 1e3, 1e9)
        for name, f in {
            "above": lambda y, far: y.clamp(max=far),
            "below": lambda y, far: y.clamp(min=-far),
            "tanh": lambda y, far: far * torch.tanh(y / far),
        }.items()
    },
    "small numbers": (net(lambda s, x: F.hardshrink(s.fc(s.z(x)), 1e-4)), *AFTER),
    "digits": (net(lambda s, x: s.fc(s.z(x)).bfloat16()), *AFTER),
    "offset": (net(lambda s, x: s.fc(s.z(x)) + 1e-3), *AFTER),
    "centred outputs": (net(lambda s, x: (y := s.fc(s.z(x))) - y.mean(1, True), 3), *AFTER),
    "scale after": (lambda: Scaled(after=True), *AFTER),
    "adapter": (Adapter, *AFTER),
    "hook of the root": (
        changed(lambda n: n.register_forward_hook(lambda m, i, o: 2 * o)),
        *AFTER,
    ),
    "reversed after": (net(lambda s, x: Reverse.apply(s.fc(s.z(x)))), *OTHER),
    "no gradient": (net(lambda s, x: s.fc(s.z(x)).detach()), *OTHER),
    "tensor hook after": (net(lambda s, x: double_gradient(s.fc(s.z(x)))), *OTHER),
    "tensor hook before": (net(lambda s, x: s.fc(double_gradient(s.z(x)))), *OTHER),
    "first rows": (net(standardises_by_its_first_rows), *OTHER),
    "drawn numbers": (lambda: Remembers(torch.randn), *OTHER),
    "layer in a list": (changed(kept_apart), *OTHER),
    "norm of the batch": (
        net(lambda s, x: s.fc(F.layer_norm(s.z(x).T, x.shape[:1]).T)),
        *MIXED,
    ),
    "mean of the batch": (net(lambda s, x: s.fc(s.z(x) - 0.01 * s.z(x).mean(0))), *MIXED),
    "maximum of the batch": (net(lambda s, x: s.fc(s.z(x) / s.z(x).max())), *MIXED),
    "softmax over rows": (net(lambda s, x: s.fc(s.z(x).softmax(0))), *MIXED),
    "sum of rows so far": (net(lambda s, x: s.fc(s.z(x).cumsum(0))), *MIXED),
    "first row": (net(lambda s, x: s.fc(s.z(x - x[:1]))), *MIXED),
    "attention over rows": (net(lambda s, x: s.fc((z := s.z(x)) @ z.T @ z)), *MIXED),
    "number of rows": (net(lambda s, x: s.fc(s.z(x) / len(x))), *MIXED),
    "one answer": (net(lambda s, x: s.fc(s.z(x).mean(0, True))), *MIXED),
    "clamps itself": (net(clamps_itself), *WRITES),
    "divides its data": (net(divides_its_data), *WRITES),
    "replaces itself": (net(replaces_itself), *WRITES),
    "noise": (
        net(lambda s, x: s.fc(s.z(x) + 0.1 * torch.randn(4))),
        ProblemError,
        "draws random numbers",
    ),
    "tied": (Tied, *USES),
    "linear by hand": (net(lambda s, x: F.linear(s.z(x), s.fc.weight, s.fc.bias)), *USES),
    "penalty": (
        net(lambda s, x: s.fc(s.z(x)) + sum(p.square().sum() for p in s.parameters())),
        *USES,
    ),
    "sign of the head": (net(lambda s, x: s.fc(s.z(x) * (s.fc.weight > 0))), *USES),
    "a number of the head": (net(lambda s, x: s.fc(s.z(x) * float(s.fc.weight[0, 0]))), *USES),
    "detached head": (net(lambda s, x: s.fc(s.z(x) * s.fc.weight.detach())), *USES),
    "data of the head": (net(lambda s, x: s.fc(s.z(x) + s.fc.bias.data.clone())), *USES),
    "state of the head": (net(lambda s, x: s.fc(s.z(x) * s.state_dict()["fc.weight"])), *USES),
    "cast head": (net(lambda s, x: s.fc(s.z(x) * s.fc.weight.to(x.dtype))), *USES),
    "concatenated": (net(lambda s, x: s.fc(torch.cat([s.fc.weight, s.z(x)])[1:])), *USES),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_something_else_is_refused(name, dtype):
    make, error, message = REFUSED[name]
    parts = bilevel.split(make)
    body = start(parts, dtype)
    before, random = copy.deepcopy(body), torch.get_rng_state()
    for _ in range(2):  # again too, as it was not accepted
        with pytest.raises(error, match=message):
            parts.features(body, ROWS.to(dtype))
    assert all(torch.equal(leaf, before[key]) for key, leaf in body.items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("options", [{"max_norm": 0.5}, {"max_norm": 1e-3, "norm_type": 1.0}])
def test_an_embedding_that_renormalises_itself_is_refused(options):
    class Layer(Words):
        def __init__(self):
            super().__init__()
            self.embed = nn.EmbeddingBag(9, 4, **options)

    with pytest.raises(ArgumentError, match=r"embed \(EmbeddingBag\) writes to its weight"):
        bilevel.split(Layer)
    parts = bilevel.split(lambda: Words(**options))
    body = start(parts)
    before = body["embed.weight"].clone()
    with pytest.raises(ProblemError, match=r"writes to its parameter 'embed\.weight'"):
        bilevel.hypergradient(problem_around(parts, TOKENS), body)
    assert torch.equal(body["embed.weight"], before)
    assert bilevel.split(Words).features(body, TOKENS).shape == (23, 4)
