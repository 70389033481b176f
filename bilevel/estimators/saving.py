"""Fitted estimators in files that `bilevel predict` reads."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from bilevel.errors import ArgumentError, spell
from bilevel.tables.columns import Column
from bilevel.tables.model import Model
from bilevel.tables.scaling import Scaling

ROUNDING = 1e-9
"""Of the terms of a prediction: what another order of the sum may change."""


def save_model(
    estimator: Any,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    target: str | Sequence[str] = "target",
) -> Path:
    """Write what a fitted estimator learned to one new file, for `bilevel predict`.

    Args:
        estimator: `StackelbergRegressor`, `StackelbergClassifier`, or any other of ours or of
            scikit-learn whose predictions are linear, or logistic or softmax probabilities, with
            `coef_` and `intercept_`. No pipeline: ours scale columns themselves. Of a search, its
            `best_estimator_`.
        path: a new file; the suffix `.safetensors` is customary.
        names: of the columns of X, as in the files to come; None: those of the data frame it was,
            else x0, x1, ...
        target: the name of what is predicted, or of each output.

    Returns:
        The path of the file.

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
    """A linear model by its coefficients, which know the units of the columns.

    That it is one is tried on a few rows: coefficients mean something else to some estimators.
    """
    heads, bias = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    hint = ""
    if hasattr(estimator, "best_estimator_"):
        hint = " Of a search pass what it found, `best_estimator_`."
    elif hasattr(estimator, "steps"):
        hint = " Estimators of this package scale columns themselves: fit one without a pipeline."
    refusal = ArgumentError(
        "`estimator` must be a network of this package, or have `coef_` and `intercept_` that its "
        f"predictions are linear, logistic or softmax functions of, got {spell(estimator)}.{hint}"
    )
    if heads is None or bias is None:
        raise refusal
    heads = np.atleast_2d(np.asarray(heads, np.float64))
    bias = np.broadcast_to(np.asarray(bias, np.float64), len(heads))
    labels = getattr(estimator, "classes_", None) if is_classifier(estimator) else None
    outputs, columns = heads.shape
    targets = outputs if labels is None else 1
    listed = getattr(estimator, "feature_names_in_", [f"x{k}" for k in range(columns)])
    aims = ["target"] if targets == 1 else [f"target {k}" for k in range(targets)]
    model = Model(
        columns=tuple(Column(str(name)) for name in listed),
        targets=tuple(map(Column, aims)),
        inputs=Scaling.identity(columns),
        outputs=Scaling.identity(outputs) if labels is None else None,
        medians=None,
        spans=None,
        network=None,
        body={},
        head=torch.from_numpy(np.vstack([heads.T, bias])),
        classes=None if labels is None else tuple(np.asarray(labels).tolist()),
        about={"said": type(estimator).__name__},
    )
    # near the rows that are predicted to be 0, where functions that are not linear are not flat
    size = np.abs(heads).max(0)
    rows = np.random.default_rng(0).normal(size=(8, columns)) / np.where(size > 0, size, 1)
    rows += np.linalg.lstsq(heads, -bias)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without names
        try:
            if labels is None:
                apart = model.predict(rows).ravel() - np.asarray(estimator.predict(rows)).ravel()
                terms = np.abs(rows) @ np.abs(heads.T) + np.abs(bias)  # whatever the units
                same = bool((np.abs(apart) <= ROUNDING * terms.ravel()).all())
            else:
                pair = model.probabilities(rows), np.asarray(estimator.predict_proba(rows))
                same = np.allclose(pair[0].ravel(), pair[1].ravel(), rtol=1e-6)
        except (AttributeError, ValueError):  # it has no probabilities, or other classes
            same = False
    if not same:
        raise refusal
    return model
