"""Networks with an exactly solved or fast linear head, as estimators of scikit-learn."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from bilevel.errors import DataError
from bilevel.estimators.network import Array, NetworkEstimator
from bilevel.optimizers import Adam
from bilevel.strategies import AbstractStrategy, BestResponse

SMALL = 5000
"""Up to so many training rows all of them are looked at in each step."""


@dataclasses.dataclass(eq=False, repr=False)
class StackelbergRegressor(MultiOutputMixin, RegressorMixin, NetworkEstimator):
    r"""A network whose hidden layers learn while its linear head answers: regression.

    $$
    \min_w g(w, \theta^*(w)), \quad \theta^*(w) = \arg\min_\theta g(w, \theta), \quad
    g = \tfrac{1}{2n} \lVert z(w)\,\theta + b - y\rVert^2
    + \tfrac12\,\text{ridge}\,\lVert\theta\rVert^2
    $$

    z are the hidden layers on standardised columns, y standardised targets; what goes in and comes
    out has its own units. The head is the exact ridge regression on z in each step of the body, up
    to 5,000 training rows; beyond, it is trained with a rate of its own.

    Args:
        hidden_layer_sizes: units of the hidden layers; one number is one layer.
        activation: one of relu, tanh, softplus, silu, gelu.
        strategy: how both levels move: None (see above), a name from `bilevel strategies` such as
            "two-timescale", or an object such as `bilevel.TwoTimescale(1e-3, 1e-2)`.
        body_lr: rate of the hidden layers; None: 1e-2 with exact heads, else 5e-3.
        head_lr: rate of the head, where it has one; None: five times `body_lr`.
        ridge: penalty of the head on its weights, at least 0; None: 0.1 with exact heads,
            else 1e-2.
        batch_size: rows of a step of the hidden layers; None: all.
        max_steps: of the hidden layers.
        early_stopping: whether rows are held out to say which step is best. Fewer than 20 rows are
            not divided.
        validation_fraction: how many rows are held out, at least 5.
        n_iter_no_change: records in a row without a better one after which the training ends; there
            is one for each pass over the rows, at most one in 10 steps.
        random_state: of the start, the rows of the steps and those that are held out.
        verbose: whether a bar is shown.

    Attributes:
        model_: a `bilevel.tables.Model`, which predicts.
        n_iter_: the step whose network it is.
        loss_curve_: g on the training rows, at each record.
        history_: all that `bilevel.solve` records, by name, (T,); and "step".
        best_validation_: the mean squared error of the standardised targets of the rows that were
            held out, at that step; None without such rows.
        n_features_in_: how many columns.
        feature_names_in_: their names, of a data frame.

    Source: arXiv 2605.15530, section 5, for networks. Differs from the source in: 1. columns and
    targets are standardised; 2. early stopping on rows that are held out.

    Examples:
        >>> import numpy as np
        >>> from bilevel.estimators import StackelbergRegressor
        >>> X = np.random.default_rng(0).uniform(-2, 2, (200, 2))
        >>> y = 1000 * np.sin(X[:, 0]) + 500 * X[:, 1]
        >>> model = StackelbergRegressor(16, max_steps=100, random_state=0).fit(X[:150], y[:150])
        >>> bool(model.score(X[150:], y[150:]) > 0.9)
        True
    """

    _metric: ClassVar[str] = "mse"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on n rows.

        Args:
            X: (n, d).
            y: (n,), or (n, K) for K outputs.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        targets = np.asarray(y, np.float64)
        self._single = targets.ndim == 1
        self.model_ = self._fitted(X, targets.reshape(len(targets), -1))
        return self

    def predict(self, X: Any) -> Array:
        """Predictions, (m,) or (m, K), as `y` was.

        Args:
            X: (m, d).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        found = self.model_.predict(X)
        return found if self._single else found.reshape(len(found), -1)

    def _usual(self, rows: int) -> AbstractStrategy:
        if rows <= SMALL and self.head_lr is None:
            return BestResponse(1e-2 if self.body_lr is None else self.body_lr, optimizer=Adam())
        return self._two_rates()


@dataclasses.dataclass(eq=False, repr=False)
class StackelbergClassifier(ClassifierMixin, NetworkEstimator):
    r"""A network whose hidden layers learn slower than its linear head: classification.

    $g$ is the cross-entropy of the labels plus $\tfrac12\,\text{ridge}\,\lVert\theta\rVert^2$, $z$
    the hidden layers on standardised columns. The head is logistic regression on z for two classes,
    softmax regression for more, and learns with a rate of its own; `strategy="best response"`
    solves it in each step instead, which takes several times as long.

    Args:
        hidden_layer_sizes: units of the hidden layers; one number is one layer.
        activation: one of relu, tanh, softplus, silu, gelu.
        strategy: how both levels move: None (see above), a name from `bilevel strategies` such as
            "best response", or an object such as `bilevel.TwoTimescale(1e-3, 1e-2)`.
        body_lr: rate of the hidden layers; None: 2e-3.
        head_lr: rate of the head, where it has one; None: five times `body_lr`.
        ridge: penalty of the head on weights and bias, at least 0.
        batch_size: rows of a step; None: all.
        max_steps: of the hidden layers.
        early_stopping: whether rows are held out to say which step is best, of each class the same
            share. Fewer than 20 rows are not divided.
        validation_fraction: how many rows are held out, at least 5.
        n_iter_no_change: records in a row without a better one after which the training ends; there
            is one for each pass over the rows, at most one in 10 steps.
        random_state: of the start, the rows of the steps and those that are held out.
        verbose: whether a bar is shown.

    Attributes:
        classes_: the labels, sorted.
        model_: a `bilevel.tables.Model`, which predicts.
        n_iter_: the step whose network it is.
        loss_curve_: g on the training rows, at each record.
        history_: all that `bilevel.solve` records, by name, (T,); and "step".
        best_validation_: the cross-entropy of the rows that were held out, at that step; None
            without such rows.
        n_features_in_: how many columns.
        feature_names_in_: their names, of a data frame.

    Source: arXiv 2605.15530, section 5, for networks. Differs from the source in: 1. columns are
    standardised; 2. early stopping on rows that are held out.

    Examples:
        >>> import numpy as np
        >>> from bilevel.estimators import StackelbergClassifier
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.where((X**2).sum(1) < 1.4, "inside", "outside")
        >>> model = StackelbergClassifier(16, body_lr=1e-2, max_steps=200, random_state=0)
        >>> bool(model.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.9)
        True
    """

    ridge: float | None = 1e-3
    _metric: ClassVar[str] = "cross_entropy"

    def fit(self, X: Any, y: Any) -> Self:
        """Train on n rows.

        Args:
            X: (n, d).
            y: (n,), the label of each row.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"`y` holds one class, {self.classes_[0]!r}: there is nothing to learn."
            )
        self.model_ = self._fitted(X, labels, tuple(self.classes_.tolist()))
        return self

    def predict(self, X: Any) -> Array:
        """The most probable label of each row, (m,).

        Args:
            X: (m, d).
        """
        places = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[places]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, (m, K), in the order of `classes_`.

        Args:
            X: (m, d).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.probabilities(X)

    def _usual(self, rows: int) -> AbstractStrategy:
        return self._two_rates(2e-3)
