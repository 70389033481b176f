"""Deep linear networks of any shape: gradients, descent, step polynomials, optimal rates."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bilevel.errors import ArgumentError, DataError, ShapeError, UnknownNameError
from problems.linear_networks import (
    DeepLinearProblem,
    StepPolynomial,
    haar,
    orthonormal_columns,
    paper_network,
    whitened_design,
)

SHAPES = {1: (7, 2), 2: (7, 5, 2), 3: (7, 3, 5, 2), 4: (6, 4, 7, 3, 1)}


def random(*shape, seed=0):
    source = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def network(depth, seed=0, rows=23):
    """Anisotropic inputs, noisy targets, another covariance of the test inputs."""
    sizes = SHAPES[depth]
    x = random(rows, sizes[0], seed=seed) @ random(sizes[0], sizes[0], seed=seed + 1)
    beta = random(sizes[0], sizes[-1], seed=seed + 2)
    y = x @ beta + 0.3 * random(rows, sizes[-1], seed=seed + 3)
    root = random(sizes[0], sizes[0], seed=seed + 4)
    weights = [
        random(a, b, seed=seed + 5 + k) / a**0.5
        for k, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    net = DeepLinearProblem.from_data(x, y, weights, beta, 0.7, root @ root.T / sizes[0])
    return net, x, y


def forward(weights, x, kappa=0.7):
    for weight in weights:
        x = x @ weight
    return kappa * x


def autograd_gradients(weights, x, y, signal_only=False):
    """Of 1/(2n) |f - y|^2, or of -<f, y>/n, the part of it that is linear in f."""
    leaves = [weight.clone().requires_grad_() for weight in weights]
    f = forward(leaves, x)
    value = -(f * y).sum() if signal_only else 0.5 * (f - y).square().sum()
    return torch.autograd.grad(value / len(x), leaves)


def near(found, expected, tolerance=1e-12):
    assert found.shape == expected.shape
    scale = float(expected.detach().abs().max())
    assert scale > 0
    assert float((found - expected).detach().abs().max()) <= tolerance * scale


@pytest.mark.parametrize("depth", SHAPES)
def test_gradients_are_those_of_autograd(depth):
    net, x, y = network(depth)
    expected = autograd_gradients(net.weights, x, y)
    signal = autograd_gradients(net.weights, x, y, signal_only=True)
    parts = zip(net.signal(), net.self_interaction(), strict=True)
    together = [one + other for one, other in parts]
    for k in range(depth):
        near(net.gradients()[k], expected[k])
        near(net.gradients(signal_only=True)[k], signal[k])
        near(together[k], expected[k])


def test_losses_have_the_stated_factors():
    net, x, y = network(3)
    f = forward(net.weights, x)
    near(net.train_loss(x, y), 0.5 * (f - y).square().sum(1).mean())
    root = torch.linalg.cholesky(net.Sigma_test)  # S = rows' rows / n for these n = 7 rows
    rows = 7**0.5 * root.T
    error = forward(net.weights, rows) - rows @ net.beta
    near(net.loss(), error.square().sum(1).mean())


@pytest.mark.parametrize("signal_only", [False, True])
def test_descent_with_a_frozen_layer_and_other_rates_at_each_step(signal_only):
    net, x, y = network(4)
    lrs = [(0.01, 0.0, 0.02, 0.03), (0.02, 0.0, 0.0, 0.01), (0.0, 0.0, 0.01, 0.01)]
    weights, losses = list(net.weights), [net.loss()]
    for rates in lrs:
        gradients = autograd_gradients(weights, x, y, signal_only)
        weights = [w - lr * g for w, lr, g in zip(weights, rates, gradients, strict=True)]
        losses.append(dataclasses.replace(net, weights=weights).loss())
    found, moved = net.gd(lrs, signal_only)
    near(found, torch.stack(losses))
    for one, other in zip(moved, weights, strict=True):
        near(one, other)
    assert torch.equal(moved[1], net.weights[1])
    assert len(set(found.tolist())) == 4


def after_step(net, layers, x, y, signal_only=False):
    """The test loss after one step, rates of any sign."""
    weights, gradients = list(net.weights), net.gradients(signal_only)
    for layer, rate in zip(layers, (x, y), strict=True):
        weights[layer] = weights[layer] - rate * gradients[layer]
    return dataclasses.replace(net, weights=weights).loss()


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize("layers", [(0, 1), (2, 0), (1, 3)])
def test_the_step_polynomial_is_the_loss_after_a_step(layers, signal_only):
    net, _, _ = network(4)
    polynomial = net.step_polynomial(layers, signal_only)
    for x, y in [(0.0, 0.0), (0.1, 0.3), (0.2, 0.0), (-0.4, 0.7)]:
        near(polynomial(x, y), after_step(net, layers, x, y, signal_only))
    both = polynomial(*torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64))
    near(both, torch.stack([polynomial(0.1, 0.3), polynomial(0.2, 0.0)]))


def searched(net, layers, units, starts, bounds=None, line=None):
    """The lowest local minimum that a quasi-Newton search finds from many starts.

    `line`, if given, maps one variable to both rates. The error is bilinear in the rates: four
    products of matrices give it everywhere.
    """
    gradients = net.gradients()
    errors = {}
    for x, y in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        weights = list(net.weights)
        for layer, rate, unit in zip(layers, (x, y), units, strict=True):
            weights[layer] = weights[layer] - rate * unit * gradients[layer]
        product = torch.linalg.multi_dot(weights) if len(weights) > 1 else weights[0]
        errors[x, y] = (net.kappa * product - net.beta).numpy()
    start, first, second = errors[0, 0], errors[1, 0] - errors[0, 0], errors[0, 1] - errors[0, 0]
    both = errors[1, 1] - errors[1, 0] - errors[0, 1] + errors[0, 0]
    covariance = net.Sigma_test.numpy()

    def value(point):
        x, y = point if line is None else line(point[0])
        error = start + x * first + y * second + x * y * both
        pull = 2 * covariance @ error
        slope = np.array([(pull * (first + y * both)).sum(), (pull * (second + x * both)).sum()])
        if line is not None:
            slope = np.array([slope @ (np.array(line(1.0)) - np.array(line(0.0)))])
        return (pull * error).sum() / 2, slope

    method = "BFGS" if bounds is None else "L-BFGS-B"
    options = {"gtol": 1e-12} if bounds is None else {"gtol": 1e-12, "ftol": 1e-16}
    found = [
        minimize(value, start, jac=True, method=method, bounds=bounds, options=options)
        for start in starts
    ]
    return min(found, key=lambda one: one.fun)


def starts_around(net, layers):
    """The units of the one-dimensional minimisers, and points in these units."""
    c = net.step_polynomial(layers).coefficients
    units = (float((c[0, 0] / c[2, 0]).sqrt()), float((c[0, 0] / c[0, 2]).sqrt()))
    return units, np.random.default_rng(0).uniform(-3, 3, (12, 2))


CASES = [(2, (0, 1), 0), (2, (0, 1), 30), (3, (0, 2), 10), (4, (3, 1), 20), (3, (2, 1), 50)]


@pytest.mark.parametrize(("depth", "layers", "seed"), CASES)
def test_free_rates_equal_a_search(depth, layers, seed):
    net, _, _ = network(depth, seed)
    units, draws = starts_around(net, layers)
    best = searched(net, layers, units, draws)
    found = net.optimal_rates(layers, "free")
    assert found.loss == pytest.approx(best.fun, rel=1e-12)
    assert [found.first / units[0], found.second / units[1]] == pytest.approx(best.x, rel=1e-7)


@pytest.mark.parametrize(("depth", "layers", "seed"), CASES)
def test_nonnegative_rates_equal_a_search(depth, layers, seed):
    net, _, _ = network(depth, seed)
    units, draws = starts_around(net, layers)
    best = searched(net, layers, units, np.abs(draws), bounds=[(0, None)] * 2)
    found = net.optimal_rates(layers, "nonneg")
    assert found.loss == pytest.approx(best.fun, rel=1e-12)
    ours = [found.first / units[0], found.second / units[1]]
    assert ours == pytest.approx(best.x, rel=1e-7, abs=1e-7)
    assert min(found[:2]) >= 0


@pytest.mark.parametrize("share", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("depth", "layers", "seed"), CASES[:3])
def test_budgeted_rates_equal_a_search(depth, layers, seed, share):
    net, _, _ = network(depth, seed)
    units, _ = starts_around(net, layers)
    budget = share * sum(units)

    def line(share):
        return share * budget / units[0], (1 - share) * budget / units[1]

    starts = np.linspace(0, 1, 21)[:, None]
    best = searched(net, layers, units, starts, bounds=[(0, 1)], line=line)
    found = net.optimal_rates(layers, "budget", budget)
    assert found.loss == pytest.approx(best.fun, rel=1e-12)
    assert found.first / budget == pytest.approx(best.x[0], abs=1e-7)
    assert found.first + found.second == pytest.approx(budget, rel=1e-14)


def test_the_cases_have_inner_and_outer_optima():
    free = [network(d, s)[0].optimal_rates(layers, "free") for d, layers, s in CASES]
    kept = [network(d, s)[0].optimal_rates(layers, "nonneg") for d, layers, s in CASES]
    assert any(min(pair[:2]) > 0 for pair in kept)
    assert any(min(pair[:2]) == 0 < max(pair[:2]) for pair in kept)
    assert any(min(pair[:2]) < 0 for pair in free)


def test_at_the_optimum_the_loss_is_stationary_for_autograd():
    depth, layers, seed = next(
        case for case in CASES
        if min(network(case[0], case[2])[0].optimal_rates(case[1])[:2]) > 0
    )  # fmt: skip
    net, _, _ = network(depth, seed)
    best = net.optimal_rates(layers)
    lrs = torch.zeros(1, depth, dtype=torch.float64)
    lrs[0, layers[0]], lrs[0, layers[1]] = best.first, best.second
    lrs.requires_grad_()
    (slope,) = torch.autograd.grad(net.gd(lrs)[0][-1], lrs)
    rates = lrs.detach()[0]
    assert float((slope[0] * rates).abs().max()) <= 1e-12 * float(net.loss())


def test_descent_is_differentiable_in_the_rates():
    net, _, _ = network(3)
    lrs = torch.tensor([[0.01, 0.02, 0.03], [0.02, 0.0, 0.01]], dtype=torch.float64)
    variables = lrs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net.gd(variables)[0][-1], variables)
    step = 1e-5
    for k, layer in [(0, 0), (0, 2), (1, 2)]:
        shifted = [lrs.clone() for _ in range(2)]
        shifted[0][k, layer] += step
        shifted[1][k, layer] -= step
        high, low = (net.gd(one)[0][-1] for one in shifted)
        assert float(slope[k, layer]) == pytest.approx(float((high - low) / (2 * step)), rel=1e-6)


def test_on_a_small_budget_the_layer_with_the_largest_gradient_takes_all():
    net, _, _ = network(3)
    net = dataclasses.replace(net, C=net.Sigma @ net.beta, Sigma_test=net.Sigma)  # no noise
    norms = [float(gradient.norm()) for gradient in net.gradients()]
    pairs = [(0, 1), (1, 2), (0, 2)]
    for layers in pairs:
        best = net.optimal_rates(layers, "budget", 1e-6)
        winner = max(layers, key=lambda layer: norms[layer])
        assert layers[best.first < best.second] == winner
        assert min(best[:2]) == 0
        slope = -2 * 1e-6 * norms[winner] ** 2
        assert best.loss - float(net.loss()) == pytest.approx(slope, rel=1e-3)


def test_orthogonal_weights_have_a_zero_on_an_axis():
    net = paper_network(2, 6, torch.Generator().manual_seed(0))
    for constraint in ("free", "nonneg"):
        best = net.optimal_rates((0, 1), constraint)
        assert best.loss < 1e-12
        assert float(after_step(net, (0, 1), best.first, best.second)) < 1e-12
    assert float(net.gd([(36.0, 0.0)])[0][1]) < 1e-25
    assert float(net.gd([(0.0, 36.0)])[0][1]) < 1e-25
    deep = paper_network(3, 6, torch.Generator().manual_seed(1))  # a curve of zeros
    assert deep.optimal_rates((0, 1), "free").loss < 1e-12


def test_an_infimum_at_infinity_is_no_answer():
    product = torch.zeros(3, 3, dtype=torch.float64)  # (1 - x y)^2 + x^2: 0 as x -> 0, y -> inf
    product[0, 0], product[1, 1], product[2, 2], product[2, 0] = 1, -2, 1, 1
    for constraint in ("free", "nonneg"):
        with pytest.raises(ArgumentError, match="no minimum at finite rates"):
            StepPolynomial(product).minimise(constraint)
        with pytest.raises(ArgumentError, match="no minimum"):
            StepPolynomial(product.T).minimise(constraint)
    best = StepPolynomial(product).minimise("budget", 10.0)
    assert best.loss == pytest.approx(float(StepPolynomial(product)(*best[:2])), abs=1e-12)
    away = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    away[0] = torch.tensor([1.0, 0.0, 0.0])
    away[1, 1], away[2, 0] = 2.0, 1.0  # (1 + x y)^2 + x^2: for rates >= 0 the least is at (0, 0)
    assert StepPolynomial(away).minimise("nonneg").loss == 1
    with pytest.raises(ArgumentError, match="no minimum"):
        StepPolynomial(away).minimise("free")


def test_random_matrices_are_orthonormal_and_haar():
    source = torch.Generator().manual_seed(0)
    for d, h in [(5, 5), (7, 3)]:
        q = orthonormal_columns(d, h, source)
        assert q.shape == (d, h)
        assert torch.allclose(q.T @ q, torch.eye(h, dtype=torch.float64), atol=1e-14)
    x = whitened_design(11, 4, source)
    assert torch.allclose(x.T @ x, 11 * torch.eye(4, dtype=torch.float64), atol=1e-12)
    drawn = [haar(3, source) for _ in range(2000)]
    for power, expected in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 1.0)]:
        traces = torch.stack([torch.linalg.matrix_power(u, power).trace() for u in drawn])
        assert abs(float(traces.mean()) - expected) < 4 * float(traces.std()) / 2000**0.5
    assert not torch.equal(haar(3, source), haar(3, source))
    again = torch.Generator().manual_seed(0)
    assert torch.equal(orthonormal_columns(5, 5, again), orthonormal_columns(
        5, 5, torch.Generator().manual_seed(0)))  # fmt: skip


def test_paper_networks_have_the_stated_scales():
    source = torch.Generator().manual_seed(0)
    two = paper_network(2, 6, source, d=9, n=20)
    assert [tuple(w.shape) for w in two.weights] == [(9, 6), (6, 6)]
    assert two.kappa == 1 / 6
    assert torch.allclose(two.beta.T @ two.beta, torch.eye(6, dtype=torch.float64) / 9)
    assert torch.allclose(two.Sigma, torch.eye(9, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(two.C, two.beta, atol=1e-12)
    four = paper_network(4, 6, source, n=20, design="gaussian", weights="gaussian", noise=4.0)
    assert [tuple(w.shape) for w in four.weights] == [(6, 6)] * 3 + [(6, 1)]
    assert float((four.Sigma - torch.eye(6)).abs().max()) > 0.1
    many = [paper_network(2, 2, source, n=500, noise=4.0) for _ in range(200)]
    noise = torch.stack([net.C - net.beta for net in many])  # X' xi / n: covariance noise / n
    assert float(noise.var()) == pytest.approx(4 / 500, rel=0.2)


GOOD = network(2)[0]
EYE = torch.eye(7, dtype=torch.float64)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: GOOD.gd([(0.1, -0.1)]), ArgumentError, r"lrs\[0\].*at least 0"),
        (lambda: GOOD.gd([(0.1, float("nan"))]), ArgumentError, "finite"),
        (lambda: GOOD.gd([(0.1, 0.1), (0.1,)]), ShapeError, r"lrs\[1\]. must hold 2 rates"),
        (lambda: GOOD.gd((0.1, 0.1)), ShapeError, "must hold 2 rates"),
        (lambda: GOOD.gd(0.1), ShapeError, "sequence of steps"),
        (lambda: GOOD.gd([("fast", 0.1)]), ArgumentError, "number or a tensor"),
        (lambda: GOOD.optimal_rates((0, 0)), ArgumentError, "two different"),
        (lambda: GOOD.optimal_rates((0, 2)), ArgumentError, "from 0 to 1"),
        (lambda: GOOD.optimal_rates((0, 1), "best"), ArgumentError, "constraint"),
        (lambda: GOOD.optimal_rates((0, 1), "budget"), ArgumentError, "budget"),
        (lambda: GOOD.optimal_rates((0, 1), "free", 1.0), ArgumentError, "budget"),
        (lambda: GOOD.optimal_rates((0, 1), "budget", -1.0), ArgumentError, "at least 0"),
        (lambda: dataclasses.replace(GOOD, weights=[]), ArgumentError, "at least one layer"),
        (lambda: dataclasses.replace(GOOD, kappa=0.0), ArgumentError, "kappa"),
        (lambda: dataclasses.replace(GOOD, weights=GOOD.weights[::-1]), ShapeError, "multiplied"),
        (lambda: dataclasses.replace(GOOD, weights=[EYE[:, 0]]), ShapeError, r"x\[:, None\]"),
        (lambda: dataclasses.replace(GOOD, C=GOOD.C.T), ShapeError, r"`C` must be \(7, 2\)"),
        (lambda: dataclasses.replace(GOOD, Sigma=EYE[:6, :6]), ShapeError, "`Sigma` must be"),
        (lambda: dataclasses.replace(GOOD, Sigma=EYE.triu() + EYE.roll(1, 1)), DataError, "symm"),
        (lambda: dataclasses.replace(GOOD, beta=GOOD.beta / 0), DataError, "not finite"),
        (lambda: GOOD.train_loss(EYE, EYE), ShapeError, "Rows must be"),
        (lambda: StepPolynomial(EYE), ShapeError, r"\(3, 3\)"),
        (lambda: StepPolynomial(EYE[:3, :3] / 0), ArgumentError, "finite"),
        (lambda: orthonormal_columns(3, 4, torch.Generator()), ArgumentError, "h <= d"),
        (lambda: whitened_design(3, 4, torch.Generator()), ArgumentError, "n >= d"),
        (lambda: haar(0, torch.Generator()), ArgumentError, "at least 1"),
        (lambda: paper_network(2, 4, torch.Generator(), d=3), ArgumentError, "h <= d"),
        (lambda: paper_network(2, 4, torch.Generator(), n=3), ArgumentError, "n >= d"),
        (lambda: paper_network(2, 4, torch.Generator(), noise=-1), ArgumentError, "variance"),
        (lambda: paper_network(2, 4, torch.Generator(), design="gauss"), UnknownNameError, "gauss"),
        (lambda: paper_network(2, 4, torch.Generator(), weights="o"), UnknownNameError, "ortho"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use()
