"""Small heads with criteria that are not quadratic, and their slopes in NumPy."""

import numpy as np
import torch
from linear_heads import build, normal
from points import Point
from sklearn.datasets import load_breast_cancer, load_digits
from small_problems import TEST, VALIDATION, D, N, Smooth, doubles, supervised

import bilevel
from bilevel import HuberLoss, LogisticLoss, SoftmaxLoss

CLASSES = 3
SIZES = {"train": N, "validation": VALIDATION, "test": TEST}


def labelled(seed, rows, classes):
    """Inputs (rows, D) and labels of noisy smooth functions of them."""
    x = doubles([seed, 1], rows, D)
    scores = torch.sin(x @ doubles(7, D, classes)) + 0.5 * doubles([seed, 2], rows, classes)
    return bilevel.Batch(x, scores.argmax(1))


class Classes(Smooth):
    """`Smooth` with labels, two classes or `outputs` of them."""

    def data(self, seed=None):
        if isinstance(self.criterion, bilevel.HuberLoss):
            return super().data(seed)
        first, classes = 0 if seed is None else 10 * (seed + 1), self.outputs or 2
        return self.groups or {
            name: labelled(first + i, rows, classes) for i, (name, rows) in enumerate(SIZES.items())
        }


class TrueClasses(Classes):
    """F: the loss of the validation rows, and a pull on the head that no criterion makes."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        losses = self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets)
        return losses.mean() + 0.1 * (head[:-1] ** 2).sum() + body["bias"].sum()


def huber_data(seed, outputs=None):
    """Targets of which one in five is far off."""
    group = supervised(seed, N, outputs)
    far = torch.arange(N) % 5 == 0
    shift = 8.0 * far if outputs is None else 8.0 * far[:, None]
    return {"train": group._replace(targets=group.targets + shift)}


def slope(problem, body, head):
    """d_theta g at a head in NumPy, from the formulas."""
    train = problem.data()["train"]
    z = np.tanh(train.inputs.numpy() @ body["weight"].numpy() + body["bias"].numpy())
    return slope_of(problem.criterion, z, train.targets.numpy(), head.numpy(), problem)


def slope_of(criterion, z, y, head, problem, weights=None, penalty=None):
    """Z's/n + p theta, the penalty that of the problem's ridge unless another (M, K) is given."""
    z = np.column_stack([z, np.ones(len(z))]) if problem.fit_bias else z
    u = z @ head
    if isinstance(criterion, bilevel.LogisticLoss):
        s = 1 / (1 + np.exp(-u)) - y
    elif isinstance(criterion, bilevel.SoftmaxLoss):
        s = np.exp(u - u.max(1, keepdims=True))
        s /= s.sum(1, keepdims=True)
        s[np.arange(len(y)), y] -= 1
    else:
        s = np.clip(u - y, -criterion.delta, criterion.delta)
    s = s if weights is None else (s.T * weights).T
    if penalty is None:
        penalty = np.full(head.shape, float(problem.ridge))
        if not problem.penalises_all:
            penalty[-1] = 0
    return z.T @ s / len(z) + penalty * head


def given(inputs, targets, criterion, outputs=None, **options):
    """A linear head on features as they are."""
    problem = build(inputs, targets, features=lambda w, x: x, **options)
    type(problem).criterion, type(problem).outputs = criterion, outputs
    return problem


def many_classes(rows=300, weights=None):
    """60 classes of rows by 40 features: 2,400 numbers, whose Hessian is not formed."""
    z = normal(1, rows, 40)
    labels = (2 * z @ normal(2, 40, 60) / 40**0.5 + normal(3, rows, 60)).argmax(1)
    return given(z, labels, SoftmaxLoss(weights), 60, ridge=1e-3)


def table(name):
    """Features and labels of a real data set, and what their head is fitted by."""
    if name == "breast cancer":
        inputs, labels = load_breast_cancer(return_X_y=True)
        return (inputs - inputs.mean(0)) / inputs.std(0), labels, LogisticLoss(), None
    inputs, labels = load_digits(return_X_y=True)
    return inputs / 16, labels, SoftmaxLoss(), 10


CURVED = {
    "logistic": (LogisticLoss(), None),
    "softmax": (SoftmaxLoss(), CLASSES),
    "huber": (HuberLoss(0.5), None),
    "huber, outputs": (HuberLoss(0.5), 2),
}


def curved(name, **options):
    criterion, outputs = CURVED[name]
    return Classes(criterion=criterion, outputs=outputs, **{"ridge": 0.03, **options})


def single(problem, solver=None, seed=0):
    """Body, head and rows of one run."""
    body = problem.init_body(torch.Generator().manual_seed(seed))
    return Point(problem, [body])
