"""Small legal arguments for estimators, and what was fitted by one."""

import functools
import itertools

from bilevel.estimators import StackelbergRegressor
from tests.support.legal_arguments import X, Y

FEW = {"hidden_layer_sizes": 2, "max_steps": 5}
COUNT = itertools.count()


@functools.cache
def fitted():
    return StackelbergRegressor(**FEW).fit(X, Y)


LEGAL = {
    "bilevel.estimators.StackelbergRegressor": lambda: dict(FEW),
    "bilevel.estimators.StackelbergClassifier": lambda: dict(FEW),
    "bilevel.estimators.save_model": lambda: {
        "estimator": fitted(), "path": f"model-{next(COUNT)}"
    },
}  # fmt: skip
