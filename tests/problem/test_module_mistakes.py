"""Networks that are no function of a body and a linear head are refused, with advice."""

import pytest
import torch
from networks import INPUTS, Convolution, Digits, Transformer
from torch import nn

import bilevel
from bilevel.errors import ArgumentError, ProblemError, ShapeError, UnknownNameError

X = INPUTS[:6].float().flatten(1)
ONE_MODULE, ONE_LAYER = Convolution(), nn.Linear(64, 8)


def layers(*middle, outputs=3):
    """A factory of Linear(64, 8), `middle`, Linear(8, outputs); `middle` are factories."""
    return lambda: nn.Sequential(nn.Linear(64, 8), *(f() for f in middle), nn.Linear(8, outputs))


class After(nn.Module):
    """Something done to the outputs of the head."""

    def __init__(self, after):
        super().__init__()
        self.first, self.fc, self.after = nn.Linear(64, 8), nn.Linear(8, 3), after

    def forward(self, x):
        return self.after(self.fc(torch.tanh(self.first(x))), x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Linear(8, 64, bias=False), nn.Linear(8, 64)
        self.fc.weight = self.embed.weight


class Counting(nn.Module):
    """A buffer that changes when the module is called: in place, or replaced."""

    def __init__(self, in_place):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.first, self.fc, self.in_place = nn.Linear(64, 8), nn.Linear(8, 3), in_place

    def forward(self, x):
        if self.in_place:
            self.seen += 1
        else:
            self.seen = self.seen + 1
        return self.fc(self.first(x))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(8))
        self.first, self.fc = nn.Linear(64, 8), nn.Linear(8, 3)


class Calls(nn.Module):
    """Calls the head a given number of times."""

    def __init__(self, times):
        super().__init__()
        self.first, self.fc, self.times = nn.Linear(64, 8), nn.Linear(8, 3), times

    def forward(self, x):
        z = self.first(x)
        return sum((self.fc(z + i) for i in range(self.times)), torch.zeros(()))


def frozen():
    net = Convolution()
    net.first.weight.requires_grad_(False)
    return net


def other_shapes():
    """The second module is wider than the first."""
    widths = iter([8, 9])
    return lambda: nn.Sequential(nn.Linear(64, width := next(widths)), nn.Linear(width, 3))


