"""Neural TDC and value errors over LSTD heads, against formulas and derivatives made elsewhere."""

import numpy as np
import pytest
import torch
from mspbe_reference import complex_step, features, reference_moments, reference_mspbe, relative
from torch import nn

import bilevel
from bilevel import trees
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError, ShapeError, UnknownNameError
from problems.mspbe import (
    Known,
    LeastSquaresValues,
    Logged,
    LSTDValues,
    NeuralMSPBE,
    Redrawn,
    Transitions,
    exact,
    experience,
    random_process,
    random_walk,
)
from problems.mspbe.bodies import Layers, Module
from problems.mspbe.degeneracy import DirectGradient

D, M, STATES = 6, 4, 9
PROCESS = random_process(STATES, branching=3, discount=0.9, seed=5, input_width=D)
BODIES = {
    "two-layer tanh": Layers(D, (M,), "tanh"),
    "two-layer softplus": Layers(D, (M,), "softplus"),
    "deep tanh": Layers(D, (5, 7, M), "tanh"),
    "deep softplus": Layers(D, (5, M), "softplus"),
}


def off_policy():
    """A walk of 9 states with ratios, ends, and inputs of D columns."""
    walk = random_walk(STATES, "tabular", discount=0.9, right=0.7, behaviour_right=0.4)
    inputs = torch.from_numpy(np.random.default_rng(3).standard_normal((STATES, D)))
    return type(walk)(**{
        name: inputs if name == "inputs" else getattr(walk, name)
        for name in walk.__dataclass_fields__
        if name != "initial_head"
    })  # fmt: skip


def drawn(network, seed=0):
    """A body, a head and an auxiliary variable of one run."""
    generator = torch.Generator().manual_seed(seed)
    body = network.init_body(generator)
    head, auxiliary = torch.randn(2, network.width, generator=generator, dtype=torch.float64)
    return body, head, auxiliary


def directions(problem, body, head, auxiliary):
    """Of one run on all rows, by the oracles."""
    data = bilevel.data.training_data.TrainingData(problem, [0], torch.float64, "cpu")
    rows = bilevel.data.sampler.Sampler(data, None, ("train",)).full
    levels = (trees.single(level) for level in (body, head, auxiliary))
    return trees.take(Oracles(problem).directions(*levels, rows), 0)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("process", [PROCESS, off_policy()], ids=["on-policy", "off-policy"])
def test_expected_directions_are_half_of_the_gradient(body, process):
    network = BODIES[body]
    weights, head, _ = drawn(network)
    arrays = [leaf.numpy() for leaf in weights.values()]
    sigma = network.activation

    def value(moved):
        return reference_mspbe(moved[:-1], moved[-1], process, sigma)

    expected = complex_step(value, [*arrays, head.numpy()])
    _, a, b, c = reference_moments(arrays, process, sigma)
    auxiliary = torch.from_numpy(np.linalg.solve(c, b - a @ head.numpy()))
    enumerated = Logged(experience.expected(process), process.discount)
    for source in (Known(process), enumerated):
        problem = NeuralMSPBE(source, network)
        found = directions(problem, weights, head, auxiliary)
        halves = [2 * leaf.numpy() for leaf in (*found[0].values(), found[1])]
        assert relative(halves, expected) < 1e-12
        assert float(found[2].abs().max()) < 1e-12
        data = bilevel.data.training_data.TrainingData(problem, [0], torch.float64, "cpu")
        rows = bilevel.data.sampler.Sampler(data, None, ("train",)).full
        levels = (trees.single(weights), trees.single(head))
        slope, of_head = trees.take(Oracles(problem).joint_gradient(*levels, rows), 0)
        by_autograd = [leaf.numpy() for leaf in (*slope.values(), of_head)]
        assert relative(by_autograd, expected) < 1e-10


