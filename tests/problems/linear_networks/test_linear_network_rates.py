"""The best rates of two layers: against a numerical search, and where there are none."""

import dataclasses

import numpy as np
import pytest
import torch
from linear_network_cases import after_step, network
from scipy.optimize import minimize

from bilevel.errors import ArgumentError
from problems.linear_networks import StepPolynomial, paper_network


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
    found = net.optimal_rates(layers, "budget", S=budget)
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


def test_on_a_small_budget_the_layer_with_the_largest_gradient_takes_all():
    net, _, _ = network(3)
    net = dataclasses.replace(net, C=net.Sigma @ net.beta, Sigma_test=net.Sigma)  # no noise
    norms = [float(gradient.norm()) for gradient in net.gradients()]
    pairs = [(0, 1), (1, 2), (0, 2)]
    for layers in pairs:
        best = net.optimal_rates(layers, "budget", S=1e-6)
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


def test_a_badly_conditioned_quintic_is_polished():
    """The companion matrix alone is 5e-5 off here."""
    net, _, _ = network(4, 160)
    found = net.optimal_rates((0, 1), "free")
    assert found.first > 2000
    point = torch.tensor(found[:2], dtype=torch.float64, requires_grad=True)
    value = net.step_polynomial((0, 1))(*point)
    (slope,) = torch.autograd.grad(value, point, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(one, point, retain_graph=True)[0] for one in slope])
    shift = torch.linalg.solve(hessian, slope.detach())
    assert (shift.abs() <= 1e-7 * point.detach().abs()).all()


def test_a_curve_of_minima_has_a_point():
    """(1 - x)^2 (1 - y)^2: the quintic vanishes."""
    square = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    curve = StepPolynomial(torch.outer(square, square))
    for constraint, budget in [("free", None), ("nonneg", None), ("budget", 3.0)]:
        best = curve.minimise(constraint, budget)
        assert best.loss == pytest.approx(0, abs=1e-15)
        assert 1.0 in [pytest.approx(rate, abs=1e-7) for rate in best[:2]]


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
