"""`BayesianHead` against scikit-learn, and what its intervals cover."""

import numpy as np
import pytest
import torch
from plain_heads import normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.linear_model import BayesianRidge

from bilevel.errors import ArgumentError, DataError, ShapeError
from bilevel.exact import BayesianHead, ridge_head
from problems.regression import diabetes, friedman1

ROWS = normal(7, 3, seed=5)


def data(rows, outputs=None):
    z = normal(rows, 3)
    slopes = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    t = (z @ slopes).unsqueeze(1) + 0.5 * normal(rows, outputs or 1, seed=1) + 1
    return z, t if outputs else t.squeeze(1)


@pytest.mark.parametrize("rows", [3, 30])  # the first by the kernel of the rows
def test_a_gaussian_process_with_the_kernel_of_products(rows):
    z, t = data(rows)
    prior, noise = 1.7, 0.3
    process = GaussianProcessRegressor(DotProduct(prior, "fixed"), alpha=noise, optimizer=None)
    process.fit(z.numpy(), t.numpy())
    mean, deviation = process.predict(ROWS.numpy(), return_std=True)
    ridge = torch.tensor([1.0, 1.0, 1.0, prior**-2], dtype=torch.float64) * noise / rows
    head = BayesianHead.of(z, t, ridge, noise, fit_bias=True, penalize_bias=True)
    np.testing.assert_allclose(head.mean(ROWS), mean, rtol=1e-8)
    quiet = head.variance(ROWS, with_noise=False)
    np.testing.assert_allclose(quiet.sqrt(), deviation, rtol=1e-8)
    torch.testing.assert_close(head.variance(ROWS), quiet + noise, rtol=1e-12, atol=0)
    np.testing.assert_allclose(head.log_evidence, process.log_marginal_likelihood_value_, rtol=1e-8)


def test_bayesian_ridge_at_the_numbers_that_it_found():
    z, t = data(30)
    model = BayesianRidge(tol=1e-14, max_iter=10000, fit_intercept=False).fit(z.numpy(), t.numpy())
    mean, deviation = model.predict(ROWS.numpy(), return_std=True)
    head = BayesianHead.of(z, t, model.lambda_ / model.alpha_ / 30, 1 / model.alpha_)
    np.testing.assert_allclose(head.head, model.coef_, rtol=1e-8)
    np.testing.assert_allclose(head.mean(ROWS), mean, rtol=1e-8)
    np.testing.assert_allclose(head.variance(ROWS).sqrt(), deviation, rtol=1e-8)
    drawn = head.sample(40_000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.T.cov(), model.sigma_, rtol=0.05, atol=2e-4)
    np.testing.assert_allclose(drawn.mean(0), head.head, atol=0.01)


@pytest.mark.parametrize("bias", [{}, {"fit_bias": True}])
def test_the_noise_that_is_not_given_maximises_the_evidence(bias):
    z, t = data(20, outputs=2)
    head = BayesianHead.of(z, t, 0.1, **bias)
    assert head.noise.shape == (2,)
    nearby = [BayesianHead.of(z, t, 0.1, head.noise * f, **bias).log_evidence for f in (0.98, 1.02)]
    assert (head.log_evidence > torch.stack(nearby)).all()
    single = BayesianHead.of(z, t[:, 1], 0.1, **bias)
    torch.testing.assert_close(head.log_evidence[1], single.log_evidence, rtol=1e-12, atol=0)
    torch.testing.assert_close(head.variance(ROWS)[:, 1], single.variance(ROWS), rtol=1e-12, atol=0)


def test_coefficients_without_a_penalty_are_integrated_out():
    z, t = data(20)
    ridge = torch.tensor([0.1, 0.2, 0.3, 1e-9], dtype=torch.float64)
    free = BayesianHead.of(z + 50.0, t, ridge[:3], 0.3, fit_bias=True).log_evidence
    nearly = BayesianHead.of(z + 50.0, t, ridge, 0.3, fit_bias=True, penalize_bias=True)
    # the density of the bias at zero before the data, which is that of a wide one
    wide = 0.5 * torch.log(20 * ridge[3] / (2 * torch.pi * 0.3))
    torch.testing.assert_close(nearly.log_evidence - wide, free, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [3, 9])
