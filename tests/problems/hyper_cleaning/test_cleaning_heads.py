"""Heads, the rule for their ridge and filters, against scikit-learn."""

import cleaning
import numpy as np
import pytest
import torch
from cleaning import N, V, ones, reference

from problems.hyper_cleaning import filters
from problems.hyper_cleaning.heads import (
    RIDGES,
    accuracy,
    chosen_ridge,
    heads,
    of_given,
    out_of_fold,
    whole_head,
)

ROWS = cleaning.rows()
X, Y = ROWS.design.numpy(), ROWS.targets.numpy()


def log_p(design, theta):
    u = np.c_[design, np.ones(len(design))] @ theta
    u = u - u.max(1, keepdims=True)
    return u - np.log(np.exp(u).sum(1, keepdims=True))


def test_heads_are_weighted_means_plus_a_ridge():
    generator = torch.Generator().manual_seed(0)
    s = torch.rand(2, N + V, generator=generator, dtype=torch.float64)
    s[0, :40] = 0
    found = heads(ROWS, s, torch.tensor([0.05, 0.2], dtype=torch.float64))
    for run, ridge in enumerate((0.05, 0.2)):
        expected = reference(X, Y, s[run].numpy(), ridge)
        np.testing.assert_allclose(found[run].numpy(), expected, rtol=1e-4, atol=1e-5)
    scaled = heads(ROWS, 7 * s, 0.05)[0]  # a factor of all weights is none
    torch.testing.assert_close(scaled, found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_the_ridge_is_chosen_by_cross_entropy_of_held_out_rows(own):
    losses = []
    for ridge in RIDGES:
        loss = 0.0
        for fold in range(5):
            out = ROWS.folds.numpy() == fold
            s = np.r_[np.ones(N), own * ~out]
            p = log_p(ROWS.clean.numpy()[out], reference(X, Y, s, ridge))
            loss -= p[np.arange(out.sum()), ROWS.labels.numpy()[out]].sum()
        losses.append(loss)
    assert chosen_ridge(ROWS, ones(), own) == RIDGES[int(np.argmin(losses))]


def test_the_cross_fitted_filter_is_the_one_by_hand():
    ridge, seed = 0.02, 5
    fold = torch.randperm(N, generator=torch.Generator().manual_seed(seed)).numpy() % 5
    expected = np.zeros((N, 10))
    for k in range(5):
        theta = reference(X, Y, np.r_[fold != k, np.ones(V)], ridge)
        expected[fold == k] = log_p(ROWS.noisy.numpy()[fold == k], theta)
    found = out_of_fold(ROWS, ones(), ridge, seed)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)
    kept = filters.cross_fitted(ROWS, None, ridge, seed)
    assert torch.equal(kept, found.argmax(1) == ROWS.given)
    p = np.exp(expected[np.arange(N), ROWS.given.numpy()]).clip(np.exp(-12), np.exp(-1e-4))
    np.testing.assert_allclose(of_given(ROWS, found), np.log(p / (1 - p)), rtol=1e-2, atol=1e-2)


def test_iterating_fits_on_what_was_kept():
    first = filters.cross_fitted(ROWS, None, 0.02)
    again = filters.cross_fitted(ROWS, first, 0.02, seed=1)
    assert torch.equal(filters.iterated(ROWS, first, 0.02, times=1), again)
    assert not torch.equal(first, again)


def test_the_trivial_filter_asks_validation_rows():
    theta = reference(X, Y, np.r_[np.zeros(N), np.ones(V)], 0.02)
    kept = log_p(ROWS.noisy.numpy(), theta).argmax(1) == ROWS.given.numpy()
    found = filters.trivial(ROWS, whole_head(ROWS, 0 * ones(), 0.02))
    assert (found.numpy() == kept).all()


def test_accuracy_is_of_test_rows():
    theta = whole_head(ROWS, ones(ROWS.right), 0.01)
    expected = (log_p(ROWS.test.numpy(), theta.numpy()).argmax(1) == ROWS.truth.numpy()).mean()
    assert accuracy(ROWS, theta) == pytest.approx(expected)
