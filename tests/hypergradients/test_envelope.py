"""Phi and its gradient: Woodbury, autograd through a dense solve, central differences."""

import itertools

import numpy as np
import pytest
import torch
from linear_heads import ONE, build, normal
from torch.nn import functional

import bilevel
from bilevel import trees
from bilevel.errors import IncompatibleError
from problems.toy import ScalarProduct

D, RIDGE = 3, 0.05
ACTIVATIONS = {"tanh": torch.tanh, "softplus": functional.softplus}
SHAPES = {"n > M": (13, 4), "n < M": (5, 8)}


def network(depth, activation):
    """Features of a network, written here and not taken from `problems`."""

    def features(body, inputs):
        hidden = inputs
        for layer in range(depth):
            hidden = ACTIVATIONS[activation](hidden @ body[f"w{layer}"] + body[f"b{layer}"])
        return hidden

    return features


def body_of(depth, m, seed=0):
    sizes = [D, *[3] * (depth - 1), m]
    found = {}
    for layer, (fan_in, width) in enumerate(itertools.pairwise(sizes)):
        found[f"w{layer}"] = torch.as_tensor(normal([seed, layer, 1], fan_in, width)) / fan_in**0.5
        found[f"b{layer}"] = torch.as_tensor(normal([seed, layer, 2], width)) * 0.3
    return found


def no_weights(body, n):
    return torch.ones(n, dtype=torch.float64)


def moving_weights(body, n):
    return 0.5 + torch.sigmoid(body["w0"].sum() * torch.linspace(-1, 1, n, dtype=torch.float64))


def moving_vector(body, m):
    return RIDGE + 0.1 * torch.exp(body["b0"].sum() * torch.linspace(-1, 1, m).double())


def body_norm(body):
    return 0.02 * sum((leaf**2).sum() for leaf in body.values())


# name -> hooks of the problem, and what they mean to the dense reference
HOOKS = {
    "plain": {},
    "penalty scalar": {"penalty": lambda body, m: RIDGE * torch.exp(body["b0"].mean())},
    "penalty vector": {"penalty": moving_vector},
    "row weights": {"weights": moving_weights},
    "body penalty": {"constant": body_norm},
    "everything": {
        "penalty": moving_vector, "weights": moving_weights, "constant": body_norm,
        "fit_bias": True,
    },
}  # fmt: skip


def case(shape, depth, activation, hooks, k=None):
    """A problem, a body, and Phi as a torch function that goes through a dense solve."""
    n, m = SHAPES[shape]
    x = normal([n, 1], n, D)
    y = normal([n, 2], n) if k is None else normal([n, 2], n, k)
    given, features = HOOKS[hooks], network(depth, activation)
    penalty = given.get("penalty", lambda body, m: torch.tensor(RIDGE, dtype=torch.float64))
    weights, constant = given.get("weights", no_weights), given.get("constant", lambda body: 0.0)
    biased, body = given.get("fit_bias", False), body_of(depth, m)
    options = {"ridge": RIDGE, "fit_bias": biased}
    if "penalty" in given:
        options["penalty"] = lambda body: penalty(body, m)
    if "weights" in given:
        options["row_weights"] = lambda body, batch: weights(body, n)
    if "constant" in given:
        options["body_penalty"] = constant
    problem = build(x, y, features=features, body=body, **options)

    def phi(body):
        z = features(body, torch.as_tensor(x))
        p = penalty(body, m).expand(m)
        if biased:
            z = torch.cat([z, torch.ones(n, 1).double()], 1)
            p = torch.cat([p, torch.zeros(1).double()])
        s, t = weights(body, n), torch.as_tensor(y).reshape(n, -1)
        matrix = z.T @ (s[:, None] * z) / n + torch.diag(p)
        theta = torch.linalg.solve(matrix, z.T @ (s[:, None] * t) / n)
        fit = (s * ((z @ theta - t) ** 2).sum(1)).sum() / (2 * n)
        return fit + 0.5 * (p[:, None] * theta**2).sum() + constant(body)

    return problem, body, phi