REFUSED = {
    "a module": (Convolution(), "fc", ArgumentError, r"`split\(lambda: Net"),
    "no function": ("Net", "fc", ArgumentError, "must be a function that makes a new module"),
    "no module": (lambda: 3, "fc", ArgumentError, "must return an `nn.Module`, got int"),
    "name": (Convolution, "f", UnknownNameError, "no linear layer 'f'. Did you mean 'fc'"),
    "not linear": (Convolution, "first", ArgumentError, "must be an `nn.Linear`.* got Conv2d"),
    "the module": (lambda: nn.Linear(2, 1), "", UnknownNameError, "no linear layer ''"),
    "derived": (Transformer, "mix.layers.0.self_attn.out_proj", ArgumentError, "derived"),
    "tied": (Tied, "fc", ArgumentError, "shares its parameter 'embed.weight'"),
    "batch norm": (layers(lambda: nn.BatchNorm1d(8)), "2", ArgumentError, "LayerNorm.*eval"),
    "batch statistics": (
        lambda: layers(lambda: nn.BatchNorm1d(8, track_running_stats=False))().eval(),
        "2",
        ArgumentError,
        r"1 \(BatchNorm1d\) uses statistics of the batch",
    ),
    "dropout": (layers(nn.Dropout), "2", ArgumentError, r"1 \(Dropout\) draws random.*eval"),
    "rrelu": (layers(nn.RReLU), "2", ArgumentError, "draws random numbers"),
    "attention dropout": (
        lambda: nn.Sequential(nn.MultiheadAttention(8, 2, dropout=0.1), nn.Linear(8, 3)),
        "1",
        ArgumentError,
        "MultiheadAttention.* draws random numbers",
    ),
    "transformer dropout": (lambda: Transformer(0.1), "fc", ArgumentError, "draws random numbers"),
    "recurrent": (layers(lambda: nn.GRU(8, 8)), "2", ArgumentError, "cannot be batched"),
    "recurrent cell": (layers(lambda: nn.LSTMCell(8, 8)), "2", ArgumentError, "cannot be batched"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)),
        "1",
        ArgumentError,
        "'0.weight' has no shape yet",
    ),
    "frozen": (frozen, "fc", ArgumentError, "'first.weight' is frozen"),
    "device": (lambda: layers()().to("meta"), "1", ArgumentError, "is on meta. Make the module on"),
    "no body": (lambda: nn.Sequential(nn.Linear(4, 3)), "0", ArgumentError, "so there is no body"),
    "one module": (lambda: ONE_MODULE, "fc", ArgumentError, "must make a new module"),
    "shared layer": (
        lambda: nn.Sequential(ONE_LAYER, nn.Linear(8, 3)),
        "1",
        ArgumentError,
        "returned the parameter '0.weight' twice",
    ),
    "other shapes": (other_shapes(), "1", ArgumentError, "'0.bias' is .8,.* in one and .9,"),
    "random buffer": (Table, "fc", ArgumentError, "buffer 'table' differs from one module"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused(name):
    make_module, head, error, message = REFUSED[name]
    before = torch.get_rng_state()
    with pytest.raises(error, match=f"(?s){message}"):
        bilevel.split(make_module, head)
    assert torch.equal(torch.get_rng_state(), before)


def features_of(make_module, head="fc"):
    parts = bilevel.split(make_module, head)
    return parts, parts.init_body(torch.Generator().manual_seed(0))


AFTER = {
    "softmax": lambda y, x: y.softmax(1),
    "relu": lambda y, x: torch.relu(y),
    "relu, in place": lambda y, x: torch.relu_(y),
    "scale": lambda y, x: 2 * y,
    "residual": lambda y, x: y + x[:, :3],
    "flip": lambda y, x: y.flip(1),
    "one column": lambda y, x: y[:, 0],
    "pair": lambda y, x: (y, x),
    "nothing returned": lambda y, x: None,
}


@pytest.mark.parametrize("name", AFTER)
def test_a_network_that_does_something_after_its_head_is_refused(name):
    parts, body = features_of(lambda: After(AFTER[name]))
    for _ in range(2):  # again too, as it was not accepted
        with pytest.raises(ProblemError, match="does something after its head 'fc'"):
            parts.features(body, X)


@pytest.mark.parametrize("after", [lambda y, x: y, lambda y, x: y.view(-1, 3).contiguous()])
def test_a_network_that_returns_its_head_is_accepted(after):
    parts, body = features_of(lambda: After(after))
    assert parts.features(body, X).shape == (6, 8)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_network_that_changes_its_buffers_is_refused(in_place):
    parts, body = features_of(lambda: Counting(in_place))
    with pytest.raises(ProblemError, match="changes its buffers when it is called"):
        parts.features(body, X)
    with pytest.raises(ProblemError, match="changes its buffers when it is called"):
        parts.features({key: leaf.double() for key, leaf in body.items()}, X.double())


@pytest.mark.parametrize("times", [0, 2])
def test_a_head_is_called_once(times):
    parts, body = features_of(lambda: Calls(times))
    with pytest.raises(ProblemError, match=f"'fc' {times} times"):
        parts.features(body, X)


def test_a_head_sees_one_vector_for_each_row():
    parts, body = features_of(layers(), "1")
    with pytest.raises(ShapeError, match=r"inputs of shape \(3, 1, 8\) for 3 rows.*one vector"):
        parts.features(body, X.unsqueeze(1))


def test_a_softmax_is_found_before_training():
    class Sharp(After):
        def __init__(self):
            super().__init__(lambda y, x: y.softmax(1))

        def forward(self, x):
            return super().forward(x.flatten(1))

    with pytest.raises(ProblemError, match="does something after its head"):
        bilevel.solve(Digits(Sharp), bilevel.TwoTimescale(0.1, 0.1), steps=5, seeds=2)


def test_dropout_by_hand_is_found_before_training():
    def drop(x):
        return nn.functional.dropout(x.flatten(1), 0.5)

    class Dropping(After):
        def forward(self, x):
            return self.fc(self.first(drop(x)))

    problem = Digits(lambda: Dropping(None))
    with pytest.raises(ProblemError, match="draws random numbers"):
        bilevel.solve(problem, bilevel.TwoTimescale(0.1, 0.1), steps=5, seeds=2)


def test_body_and_head_must_fit_the_network():
    parts, body = features_of(Convolution)
    head = parts.init_head(torch.Generator().manual_seed(1))
    with pytest.raises(ShapeError, match="`body` has the names"):
        parts.features({key: body[key] for key in list(body)[1:]}, INPUTS[:2].float())
    with pytest.raises(ShapeError, match=r"`head` has shape \(45, 10\), expected \(46, 10\)"):
        parts.predict(body, head[1:], INPUTS[:2].float())


def test_a_later_module_of_another_shape_is_refused():
    widths = iter([8, 8, 9])
    parts = bilevel.split(
        lambda: nn.Sequential(nn.Linear(64, width := next(widths)), nn.Linear(width, 3)), "1"
    )
    with pytest.raises(ArgumentError, match=r"more than their numbers: '0\.bias' is"):
        parts.init_body(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b, h: (b, h[1:], None), ShapeError, r"the head is \(45, 10\) for \(46, 10\)"),
        (lambda b, h: (b, h.T, None), ShapeError, "the head is"),
        (lambda b, h: ({k: v[None] for k, v in b.items()}, h[None], None), ShapeError, "run=0"),
        (lambda b, h: ({"first.weight": b["first.weight"]}, h, None), ShapeError, "It lacks"),
        (lambda b, h: ({**b, "third": h}, h, None), ShapeError, "module lacks .'third'."),
        (lambda b, h: ({**b, "fc.bias": h[0]}, h, None), ShapeError, "It lacks .'fc.weight'."),
        (lambda b, h: ({**b, "first.bias": h[0]}, h, None), ShapeError, "first.bias is .10,. for"),
        (lambda b, h: (b, h, 46), ArgumentError, "`run` must be from 0 to 45, got 46"),
    ],
)
def test_assign_writes_nothing_that_does_not_fit(change, error, message):
    parts, body = features_of(Convolution)
    head = parts.init_head(torch.Generator().manual_seed(1))
    net = Convolution()
    before = {name: leaf.clone() for name, leaf in net.state_dict().items()}
    body, head, run = change(body, head)
    with pytest.raises(error, match=message):
        bilevel.assign(net, body, head, run=run)
    assert all(torch.equal(leaf, before[name]) for name, leaf in net.state_dict().items())
