"""A comparison that was read back says what the one that was written said, byte for byte."""

import numpy as np
import pytest
import torch
from comparison_example import example, small
from odd_results import odd
from tuned_example import tuned

import bilevel
from bilevel.comparison.result import Comparison
from problems.regression import friedman1
from problems.toy import ScalarProduct

NAN, INF = float("nan"), float("inf")


def searched():
    """Factors and strategies whose order is not that of the alphabet, trained."""
    strategies = {
        "two": bilevel.TwoTimescale(0.01, 0.1),
        "soba": bilevel.SingleLoop(0.01, 0.1, 0.1),
        "exact": bilevel.BestResponse(0.01),
        "one": bilevel.uniform(0.01),
    }
    return bilevel.compare(friedman1(width=4), strategies, seeds=2, steps=40, tune=[2, 0.5],
                           budget="gradients", batch_size={"train": 64}, sampling="epochs",
                           settings={"z": (1, 2.5), "a": {"y": None, "b": True}})  # fmt: skip


def descending(problem, body, head, batches):
    """A loop of one's own."""
    for batch in batches:
        body = body.detach().requires_grad_()
        head = head.detach().requires_grad_()
        value = problem.head_objective(body, head, batch)
        down, along = torch.autograd.grad(value, (body, head))
        body, head = body.detach() - 0.01 * down, head.detach() - 0.1 * along
        yield body, head


def own(seeds=3):
    strategies = {"mine": descending, "again": bilevel.uniform(0.01)}
    return bilevel.compare(ScalarProduct(), strategies, seeds=seeds, steps=6)


def unlike():
    """Metrics in an order of their own, which not all strategies have."""
    fields = odd({"b": [1.0, 2.0], "a": [0.5, NAN]})
    first, second = fields.history["b"], fields.history["a"]
    values = {"zeta": first["objective"], "alpha": first["test_mse"], **first}
    return odd({"b": [1.0, 2.0], "a": [0.5, NAN]}, history={"b": second | first, "a": values},
               baselines=("a",), settings={"dtype": "float32", "same_runs": ["b"]})  # fmt: skip


def cut():
    status = {"fast": ["INTERRUPTED", "INTERRUPTED", "DIVERGED"], "slow": ["INTERRUPTED"] * 3}
    more = {"seeds": [4, 5, 9], "steps": 60, "not_trained": ["c", "b"],
            "interrupted_heads": {"fast": ["JITTERED", "COMPLETED", "DIVERGED"]}}  # fmt: skip
    return small(status=status, settings=more)


KINDS = {
    "controls": lambda: example(3, 4),
    "cut": cut,
    "equal": lambda: odd({"b": [1.0, 2.0, 3.0], "a": [1.0, 2.0, 3.0]}),
    "extreme": lambda: odd({"b": [5e-324, 1e300, 0.1 + 0.2], "a": [1e-200, 7e-5, 3.0]}),
    "failed": small,
    "many": lambda: odd({f"s{i}": [1.0 + i, 2.0, 1.5 * i] for i in range(31)}),
    "negative": lambda: odd({"b": [-0.0, 2.0], "a": [-1.0, 2.0]}, metric="value"),
    "one strategy": lambda: odd({"b": [1.0, 2.0]}),
    "own loops": own,
    "single seed": lambda: own(seeds=1),
    "searched": searched,
    "tuned": tuned,
    "unlike": unlike,
    "without a value": lambda: odd({"b": [NAN, INF, -INF], "a": [NAN, 1.0, 2.0]}),
}
LONG = "many", "own loops", "searched"
"""Trained, or of many figures."""
DRAWN = "single seed", "tuned"
"""Whose figures are made too."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in KINDS]
)
def test_what_is_read_back_is_what_was_written(kind, tmp_path, request):
    request.getfixturevalue("unrendered" if kind in DRAWN else "undrawn")
    comparison = KINDS[kind]()
    comparison.report(tmp_path / "first")
    again = Comparison.load(tmp_path / "first")
    assert str(again) == str(comparison)
    assert repr(again) == repr(comparison)
    assert again.metrics == comparison.metrics
    assert again.pairs == comparison.pairs
    assert str(again.paired()) == str(comparison.paired())
    again.report(tmp_path / "second")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    assert {"report.html", "summary.csv", "paired.csv", "config.json"} <= set(files)
    for name in files:
        first, second = ((tmp_path / part / name).read_bytes() for part in ("first", "second"))
        assert first == second, name
    for name, table in comparison.history.items():
        assert list(again.history[name]) == [key for key in again.metrics if key in table]
        for metric, values in table.items():
            assert np.asarray(values).tobytes() == again.history[name][metric].tobytes()
