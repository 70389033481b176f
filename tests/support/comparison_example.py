"""A synthetic comparison with everything a report must cope with; the numbers are made up."""

from typing import Any

import numpy as np

from bilevel.comparison.result import Comparison

STRATEGIES = {
    "uniform slow": ("uniform(0.0005, order='alternating')", 0.0965, 300.0, 1.0),
    "uniform fast": ("uniform(0.005, order='alternating')", 0.0796, 60.0, 1.0),
    "two-timescale": ("TwoTimescale(0.0005, 0.005, order='alternating')", 0.0917, 260.0, 1.0),
    "swapped": ("TwoTimescale(0.005, 0.0005, order='alternating')", 0.0740, 70.0, 1.0),
    "uniform sqrt": ("uniform(0.00158, order='alternating')", 0.0767, 120.0, 1.0),
    "best response": ("BestResponse(0.0005, solver=ClosedForm(data=FullData()))", 0.1110, 90.0,
                      3.0),
}  # fmt: skip
NAN = float("nan")
BASELINES = ("uniform slow", "uniform fast", "uniform sqrt")


def example(runs: int = 12, records: int = 31, **changes: Any) -> Comparison:
    """Six strategies; with more than five runs, two of "uniform fast" diverge."""
    steps = np.arange(records) * 50
    history, status = {}, {}
    for index, (name, (_, level, scale, _)) in enumerate(STRATEGIES.items()):
        history[name] = _history(np.random.default_rng(index), steps, runs, level, scale)
        status[name] = ["COMPLETED"] * runs
        if name == "best response":
            history[name]["head_gap"] = 1e-13 * (1 + history[name]["test_mse"])
            history[name]["head_bound"] = 3 * history[name]["head_gap"]
        if name == "uniform fast" and runs > 5:
            for run, record in ((2, 9), (5, 14)):
                status[name][run] = "DIVERGED"
                for values in history[name].values():
                    values[record - 2 : record, run] *= 100
                    values[record:, run] = np.nan
    fields: dict[str, Any] = {
        "problem": "friedman1",
        "settings": {
            "steps": int(steps[-1]),
            "batch_size": 64,
            "every": 50,
            "seeds": list(range(runs)),
            "budget": "steps",
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "data_note": "make_friedman1 with noise 1.0, 800 rows to train, 1,000 to test, "
            "inputs and targets standardised with training statistics.",
            "command": f"bilevel compare friedman1 --seeds {runs} --body-lr 5e-4 --head-lr 5e-3",
        },
        "strategies": {name: row[0] for name, row in STRATEGIES.items()},
        "steps": steps,
        "history": history,
        "status": status,
        "gradients_per_step": dict.fromkeys(STRATEGIES, 2.0),
        "seconds_per_step": {name: 2.1e-5 * row[3] for name, row in STRATEGIES.items()},
        "baselines": BASELINES,
        "headline": "test_mse",
        "environment": {
            "python": "3.11.2",
            "packages": {"bilevel": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
            "commit": None,
            "platform": "Linux x86_64",
            "processors": 2,
        },
        "bound_kind": "proven",
    }
    return Comparison(**(fields | changes))


def _history(
    generator: np.random.Generator, steps: np.ndarray, runs: int, level: float, scale: float
) -> dict[str, np.ndarray]:
    """Curves that fall from about 1 to about `level`; the seeds' difficulties are shared."""
    difficulty = np.random.default_rng(99).normal(0.0, 0.12, runs)
    noise = generator.normal(0.0, 0.05, runs)
    base = level * np.exp(difficulty + noise)
    decay = np.exp(-steps[:, None] / (scale * np.exp(0.2 * noise)))
    wobble = np.exp(generator.normal(0.0, 0.02, (len(steps), runs)))
    test = (base + (1.05 - base) * decay) * wobble
    train = (0.6 * base + (1.0 - 0.6 * base) * decay) * wobble
    gap = (0.02 + 2.0 * decay) * wobble
    return {
        "objective": 0.5 * train + 1e-4,
        "phi": 0.45 * train,
        "phi_gradient_norm": 0.3 * train,
        "head_gap": gap,
        "head_bound": gap * 30.0,
        "train_mse": train,
        "validation_mse": test * wobble,
        "test_mse": test,
        "test_r2": 1.0 - test,
    }


def small(**changes):
    """Two strategies, three seeds, three records, numbers one can follow."""
    first = {
        "validation_mse": np.array([[9.0, 9.0, 9.0], [2.0, 5.0, 4.0], [3.0, 1.0, NAN]]),
        "test_mse": np.array([[8.0, 8.0, 8.0], [1.0, 4.0, 4.0], [2.0, 3.0, NAN]]),
    }
    second = {"test_mse": np.array([[8.0, 8.0, 8.0], [6.0, 6.0, 6.0], [4.0, 4.0, 4.0]])}
    fields = {
        "problem": "toy",
        "settings": {"seeds": [4, 5, 9]},
        "strategies": {"fast": "fast()", "slow": "slow()"},
        "steps": np.array([0, 10, 20]),
        "history": {"fast": first, "slow": second},
        "status": {"fast": ["COMPLETED", "COMPLETED", "DIVERGED"], "slow": ["COMPLETED"] * 3},
        "gradients_per_step": {"fast": 2.0, "slow": 3.0},
        "seconds_per_step": {"fast": NAN, "slow": NAN},
        "baselines": ("slow",),
        "headline": "test_mse",
    }
    return Comparison(**(fields | changes))


def same(first, second):
    return np.asarray(first).tobytes() == np.asarray(second, dtype=float).tobytes()
