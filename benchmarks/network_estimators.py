"""Networks with fast heads, those of scikit-learn, and linear models, on the same folds.

    python benchmarks/network_estimators.py

Accuracy or R2 on five folds, mean and standard error, and CPU seconds of a fit (one thread). The
columns are standardised for all; nothing is searched.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bilevel.estimators import StackelbergClassifier, StackelbergRegressor

FOLDS = 5
Make = Callable[[int], Any]
REGRESSORS: dict[str, Make] = {
    "RidgeCV": lambda _: RidgeCV(np.logspace(-3, 3, 20)),
    "MLPRegressor": lambda seed: MLPRegressor(random_state=seed),
    "MLPRegressor, 2,000 passes": lambda seed: MLPRegressor(max_iter=2000, random_state=seed),
    "MLPRegressor, early stopping": lambda seed: MLPRegressor(
        early_stopping=True, max_iter=2000, n_iter_no_change=50, random_state=seed
    ),
    "StackelbergRegressor": lambda seed: StackelbergRegressor(random_state=seed),
    '... "two-timescale"': lambda seed: StackelbergRegressor(
        strategy="two-timescale", random_state=seed
    ),
}
CLASSIFIERS: dict[str, Make] = {
    "LogisticRegression": lambda _: LogisticRegression(max_iter=2000),
    "MLPClassifier": lambda seed: MLPClassifier(random_state=seed),
    "MLPClassifier, 2,000 passes": lambda seed: MLPClassifier(max_iter=2000, random_state=seed),
    "MLPClassifier, early stopping": lambda seed: MLPClassifier(
        early_stopping=True, max_iter=2000, n_iter_no_change=50, random_state=seed
    ),
    "StackelbergClassifier": lambda seed: StackelbergClassifier(random_state=seed),
}
DATA = {
    "diabetes": (lambda: load_diabetes(return_X_y=True), REGRESSORS),
    "friedman1": (lambda: make_friedman1(800, noise=1.0, random_state=0), REGRESSORS),
    "digits": (lambda: load_digits(return_X_y=True), CLASSIFIERS),
    "breast cancer": (lambda: load_breast_cancer(return_X_y=True), CLASSIFIERS),
}


def main() -> None:
    """Print a line for each data set and estimator."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # networks of scikit-learn that have not converged
    for name, (load, estimators) in DATA.items():
        X, y = load()
        split = (KFold if estimators is REGRESSORS else StratifiedKFold)(
            FOLDS, shuffle=True, random_state=0
        )
        folds = list(split.split(X, y))
        for called, make in estimators.items():
            scores, began = [], time.process_time()
            for seed, (train, test) in enumerate(folds):
                made = make_pipeline(StandardScaler(), make(seed)).fit(X[train], y[train])
                scores.append(made.score(X[test], y[test]))
            seconds = (time.process_time() - began) / FOLDS
            error = np.std(scores, ddof=1) / FOLDS**0.5
            print(f"{name:14}{called:32}{np.mean(scores):8.4f} +- {error:.4f}{seconds:8.2f} s")


if __name__ == "__main__":
    main()
