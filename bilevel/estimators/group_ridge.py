"""Multi-output ridge regression with a tuned penalty for each feature or group of features."""

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from bilevel.core.checks import check_flag, check_one_of, check_positive_integer, single
from bilevel.estimators.at_bound import warn_at_bound
from bilevel.estimators.columns import Floats, Grouping, grouping, scaling
from bilevel.estimators.folds import folds_of
from bilevel.estimators.penalty_search import Box, Found, search
from bilevel.estimators.ridge_criteria import AbstractRidgeCriterion, Evidence, FoldErrors

CriterionName = Literal["cv", "evidence"]
COMMON = 24
"""Common penalties that are tried first."""


class GroupRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""Ridge regression whose penalties, one for each feature or group, are tuned by gradients.

    Coefficients $W$ minimise

    $$\lVert Z W - Y\rVert^2 + \sum_j \alpha_{g(j)} \lVert W_j\rVert^2,$$

    with $Z$ the columns of X around their means and divided by their deviations. The penalties
    minimise F, the error of rows that were left out or minus the log evidence, plus
    $\text{shrink}/n \sum_b (u_b - \bar u)^2$ of their logarithms $u$. Derivatives of F are exact,
    so that hundreds of penalties cost little more than one. All targets count alike, whatever their
    units.

    Args:
        groups: which columns share a penalty. None: each has its own. A label for each column; or
            a list of groups, each a slice or a list of column numbers or names; or a dictionary of
            such groups. Every column belongs to one group.
        cv: how rows are left out: a number of shuffled folds (at most as many as rows), a splitter
            of scikit-learn, or pairs of row numbers. With `criterion="evidence"` there are none.
        criterion: F is "cv", the squared error of rows that are left out, of targets of variance
            one; or "evidence", minus the logarithm of the probability of the targets, for each row
            (the marginal likelihood of Bayesian ridge regression), several times cheaper.
        shrink: how much penalties are drawn to each other, at least 0: a prior against penalties
            that follow the noise, which weighs less the more rows there are.
        per_target: whether each target has penalties of its own.
        scale: whether columns are divided by their deviations, in each fold by those of its
            training rows. False: they are centred only, for columns whose sizes mean something.
        max_iter: iterations of L-BFGS-B.
        random_state: of the shuffled folds.

    Attributes:
        coef_: (d,), or (T, d) for targets (n, T); in the units of X.
        intercept_: a number, or (T,).
        alphas_: the penalties of the groups, (B,), or (T, B) with `per_target`: as the `alpha` of
            scikit-learn's `Ridge` on the scaled columns. In the units of X, column j has the
            penalty $\alpha_{g(j)}$ times its variance.
        groups_: the labels of the groups, in the order of `alphas_`: for groups None, the names or
            numbers of the columns.
        at_bound_: which penalties ended at a bound, or within a factor of e of it, of the shape of
            `alphas_`.
        path_: F with its shrinkage, at the best common penalty and after each iteration; with
            `per_target` a list of such arrays.
        n_iter_: iterations, the most of all targets.
        noise_variance_: of the rows around the mean, a number or (T,), from the penalties.

    Warns:
        PenaltyBoundWarning: penalties ended at a bound, 1e-5 n or 1e5 n times the mean square of a
            scaled column.

    Source: Foo, Do and Ng, Efficient multiple hyperparameter learning for log-linear models
    (NeurIPS 2007); banded ridge regression: Dupre la Tour et al. 2022 (himalaya). The evidence:
    MacKay, Bayesian interpolation (1992). Differs from the source in: 1. exact derivatives over all
    folds from one factor each; 2. `shrink`.

    Examples:
        >>> import numpy as np
        >>> from bilevel.estimators import GroupRidge
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((60, 6))
        >>> y = X[:, :3] @ [1.0, -2.0, 1.5] + rng.standard_normal(60)
        >>> model = GroupRidge(groups=["signal"] * 3 + ["noise"] * 3).fit(X, y)
        >>> model.groups_, bool(model.alphas_[0] > 10 * model.alphas_[1])
        (['noise', 'signal'], True)
    """

    def __init__(
        self,
        groups: Any = None,
        *,
        cv: Any = 5,
        criterion: CriterionName = "cv",
        shrink: float = 0.1,
        per_target: bool = False,
        scale: bool = True,
        max_iter: int = 60,
        random_state: Any = 0,
    ) -> None:
        self.groups = groups
        self.cv = cv
        self.criterion = criterion
        self.shrink = shrink
        self.per_target = per_target
        self.scale = scale
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Find penalties and coefficients.

        Args:
            X: (n, d), n at least 2.
            y: (n,) or (n, T).
        """
        self._check()
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        self._single = y.ndim == 1
        targets = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        groups = grouping(self.groups, X.shape[1], getattr(self, "feature_names_in_", None))
        self._to_z, to_t = scaling(X, divided=self.scale), scaling(targets)
        z, t = self._to_z(X), to_t(targets)
        box = Box.around(z)
        found = self._search(self._criterion(X, z, t), groups, box, len(z))
        self._keep(found, groups, len(z))
        heads, noise = self._solve(z, t)
        coefficients = (heads * to_t.units / self._to_z.deviation[:, None]).T
        self._set(coefficients, to_t.mean, noise * to_t.units**2)
        warn_at_bound([end.low for end in found], [end.high for end in found])
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictions, (m,) or (m, T), as `y` was.

        Args:
            X: (m, d).
            return_std: whether to return the standard deviations of new targets around them, too:
                of noise, coefficients and mean, at these penalties.
        """
        check_is_fitted(self)
        check_flag(return_std, "return_std")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        mean = X @ self.coef_.T + self.intercept_
        if not return_std:
            return mean
        z = self._to_z(X).T
        posterior = np.stack(
            [
                (z * self._rows.solve(self._rows.factor(p), p, z)).sum(0) / self._n
                for p in self._penalties
            ],
            axis=1,
        )
        variance = self.noise_variance_ * (1 + 1 / self._n + posterior)
        deviation = np.sqrt(variance)
        return mean, deviation[:, 0] if self._single else deviation

    def _check(self) -> None:
        check_one_of(self.criterion, CriterionName, "criterion")
        single(self.shrink, "`shrink`", zero_allowed=True)
        check_flag(self.per_target, "per_target")
        check_flag(self.scale, "scale")
        check_positive_integer(self.max_iter, "`max_iter`")

    def _criterion(self, x: Floats, z: Floats, t: Floats) -> AbstractRidgeCriterion:
        if self.criterion == "evidence":
            return Evidence(z, t)
        return FoldErrors(x, t, folds_of(self.cv, self.random_state, x, t), scale=self.scale)

    def _search(
        self, criterion: AbstractRidgeCriterion, groups: Grouping, box: Box, rows: int
    ) -> list[Found]:
        """For all targets, or for each."""
        count, of_column = len(groups.labels), groups.of_column
        common = np.array(
            [criterion.values(np.full(len(of_column), np.exp(u))) for u in box.grid(COMMON)]
        )
        if self.per_target:
            parts = [(criterion.of_target(t), values) for t, values in enumerate(common.T)]
        else:
            parts = [(criterion, common.mean(1))]
        found = []
        for part, values in parts:

            def objective(u: Floats, part: AbstractRidgeCriterion = part) -> tuple[float, Floats]:
                value, slope = part.value_and_gradient(np.exp(u)[of_column])
                return value, np.bincount(of_column, slope, count).astype(np.float64)

            start = np.full(count, box.start(values))
            shrink, most = float(self.shrink), int(self.max_iter)
            found.append(search(objective, start, box, shrink=shrink, rows=rows, max_iter=most))
        return found

    def _keep(self, found: list[Found], groups: Grouping, n: int) -> None:
        """What the searches say, for all targets or for each."""
        penalties: Floats = np.exp([end.u for end in found])
        self._n, self._penalties = n, penalties[:, groups.of_column]
        bounds = np.stack([end.low | end.high for end in found])
        paths = [end.path for end in found]
        shared = not self.per_target or self._single
        self.groups_ = groups.labels
        self.alphas_ = n * (penalties[0] if shared else penalties)
        self.at_bound_ = bounds[0] if shared else bounds
        self.path_ = paths[0] if shared else paths
        self.n_iter_ = max(1, *(len(path) - 1 for path in paths))

    def _solve(self, z: Floats, t: Floats) -> tuple[Floats, Floats]:
        """Heads (d, T) and variances of noise (T,) at the penalties, on scaled rows."""
        whole = Evidence(z, t)
        self._rows = whole.train
        heads, left = [], []
        for number, p in enumerate(self._penalties):
            part = whole if len(self._penalties) == 1 else whole.of_target(number)
            heads.append(part.train.head(part.train.factor(p), p))
            left.append(part.left(heads[-1], p))
        return np.concatenate(heads, axis=1), np.concatenate(left) / (len(z) - 1)

    def _set(self, coefficients: Floats, mean: Floats, noise: Floats) -> None:
        intercept = mean - coefficients @ self._to_z.mean
        one = self._single
        self.coef_ = coefficients[0] if one else coefficients
        self.intercept_ = float(intercept[0]) if one else intercept
        self.noise_variance_ = float(noise[0]) if one else noise
