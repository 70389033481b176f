"""Criteria against automatic differentiation, extended precision and other libraries."""

import sys

import mpmath
import numpy as np
import pytest
import torch
from class_heads import Classes, labelled
from sklearn.metrics import accuracy_score, log_loss
from small_problems import Smooth, doubles, points
from torch.func import grad, jacrev, vmap

import bilevel
from bilevel import HuberLoss, LogisticLoss, RowCurvature, SoftmaxLoss, SquaredError, trees
from bilevel.errors import (
    ArgumentError,
    DataError,
    IncompatibleError,
    MissingPackageError,
    ShapeError,
)

ROWS, K = 41, 4
CRITERIA = {
    "squared": (SquaredError(), None),
    "squared, outputs": (SquaredError(), K),
    "logistic": (LogisticLoss(), None),
    "softmax": (SoftmaxLoss(), K),
    "softmax, two": (SoftmaxLoss(), 2),
    "logistic, weights": (LogisticLoss([3.0, 0.2]), None),
    "softmax, weights": (SoftmaxLoss([5.0, 1.0, 0.3, 2.0]), K),
    "huber": (HuberLoss(0.7), None),
    "huber, outputs": (HuberLoss(0.7), K),
}


def sample(name, scale=3.0):
    """Predictions and targets."""
    criterion, outputs = CRITERIA[name]
    shape = (ROWS,) if outputs is None else (ROWS, outputs)
    predictions = scale * doubles(1, *shape)
    if isinstance(criterion, LogisticLoss | SoftmaxLoss):
        return predictions, torch.arange(ROWS) % (outputs or 2)
    return predictions, doubles(2, *shape)


def matrix(curvature):
    """(n, K, K) second derivatives."""
    diagonal = curvature.diagonal
    found = torch.diag_embed(diagonal if diagonal.ndim == 2 else diagonal.unsqueeze(1))
    if curvature.outer is None:
        return found
    return found - curvature.outer.unsqueeze(2) * curvature.outer.unsqueeze(1)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_slope_and_curvature_are_the_derivatives(name, scale):
    criterion, _ = CRITERIA[name]
    predictions, targets = sample(name, scale)

    def row(p, t):
        return criterion.rows(p.unsqueeze(0), t.unsqueeze(0)).sum()

    slope = vmap(grad(row))(predictions, targets)
    torch.testing.assert_close(criterion.slope(predictions, targets), slope, rtol=1e-13, atol=1e-14)
    again, losses = criterion.slope_and_rows(predictions, targets)
    assert torch.equal(again, criterion.slope(predictions, targets))
    if losses is not None:
        rows = criterion.rows(predictions, targets)
        torch.testing.assert_close(losses(), rows, rtol=1e-13, atol=1e-15 * (10 + scale))
    bend = vmap(jacrev(jacrev(row)))(predictions, targets)
    expected = bend if bend.ndim == 3 else bend[:, None, None]
    found = matrix(criterion.curvature(predictions, targets))
    # a prediction u is rounded by eps u, and automatic differentiation takes e^u of it
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15 * (10 + scale))
    told = criterion.curvature_of_slope(slope.clone(), targets)
    assert (told is None) == (name not in {"softmax", "softmax, two"})
    if told is not None:
        torch.testing.assert_close(matrix(told), found, rtol=1e-12, atol=1e-15 * (10 + scale))
    assert (torch.linalg.eigvalsh(found) <= criterion.largest_curvature + 1e-12).all()


def test_losses_of_softmax_slopes_overflow_as_little_as_others():
    targets = torch.tensor([0, 1, 2])
    far = torch.tensor([[0.0, 1e4, -1e30], [0.0, 1e4, -1e30], [0.0, 1e4, -1e30]])
    for criterion in (SoftmaxLoss(), SoftmaxLoss(class_weights=(1.0, 2.0, 0.5))):
        _, losses = criterion.slope_and_rows(far, targets)
        assert losses().tolist() == criterion.rows(far, targets).tolist()


