"""Logistic regression with a tuned penalty for each feature or group of features."""

from typing import Any, Self

import numpy as np
import torch
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from bilevel.core.checks import check_flag, check_positive_integer, single
from bilevel.errors import ArgumentError
from bilevel.estimators.at_bound import warn_at_bound
from bilevel.estimators.columns import Floats, Integers, grouping, scaling
from bilevel.estimators.fold_classes import FoldClasses, FoldLosses
from bilevel.estimators.folds import class_folds
from bilevel.estimators.penalty_search import Box, search
from bilevel.exact import logistic_head, softmax_head

COMMON = 12
"""Common penalties that are tried first."""
FLAT = 1e-7
"""Log probabilities of a row that differ by less are the same model."""


class GroupLogistic(ClassifierMixin, BaseEstimator):
    r"""Logistic regression whose penalties, one for each feature or group, are tuned by gradients.

    Coefficients $W$ minimise

    $$\sum_i c(z_i W + b, y_i) + \tfrac12 \sum_j \alpha_{g(j)} \lVert W_j\rVert^2,$$

    $c$ minus the log probability of a row's class (softmax for more than two classes), $Z$ the
    columns of X around their means and divided by their deviations, the biases $b$ free. The
    penalties minimise the mean $c$ of rows that were left out, plus
    $\text{shrink}/n \sum_b (u_b - \bar u)^2$ of their logarithms $u$, by implicit gradients: an
    evaluation costs little more than the heads of the folds, which start from the last ones.

    Args:
        groups: which columns share a penalty, as in `GroupRidge`.
        cv: how rows are left out: a number of shuffled folds in which classes are as frequent as in
            all rows; a splitter of scikit-learn; or pairs of row numbers.
        shrink: how much penalties are drawn to each other, at least 0: more than in `GroupRidge`,
            since losses of classes follow the noise more readily.
        scale: whether columns are divided by their deviations, in each fold by those of its
            training rows.
        max_iter: iterations of L-BFGS-B.
        random_state: of the shuffled folds.

    Attributes:
        classes_: the labels, (C,), sorted.
        coef_: (1, d) for two classes, else (C, d); in the units of X.
        intercept_: (1,) or (C,).
        alphas_: the penalties of the groups, (B,): 1 / `C` of scikit-learn's `LogisticRegression`
            on the scaled columns.
        groups_: the labels of the groups, as in `GroupRidge`.
        at_bound_: which penalties ended at a bound, or within a factor of e of it, (B,).
        path_: what is minimised, at the best common penalty and after each iteration.
        n_iter_: iterations.

    Warns:
        PenaltyBoundWarning: penalties ended at a bound, 1e-5 n or 1e5 n times the mean square of a
            scaled column.

    Source: Pedregosa 2016 (arXiv 1602.02355), section 4: penalties of logistic regression by
    implicit gradients. Differs from the source in: 1. a penalty for each group; 2. exact heads and
    a quasi-Newton method; 3. folds in the place of one split; 4. `shrink`.

    Examples:
        >>> import numpy as np
        >>> from bilevel.estimators import GroupLogistic
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((80, 6))
        >>> y = np.where(X[:, 0] - X[:, 1] + rng.standard_normal(80) > 0, "yes", "no")
        >>> model = GroupLogistic(groups=["signal"] * 2 + ["noise"] * 4).fit(X, y)
        >>> model.predict([[2, -2, 0, 0, 0, 0]]).tolist(), model.coef_.shape
        (['yes'], (1, 6))
    """

    def __init__(
        self,
        groups: Any = None,
        *,
        cv: Any = 5,
        shrink: float = 1.0,
        scale: bool = True,
        max_iter: int = 60,
        random_state: Any = 0,
    ) -> None:
        self.groups = groups
        self.cv = cv
        self.shrink = shrink
        self.scale = scale
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Find penalties and coefficients.

        Args:
            X: (n, d).
            y: labels of any kind, (n,), at least two of them.
        """
        single(self.shrink, "`shrink`", zero_allowed=True)
        check_flag(self.scale, "scale")
        check_positive_integer(self.max_iter, "`max_iter`")
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ArgumentError("`y` has one class only: there is nothing to learn.")
        groups = grouping(self.groups, X.shape[1], getattr(self, "feature_names_in_", None))
        to_z = scaling(X, divided=self.scale)
        z = to_z(X)
        folds = class_folds(self.cv, self.random_state, X, labels)
        problem = FoldClasses(
            X, labels, len(self.classes_), folds, groups.of_column, scale=self.scale
        )
        box = Box.around(z)
        # from the strongest: heads of zero are near to those, and each is near to the next
        grid = box.grid(COMMON)[::-1]
        alike = np.ones(len(groups.labels))
        losses = FoldLosses(problem, grid[0] * alike)
        values = np.array([losses(u * alike)[0] for u in grid])[::-1]
        found = search(
            losses, box.start(values) * alike, box,
            shrink=float(self.shrink), rows=len(X), max_iter=int(self.max_iter), flat=FLAT,
        )  # fmt: skip
        self.groups_, self.alphas_ = groups.labels, len(X) * np.exp(found.u)
        self.path_, self.n_iter_ = found.path, max(1, len(found.path) - 1)
        self.at_bound_ = found.low | found.high
        head = _head(z, labels, len(self.classes_), np.exp(found.u)[groups.of_column])
        self.coef_ = (head[:-1] / to_z.deviation[:, None]).T
        self.intercept_ = head[-1] - self.coef_ @ to_z.mean
        warn_at_bound(found.low, found.high)
        return self

    def decision_function(self, X: Any) -> Any:
        """Log odds of the second class, (m,), or scores of all, (m, C)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, (m, C), in the order of `classes_`."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([expit(-scores), expit(scores)])
        return softmax(scores, axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Their logarithms, (m, C)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([log_expit(-scores), log_expit(scores)])
        return log_softmax(scores, axis=1)

    def predict(self, X: Any) -> Any:
        """The most probable class of each row, (m,)."""
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(1)
        return self.classes_[chosen]


def _head(z: Floats, labels: Integers, classes: int, p: Floats) -> Floats:
    """Coefficients and biases on all rows, (d + 1, 1 or C)."""
    rows, targets, ridge = map(torch.from_numpy, (z, labels.astype(np.int64), p))
    if classes == 2:
        head = logistic_head(rows, targets, ridge, fit_bias=True).unsqueeze(1)
    else:
        head = softmax_head(rows, targets, ridge, fit_bias=True, classes=classes)
    found: Floats = head.numpy()
    return found