def differentiate(phi, body):
    """Phi and its gradient by reverse mode through everything."""
    variables = {name: leaf.clone().requires_grad_() for name, leaf in body.items()}
    value = phi(variables)
    gradients = torch.autograd.grad(value, list(variables.values()))
    return value.item(), dict(zip(variables, gradients, strict=True))


def size(tree):
    return float(trees.norm(trees.single(tree)))


def difference(a, b):
    return trees.tree_map(torch.sub, a, b)


CASES = list(itertools.product(SHAPES, (1, 2), ACTIVATIONS, HOOKS))
NETWORKS = [(1, "tanh"), (2, "softplus")]


@pytest.mark.parametrize(("shape", "depth", "activation", "hooks"), CASES)
def test_value_and_gradient_equal_those_through_a_dense_solve(shape, depth, activation, hooks):
    problem, body, phi = case(shape, depth, activation, hooks)
    found = bilevel.hypergradient(problem, body)
    value, gradient = differentiate(phi, body)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert size(difference(found.body, gradient)) <= 1e-9 * size(gradient)
    assert size(gradient) > 1e-3  # there is something to compare


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 2])
def test_several_outputs(shape, k):
    problem, body, phi = case(shape, 1, "tanh", "everything", k)
    found = bilevel.hypergradient(problem, body)
    value, gradient = differentiate(phi, body)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert size(difference(found.body, gradient)) <= 1e-9 * size(gradient)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2])
def test_woodbury(shape, depth, activation):
    """Phi = lambda/2 y'(ZZ' + n lambda I)^-1 y, in NumPy; its gradient is that of W'dZ'A y."""
    problem, body, _ = case(shape, depth, activation, "plain")
    train = problem.data()["train"]
    n, y = len(train.targets), train.targets
    found = bilevel.hypergradient(problem, body)
    z = network(depth, activation)(body, train.inputs).numpy()
    kernel = z @ z.T + n * RIDGE * np.eye(n)
    expected = 0.5 * RIDGE * y.numpy() @ np.linalg.solve(kernel, y.numpy())
    assert found.value == pytest.approx(expected, rel=1e-9)

    def woodbury(body):
        z = network(depth, activation)(body, train.inputs)
        kernel = z @ z.T + n * RIDGE * torch.eye(n, dtype=torch.float64)
        return (
            0.5 * RIDGE * y @ torch.cholesky_solve(y[:, None], torch.linalg.cholesky(kernel))[:, 0]
        )

    _, gradient = differentiate(woodbury, body)
    assert size(difference(found.body, gradient)) <= 1e-9 * size(gradient)


def value_at(problem, body):
    return bilevel.hypergradient(problem, body).value


def central(function, at, direction, step=1e-3):
    """A derivative along a direction, with an error of order step^4."""

    def shifted(t):
        return function(trees.tree_map(lambda x, d: x + t * d, at, direction))

    near = shifted(step) - shifted(-step)
    far = shifted(2 * step) - shifted(-2 * step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("depth", "activation"), NETWORKS)
@pytest.mark.parametrize("hooks", HOOKS)
def test_danskin_equals_the_total_derivative(shape, depth, activation, hooks):
    """Central differences of Phi, the head solved anew at every point, along two directions."""
    problem, body, _ = case(shape, depth, activation, hooks)
    gradient = bilevel.hypergradient(problem, body).body
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        direction = trees.tree_map(
            lambda leaf, g=generator: torch.randn(leaf.shape, generator=g, dtype=leaf.dtype), body
        )
        total = central(lambda at: value_at(problem, at), body, direction)
        partial = float(trees.dot(trees.single(gradient), trees.single(direction)))
        scale = size(gradient) * size(direction)
        assert abs(total - partial) <= 1e-7 * scale


def test_danskin_entry_by_entry():
    problem, body, _ = case("n > M", 1, "tanh", "everything")
    gradient = bilevel.hypergradient(problem, body).body
    for name, leaf in body.items():
        for index in np.ndindex(*leaf.shape):
            direction = {key: torch.zeros_like(other) for key, other in body.items()}
            direction[name][index] = 1.0
            total = central(lambda at: value_at(problem, at), body, direction)
            assert float(gradient[name][index]) == pytest.approx(total, abs=1e-7 * size(gradient))