def test_losses_of_another_criterion_are_its_own():
    """One that is made of softmax tells another loss."""

    class Smoothed(SoftmaxLoss):
        def rows(self, predictions, targets):
            return super().rows(predictions, targets) + 0.1

    given = doubles(1, 3, 3), torch.arange(3)
    slope, losses = Smoothed().slope_and_rows(*given)
    assert torch.equal(slope, SoftmaxLoss().slope(*given))
    assert losses is None


def test_the_curvature_of_another_criterion_is_its_own():
    class Rounder(SoftmaxLoss):
        def curvature(self, predictions, targets):
            diagonal, outer = super().curvature(predictions, targets)
            return RowCurvature(diagonal + 0.1, outer)

    class Steeper(SoftmaxLoss):
        def slope(self, predictions, targets):
            return 2 * super().slope(predictions, targets)

    for criterion in (Rounder(), Steeper()):
        assert criterion.curvature_of_slope(doubles(1, 3, 3), torch.arange(3)) is None


@pytest.mark.parametrize(
    "name", ["logistic", "softmax", "softmax, two", "logistic, weights", "softmax, weights"]
)
def test_the_constants_bound_and_are_nearly_reached(name):
    """Over many rows: curvature up to 1 % of its bound, its change up to 5 %."""
    criterion, outputs = CRITERIA[name]
    shape = (200_000,) if outputs is None else (200_000, outputs)
    u, step = 2.5 * doubles(3, *shape), 1e-3
    along = doubles(4, *shape)
    targets = torch.zeros(len(u), dtype=torch.int64)
    largest = torch.linalg.eigvalsh(matrix(criterion.curvature(u, targets)))[:, -1].max()
    rounding = 1e-12 * criterion.largest_weight
    assert 0.97 * criterion.largest_curvature <= largest <= criterion.largest_curvature + rounding
    along = along / (along.abs() if outputs is None else along.norm(dim=1, keepdim=True))
    ahead, here = (matrix(criterion.curvature(x, targets)) for x in (u + step * along, u))
    change = torch.linalg.eigvalsh(ahead - here).abs().amax(1).max() / step
    assert 0.9 * criterion.curvature_change <= change <= criterion.curvature_change * (1 + 1e-3)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("size", [1e4, -1e4, 1e30])
def test_nothing_overflows_in_float32(name, size):
    criterion, _ = CRITERIA[name]
    predictions, targets = sample(name)
    predictions = (size * predictions.sign()).float()
    targets = targets.float() if targets.is_floating_point() else targets
    if not (criterion.quadratic and abs(size) > 1e19):  # a square that overflows is no mistake
        assert criterion.rows(predictions, targets).isfinite().all()
    assert criterion.slope(predictions, targets).isfinite().all()
    assert matrix(criterion.curvature(predictions, targets)).isfinite().all()
    if not criterion.quadratic:
        assert (criterion.rows(predictions, targets) >= 0).all()


@pytest.mark.parametrize("margin", [-50.0, -20.5, -1e-3, 0.0, 1e-3, 19.5, 20.5, 36.0, 700.0])
def test_no_digit_is_lost_far_from_the_boundary(margin):
    """c, c', c'' to 1e-14 of themselves, against 60 digits; torch's softplus is off at 20.5."""
    with mpmath.workdps(60):
        power = mpmath.exp(-mpmath.mpf(margin))
        exact = [mpmath.log1p(power), -power / (1 + power), power / (1 + power) ** 2]
    u, y = torch.tensor([margin], dtype=torch.float64), torch.tensor([1])
    two, zero = torch.stack([u, torch.zeros_like(u)], 1), torch.tensor([0])
    logistic, softmax = LogisticLoss(), SoftmaxLoss()
    found = [
        (logistic.rows(u, y), softmax.rows(two, zero)),
        (logistic.slope(u, y), softmax.slope(two, zero)[:, 0]),
        (logistic.curvature(u, y).diagonal,),
    ]
    for values, reference in zip(found, exact, strict=True):
        for value in values:
            assert abs(mpmath.mpf(float(value)) - reference) <= 1e-14 * abs(reference)


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_metrics_are_those_of_scikit_learn(name):
    criterion, outputs = CRITERIA[name]
    predictions, targets = sample(name)
    found = criterion.metrics(predictions, targets)
    assert set(found) == {"cross_entropy", "accuracy"}
    if outputs is None:
        shares = torch.sigmoid(predictions).numpy()
        guessed = predictions.numpy() > 0
    else:
        shares = torch.softmax(predictions, 1).numpy()
        guessed = predictions.argmax(1)
    assert 0.1 < float(found["accuracy"]) < 0.9
    np.testing.assert_allclose(found["accuracy"], accuracy_score(targets, guessed))
    np.testing.assert_allclose(found["cross_entropy"], log_loss(targets, shares), rtol=1e-12)


