"""Comparisons of strategies that train a head for each task."""

import pytest
import torch
from tasks import Query, Tasks, drawn

import bilevel
from bilevel.comparison import timing

SGD = bilevel.SGD()
NEW = {"test": {"train": drawn(None, 77, 4, 6), "test": drawn(None, 77, 4, 7)}}
OPTIONS = {"seeds": 3, "steps": 2, "every": 1, "batch_size": 2, "dtype": torch.float64}


def rate_pairs():
    """Two strategies of each kind, which are trained together."""
    found = {}
    for rate in (0.1, 0.2):
        steps = bilevel.FastSGD(2 * rate, 2, restart=True)
        found[f"exact {rate}"] = bilevel.BestResponse(rate, optimizer=SGD)
        found[f"steps {rate}"] = bilevel.BestResponse(rate, steps, bilevel.Unrolled(2), SGD)
    return found


@pytest.mark.parametrize("at_once", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_stacked_strategies_have_the_numbers_of_separate_trainings(untimed, at_once):
    problem, strategies = Query(extra=NEW), rate_pairs()
    found = bilevel.compare(problem, strategies, max_runs_at_once=at_once, **OPTIONS)
    for name, strategy in strategies.items():
        alone = bilevel.solve(problem, strategy, **OPTIONS).history
        assert "test_mse" in alone
        for metric, values in alone.items():
            expected = values.numpy()
            assert found.history[name][metric] == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_rates_of_runs_hold_for_all_heads_of_a_run(untimed):
    strategies = {
        f"{rate}": bilevel.TwoTimescale(rate, 3 * rate, bilevel.Adam()) for rate in (0.01, 0.02)
    }
    found = bilevel.compare(Tasks(), strategies, **OPTIONS)
    for name, strategy in strategies.items():
        for metric, values in bilevel.solve(Tasks(), strategy, **OPTIONS).history.items():
            expected = values.numpy()
            assert found.history[name][metric] == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_steps_are_timed_and_counted_by_tasks(unrendered, tmp_path, monkeypatch):
    for name in ("WARM_UP", "ROUNDS", "STEPS_PER_ROUND"):
        monkeypatch.setattr(timing, name, 1)
    strategies = {name: rate_pairs()[name] for name in ("exact 0.1", "steps 0.1")}
    found = bilevel.compare(Query(), strategies, checkpoint=tmp_path / "kept", **OPTIONS)
    assert all(seconds > 0 for seconds in found.seconds_per_step.values())
    # an exact head of the tasks of a step is a pass through their rows, not through those of all
    assert found.gradients_per_step["exact 0.1"] == 1 + 2 + 1
    again = bilevel.compare(Query(), strategies, checkpoint=tmp_path / "kept", **OPTIONS)
    assert again.history["exact 0.1"]["phi"].tolist() == found.history["exact 0.1"]["phi"].tolist()
    page = found.report(tmp_path / "report").read_text()
    assert "Tasks of a step" in page
    assert "2 tasks at every step, drawn with replacement" in page
    assert bilevel.Comparison.load(tmp_path / "report").settings["number_of_tasks"] == 3
