"""Wrong labels and detectors, against counts and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from problems.hyper_cleaning.labels import auc, f1, with_wrong_labels


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_share_of_wrong_labels_is_exact(rate):
    labels = np.random.default_rng(0).integers(0, 10, 1003)
    before = labels.copy()
    given, right = with_wrong_labels(labels, 10, rate, np.random.default_rng(1))
    assert (~right).sum() == round(rate * 1003)
    assert ((given == labels) == right).all()
    assert (labels == before).all()
    assert given.min() >= 0
    assert given.max() <= 9


def test_every_other_class_is_equally_likely():
    labels = np.zeros(90_000, np.int64) + 3
    given, _ = with_wrong_labels(labels, 10, 1.0, np.random.default_rng(2))
    counts = np.bincount(given, minlength=10)
    assert counts[3] == 0
    expected = np.full(9, 10_000)
    assert ((np.delete(counts, 3) - expected) ** 2 / expected).sum() < 26  # chi2, 8 degrees: 99.9 %


@pytest.mark.parametrize("ties", [False, True])
def test_detectors_are_those_of_scikit_learn(ties):
    rng = np.random.default_rng(3)
    right = rng.random(200) < 0.6
    scores = rng.random(200) + 0.3 * right
    scores = scores.round(1) if ties else scores
    kept = scores > 0.6
    found = f1(torch.from_numpy(kept), torch.from_numpy(right))
    assert float(found) == pytest.approx(f1_score(right, kept), rel=1e-6)
    found = auc(torch.from_numpy(scores), torch.from_numpy(right))
    assert float(found) == pytest.approx(roc_auc_score(right, scores), rel=1e-12)


def test_a_detector_that_says_nothing_is_one_half():
    right = torch.arange(10) < 4
    assert float(auc(torch.zeros(10, dtype=torch.float64), right)) == 0.5
    assert float(f1(torch.zeros(10, dtype=torch.bool), right)) == 0.0
