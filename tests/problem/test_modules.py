"""Networks split into body and head: the functions, their derivatives, training, the way back."""

import pytest
import torch
from networks import INPUTS, NETWORKS, TRAIN, Classes, Convolution, Digits, Normed
from small_problems import doubles
from torch import nn

import bilevel
from bilevel import trees
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.training import compiled as compiled_module

TWO = bilevel.TwoTimescale(1e-3, 1e-2)
EXACT = bilevel.BestResponse(1e-3)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def start(problem, runs=1):
    """Bodies and heads of `runs` runs, float64; heads that are not small."""
    body = trees.stack([problem.init_body(generator(r)) for r in range(runs)])
    head = trees.stack([problem.init_head(generator(10 + r)) for r in range(runs)])
    return trees.cast(body, torch.float64), 3 * head.double()


def plain(make_module, body, head, run=0):
    """An ordinary module with the numbers of one run, float64."""
    return bilevel.assign(make_module().double(), body, head, run=run)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_split_network_computes_what_the_network_computes(name):
    make_module, head_name = NETWORKS[name]
    problem = Digits(make_module, head_name)
    body, head = start(problem, runs=3)
    found = Oracles(problem).predictions(body, head, INPUTS[:23])
    for run in range(3):
        net, one = plain(make_module, body, head, run), trees.take(body, run)
        with torch.no_grad():
            expected = net(INPUTS[:23])
        logits = problem.parts.predict(one, head[run], INPUTS[:23])
        assert expected.std() > 0.01
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[run], expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Digits, name) for name in NETWORKS]
    + [(Classes, name) for name in NETWORKS if bilevel.split(*NETWORKS[name]).outputs == 10],
)
def test_gradients_are_those_of_the_plain_network(name, kind):
    make_module, head_name = NETWORKS[name]
    problem = kind(make_module, head_name)
    body, head = start(problem, runs=2)
    rows = Rows(
        trees.tree_map(lambda x: x[:19], {"train": problem.data()["train"]}), {"train": None}
    )
    in_body, in_head = Oracles(problem).joint_gradient(body, head, rows)
    for run in range(2):
        net = plain(make_module, body, head, run)
        net_head = net.get_submodule(head_name)
        inputs, targets = rows.groups["train"]
        if kind is Digits:
            errors = net(inputs) - targets
            value = 0.5 * errors.square().sum() / len(errors)
            value = value + 0.5 * problem.ridge * net_head.weight.square().sum()
        else:
            value = nn.functional.cross_entropy(net(inputs), targets)
            value = value + 0.05 * sum(p.square().sum() for p in net_head.parameters())
        value.backward()
        for key, parameter in net.named_parameters():
            if key in body:
                assert float(in_body[key].abs().max()) > 1e-5
                torch.testing.assert_close(
                    in_body[key][run], parameter.grad, rtol=1e-10, atol=1e-12
                )
        slope = net_head.weight.grad.T
        if net_head.bias is not None:
            slope = torch.cat([slope, net_head.bias.grad.unsqueeze(0)])
        found = in_head[run].reshape(slope.shape)
        torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["convolution", "attention", "transformer, eval"])
