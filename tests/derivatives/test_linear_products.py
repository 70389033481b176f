"""Structured derivatives of linear heads against those of autograd."""

import itertools

import pytest
import torch
from linear_heads import build, normal

import bilevel
from bilevel.data.rows import Rows
from bilevel.derivatives import linear_products
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles

N, D, M = 11, 3, 4
CRITERIA = {
    "squared": bilevel.SquaredError(),
    "huber": bilevel.HuberLoss(),
    "logistic": bilevel.LogisticLoss(),
    "softmax": bilevel.SoftmaxLoss(),
}


class Quartic(bilevel.SquaredError):
    """A criterion that knows none of its derivatives."""

    quadratic = False

    def rows(self, predictions, targets):
        return (predictions - targets).pow(4)

    def slope(self, predictions, targets):
        return None

    def curvature(self, predictions, targets):
        return None


def row_weights(w, batch):
    return (1 + batch["train"].inputs[:, 0] * w[0, 0]).square()


def output_weights(w, batch):
    return (1 + batch["train"].inputs[:, :2] * w[0, 0]).square()


WEIGHTS = {"alike": None, "rows": row_weights, "outputs": output_weights}


def problem(criterion, k, weighted, penalty, fit_bias, drawn=False):
    size = (M + fit_bias,) if k is None else (M + fit_bias, k)
    made = build(
        normal(1, N, D), normal(2, N) if k is None else normal(2, N, k),
        features=lambda w, x: torch.tanh(x @ w), body=torch.as_tensor(normal(3, D, M)),
        row_weights=WEIGHTS[weighted],
        prior=(lambda w, batch: torch.as_tensor(normal(4, *size)) * w[0, 1].exp())
        if drawn else None,
        penalty=penalty, fit_bias=fit_bias, ridge=0.3, criterion=criterion,
    )  # fmt: skip
    if isinstance(criterion, bilevel.SoftmaxLoss):
        labels = torch.arange(N) % 3
        made.data = lambda seed=None: {
            "train": bilevel.Batch(torch.as_tensor(normal(1, N, D)), labels)
        }
    elif isinstance(criterion, bilevel.LogisticLoss):
        labels = torch.arange(N) % 2
        made.data = lambda seed=None: {
            "train": bilevel.Batch(torch.as_tensor(normal(1, N, D)), labels)
        }
    return made


def transposed(parts, head, crossed, criterion):
    """K'X, number by number: <K e, X> for all units e."""
    units = torch.eye(head[0].numel(), dtype=head.dtype).reshape(-1, *head.shape[1:])
    found = [parts.cross(head, e.expand_as(head), criterion)["design"] for e in units]
    found = [(one * crossed).sum((1, 2)) for one in found]
    return torch.stack(found, 1).reshape(head.shape)


CASES = [
    ("squared", None), ("squared", 2), ("huber", None), ("logistic", None), ("softmax", 3),
    ("quartic", None), ("huber", 2),
]  # fmt: skip


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(
    ("name", "k", "weighted"),
    [(*case, w) for case in CASES for w in WEIGHTS if w != "outputs" or case[1] == 2],
)
def test_gradients_and_products_are_those_of_autograd(name, k, weighted, drawn, fit_bias):
    own = (lambda w: w.exp().mean(0)) if k is None else (
        lambda w: w.exp().mean(0)[:, None] * torch.arange(1.0, 1 + k).to(w)
    )  # fmt: skip
    for penalty in (None, own):
        criterion = Quartic() if name == "quartic" else CRITERIA[name]
        one = problem(criterion, k, weighted, penalty, fit_bias, drawn)
        groups = one.data()
        rows = Rows(groups, dict.fromkeys(groups))
        shape = (2, M + fit_bias) if k is None else (2, M + fit_bias, k)
        head, vector = (torch.as_tensor(normal(i, *shape)) for i in (5, 6))
        body = torch.as_tensor(normal(7, 2, D, M))
        oracles = Oracles(one)
        expected = oracles._second(body, head, vector, rows, "head")
        torch.testing.assert_close(
            oracles.head_hvp(body, head, vector, rows), expected, rtol=1e-12, atol=1e-13
        )
        crossed = oracles._second(body, head, vector, rows, "body")
        torch.testing.assert_close(
            oracles.cross_vjp(body, head, vector, rows), crossed, rtol=1e-11, atol=1e-13
        )
        slope = oracles.head_gradient(body, head, rows)
        parts = oracles.linear_parts(body, rows)
        found = linear_products.gradient(parts, head, criterion)
        torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-13)
        crossed = parts.cross(head, vector, criterion)["design"]
        back = transposed(parts, head, crossed, criterion)
        found = linear_products.squared_cross(parts, head, vector, criterion)
        torch.testing.assert_close(found, back, rtol=1e-12, atol=1e-13)
        with oracles.sharing():
            for _ in range(2):
                torch.testing.assert_close(
                    oracles.head_gradient(body, head, rows), slope, rtol=1e-12, atol=1e-13
                )


@pytest.mark.parametrize(("weighted", "penalty"), list(itertools.product([False, True], repeat=2)))
def test_features_are_evaluated_once_where_they_are_shared(weighted, penalty):
    own = (lambda w: w.exp().mean(0)) if penalty else None
    one = problem(bilevel.SquaredError(), None, "rows" if weighted else "alike", own, False)
    made, features = [], type(one).features

    def counted(self, body, inputs):
        made.append(1)
        return features(self, body, inputs)

    type(one).features = counted
    groups = one.data()
    rows = Rows(groups, dict.fromkeys(groups))
    body, head = torch.as_tensor(normal(7, 1, D, M)), torch.as_tensor(normal(5, 1, M))
    oracles = Oracles(one)
    with oracles.sharing():
        for _ in range(3):
            oracles.head_gradient(body, head, rows)
            oracles.head_hvp(body, head, head, rows)
            oracles.cross_vjp(body, head, head, rows)
            HeadPoint(oracles, body, head, rows).moved(body + 1).gradient()
    # of the plain form the pull-back of the cross derivative has features of its own
    own_form = weighted or penalty
    assert len(made) == (1 if own_form else 2) + 3