def test_gradients_of_the_evidence_and_the_variance(rows):
    z, t = data(rows)
    ridge = normal(3, seed=8).abs().requires_grad_()
    noise = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def evidence(ridge, noise):
        return BayesianHead.of(z, t, ridge, noise).log_evidence

    def own(ridge):
        return BayesianHead.of(z, t, ridge).log_evidence

    def variance(z, ridge):
        return BayesianHead.of(z, t, ridge, 0.3).variance(ROWS)

    assert torch.autograd.gradcheck(evidence, (ridge, noise))
    assert torch.autograd.gradcheck(own, (ridge,))
    assert torch.autograd.gradcheck(variance, (z.requires_grad_(), ridge))


def test_leading_axes():
    z, t = normal(2, 1, 9, 3), normal(1, 4, 9, 2)
    head = BayesianHead.of(z, t, 0.1, fit_bias=True)
    assert head.head.shape == (2, 4, 4, 2)
    assert head.noise.shape == head.log_evidence.shape == (2, 4, 2)
    assert head.mean(ROWS).shape == head.variance(ROWS).shape == (2, 4, 7, 2)
    assert head.sample(5, torch.Generator().manual_seed(0)).shape == (5, 2, 4, 4, 2)
    alone = BayesianHead.of(z[1, 0], t[0, 2], 0.1, fit_bias=True)
    torch.testing.assert_close(head.variance(ROWS)[1, 2], alone.variance(ROWS), rtol=1e-11, atol=0)
    torch.testing.assert_close(head.head, ridge_head(z, t, 0.1, fit_bias=True), rtol=0, atol=0)
    assert BayesianHead.of(z.float(), t.float(), 0.1).variance(ROWS).dtype == torch.float32


def test_mistakes_are_named():
    z, t = data(9)
    with pytest.raises(DataError, match=r"class labels.*softmax_head"):
        BayesianHead.of(z, torch.arange(9), 0.1)
    for noise in (0.0, -1.0, torch.tensor([1.0, -1.0]), float("nan")):
        with pytest.raises(ArgumentError, match="noise"):
            BayesianHead.of(z, t, 0.1, noise)
    with pytest.raises(ShapeError, match="`noise` must be a number"):
        BayesianHead.of(z, t, 0.1, torch.ones(2))
    with pytest.raises(ArgumentError, match="leave nothing to estimate the noise from"):
        BayesianHead.of(z[:3], t[:3], 0.0)
    with pytest.raises(ShapeError, match=r"`rows` must be \(\.\.\., r, 3\)"):
        BayesianHead.of(z, t, 0.1).mean(torch.ones(4, 2))


def fitted(z, t):
    """The ridge of the largest evidence."""
    size = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([size], max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -BayesianHead.of(z, t, size.exp() / len(t), fit_bias=True).log_evidence
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return BayesianHead.of(z, t, size.exp() / len(t), fit_bias=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [friedman1, diabetes])
def test_intervals_cover_what_they_say(make):
    """`python -m pytest -m slow tests/exact/test_bayesian_head.py`."""
    problem, shares = make(), []
    for seed in range(20):
        groups = problem.data(seed)
        (z, t), (rows, targets) = (
            [torch.as_tensor(x).double() for x in groups[name]] for name in ("train", "test")
        )
        head = fitted(z, t)
        inside = (targets - head.mean(rows)).abs() <= 1.959964 * head.variance(rows).sqrt()
        shares.append(float(inside.double().mean()))
    shown = f"{make.__name__}: {len(t)} rows, {len(targets)} test rows, {np.mean(shares):.4f}"
    assert 0.93 <= np.mean(shares) <= 0.97, shown
    assert len(set(shares)) > 1, shown  # the splits differ
