"""A split network is the module: values and gradients, looked at once for each kind of row."""

import copy
import pickle

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
from torch.nn.utils import parametrizations, prune

import bilevel
from bilevel.errors import ArgumentError, ProblemError


class Positive(Net):
    """Parameters that must stay positive: a random step from them is out of bounds."""

    def __init__(self):
        super().__init__()
        self.spread = nn.Parameter(1e-4 * torch.eye(4))

    def forward(self, x):
        return self.fc(self.z(x) @ torch.linalg.cholesky(self.spread))


def reads_its_head(self, x):
    like = next(self.fc.parameters())
    z = self.z(x.to(self.fc.weight.device, self.fc.weight.data.dtype)).type_as(self.fc.bias)
    z = z.view(-1, self.fc.in_features)[:, : self.fc.weight.T.shape[0]] + torch.zeros_like(like)
    assert isinstance(self.fc, nn.Linear)
    assert isinstance(self.fc.weight, nn.Parameter)
    assert self.fc.weight.requires_grad
    return self.fc(z * len(self.fc.weight) + sum(p.numel() for p in self.parameters()))


RIGHT = {
    "plain": Net,
    "outputs": lambda: Net(3),
    "reads its head": net(reads_its_head),
    "reads sizes": net(lambda s, x: s.fc(s.z(x)[:, : s.fc.weight.size(1)] / s.fc.out_features)),
    "head by its method": net(lambda s, x: s.fc.forward(s.z(x))),
    "no axis": net(lambda s, x: s.fc(s.z(x).squeeze()).squeeze()),
    "scale before": lambda: Scaled(after=False),
    "mask of the body": changed(lambda n: prune.custom_from_mask(n.first, "weight", ROWS[:4] > 0)),
    "weight norm of the body": changed(lambda n: nn.utils.weight_norm(n.first)),
    "parametrised body": changed(lambda n: parametrizations.weight_norm(n.first)),
    "hook of the body": changed(lambda n: n.first.register_forward_hook(lambda m, i, o: 2 * o)),
    "pre-hook of the root": changed(lambda n: n.register_forward_pre_hook(lambda m, i: -i[0])),
    "own forward": changed(lambda n: setattr(n, "forward", lambda x: n.fc(n.first(x).sin()))),
    "attribute of the head": changed(lambda n: setattr(n.fc, "note", 3.0)),
    "bounded parameters": Positive,
    "fixed numbers": lambda: Remembers(torch.arange),
    "reversed before": net(lambda s, x: s.fc(Reverse.apply(s.z(x)))),
    "detached": net(lambda s, x: s.fc(s.z(x).detach() * s.first.weight.exp().sum(1))),
    "dropout of nothing": net(lambda s, x: s.fc(F.dropout(s.z(x), 0.0))),
    "units of one": net(lambda s, x: s.fc(s.z(x)) * torch.ones(()) + torch.zeros(())),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's weight norm
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_accepted_is_the_module(name):
    parts = bilevel.split(RIGHT[name])
    problem = problem_around(parts, ROWS)
    body = start(parts, torch.float64)
    found = bilevel.hypergradient(problem, body)
    theta = found.response.head
    module = bilevel.assign(RIGHT[name]().double(), body, theta)
    outputs, targets = module(ROWS), problem.data()["train"].targets
    torch.testing.assert_close(
        parts.predict(body, theta, ROWS).reshape(outputs.shape), outputs, rtol=1e-10, atol=1e-12
    )
    errors = outputs.reshape(targets.shape) - targets
    value = 0.5 * errors.square().sum() / len(ROWS)
    value = value + 0.5 * problem.ridge * theta[:-1].square().sum()
    value.backward()
    assert found.value == pytest.approx(value.item(), rel=1e-10)
    assert max(float(slope.abs().max()) for slope in found.body.values()) > 1e-5
    for key, slope in found.body.items():
        wanted = module.get_parameter(key).grad
        wanted = torch.zeros_like(slope) if wanted is None else wanted
        torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-11)


def test_rows_are_looked_at_once_for_each_kind():
    calls = []
    parts = bilevel.split(net(lambda s, x: (calls.append(x.shape), s.fc(s.z(x)))[1]))
    body = start(parts)
    kinds = [(body, ROWS.float()), ({k: v.double() for k, v in body.items()}, ROWS)]
    counts = []
    for _ in range(3):
        for kind in kinds:
            calls.clear()
            parts.features(*kind)
            counts.append(len(calls))
            assert calls[-1] == ROWS.shape
            assert all(shape[0] <= 4 for shape in calls[:-1])
    assert counts[2:] == [1] * 4
    assert counts[0] == counts[1] > 5


