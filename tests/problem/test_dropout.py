"""Dropout in bodies: masks by run and step, none where a network is evaluated."""

import pytest
import torch
from small_problems import doubles, grouped
from torch import nn
from torch.func import vmap

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, ProblemError
from bilevel.problem.network.masks import uniform

D, WIDTH, P = 3, 5, 0.4


def network(dropout=None):
    layers = [nn.Linear(D, WIDTH), nn.Tanh(), dropout or nn.Dropout(P), nn.Linear(WIDTH, 1)]
    return nn.Sequential(*layers).double()


class Dropped(bilevel.LinearHeadProblem):
    """A network with dropout."""

    ridge, fit_bias = 1e-2, True

    def __init__(self, make=network):
        self.net = bilevel.split(make, head="3", masks=True)

    def data(self, seed=None):
        return grouped(0)

    def init_body(self, generator):
        return self.net.init_body(generator)

    def init_head(self, generator):
        return self.net.init_head(generator)

    def noise(self, generator, steps):
        return self.net.noise(generator, steps)

    def features(self, body, inputs):
        return self.net.features(body, inputs)

    def noisy_features(self, body, inputs, noise):
        return self.net.features(body, inputs, noise)


OPTIONS = {"steps": 12, "every": 4, "batch_size": 7, "dtype": torch.float64}
STRATEGIES = {
    "two-timescale": bilevel.TwoTimescale(0.02, 0.1),
    "simultaneous": bilevel.TwoTimescale(0.02, 0.1, order="simultaneous", head_steps=2),
    "all rows": bilevel.BestResponse(0.02),
    "the batch": bilevel.BestResponse(0.02, bilevel.ClosedForm(bilevel.BatchData())),
    "implicit": bilevel.BestResponse(0.02, gradient=bilevel.Implicit()),
    "few steps": bilevel.BestResponse(0.02, bilevel.FastSGD(0.3, 5)),
}


def same(one, other):
    for a, b in zip(trees.leaves(one), trees.leaves(other), strict=True):
        assert torch.equal(a, b)


def test_masks_are_zeros_and_ones_of_the_right_share():
    problem = Dropped()
    body = problem.init_body(torch.Generator().manual_seed(0))
    inputs = doubles(1, 2000, D)
    keys = problem.noise(torch.Generator().manual_seed(1), 4)
    whole = problem.features(body, inputs)
    shares = []
    for key in keys:
        ratio = problem.net.features(body, inputs, key) / whole
        assert torch.allclose(ratio * (1 - P), (ratio > 0).double(), rtol=1e-12)
        shares.append(float((ratio == 0).double().mean()))
        assert shares[-1] == pytest.approx(P, abs=4 * (P * (1 - P) / ratio.numel()) ** 0.5)
    assert len(set(shares)) == 4
    assert torch.equal(problem.net.features(body, inputs, keys[0] * 0), whole)


def test_a_key_gives_the_same_mask_again_in_every_order_and_mapped():
    shape = torch.Size([6, 4])
    keys = torch.randint(1, 1 << 62, (5,), generator=torch.Generator().manual_seed(0))
    mapped = vmap(lambda key: uniform(shape, key, 1, torch.device("cpu")))(keys)
    for key, found in zip(keys, mapped, strict=True):
        assert torch.equal(uniform(shape, key, 1, torch.device("cpu")), found)
        assert not torch.equal(uniform(shape, key, 2, torch.device("cpu")), found)


def test_masks_are_independent_of_place_layer_and_key():
    keys = torch.cat([torch.arange(1, 101), torch.arange(1, 101) << 32])
    shape, cpu = torch.Size([32, 32]), torch.device("cpu")
    first, second = (
        vmap(lambda key, n=n: uniform(shape, key, n, cpu))(keys).double() - 0.5 for n in (0, 1)
    )
    pairs = [(first[:, 1:], first[:, :-1]), (first[:, :, 1:], first[:, :, :-1]),
             (first[1:100], first[:99]), (first[101:], first[100:-1]), (first, second),
             (first[:, :, 1:], second[:, :, :-1])]  # fmt: skip
    for a, b in pairs:  # correlations of n pairs have the standard deviation 1 / sqrt(n)
        assert abs(float((12 * a * b).mean())) < 4 / a.numel() ** 0.5
    counts = torch.histc(first, 64, -0.5, 0.5)
    expected = first.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 4 * (2 * 63) ** 0.5


@pytest.mark.parametrize("name", STRATEGIES)
def test_trainings_equal_run_by_run_ones_and_go_on_bit_for_bit(name):
    problem, strategy = Dropped(), STRATEGIES[name]
    whole = bilevel.solve(problem, strategy, seeds=3, **OPTIONS)
    for run in range(3):
        alone = bilevel.solve(problem, strategy, seeds=[run], **OPTIONS)
        torch.testing.assert_close(alone.head[0], whole.head[run], rtol=1e-9, atol=1e-12)
        for leaf in alone.body:
            torch.testing.assert_close(
                alone.body[leaf][0], whole.body[leaf][run], rtol=1e-9, atol=1e-12
            )
    first = bilevel.solve(problem, strategy, seeds=3, **{**OPTIONS, "steps": 8})
    more = {**OPTIONS, "steps": 4}
    rest = bilevel.solve(problem, strategy, seeds=3, state=first.state, **more)
    same((rest.body, rest.head), (whole.body, whole.head))