def test_second_derivatives_pass_through_the_network(name):
    """Reverse over reverse against central differences of the gradient."""
    problem = Digits(*NETWORKS[name])
    oracles, (body, head) = Oracles(problem), start(problem)
    rows = Rows(
        trees.tree_map(lambda x: x[:7], {"train": problem.data()["train"]}), {"train": None}
    )
    vector = doubles(3, *head.shape)
    found = oracles.cross_vjp(body, head, vector, rows)
    ahead, behind = (
        oracles.direct_gradient(body, head + sign * 1e-4 * vector, rows) for sign in (1, -1)
    )
    for key in body:
        slope = (ahead[key] - behind[key]) / 2e-4
        torch.testing.assert_close(found[key], slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("strategy", [TWO, EXACT], ids=["two-timescale", "best response"])
@pytest.mark.parametrize("name", ["convolution", "attention", "norms, one output"])
def test_networks_train_together_as_alone_and_go_back_into_a_module(name, strategy):
    make_module, head_name = NETWORKS[name]
    problem = Digits(make_module, head_name)

    def train(seeds):
        return bilevel.solve(problem, strategy, steps=12, batch_size=16, seeds=seeds, every=6)

    together = train(3)
    objective = together.history["objective"]
    assert bool((objective[-1] < 0.99 * objective[0]).all())
    assert together.status == (bilevel.Status.COMPLETED,) * 3
    predictions = together.predict(INPUTS[TRAIN:])
    for seed in range(3):
        alone = train([seed])
        for key, leaf in together.body.items():
            torch.testing.assert_close(leaf[seed], alone.body[key][0], rtol=1e-5, atol=1e-5)
        alone_predictions = alone.predict(INPUTS[TRAIN:])[0]
        torch.testing.assert_close(predictions[seed], alone_predictions, rtol=1e-5, atol=1e-5)
        net = bilevel.assign(make_module(), together.body, together.head, run=seed)
        with torch.no_grad():
            expected = net(INPUTS[TRAIN:].float())
        torch.testing.assert_close(predictions[seed], expected, rtol=1e-5, atol=1e-5)
    assert float((predictions[0] - predictions[1]).abs().max()) > 1e-2


def test_cross_entropy_trains_a_convolution():
    solution = bilevel.solve(Classes(Convolution), TWO, steps=60, batch_size=32, seeds=3, every=60)
    objective = solution.history["objective"]
    assert bool((objective[-1] < 0.9 * objective[0]).all())


def test_a_seed_is_drawn_from_the_generator_and_from_nothing_else():
    parts = bilevel.split(Convolution)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    bodies = [parts.init_body(generator(seed)) for seed in (0, 0, 1)]
    heads = [parts.init_head(generator(seed)) for seed in (0, 0, 1)]
    bilevel.split(Convolution)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert trees.equal(bodies[0], parts.init_body(generator(0)))
    assert trees.equal(bodies[0], bodies[1])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(bodies[0]["first.weight"], bodies[2]["first.weight"])


def test_starts_are_those_of_the_module_in_the_head_s_convention():
    made = []

    def make_module():
        made.append(Convolution())
        return made[-1]

    parts = bilevel.split(make_module)
    body, head = parts.init_body(generator(0)), parts.init_head(generator(0))
    of_body, of_head = made[-2:]  # one seed, hence one start
    assert trees.equal(body, {k: p.detach() for k, p in of_body.named_parameters() if k in body})
    assert torch.equal(head, torch.cat([of_head.fc.weight.T, of_head.fc.bias[None]]).detach())
    assert list(body) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert parts.fit_bias
    assert (parts.outputs, parts.head_shape) == (10, (46, 10))
    one = bilevel.split(Normed)
    assert (one.outputs, one.head_shape, one.init_head(generator(0)).shape) == (None, (13,), (13,))


def test_a_draw_leaves_no_graph_behind():
    parts = bilevel.split(Convolution)
    body, head = parts.init_body(generator(0)), parts.init_head(generator(0))
    assert not any(leaf.requires_grad for leaf in (*body.values(), head))


def test_assign_takes_one_run_or_names_it():
    parts, net = bilevel.split(Convolution), Convolution()
    body, head = parts.init_body(generator(0)), parts.init_head(generator(1))
    stacked = {key: torch.stack([leaf + 1, leaf]) for key, leaf in body.items()}
    assert bilevel.assign(net, body, head) is net
    expected = net(INPUTS[:5].float())
    again = bilevel.assign(Convolution(), stacked, torch.stack([head + 1, head]), run=1)
    assert torch.equal(again(INPUTS[:5].float()), expected)
    torch.testing.assert_close(expected, parts.predict(body, head, INPUTS[:5].float()))
    assert all(p.requires_grad for p in net.parameters())


def test_one_output_may_keep_its_axis():
    parts = bilevel.split(Normed)
    body, head = parts.init_body(generator(0)), parts.init_head(generator(1))
    nets = [bilevel.assign(Normed(), body, theta) for theta in (head, head.unsqueeze(1))]
    assert torch.equal(*(net(INPUTS[:5].float()) for net in nets))


def test_a_head_with_two_names_is_one_head():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3))
            self.fc = self.layers[3]

        def forward(self, x):
            return self.layers(x)

    for name in ("fc", "layers.3"):
        parts = bilevel.split(Twice, name)
        body, head = parts.init_body(generator(0)), parts.init_head(generator(1))
        assert list(body) == ["layers.1.weight", "layers.1.bias"]
        net = bilevel.assign(Twice(), body, head)
        found = parts.predict(body, head, INPUTS[:5].float())
        torch.testing.assert_close(found, net(INPUTS[:5].float()))


def test_token_inputs_are_embedded():
    parts = bilevel.split(
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Tanh(), nn.Linear(12, 2)), "3"
    )

    class Tokens(Digits):
        outputs, fit_bias = 2, True

        def __init__(self):
            self.parts = parts

        def data(self, seed=None):
            tokens = torch.randint(9, (40, 3), generator=generator(0))
            return {"train": bilevel.Batch(tokens, doubles(1, 40, 2))}

    solution = bilevel.solve(Tokens(), TWO, steps=20, batch_size=8, seeds=2, every=20)
    objective = solution.history["objective"]
    assert bool((objective[-1] < 0.95 * objective[0]).all())
    tokens = torch.tensor([[0, 8, 3], [1, 1, 1]])
    body = {name: leaf[1] for name, leaf in solution.body.items()}
    expected = parts.predict(body, solution.head[1], tokens)
    for given in (tokens, tokens.numpy().astype("int32")):
        torch.testing.assert_close(solution.predict(given)[1], expected)


@pytest.mark.slow  # the compilation of a convolution with attention
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler
def test_convolution_and_attention_compile(monkeypatch):
    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 1)
    problem = Digits(*NETWORKS["patches, eval"])
    # SGD: the bias of keys has no gradient but rounding, which RMSProp would scale up
    strategy = bilevel.TwoTimescale(1e-2, 1e-1, bilevel.SGD(), order="simultaneous")
    compiled, eager = (
        bilevel.solve(problem, strategy, steps=5, batch_size=16, seeds=2, every=5, compile=flag)
        for flag in (True, False)
    )
    assert len(vars(problem)["_compiled"]) == 1
    for key, leaf in eager.body.items():
        torch.testing.assert_close(compiled.body[key], leaf, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled.head, eager.head, rtol=1e-5, atol=1e-6)
