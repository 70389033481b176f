"""Deep linear networks of any shape: gradients, descent, step polynomials."""

import dataclasses

import pytest
import torch
from linear_network_cases import SHAPES, after_step, near, network

from bilevel.errors import ArgumentError, DataError, ShapeError, UnknownNameError
from problems.linear_networks import (
    StepPolynomial,
    haar,
    orthonormal_columns,
    paper_network,
    whitened_design,
)


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


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize("layers", [(0, 1), (2, 0), (1, 3)])
def test_the_step_polynomial_is_the_loss_after_a_step(layers, signal_only):
    net, _, _ = network(4)
    polynomial = net.step_polynomial(layers, signal_only)
    for x, y in [(0.0, 0.0), (0.1, 0.3), (0.2, 0.0), (-0.4, 0.7)]:
        near(polynomial(x, y), after_step(net, layers, x, y, signal_only))
    both = polynomial(*torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64))
    near(both, torch.stack([polynomial(0.1, 0.3), polynomial(0.2, 0.0)]))


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
        (lambda: GOOD.optimal_rates((0, 1), "free", S=1.0), ArgumentError, "budget"),
        (lambda: GOOD.optimal_rates((0, 1), "budget", S=-1.0), ArgumentError, "at least 0"),
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
        (lambda: haar(0, torch.Generator()), ArgumentError, "positive"),
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
