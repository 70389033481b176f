"""Hypergradients of weights: finite differences, a closed form, and the learning by folds."""

import math

import cleaning
import pytest
import torch
from cleaning import N, V, ones
from torch.nn.functional import cross_entropy

import bilevel
from bilevel.exact import softmax_head
from problems.hyper_cleaning import learned
from problems.hyper_cleaning.heads import fold_loss, heads, of_given, out_of_fold, with_folds
from problems.hyper_cleaning.problem import HyperCleaning

ROWS = cleaning.rows()
RIDGE = 0.05


def problem(kind):
    return HyperCleaning(lambda seed: ROWS, kind, RIDGE)


def body_of(kind):
    generator = torch.Generator().manual_seed(1)
    size = {"tied": 2, "cells": 100, "per-row": N}[kind]
    w = 0.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    return {"weights": w, "log_ridge": torch.tensor(math.log(0.03), dtype=torch.float64)}


def phi(body, kind):
    """F at the head of a formula of this test."""
    w, found = body["weights"], out_of_fold(ROWS, ones(), RIDGE)
    if kind == "tied":
        s = torch.sigmoid(w[0] + w[1] * of_given(ROWS, found))
    elif kind == "cells":
        s = torch.sigmoid(w[found.argmax(1) * 10 + ROWS.given])
    else:
        s = torch.sigmoid(w)
    theta = softmax_head(
        ROWS.noisy, ROWS.given, float(body["log_ridge"].exp()), row_weights=s,
        fit_bias=True, penalize_bias=True, classes=10,
    )  # fmt: skip
    return float(cross_entropy(ROWS.clean @ theta[:-1] + theta[-1], ROWS.labels))


@pytest.mark.parametrize("kind", ["tied", "cells", "per-row"])
def test_hypergradient_is_the_finite_difference(kind):
    body = body_of(kind)
    found = bilevel.hypergradient(problem(kind), body, bound=False)
    assert found.value == pytest.approx(phi(body, kind), rel=1e-9)
    numbers = [("log_ridge", None)] + [("weights", i) for i in range(min(4, len(body["weights"])))]
    for name, place in numbers:
        ends = []
        for step in (1e-4, -1e-4):
            leaf = body[name].clone()
            leaf[() if place is None else place] += step
            ends.append(phi({**body, name: leaf}, kind))
        slope = found.body[name][() if place is None else place]
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-9)


def test_tied_gradient_in_closed_form():
    """d F / d (a, b) = sum_i (d F / d s_i) s_i (1 - s_i) (1, z_i), with a dense Hessian."""
    body, z = body_of("tied"), of_given(ROWS, out_of_fold(ROWS, ones(), RIDGE))
    s = torch.sigmoid(body["weights"][0] + body["weights"][1] * z)
    x = torch.cat([ROWS.noisy, torch.ones(N, 1, dtype=torch.float64)], 1)
    xv = torch.cat([ROWS.clean, torch.ones(V, 1, dtype=torch.float64)], 1)
    found = bilevel.hypergradient(problem("tied"), body, bound=False)
    p = (x @ found.response.head).softmax(1)
    curved = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    hessian = torch.einsum("i,im,ikl,in->mknl", s / N, x, curved, x).reshape(330, 330)
    hessian = hessian + float(body["log_ridge"].exp()) * torch.eye(330, dtype=torch.float64)
    pv = (xv @ found.response.head).softmax(1)
    pv[torch.arange(V), ROWS.labels] -= 1
    adjoint = torch.linalg.solve(hessian, (xv.T @ pv / V).reshape(-1)).reshape(33, 10)
    p[torch.arange(N), ROWS.given] -= 1
    by_weight = -(p * (x @ adjoint)).sum(1) / N * s * (1 - s)
    expected = torch.stack([by_weight.sum(), (by_weight * z).sum()])
    torch.testing.assert_close(found.body["weights"], expected, rtol=1e-7, atol=1e-10)
    ridge = -(adjoint * found.response.head).sum() * body["log_ridge"].exp()
    torch.testing.assert_close(found.body["log_ridge"], ridge, rtol=1e-7, atol=1e-10)


def test_learning_by_folds_descends_to_a_stationary_point():
    """F falls, it is the loss at what was found, and no direction inside the bounds falls on."""
    logit = of_given(ROWS, out_of_fold(ROWS, ones(), RIDGE))
    start = torch.ones(2, dtype=torch.float64)
    found = learned.by_folds(ROWS, learned.tied(logit), start, RIDGE)

    def loss(w, log_ridge):
        apart = with_folds(ROWS, learned.tied(logit)(torch.tensor(w, dtype=torch.float64)))
        return float(fold_loss(ROWS, heads(ROWS, apart, math.exp(log_ridge))))

    at = found.numbers.tolist()
    here = loss(at, math.log(found.ridge))
    assert here == pytest.approx(found.loss, rel=1e-8)
    assert here < loss([1.0, 1.0], math.log(RIDGE)) - 1e-3
    for step in ([0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]):
        moved = [min(max(a + b, -8.0), 8.0) for a, b in zip(at, step, strict=True)]
        assert loss(moved, math.log(found.ridge)) > here - 1e-4


def test_weights_per_row_overfit_what_they_see():
    """F of the rows they are fitted to falls far below that of the rows kept aside."""
    made = learned.per_row(ROWS, steps=30)
    seen, aside = made.losses.T
    assert seen[-1] < 0.5 * seen[0]
    assert aside[-1] > 1.4 * seen[-1]
    assert made.step == int(aside.argmin())
    assert made.losses.shape == (31, 2)
    torch.testing.assert_close(made.last.shape, made.stopped.shape)


@pytest.mark.parametrize("kind", ["tied", "per-row"])
def test_exact_steps_on_batches_lower_phi(kind):
    """Row numbers at work: the body's gradient is taken on batches of rows."""
    made = bilevel.solve(
        problem(kind), bilevel.BestResponse(0.05, optimizer=bilevel.Adam()), steps=30,
        batch_size={"train": 40}, seeds=2, every=30, dtype=torch.float64,
    )  # fmt: skip
    assert bool((made.history["phi"][-1] < made.history["phi"][0]).all())


def test_metrics_and_contract():
    made = problem("per-row")
    bilevel.check_problem(made)
    found = bilevel.solve(
        made, made.strategies(1e-2, 1e-1)["single loop"], steps=4, batch_size=32, seeds=2
    )
    for name in ("test_accuracy", "train_detector_f1", "train_detector_auc"):
        assert bool((found.history[name] >= 0).all())
        assert bool((found.history[name] <= 1).all())