def test_away_from_the_best_response_the_partial_gradient_is_wrong():
    """The comparison above can fail: at another head the same formula gives another number."""
    problem, body, phi = case("n > M", 1, "tanh", "plain")
    _, gradient = differentiate(phi, body)
    early = bilevel.hypergradient(problem, body, solver=bilevel.FastSGD(0.1, 1)).body
    assert size(difference(early, gradient)) > 1e-3 * size(gradient)


@pytest.mark.parametrize("ridge", [0.3, 1.0])
@pytest.mark.parametrize("w", [0.7, 1.0, 2.5])
def test_lemma_4_1(w, ridge):
    """theta* = w/(w^2 + l), Phi = l/(2(w^2 + l)) + m w^2/2, Phi' = -l w/(w^2 + l)^2 + m w."""
    curvature = 0.1
    found = bilevel.hypergradient(ScalarProduct(ridge, curvature), w * ONE)
    below = w**2 + ridge
    assert float(found.response.head) == pytest.approx(w / below, rel=1e-14)
    assert found.value == pytest.approx(ridge / (2 * below) + curvature * w**2 / 2, rel=1e-14)
    slope = -ridge * w / below**2 + curvature * w
    assert float(found.body) == pytest.approx(slope, rel=1e-12, abs=1e-15)
    assert abs(float(found.body) - slope) <= found.bound


def test_a_13():
    """|w x theta - v|^2/2 + l theta^2/2 at x = (1, 2), v = (2, 1), l = w = 1: 7/6 and -4/9."""

    class A13(bilevel.StackelbergProblem):
        def data(self, seed=None):
            return {}

        def init_body(self, generator):
            return ONE

        def init_head(self, generator):
            return ONE

        def head_objective(self, body, head, batch):
            x, v = torch.tensor([1.0, 2.0]).double(), torch.tensor([2.0, 1.0]).double()
            return 0.5 * ((body * x * head - v) ** 2).sum() + 0.5 * head**2

    # the table lists Phi without the part of |v|^2/2 that no theta explains
    found = bilevel.hypergradient(A13(), ONE)
    assert float(found.response.head) == pytest.approx(4 / 6, rel=1e-14)
    assert found.value == pytest.approx(5 / 2 - 16 / 12, rel=1e-14)
    assert float(found.body) == pytest.approx(-4 * 4 / 36, rel=1e-13)


class Validation(ScalarProduct):
    """F is not g."""

    def body_objective(self, body, head, batch):
        return (head - 1) ** 2


@pytest.mark.parametrize(
    "use",
    [
        lambda problem: bilevel.hypergradient(problem, ONE, bilevel.Envelope()),
        lambda problem: bilevel.solve(
            problem, bilevel.BestResponse(0.1, gradient=bilevel.Envelope()), steps=2
        ),
        lambda problem: bilevel.solve(problem, bilevel.uniform(0.1), steps=2),
    ],
    ids=["Envelope", "BestResponse", "TwoTimescale"],
)
def test_an_overridden_body_objective_is_refused(use):
    with pytest.raises(IncompatibleError, match="Use `Implicit`"):
        use(Validation())
    use(ScalarProduct())  # the same call works where F is g


def test_an_overridden_body_objective_of_a_linear_head_is_refused():
    train = (normal(1, 7, 2), normal(2, 7))
    problem = type(build(*train, ridge=0.1))
    overriding = type("Own", (problem,), {"body_objective": lambda self, b, h, batch: b * h.sum()})
    with pytest.raises(IncompatibleError, match="Own overrides `body_objective`"):
        bilevel.hypergradient(overriding(), ONE, bilevel.Envelope())


def test_the_best_response_is_still_available_where_the_envelope_is_not():
    assert float(bilevel.best_response(Validation(), ONE).head) == pytest.approx(0.5)