def test_huber_is_that_of_torch():
    predictions, targets = sample("huber")
    expected = torch.nn.functional.huber_loss(predictions, targets, delta=0.7, reduction="none")
    torch.testing.assert_close(HuberLoss(0.7).rows(predictions, targets), expected)
    metrics = HuberLoss(0.7).metrics(predictions, targets)
    torch.testing.assert_close(metrics["mae"], (predictions - targets).abs().mean())
    torch.testing.assert_close(metrics["mse"], ((predictions - targets) ** 2).mean())


@pytest.mark.parametrize("name", CRITERIA)
def test_atoms_have_the_values_of_the_rows(name):
    cvxpy = pytest.importorskip("cvxpy")
    criterion, _ = CRITERIA[name]
    predictions, targets = sample(name)
    variable = cvxpy.Variable(tuple(predictions.shape))
    atom = criterion.atom(variable, targets.numpy())
    assert atom.shape == (ROWS,)
    assert atom.is_convex()
    variable.value = predictions.numpy()
    expected = criterion.rows(predictions, targets).numpy()
    np.testing.assert_allclose(atom.value, expected, rtol=1e-12, atol=1e-14)


# how they are used


BAD_LABELS = {
    "outside": (SoftmaxLoss(), 3, [0, 1, 3], DataError, r"between 0 and 2, but .* from 0 to 3"),
    "from 1": (SoftmaxLoss(), 3, [1, 2, 3], DataError, "Count them from 0"),
    "negative": (LogisticLoss(), None, [-1, 1, 1], DataError, r"\(y \+ 1\) // 2"),
    "many": (LogisticLoss(), None, [0, 1, 2], DataError, "SoftmaxLoss"),
    "floats": (LogisticLoss(), None, [0.0, 1.0, 1.0], DataError, r"float\d\d. .*\.long\(\)"),
    "fractions": (SoftmaxLoss(), 3, [0.5, 1.0, 2.0], DataError, "hold fractions"),
    "int32": (SoftmaxLoss(), 3, np.array([0, 1, 2], "int32"), DataError, "astype"),
    "booleans": (LogisticLoss(), None, [False, True, True], DataError, r"bool\. .*\.long\(\)"),
    "complex": (LogisticLoss(), None, [0j, 1j, 1j], DataError, "got a tensor of torch.complex"),
    "beyond two": (SoftmaxLoss(), 2, [0, 1, 2], DataError, "Count them from 0, or set"),
    "one-hot": (SoftmaxLoss(), 3, np.eye(3, dtype="int64"), ShapeError, "argmax"),
    "no outputs": (SoftmaxLoss(), None, [0, 1, 1], ShapeError, "LogisticLoss"),
    "outputs": (LogisticLoss(), 2, [0, 1, 1], ShapeError, "`outputs = None`"),
    "one class": (SoftmaxLoss(), 3, [2, 2, 2], DataError, "All 3 training labels are 2"),
    "one of two": (LogisticLoss(), None, [0, 0, 0], DataError, "one class only"),
    "labels for Huber": (HuberLoss(), None, [0, 1, 1], DataError, "Regression targets"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused_with_a_remedy(case):
    criterion, outputs, labels, error, words = BAD_LABELS[case]
    labels = torch.as_tensor(labels)
    problem = Classes(criterion=criterion, outputs=outputs)
    problem.groups = {"train": bilevel.Batch(doubles(1, 3, 3), labels)}
    problem.data = lambda seed=None: problem.groups
    for attempt in (
        lambda: bilevel.best_response(problem, problem.init_body(torch.Generator())),
        lambda: bilevel.solve(problem, bilevel.TwoTimescale(0.1, 0.1), steps=2, seeds=2),
    ):
        with pytest.raises(error, match=words):
            attempt()


def test_one_class_among_the_test_rows_is_no_mistake():
    problem = Classes(criterion=LogisticLoss())
    groups = problem.data()
    groups["test"] = groups["test"]._replace(targets=torch.ones(11, dtype=torch.int64))
    problem.groups = groups
    solution = bilevel.solve(
        problem, bilevel.TwoTimescale(0.1, 0.1), steps=2, seeds=2, batch_size=5
    )
    assert bool(solution.history["test_accuracy"].isfinite().all())


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_huber_needs_a_positive_delta(delta):
    with pytest.raises(ArgumentError, match="`delta` must be a positive number"):
        HuberLoss(delta)


@pytest.mark.parametrize("name", ["logistic", "softmax", "huber"])
def test_predictions_of_another_shape_are_an_error_not_broadcast(name):
    criterion, _ = CRITERIA[name]
    predictions, targets = sample(name)
    for wrong in (predictions.unsqueeze(-1), predictions[:-1], predictions.flatten()):
        if wrong.shape != predictions.shape:
            with pytest.raises(ShapeError, match="outputs"):
                criterion.rows(wrong, targets)


class Plain(bilevel.AbstractCriterion):
    """What is required, and nothing more."""

    def rows(self, predictions, targets):
        return (predictions - targets) ** 4 / 4

    def metrics(self, predictions, targets):
        return {}

    def check_targets(self, targets, outputs):
        pass


def test_a_criterion_without_an_atom_says_so():
    with pytest.raises(IncompatibleError, match=r"Plain has no cvxpy atom. Define `atom"):
        Plain().atom(None, None)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MissingPackageError, match=r'pip install "bilevel\[cvxpy\]"') as caught:
        LogisticLoss().atom(None, None)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("name", ["logistic", "softmax", "huber", "huber, outputs", "plain"])
def test_two_timescale_training_follows_the_gradient_of_g(name, fit_bias):
    """The closed-form slope in a step equals automatic differentiation of g as a whole."""
    criterion, outputs = (Plain(), None) if name == "plain" else CRITERIA[name]
    kind = Smooth if name in ("plain", "huber", "huber, outputs") else Classes
    problem = kind(criterion=criterion, outputs=outputs, fit_bias=fit_bias)
    strategy = bilevel.TwoTimescale(0.1, 0.3, bilevel.SGD(), order="simultaneous")
    solution = bilevel.solve(
        problem, strategy, steps=1, seeds=1, batch_size=None, dtype=torch.float64, every=1
    )
    body, head = (trees.take(level, 0) for level in points(problem))
    slopes = grad(problem.head_objective, (0, 1))(body, head, problem.data())
    for leaf in body:
        expected = body[leaf] - 0.1 * slopes[0][leaf]
        torch.testing.assert_close(solution.body[leaf][0], expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(solution.head[0], head - 0.3 * slopes[1], rtol=1e-12, atol=1e-14)


def test_labels_may_be_redrawn_for_every_seed():
    class Redrawn(Classes):
        redraws_data = True

        def data(self, seed=None):
            return {"train": labelled(seed or 0, 23, 2)}

    problem = Redrawn(criterion=LogisticLoss(), ridge=0.1)
    solution = bilevel.solve(
        problem, bilevel.BestResponse(1e-2), steps=3, seeds=3, dtype=torch.float64
    )
    assert solution.history["head_residual"].max() <= 1e-9
