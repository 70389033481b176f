"""Which step is compared, and how fast a level is reached."""

import numpy as np
import pytest
from comparison_example import same, small

from bilevel.comparison.result import Comparison

NAN = float("nan")


def test_steps_to_the_level_that_all_reach():
    threshold, steps = small().steps_to_threshold()
    assert threshold == 4.0
    assert steps == {"fast": 10.0, "slow": 20.0}


def paths(*runs):
    """(T, R) values of runs written one by one."""
    return np.array(runs, dtype=float).T


def level(fast, slow, **changes):
    settings = {"seeds": list(range(fast.shape[1]))}
    statuses = {name: ["COMPLETED"] * fast.shape[1] for name in ("fast", "slow")}
    history = {"fast": {"test_mse": fast}, "slow": {"test_mse": slow}}
    fields = {"settings": settings, "history": history, "status": statuses} | changes
    return small(**fields).steps_to_threshold()


def test_with_an_even_number_of_seeds_the_slowest_reaches_its_own_level():
    fast = paths([9, 1, 1], [9, 1, 1], [9, 9, 2], [9, 9, 3])
    slow = paths([9, 8, 4], [9, 9, 5], [9, 9, 7], [9, 9, 8])
    assert level(fast, slow) == (5.0, {"fast": 10.0, "slow": 20.0})
    higher = level(-fast, -slow, headline="test_r2", history={
        "fast": {"test_r2": -fast}, "slow": {"test_r2": -slow}})  # fmt: skip
    assert higher == (-5.0, {"fast": 10.0, "slow": 20.0})


def test_a_failed_run_never_arrives():
    fast = paths([9, 1, NAN], [9, 1, NAN], [9, 9, 3])
    slow = paths([9, 8, 4], [9, 9, 5], [9, 9, 7])
    failed = {"fast": ["DIVERGED", "DIVERGED", "COMPLETED"], "slow": ["COMPLETED"] * 3}
    assert level(fast, slow, status=failed) == (5.0, {"fast": np.inf, "slow": 20.0})
    failed["fast"][1] = "COMPLETED"
    fast[2, 1] = 1.0
    assert level(fast, slow, status=failed) == (5.0, {"fast": 20.0, "slow": 20.0})


def interrupted(**changes):
    """The second strategy was stopped after its record at step 10."""
    fast = {"test_mse": paths([8, 4, 1], [8, 5, 1], [8, 6, 1]),
            "validation_mse": paths([8, 4, 1], [8, 5, 1], [8, 6, 1])}  # fmt: skip
    slow = {"test_mse": paths([8, 2, NAN], [8, 7, NAN], [8, 3, NAN])}
    status = {"fast": ["COMPLETED"] * 3, "slow": ["INTERRUPTED"] * 3}
    settings = {"seeds": [4, 5, 9], "steps": 20, "not_trained": ["later"]}
    fields = {"history": {"fast": fast, "slow": slow}, "status": status, "settings": settings}
    return small(**(fields | changes))


@pytest.mark.usefixtures("unrendered")
def test_after_an_interrupt_all_are_compared_at_the_same_step(tmp_path):
    found = interrupted()
    assert found.step == 10
    assert same(found.final()["fast"], [4.0, 5.0, 6.0])
    assert same(found.validation_best()["fast"], [4.0, 5.0, 6.0])
    (result,) = found.paired()
    assert (result.wins, result.losses) == (1, 2)
    assert found.steps_to_threshold() == (5.0, {"fast": 10.0, "slow": 10.0})
    content = found.content()
    assert content["cost"]["fast"]["gradients"] == 20.0
    note = "Compared at step 10 of 20; training was interrupted."
    for text in (found.table(), found.report(tmp_path / "run").read_text()):
        text = text.replace("\N{NO-BREAK SPACE}", " ")
        assert note in text
        assert "Not trained, because of an interruption: later." in text
        assert "test MSE at step 10" in text
    assert "final test" not in found.table()
    assert Comparison.load(tmp_path / "run").table() == found.table()


def test_runs_that_ended_by_themselves_keep_their_last_value():
    status = {"fast": ["COMPLETED"] * 3, "slow": ["CONVERGED", "CONVERGED", "DIVERGED"]}
    found = interrupted(status=status)
    assert found.step == 20
    assert found.final()["slow"] == pytest.approx([2.0, 7.0, NAN], nan_ok=True)
    assert same(found.final()["fast"], [1.0, 1.0, 1.0])
    assert not found.content()["cut"]


def test_no_steps_to_a_level_where_runs_begin():
    history = {name: {"test_mse": np.array([[8.0, 8.0, 3.0], [1.0, 4.0, 4.0], [2.0, 3.0, 4.0]])}
               for name in ("fast", "slow")}  # fmt: skip
    threshold, steps = small(history=history).steps_to_threshold()
    assert np.isnan(threshold)
    assert steps == {}
    assert "steps to" not in small(history=history).table()