def test_one_row_tells_nothing_of_a_mixture_and_two_do():
    parts = bilevel.split(net(lambda s, x: s.fc(s.z(x) - 0.01 * s.z(x).mean(0))))
    body = start(parts)
    rows = ROWS.float()
    for some in (rows[:1], rows[:1], rows[:1].repeat(4, 1), rows[:0]):
        assert parts.features(body, some).shape == (len(some), 4)
    with pytest.raises(ProblemError, match="depend on the rows"):
        parts.features(body, rows[:2])


def test_an_example_finds_it_when_the_network_is_split():
    for example in (ROWS, ROWS.float()):
        with pytest.raises(ProblemError, match="depend on the rows"):
            bilevel.split(net(lambda s, x: s.fc(s.z(x).softmax(0))), example=example)
    before = torch.get_rng_state()
    assert bilevel.split(Net, example=ROWS).outputs is None
    assert bilevel.split(Words, "fc", example=TOKENS).head_shape == (5,)
    assert torch.equal(torch.get_rng_state(), before)
    for wrong in (ROWS[:0], torch.ones(()), [[1.0] * 5]):
        with pytest.raises(ArgumentError, match="`example` must be a tensor of rows"):
            bilevel.split(Net, example=wrong)


def test_global_hooks_are_honoured_or_refused():
    parts = bilevel.split(Net)
    body = start(parts)
    plain = parts.features(body, ROWS.float())
    seen = []
    looks = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m)))
    with looks:
        assert torch.equal(parts.features(body, ROWS.float()), plain)
    assert nn.Linear in seen
    for scales in (
        lambda m, i, o: 2 * o if isinstance(m, nn.Linear) else None,
        lambda m, i, o: 2 * o if type(m) is nn.Linear and m.out_features == 1 else None,
    ):
        with (
            nn.modules.module.register_module_forward_hook(scales),
            pytest.raises(ProblemError, match=r"after its head|is not the module"),
        ):
            parts.features(body, ROWS.float())
    assert torch.equal(parts.features(body, ROWS.float()), plain)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_split_networks_can_be_copied(duplicate):
    parts = bilevel.split(Net)
    body = start(parts)
    before = duplicate(parts)
    z = parts.features(body, ROWS.float())
    for again in (before, duplicate(parts)):
        assert torch.equal(again.features(body, ROWS.float()), z)


def test_a_deep_chaotic_network_is_not_taken_for_a_mixture():
    """Rounding grows to the size of the features, in float32 and in float64."""

    def forward(self, x):
        z = self.first(x)
        for _ in range(60):
            z = torch.sin(30 * z + torch.roll(z, 1, 1))
        return self.fc(z)

    parts = bilevel.split(net(forward))
    body = start(parts)
    for dtype in (torch.float32, torch.float64):
        at, rows = {k: v.to(dtype) for k, v in body.items()}, ROWS.to(dtype)
        moved = {**at, "first.bias": at["first.bias"] * (1 + 4 * torch.finfo(dtype).eps)}
        assert float((parts.features(at, rows) - parts.features(moved, rows)).abs().max()) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tables_that_a_short_type_rounds_are_no_difference(dtype):
    """Where rounding shows, numbers in float64 are compared: then the tables are whole again."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.fc = nn.ModuleList(nn.Linear(5, 5) for _ in range(6)), nn.Linear(5, 1)
            self.register_buffer("shift", torch.full((5,), 0.1, dtype=torch.float64))

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x) + self.shift) + x
            return self.fc(x)

    parts = bilevel.split(Shifted, example=ROWS.to(dtype))
    assert parts.features(start(parts, dtype), ROWS.to(dtype)).dtype == dtype


def test_several_vectors_for_a_row_are_accepted():
    """One for each token, in either order, as a language model's."""
    for turn in (lambda z: z, lambda z: z.transpose(0, 1)):

        class Language(nn.Module):
            def __init__(self, turn=turn):
                super().__init__()
                self.embed, self.fc, self.turn = nn.Embedding(9, 4), nn.Linear(4, 9), turn

            def forward(self, tokens):
                return self.fc(self.turn(torch.tanh(self.embed(tokens))).flatten(0, 1))

        parts = bilevel.split(Language)
        body = start(parts)
        assert parts.features(body, TOKENS).shape == (23 * 4, 4)
