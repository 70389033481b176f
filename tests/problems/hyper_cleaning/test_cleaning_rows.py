"""Rows of a seed: disjoint, reproducible, and features of training rows alone."""

import cleaning
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import bilevel
from bilevel.errors import ArgumentError
from problems.hyper_cleaning.rows import reader


def test_a_seed_means_the_same_rows():
    draw = reader("digits", 100, 20)
    one, again, other = draw(3), draw(3), draw(4)
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(again, name))
    assert not torch.equal(one.given, other.given)
    assert one.design.shape == (120, 32)
    assert len(one.test) == 1797 - 120
    assert torch.bincount(one.folds).tolist() == [4] * 5


def test_wrong_labels_are_in_the_training_rows_alone():
    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    rows, n, v = cleaning.rows(), cleaning.N, cleaning.V
    truth = torch.from_numpy(labels[order])
    assert int((rows.given != truth[:n]).sum()) == round(0.4 * n)
    assert torch.equal(rows.given == truth[:n], rows.right)
    assert torch.equal(rows.labels, truth[n : n + v])
    assert torch.equal(rows.truth, truth[n + v :])
    pca = PCA(32, whiten=True, svd_solver="full").fit(inputs[order[:n]] / 16)
    scale = np.sqrt(n / (n - 1))  # scikit-learn divides by n - 1
    for part, place in ((rows.noisy, order[:n]), (rows.test, order[n + v :])):
        expected = pca.transform(inputs[place] / 16) * scale
        signs = np.sign((expected * part.numpy()).sum(0))
        np.testing.assert_allclose(part.numpy(), expected * signs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 1700}, "leave"),
        ({"noise": 1.0}, "from 0 to 0.9"),
        ({"clean": 5}, "at least 10"),
        ({"clean": -1}, "clean"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ArgumentError, match=words):
        reader("digits", **options)


def test_unknown_data():
    with pytest.raises(bilevel.errors.UnknownNameError, match="digits"):
        reader("digit")
