"""Banded ridge regression in himalaya: random search, and its solver by hypergradients.

The rows of all seeds come in a file of NumPy's. Each call of a piece does the next seed, the first
one to warm up (which is then done again), and its value is the R2 of the test rows.
"""

import numpy as np
from himalaya.kernel_ridge import MultipleKernelRidgeCV
from himalaya.ridge import GroupRidgeCV
from serve import serve, settings
from sklearn.model_selection import KFold

chosen = settings()
with np.load(chosen["file"]) as file:
    names = ("x", "y", "x_new", "y_new")
    tasks = list(zip(*(file[name] for name in names), strict=True))
    groups, alphas = file["groups"], file["alphas"]
FOLDS = KFold(5, shuffle=True, random_state=0)


def random_search(x, y, x_new):
    """The best of 30 weightings of the groups and of the alphas, for each target."""
    search = {"n_iter": 30, "alphas": alphas, "progress_bar": False, "warn": False}
    model = GroupRidgeCV(
        groups=groups, fit_intercept=True, cv=FOLDS, solver_params=search, random_state=0
    )
    return model.fit(x, y).predict(x_new)


def hyper_gradient(x, y, x_new):
    """Its gradient descent, from what `RidgeCV` finds: from its default start it fails."""
    mean, middle = x.mean(0), y.mean(0)
    x, x_new = x - mean, x_new - mean
    bands = [groups == band for band in np.unique(groups)]
    descent = {"max_iter": 20, "progress_bar": False, "initial_deltas": "ridgecv"}
    model = MultipleKernelRidgeCV(
        kernels="precomputed", solver="hyper_gradient", solver_params=descent, cv=FOLDS,
        random_state=0,
    )  # fmt: skip
    model.fit(np.stack([x[:, band] @ x[:, band].T for band in bands]), y - middle)
    return model.predict(np.stack([x_new[:, b] @ x[:, b].T for b in bands])) + middle


def piece(method):
    """The next seed at each call."""
    calls = iter([0, *range(len(tasks))])

    def do():
        x, y, x_new, y_new = tasks[next(calls)]
        error = np.square(method(x, y, x_new) - y_new).mean()
        return 1 - error / np.square(y_new - y_new.mean(0)).mean()

    return do


METHODS = {"random search": random_search, "hyper-gradient": hyper_gradient}
serve({name: piece(METHODS[name]) for name in chosen["methods"]})