def test_gradients_against_central_differences():
    network = BODIES["deep softplus"]
    weights, head, _ = drawn(network, 1)
    arrays = [leaf.numpy() for leaf in weights.values()]
    _, a, b, c = reference_moments(arrays, PROCESS, "softplus")
    auxiliary = torch.from_numpy(np.linalg.solve(c, b - a @ head.numpy()))
    found = directions(NeuralMSPBE(Known(PROCESS), network), weights, head, auxiliary)
    along = [np.cos(np.arange(x.size).reshape(x.shape)) for x in arrays]

    def moved(step):
        at = [x + step * u for x, u in zip(arrays, along, strict=True)]
        return reference_mspbe(at, head.numpy(), PROCESS, "softplus")

    step = 1e-3  # the error of this stencil is of sixth order
    stencil = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    slope = sum(w * (moved(k * step) - moved(-k * step)) for k, w in stencil.items()) / step
    half = sum((leaf.numpy() * u).sum() for leaf, u in zip(found[0].values(), along, strict=True))
    assert abs(2 * half - slope) < 1e-10 * abs(slope)


def test_sampled_directions_are_the_formulas_of_two_layers():
    network, gamma, n = BODIES["two-layer tanh"], 0.9, 3
    random = np.random.default_rng(0)
    rows = Transitions(
        inputs=random.standard_normal((n, D)),
        next_inputs=random.standard_normal((n, D)),
        rewards=random.standard_normal(n),
        ratios=np.array([0.5, 1.0, 3.0]),
        continues=np.array([1.0, 0.0, 1.0]),
        weights=np.array([0.25, 2.0, 0.75]),
    )
    weights, head, auxiliary = drawn(network)
    w, theta, omega = weights["weight1"].numpy(), head.numpy(), auxiliary.numpy()
    expected = [np.zeros_like(w), np.zeros(M), np.zeros(M)]

    def d(u, x):  # D_u(x) = x (u o sigma'(W^T x))^T
        return np.outer(x, u * (1 - np.tanh(x @ w) ** 2))

    for i in range(n):
        x, x_next, rho = rows.inputs[i], rows.next_inputs[i], rows.ratios[i]
        follow, share = gamma * rows.continues[i], rows.weights[i] / n
        phi, phi_next = np.tanh(x @ w), np.tanh(x_next @ w)
        delta, q = rows.rewards[i] + follow * phi_next @ theta - phi @ theta, phi @ omega
        outer = follow * d(theta, x_next) - d(theta, x)
        expected[0] += share * ((rho * delta - q) * d(omega, x) + rho * q * outer)
        expected[1] -= share * rho * (delta * phi - follow * phi_next * q)
        expected[2] -= share * (rho * delta - q) * phi
    logged = Logged(Transitions(*map(torch.from_numpy, rows)), gamma)
    found = directions(NeuralMSPBE(logged, network), weights, head, auxiliary)
    for leaf, value in zip((found[0]["weight1"], *found[1:]), expected, strict=True):
        np.testing.assert_allclose(leaf, value, rtol=1e-12, atol=1e-14)


def test_a_module_is_a_body_like_any_other():
    def make():
        layers = (nn.Linear(D, M, bias=False), nn.Tanh(), nn.Linear(M, 1, bias=False))
        return nn.Sequential(*layers).double()

    source = Known(off_policy(), "iid", 50)
    ours, theirs = (
        NeuralMSPBE(source, BODIES["two-layer tanh"]),
        NeuralMSPBE(source, Module(make, "2")),
    )
    weights, head, auxiliary = drawn(ours.network)
    expected = directions(ours, weights, head, auxiliary)
    found = directions(theirs, {"0.weight": weights["weight1"].T}, head, auxiliary)
    torch.testing.assert_close(found[0]["0.weight"].T, expected[0]["weight1"])
    torch.testing.assert_close(found[1:], expected[1:])
    biased = Module(lambda: nn.Sequential(nn.Linear(D, M), nn.Tanh(), nn.Linear(M, 1)), "2")
    options = {"batch_size": 4, "seeds": 2}
    solution = bilevel.solve(NeuralMSPBE(source, biased), SINGLE, steps=10, **options)
    assert solution.head.shape == (2, M + 1)