@pytest.mark.parametrize("runs", [1, 2])
def test_fewer_runs_at_once_change_nothing(runs):
    options = {"seeds": 4, **OPTIONS}
    one = bilevel.solve(Dropped(), STRATEGIES["simultaneous"], **options)
    two = bilevel.solve(Dropped(), STRATEGIES["simultaneous"], max_runs_at_once=runs, **options)
    for a, b in zip(trees.leaves(one.body), trees.leaves(two.body), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


class Reused(nn.Module):
    """One dropout layer that is called at two places, as networks often do."""

    def __init__(self):
        super().__init__()
        self.first, self.fc, self.drop = nn.Linear(D, D), nn.Linear(2 * D, 1), nn.Dropout(P)
        self.double()

    def forward(self, x):
        z = self.first(x)
        return self.fc(torch.cat([self.drop(z), self.drop(z)], 1))


def test_a_layer_that_is_called_twice_draws_twice():
    parts = bilevel.split(Reused, head="fc", masks=True)
    body = parts.init_body(torch.Generator().manual_seed(0))
    inputs, key = doubles(1, 500, D), torch.tensor(7)
    z = parts.features(body, inputs, key)
    both = ((z[:, :D] == 0) & (z[:, D:] == 0)).double().mean()
    assert float(both) == pytest.approx(P**2, abs=0.05)
    assert torch.equal(parts.features(body, inputs, key), z)


def by_hand(steps, lr):
    """Gradient steps of both levels at once with torch's own backward pass, for seed 0."""
    problem = Dropped()
    body = problem.init_body(generator(0, "body"))
    head = problem.init_head(generator(0, "head"))
    rows = problem.data()["train"]
    keys = problem.noise(generator(0, "noise", 0), 256)
    for k in range(steps):
        levels = {name: x.clone().requires_grad_() for name, x in body.items()}
        theta = head.clone().requires_grad_()
        z = torch.tanh(rows.inputs @ levels["0.weight"].T + levels["0.bias"])
        kept = uniform(z.shape, keys[k], 0, z.device) >= P
        z = z * kept / (1 - P)
        loss = 0.5 * (z @ theta[:-1] + theta[-1] - rows.targets).square().mean()
        (loss + 0.5 * problem.ridge * theta[:-1].square().sum()).backward()
        body = {name: (x - lr * x.grad).detach() for name, x in levels.items()}
        head = (theta - lr * theta.grad).detach()
    return body, head


def test_steps_are_those_of_masks_by_hand():
    strategy = bilevel.TwoTimescale(0.1, 0.1, bilevel.SGD(), order="simultaneous")
    options = {**OPTIONS, "batch_size": None, "steps": 5}
    found = bilevel.solve(Dropped(), strategy, seeds=1, **options)
    body, head = by_hand(5, 0.1)
    torch.testing.assert_close(found.head[0], head, rtol=1e-12, atol=1e-13)
    for leaf, expected in body.items():
        torch.testing.assert_close(found.body[leaf][0], expected, rtol=1e-12, atol=1e-13)


def test_both_levels_of_a_step_see_the_same_masks():
    """The head of the batch is the minimiser of what the body's gradient is taken of."""
    problem = Dropped()
    solver = bilevel.ClosedForm(bilevel.BatchData())
    strategy = bilevel.BestResponse(1e-9, solver, optimizer=bilevel.SGD())
    options = {**OPTIONS, "steps": 1, "every": 1, "batch_size": None}
    found = bilevel.solve(problem, strategy, seeds=1, **options)
    body = {name: leaf[0] for name, leaf in found.body.items()}
    key = problem.noise(generator(0, "noise", 0), 256)[0]
    z = problem.net.features(body, problem.data()["train"].inputs, key)
    design = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    penalty = torch.diag(torch.tensor([problem.ridge] * WIDTH + [0.0], dtype=torch.float64))
    gram = design.T @ design / len(z) + penalty
    head = torch.linalg.solve(gram, design.T @ problem.data()["train"].targets / len(z))
    torch.testing.assert_close(found.head[0], head, rtol=1e-6, atol=1e-8)


def test_records_and_heads_of_all_rows_are_without_masks():
    problem = Dropped()
    found = bilevel.solve(problem, STRATEGIES["all rows"], seeds=2, **OPTIONS)
    plain = Dropped(lambda: network(nn.Identity()))
    for run in range(2):
        body, head = {name: x[run] for name, x in found.body.items()}, found.head[run]
        response = bilevel.best_response(plain, body)
        torch.testing.assert_close(head, response.head, rtol=1e-8, atol=1e-10)
        train = plain.data()["train"]
        value = plain.head_objective(body, head, {"train": train})
        torch.testing.assert_close(found.history["objective"][-1, run], value, rtol=1e-9, atol=0)
    assert float(found.history["head_gap"][-1].max()) < 1e-8


def test_it_keeps_the_contract_of_a_problem():
    found = {finding.what for finding in bilevel.check_problem(Dropped())}
    assert "noise" in found


def test_masks_change_the_training():
    options = {"seeds": 2, **OPTIONS}
    one = bilevel.solve(Dropped(), STRATEGIES["two-timescale"], **options)
    two = bilevel.solve(
        Dropped(lambda: network(nn.Identity())), STRATEGIES["two-timescale"], **options
    )
    assert not torch.allclose(one.head, two.head, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_steps_have_the_same_masks():
    made = [
        bilevel.solve(Dropped(), STRATEGIES["two-timescale"], seeds=2, compile=c, **OPTIONS)
        for c in (False, True)
    ]
    torch.testing.assert_close(made[0].head, made[1].head, rtol=1e-9, atol=1e-11)


class Own(bilevel.StackelbergProblem):
    """The same written as an objective, which knows nothing of features."""

    net = bilevel.split(network, head="3", masks=True)
    data, init_body, init_head, noise = (
        getattr(Dropped, name) for name in ("data", "init_body", "init_head", "noise")
    )

    def head_objective(self, body, head, batch):
        rows = batch["train"]
        z = self.net.features(body, rows.inputs, batch.get("noise"))
        errors = z @ head[:-1] + head[-1] - rows.targets
        return 0.5 * errors.square().mean() + 0.5e-2 * head[:-1].square().sum()


@pytest.mark.parametrize("batch_size", [7, None])
@pytest.mark.parametrize("name", ["two-timescale", "all rows", "implicit"])
def test_a_problem_with_an_objective_of_its_own_gets_the_key_in_its_batch(name, batch_size):
    """With all rows in a step, too, where masked and other features are of the same rows."""
    options = {**OPTIONS, "batch_size": batch_size, "steps": 4}
    one = bilevel.solve(Own(), STRATEGIES[name], seeds=2, **options)
    two = bilevel.solve(Dropped(), STRATEGIES[name], seeds=2, **options)
    torch.testing.assert_close(one.head, two.head, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("runs", [1, 2])
def test_shared_features_are_told_apart_by_their_masks(runs):
    """With all rows in a step these are the same objects, whatever masks they are under."""
    problem = Dropped()
    body, head = (
        trees.tree_map(lambda leaf: leaf.expand(runs, *leaf.shape), level)
        for level in (
            problem.init_body(torch.Generator().manual_seed(0)),
            problem.init_head(torch.Generator().manual_seed(1)),
        )
    )
    keys = problem.noise(torch.Generator().manual_seed(2), 2)
    train = problem.data()["train"]
    batches = [Rows({"train": train, "noise": key}, {"train": None, "noise": None}) for key in keys]
    oracles = Oracles(problem)
    for ask in (
        lambda rows: oracles.joint_gradient(body, head, rows),
        lambda rows: oracles.cross_vjp(body, head, torch.ones_like(head), rows),
        lambda rows: oracles.linear_parts(body, rows).design,
    ):
        alone = [ask(rows) for rows in batches]
        with oracles.sharing():
            shared = [ask(rows) for rows in batches]
        if runs > 1:
            same(alone, shared)
        else:  # features of one run are not mapped where nothing is shared, which rounds otherwise
            torch.testing.assert_close(alone, shared, rtol=1e-14, atol=1e-15)
        assert not torch.equal(trees.leaves(alone[0])[0], trees.leaves(alone[1])[0])


def test_a_network_without_masks_has_no_noise():
    for make in (lambda: network().eval(), lambda: network(nn.Dropout(0.0))):
        parts = bilevel.split(make, head="3", masks=True)
        assert parts.noise(torch.Generator(), 3) is None
        body = parts.init_body(torch.Generator().manual_seed(0))
        key = torch.tensor(7)
        with pytest.raises(ArgumentError, match="`noise` must be the key of one step"):
            parts.features(body, doubles(1, 4, D), key.double())
        assert torch.equal(parts.features(body, doubles(1, 4, D), key),
                           parts.features(body, doubles(1, 4, D)))  # fmt: skip


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.5), nn.Dropout1d(0.5), nn.RReLU()])
def test_other_layers_that_draw_are_refused(layer):
    with pytest.raises(ArgumentError, match=r"A plain `nn\.Dropout` may stay"):
        bilevel.split(lambda: network(layer), head="3", masks=True)


def test_dropout_is_refused_where_nobody_asked_for_masks():
    with pytest.raises(ArgumentError, match=r"with `split\(\.\.\., masks=True\)`"):
        bilevel.split(network, head="3")


def test_dropout_by_a_function_is_found_out():
    class Own(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, self.training)

    parts = bilevel.split(lambda: network(Own()), head="3", masks=True)
    with pytest.raises(ProblemError, match="draws random numbers"):
        parts.features(parts.init_body(torch.Generator().manual_seed(0)), doubles(1, 4, D))
