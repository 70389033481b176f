"""Small networks for tests of `split`, written in a line each, and a problem around them."""

import torch
import torch.nn.functional as F
from small_problems import doubles
from torch import nn

import bilevel

ROWS = doubles(3, 23, 5)
TOKENS = torch.randint(9, (23, 4), generator=torch.Generator().manual_seed(1))


def start(parts, dtype=torch.float32):
    """The body of a run in a type."""
    body = parts.init_body(torch.Generator().manual_seed(0))
    return {key: leaf.to(dtype) for key, leaf in body.items()}


class Net(nn.Module):
    def __init__(self, outputs=1):
        super().__init__()
        self.first, self.fc = nn.Linear(5, 4), nn.Linear(4, outputs)

    def z(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.fc(self.z(x))


def net(forward, outputs=1):
    """A factory of networks with another `forward(self, x)`."""
    return lambda: type("Own", (Net,), {"forward": forward})(outputs)


def changed(change):
    """A factory of networks to which something was done."""

    def make():
        made = Net()
        change(made)
        return made

    return make


class Scaled(Net):
    """A parameter that is 1 at first, before or after the head."""

    def __init__(self, after):
        super().__init__()
        self.scale, self.after = nn.Parameter(torch.ones(())), after

    def forward(self, x):
        return self.fc(self.z(x)) * self.scale if self.after else self.fc(self.z(x) * self.scale)


class Remembers(Net):
    """Numbers beside the parameters: fixed, or another draw in every module."""

    def __init__(self, draw):
        super().__init__()
        self.signs = draw(4).double()

    def forward(self, x):
        return self.fc((self.z(x) * self.signs).to(x.dtype))


class Words(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embed, self.fc, self.options = nn.Embedding(9, 4), nn.Linear(4, 1), options

    def forward(self, tokens):
        return self.fc(F.embedding(tokens, self.embed.weight, **self.options).mean(1))


class Reverse(torch.autograd.Function):
    """The identity, with the gradient of minus the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, along):
        return -along


def problem_around(parts, inputs):
    class Own(bilevel.LinearHeadProblem):
        ridge, fit_bias, outputs = 1e-2, parts.fit_bias, parts.outputs

        def data(self, seed=None):
            shape = (len(inputs),) if parts.outputs is None else (len(inputs), parts.outputs)
            return {"train": bilevel.Batch(inputs, doubles(7, *shape))}

        def init_body(self, generator):
            return parts.init_body(generator)

        def init_head(self, generator):
            return parts.init_head(generator)

        def features(self, body, inputs):
            return parts.features(body, inputs)

    return Own()