def test_a_shift_moves_the_auxiliary_solution_and_keeps_the_gradient():
    shift, network = 0.3, BODIES["two-layer tanh"]
    problem = NeuralMSPBE(Known(PROCESS), network, shift=shift)
    weights, head, _ = drawn(network)
    found = exact.moments(network.features(weights, PROCESS.inputs), PROCESS.model, 0.9)
    shifted = found.c + shift * torch.eye(M, dtype=torch.float64)
    auxiliary = torch.linalg.solve(shifted, found.b - found.a @ head)
    weights["weight1"].requires_grad_()
    z = network.features(weights, PROCESS.inputs)
    moments = exact.moments(z, PROCESS.model, 0.9)
    residual = moments.b - moments.a @ head
    shifted = moments.c + shift * torch.eye(M, dtype=torch.float64)
    value = residual @ torch.linalg.solve(shifted, residual)
    (slope,) = torch.autograd.grad(value, weights["weight1"])
    half = directions(problem, trees.detach(weights), head, auxiliary)
    torch.testing.assert_close(2 * half[0]["weight1"], slope, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(half[1], -found.a.T @ auxiliary, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "relu", "silu"])
def test_derivatives_by_hand_are_those_of_autograd(activation):
    class Differentiated(Layers):
        def closed_form(self, body, inputs):
            return None

    source = Known(off_policy(), "iid", 30)
    sizes = (D, (5, 3, M), activation)
    levels = drawn(Layers(*sizes))
    found, expected = (
        directions(NeuralMSPBE(source, network), *levels)
        for network in (Layers(*sizes), Differentiated(*sizes))
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert (Layers(*sizes).closed_form(levels[0], torch.ones(2, D).double()) is None) == (
        activation == "silu"
    )


def test_compiled_directions_multiply_matrices_twice():
    graphs = []

    def noted(graph, examples):
        graphs.append(graph)
        return graph

    runs, layers = 3, Layers(8, (10,))
    problem = NeuralMSPBE(Known(random_process(STATES), "iid", 30), layers)
    levels = trees.stack([drawn(layers, seed) for seed in range(runs)])
    data = bilevel.data.training_data.TrainingData(problem, range(runs), torch.float64, "cpu")
    batch = data.gather({"train": torch.arange(runs).unsqueeze(1)})
    compiled = torch.compile(
        problem.directions_of_runs, fullgraph=True, dynamic=False, backend=noted
    )
    eager = problem.directions_of_runs(*levels, batch)
    torch.testing.assert_close(compiled(*levels, batch), eager, rtol=1e-12, atol=1e-14)
    named = [str(node.target) for node in graphs[0].graph.nodes]
    assert len([name for name in named if "matmul" in name]) == 2  # eagerly 5


SINGLE = bilevel.SingleLoop(
    bilevel.Polynomial(0.05, 0.6), bilevel.Polynomial(0.5, 0.4), bilevel.Polynomial(1.0, 0.4)
)
CONTROLS = {
    "Algorithm 1": SINGLE,
    "frozen body": bilevel.SingleLoop(0.0, SINGLE.head_lr, SINGLE.auxiliary_lr),
}


@pytest.mark.usefixtures("untimed")
def test_mspbe_falls_and_the_report_says_what_that_is_worth():
    problem = NeuralMSPBE(Known(PROCESS), BODIES["two-layer tanh"])
    found = bilevel.compare(problem, CONTROLS, seeds=2, steps=100, batch_size=None)
    history = found.history["Algorithm 1"]
    assert {"test_msve", "test_lstd_msve", "test_mspbe", "test_rmspbe"} <= set(history)
    assert (history["test_mspbe"][-1] < 0.3 * history["test_mspbe"][0]).all()
    assert found.headline == "test_msve"
    assert "MSPBE is 0 at the exact best response" in found.settings["data_note"]


def test_best_response_has_nothing_to_follow():
    problem = NeuralMSPBE(Known(PROCESS), BODIES["two-layer tanh"])
    options = {"batch_size": None, "seeds": 2, "dtype": torch.float64, "every": 20}
    solution = bilevel.solve(
        problem, bilevel.BestResponse(0.1, optimizer=bilevel.SGD()), steps=20, **options
    )
    assert float(solution.history["phi_gradient_norm"].max()) < 1e-12
    assert float(solution.history["test_mspbe"].max()) < 1e-24
    found = dict(bilevel.check_problem(problem))
    assert found["best response"].startswith("Phi is constant at the exact best response")
    assert "best response" not in dict(bilevel.check_problem(LeastSquaresValues(Known(PROCESS))))


# value errors over LSTD heads


@pytest.mark.parametrize("upper", ["msve", "msbe", "return error"])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_implicit_gradients_of_lstd_heads(upper, ridge):
    network, process = BODIES["two-layer tanh"], off_policy()
    random = np.random.default_rng(1)
    x, returns = random.standard_normal((7, D)), random.standard_normal(7)
    source = Known(process)
    if upper == "return error":
        returned = bilevel.Batch(torch.from_numpy(x), torch.from_numpy(returns))
        source = Logged(experience.expected(process), process.discount, returned)
    problem = LSTDValues(upper, source, network, ridge=ridge)
    body = drawn(network)[0]

    def value(moved):
        z, a, b, _ = reference_moments(moved, process, "tanh")
        theta, model = np.linalg.solve(a + ridge * np.eye(M), b), process.model
        d, p, r, v = (
            t.numpy() for t in (model.weights, model.transitions, model.rewards, model.values)
        )
        errors = z @ theta - (v if upper == "msve" else r + process.discount * p @ z @ theta)
        if upper == "return error":
            errors, d = features(moved, x, "tanh") @ theta - returns, np.full(7, 1 / 7)
        return (d * errors**2).sum()

    found = bilevel.hypergradient(problem, body)
    expected = complex_step(value, [body["weight1"].numpy()])
    assert relative([found.body["weight1"].numpy()], expected) < 1e-9
    assert abs(found.value - value([body["weight1"].numpy()])) < 1e-9 * found.value
    direct = bilevel.solve(
        problem,
        bilevel.BestResponse(1.0, gradient=DirectGradient(), optimizer=bilevel.SGD()),
        steps=1,
        batch_size=None,
        seeds=1,
        dtype=torch.float64,
    )
    assert bool(direct.body["weight1"].isfinite().all())


def test_soba_moves_the_body_of_an_lstd_head():
    problem = LSTDValues("msve", Known(PROCESS), BODIES["two-layer tanh"])
    strategy = bilevel.SingleLoop(0.002, 0.2, 0.2)
    solution = bilevel.solve(problem, strategy, steps=100, batch_size=None, seeds=2)
    before, after = solution.history["test_lstd_msve"][[0, -1]]
    assert bool((after < before).all())


def test_every_seed_has_a_process_of_its_own():
    source = Redrawn(lambda seed: random_process(STATES, 3, 0.9, seed, D))
    options = {"batch_size": None, "dtype": torch.float64}
    many = bilevel.solve(
        LeastSquaresValues(source), bilevel.BestResponse(0.01), steps=3, seeds=3, **options
    )
    alone = LeastSquaresValues(Known(random_process(STATES, 3, 0.9, 2, D)))
    one = bilevel.solve(alone, bilevel.BestResponse(0.01), steps=3, seeds=[2], **options)
    torch.testing.assert_close(many.head[2], one.head[0], rtol=1e-9, atol=1e-11)


def test_logged_transitions_have_their_own_metrics():
    rows = experience.draw(PROCESS, "markovian", 60, seed=0)
    returns = bilevel.Batch(rows.inputs[:9], torch.arange(9.0, dtype=torch.float64))
    problem = NeuralMSPBE(Logged(rows, 0.9, returns), BODIES["two-layer tanh"])
    solution = bilevel.solve(
        problem, SINGLE, steps=20, batch_size=4, seeds=2, sampling="sequential"
    )
    assert {"train_mspbe", "validation_return_error"} <= set(solution.history)


def test_what_cannot_be_is_refused():
    with pytest.raises(ShapeError, match=r"all 9 states, got a batch of 4.*batch_size=None"):
        bilevel.solve(
            NeuralMSPBE(Known(PROCESS), BODIES["deep tanh"]), SINGLE, steps=1, batch_size=4
        )
    rows = experience.draw(PROCESS, "iid", 10, seed=0)
    with pytest.raises(IncompatibleError, match="'msve' needs a known process"):
        LSTDValues("msve", Logged(rows, 0.9))
    with pytest.raises(IncompatibleError, match="needs Monte-Carlo returns"):
        LSTDValues("return error", Known(PROCESS))
    with pytest.raises(UnknownNameError, match="msve"):
        LSTDValues("msvee", Known(PROCESS))
    with pytest.raises(IncompatibleError, match="2 outputs; a value function has one"):
        Module(lambda: nn.Sequential(nn.Linear(D, M), nn.Linear(M, 2)), "1")
    with pytest.raises(IncompatibleError, match="need expectations"):
        LeastSquaresValues(Known(PROCESS, "iid"))
