"""A comparison with tuned strategies; small numbers that one can follow."""

from typing import Any

import numpy as np

from bilevel.comparison.result import Comparison

# Final values of four seeds; everything begins at 16.
FINAL = {
    "uniform": [4.0, 6.0, 5.0, 7.0],
    "two": [2.0, 3.0, 4.0, 6.0],
    "fixed": [3.0, 3.0, 3.0, 3.0],
    "uniform, tuned": [2.0, 3.0, 2.5, 3.5],
    "two, tuned": [4.0, 3.0, 2.0, 3.0],
}
CODES = {
    "uniform": "TwoTimescale(0.01, 0.01)",
    "two": "TwoTimescale(0.01, 0.1)",
    "fixed": "fixed()",
    "uniform, tuned": "TwoTimescale(0.1, 0.1)",
    "two, tuned": "TwoTimescale(0.1, 0.10000000000000002)",
}
TUNING = {
    "metric": "validation_mse",
    "seeds": [4, 5],
    "factors": [0.1, 1.0, 10.0],
    "strategies": {
        "uniform": {"trials": 9, "failed": 2, "factors": {"body_lr = head_lr": 10.0},
                    "score": 0.5, "edge": True},
        "two": {"trials": 9, "failed": 0, "factors": {"body_lr": 10.0, "head_lr": 1.0},
                "score": 0.25, "edge": False},
    },
}  # fmt: skip


def tuned(**changes: Any) -> Comparison:
    """Two strategies, tuned and as given, and one that has no rates."""
    names = [name for name in changes.pop("names", FINAL) if name in FINAL]
    steps = np.array([0, 5, 10])
    history = {}
    for name in names:
        last = np.array(FINAL[name])
        history[name] = {"test_mse": np.stack([np.full(4, 16.0), 2 * last, last])}
    fields: dict[str, Any] = {
        "problem": "toy",
        "settings": {"seeds": [0, 1, 2, 3], "steps": 10, "every": 5, "budget": "steps",
                     "batch_size": 8, "sampling": "iid", "tuning": TUNING},
        "strategies": {name: CODES[name] for name in names},
        "steps": steps,
        "history": history,
        "status": {name: ["COMPLETED"] * 4 for name in names},
        "gradients_per_step": {name: 4.5 if name == "fixed" else 2.0 for name in names},
        "seconds_per_step": dict.fromkeys(names, 0.5),
        "baselines": tuple(name for name in ("uniform", "uniform, tuned") if name in names),
        "headline": "test_mse",
    }  # fmt: skip
    return Comparison(**(fields | changes))
