"""Fitted estimators in files that `bilevel predict` reads."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from bilevel.errors import ArgumentError, spell
from bilevel.tables.columns import Column
from bilevel.tables.model import Model
from bilevel.tables.scaling import Scaling


def save_model(
    estimator: Any,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    target: str | Sequence[str] = "target",
) -> Path:
    """Write what a fitted estimator learned to one new file, for `bilevel predict`.

    Args:
        estimator: `StackelbergRegressor`, `StackelbergClassifier`, or any linear regression with
            `coef_` and `intercept_`, ours or one of scikit-learn.
        path: a new file; the suffix `.safetensors` is customary.
        names: of the columns of X, as in the files to come; None: those of the data frame it was,
            else x0, x1, ...
        target: the name of what is predicted, or of each output.

    Raises:
        ArgumentError: the names are not as many as columns and outputs, or the estimator is of
            another kind.
        ResultsExistError: there is such a file already.

    Examples:
        >>> import numpy as np, tempfile
        >>> from bilevel.estimators import StackelbergRegressor, save_model
        >>> from bilevel.tables import Model
        >>> X, y = np.arange(40.0)[:, None], 3 * np.arange(40.0)
        >>> fitted = StackelbergRegressor(4, max_steps=20, random_state=0).fit(X, y)
        >>> path = save_model(fitted, f"{tempfile.mkdtemp()}/line.safetensors", names=["length"])
        >>> bool((Model.load(path).predict(X) == fitted.predict(X)).all())
        True
    """
    try:
        check_is_fitted(estimator)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`estimator` is not fitted, or no estimator: {error}") from error
    model = getattr(estimator, "model_", None)
    if not isinstance(model, Model):
        model = linear(estimator)
    return model.renamed(names, target).save(path)


def linear(estimator: Any) -> Model:
    """A linear regression as a model: its coefficients know the units of the columns."""
    heads, bias = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if heads is None or bias is None or not is_regressor(estimator):
        raise ArgumentError(
            f"`estimator` must be a network of this package or a linear regression with `coef_` "
            f"and `intercept_`, got {spell(estimator)}."
        )
    heads = np.atleast_2d(np.asarray(heads, np.float64))
    bias = np.broadcast_to(np.asarray(bias, np.float64), len(heads))
    outputs, columns = heads.shape
    listed = getattr(estimator, "feature_names_in_", [f"x{k}" for k in range(columns)])
    aims = ["target"] if outputs == 1 else [f"target {k}" for k in range(outputs)]
    return Model(
        columns=tuple(Column(str(name)) for name in listed),
        targets=tuple(map(Column, aims)),
        inputs=Scaling.identity(columns),
        outputs=Scaling.identity(outputs),
        medians=None,
        spans=None,
        network=None,
        body={},
        head=torch.from_numpy(np.vstack([heads.T, bias])),
        about={"said": type(estimator).__name__},
    )
