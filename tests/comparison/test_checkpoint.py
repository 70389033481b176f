"""Checkpoints: a comparison that was interrupted goes on with the numbers of one that was not."""

import numpy as np
import pytest
import torch
from interrupts import raise_at
from own_loops import in_place
from small_problems import Noisy, Scalar, Smooth

from bilevel import (
    SGD,
    Adam,
    BatchData,
    BestResponse,
    Clipped,
    ClosedForm,
    FastSGD,
    OwnLoop,
    Polynomial,
    RMSProp,
    RunningData,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.comparison import checkpoint
from bilevel.comparison import compare as compare_module
from bilevel.core import generators
from bilevel.training.cohort import Cohort
from problems.toy import ScalarProduct

STRATEGIES = {
    "alternating": TwoTimescale(0.005, 0.05),
    "simultaneous": TwoTimescale(0.01, 0.1, SGD(0.8), order="simultaneous"),
    "two head steps": TwoTimescale(0.005, 0.05, Adam(), head_steps=2),
    "uniform": uniform(0.02, SGD()),
    "falling": TwoTimescale(Polynomial(0.01, 0.6), Polynomial(0.05, 0.4), RMSProp(smoothing=0.9)),
    "clipped": TwoTimescale(0.01, 0.1, Clipped(0.3, SGD(0.8))),
    "clipped adam": uniform(0.01, Clipped(0.3, Adam())),
    "exact": BestResponse(0.005),
    "on the batch": BestResponse(0.01, ClosedForm(BatchData()), optimizer=SGD(0.8)),
    "running": BestResponse(0.005, ClosedForm(RunningData()), optimizer=Adam()),
    "inner": BestResponse(0.01, FastSGD(0.2, 2, batch_size=4), optimizer=Clipped(0.5, SGD())),
    "inner, to a tolerance": BestResponse(0.01, FastSGD(0.2, 3, tolerance=0.02)),
}
PAIR = {"slow": uniform(0.005), "exact": BestResponse(0.005), "fast": uniform(0.05)}
OPTIONS = {"seeds": [4, 0, 2], "steps": 12, "every": 4, "batch_size": 6, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


@pytest.fixture
def counted(monkeypatch):
    """The steps that were made, and after how many to interrupt: `counted.stop`."""
    return Steps(monkeypatch)


class Steps:
    """Counts `Cohort.step`, and raises KeyboardInterrupt in the middle of one."""

    def __init__(self, monkeypatch):
        self.made, self.stop = [], None
        true = Cohort.step

        def step(cohort):
            if self.stop == 0:
                self.stop = None
                raise KeyboardInterrupt
            true(cohort)
            self.stop = None if self.stop is None else self.stop - 1
            self.made.append(cohort.state.step)

        monkeypatch.setattr(Cohort, "step", step)


def assert_same(found, expected):
    """Bit for bit."""
    assert found.steps.tolist() == expected.steps.tolist()
    assert found.status == expected.status
    assert list(found.strategies.items()) == list(expected.strategies.items())
    assert found.settings.get("tuning") == expected.settings.get("tuning")
    for name, table in expected.history.items():
        assert set(found.history[name]) == set(table)
        for metric, values in table.items():
            assert np.array_equal(found.history[name][metric], values, equal_nan=True), metric


def assert_goes_on(problem, strategies, folder, counted, *, lost=0, **changes):
    """Interrupted at the second record, then within a step, then finished: nothing differs."""
    options = OPTIONS | changes
    expected = compare(problem, strategies, **options)
    needed = len(counted.made)
    counted.made.clear()
    first = compare(problem, strategies, callback=raise_at(2), checkpoint=folder, **options)
    assert {code for codes in first.status.values() for code in codes} == {"INTERRUPTED"}
    counted.stop = 2
    second = compare(problem, strategies, checkpoint=folder, **options)
    assert counted.stop is None
    assert any("INTERRUPTED" in codes for codes in second.status.values())
    found = compare(problem, strategies, checkpoint=folder, **options)
    assert_same(found, expected)
    assert len(counted.made) == needed + lost  # none is made twice
    counted.made.clear()
    assert_same(compare(problem, strategies, checkpoint=folder, **options), expected)
    assert counted.made == []
    return expected


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_and_optimizer_goes_on_bitwise(name, tmp_path, counted):
    expected = assert_goes_on(Smooth(), {"it": STRATEGIES[name]}, tmp_path / "kept", counted)
    values = expected.history["it"]["objective"]
    assert (np.diff(values, axis=0) != 0).all()


PROBLEMS = {
    "redrawn data": (lambda: Smooth(redraws_data=True, fit_bias=True), {}),
    "epochs": (Smooth, {"sampling": "epochs"}),
    "noise": (lambda: ScalarProduct(noise_scale=0.3), {}),
    "noise in both levels": (Noisy, {}),
    "gradients": (Smooth, {"steps": 48, "every": 16, "budget": "gradients"}),
    "all rows": (Smooth, {"batch_size": None}),
    "float32": (Smooth, {"dtype": torch.float32}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_way_of_drawing_goes_on_bitwise(name, tmp_path, counted, short_blocks):
    make, options = PROBLEMS[name]
    pair = {"two": TwoTimescale(0.005, 0.05, SGD(0.8)), "exact": BestResponse(0.01)}
    assert_goes_on(make(), pair, tmp_path / "kept", counted, **options)


@pytest.mark.parametrize("at_once", [1, 2])
def test_runs_that_take_turns_go_on_bitwise(at_once, tmp_path, counted):
    """Interrupted steps are undone, so that all runs stand at the same one."""
    lost = 2  # of the two that were made before the interrupt
    options = {"max_runs_at_once": at_once, "lost": lost}
    assert_goes_on(Smooth(), {"two": STRATEGIES["alternating"]}, tmp_path / "a", counted, **options)
    assert_goes_on(Smooth(), {"inner": STRATEGIES["inner"]}, tmp_path / "b", counted, **options)


class Steep(Scalar):
    """The run of seed 0 starts where plain SGD diverges within a few steps."""

    def init_body(self, generator):
        start = super().init_body(generator)
        steep = super().init_body(generators.generator(0, "body"))
        return torch.where(start == steep, 25.0, start)


@pytest.mark.parametrize("records", [2, 6])
def test_diverged_runs_stay_as_they_were(records, tmp_path, counted):
    strategies = {
        "two": TwoTimescale(0.05, 0.1, SGD(0.5)),
        "bad": uniform(1e200),  # ends before its last step
        "exact": BestResponse(0.05, optimizer=SGD()),
    }
    options = OPTIONS | {"steps": 16}
    expected = compare(Steep(), strategies, **options)
    assert expected.status["two"] == ["COMPLETED", "DIVERGED", "COMPLETED"]
    assert expected.status["bad"] == ["DIVERGED"] * 3
    needed = len(counted.made)
    counted.made.clear()
    folder = tmp_path / "kept"
    compare(Steep(), strategies, callback=raise_at(records), checkpoint=folder, **options)
    counted.stop = 2
    compare(Steep(), strategies, checkpoint=folder, **options)
    assert_same(compare(Steep(), strategies, checkpoint=folder, **options), expected)
    assert len(counted.made) == needed


class Barred(Scalar):
    """Infinite where the run of seed 0 is after four steps, without a slope: it could go on."""

    def head_objective(self, body, head, batch):
        bar = torch.where((body - self.barred).abs() < 1e-9, torch.inf, 0.0)
        return super().head_objective(body, head, batch) + bar


def test_a_diverged_run_is_not_moved_although_it_could_be(tmp_path):
    two, problem = {"two": TwoTimescale(0.05, 0.1, SGD())}, Barred()
    places = solve(Scalar(), two["two"], steps=4, seeds=[4, 0, 2], dtype=torch.float64).body
    problem.barred = float(places[1])
    expected = compare(problem, two, **OPTIONS)
    assert expected.status["two"] == ["COMPLETED", "DIVERGED", "COMPLETED"]
    assert np.isinf(expected.history["two"]["objective"][1:, 1]).all()
    folder = tmp_path / "kept"
    compare(problem, two, callback=raise_at(2), checkpoint=folder, **OPTIONS)
    assert_same(compare(problem, two, checkpoint=folder, **OPTIONS), expected)


def test_finished_strategies_are_not_trained_again(tmp_path, counted):
    folder, seen = tmp_path / "kept", []
    expected = compare(Smooth(), PAIR, **OPTIONS)
    first = compare(Smooth(), PAIR, checkpoint=folder, callback=raise_at(6), **OPTIONS)
    assert first.status["slow"] == first.status["fast"] == ["COMPLETED"] * 3
    assert first.status["exact"] == ["INTERRUPTED"] * 3
    counted.made.clear()
    found = compare(Smooth(), PAIR, checkpoint=folder, callback=seen.append, **OPTIONS)
    assert_same(found, expected)
    assert counted.made == list(range(5, 13))
    assert [(p.strategies, p.step, p.done) for p in seen] == [
        (("exact",), 8, 2),
        (("exact",), 12, 2),
    ]


def test_a_checkpoint_changes_no_number_and_may_be_far_from_the_results(tmp_path):
    folder = tmp_path / "deep" / "kept"
    found = compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
    assert_same(found, compare(Smooth(), PAIR, **OPTIONS))
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.json",
        "training-0.safetensors",
        "training-1.safetensors",
    ]


def test_nothing_is_written_more_often_than_needed(tmp_path, monkeypatch):
    written = []
    true = checkpoint.write_tensors

    def write(path, *more):
        written.append(path.name)
        true(path, *more)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    compare(Smooth(), PAIR, checkpoint=tmp_path / "a", **OPTIONS)
    assert written == ["training-0.safetensors", "training-1.safetensors"]
    written.clear()
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    compare(Smooth(), PAIR, checkpoint=tmp_path / "b", **OPTIONS)
    assert len(written) == 2 * (4 + 1)


def test_an_interrupt_before_the_first_record_leaves_a_folder_to_go_on_from(tmp_path, monkeypatch):
    folder = tmp_path / "kept"

    def pressed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "record", pressed)
        with pytest.raises(KeyboardInterrupt):
            compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
    found = compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
    assert_same(found, compare(Smooth(), PAIR, **OPTIONS))


# while rates are tuned


@pytest.mark.parametrize("stop", [1, 3, 9, 17, 25, 31])
def test_tuning_goes_on_bitwise(stop, tmp_path, counted):
    options = OPTIONS | {"tune": (0.3, 1, 3), "checkpoint": tmp_path / "kept"}
    expected = compare(Smooth(), PAIR, **(options | {"checkpoint": None}))
    assert list(expected.strategies) == [*PAIR, *(f"{name}, tuned" for name in PAIR)]
    needed = len(counted.made)
    assert needed == 4 * 12  # two trainings of trials, two of strategies
    counted.made.clear()
    counted.stop = stop
    if stop < 24:
        with pytest.raises(KeyboardInterrupt):
            compare(Smooth(), PAIR, **options)
    else:
        compare(Smooth(), PAIR, **options)
    assert len(counted.made) == stop
    assert_same(compare(Smooth(), PAIR, **options), expected)
    assert len(counted.made) == needed


# loops of one's own cannot be gone on with


def test_an_own_loop_is_kept_once_finished_and_starts_anew_otherwise(tmp_path, counted):
    strategies = {"two": PAIR["slow"], "own": OwnLoop(in_place), "exact": PAIR["exact"]}
    folder = tmp_path / "kept"
    expected = compare(Smooth(), strategies, **OPTIONS)
    counted.made.clear()
    first = compare(Smooth(), strategies, checkpoint=folder, callback=raise_at(7), **OPTIONS)
    assert first.status["own"] == ["INTERRUPTED"] * 3
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["training-0.safetensors"]
    counted.made.clear()
    second = compare(Smooth(), strategies, checkpoint=folder, callback=raise_at(6), **OPTIONS)
    assert second.status["own"] == ["COMPLETED"] * 3
    assert second.status["exact"] == ["INTERRUPTED"] * 3
    assert counted.made == [*range(1, 13), *range(1, 5)]
    counted.made.clear()
    assert_same(compare(Smooth(), strategies, checkpoint=folder, **OPTIONS), expected)
    assert counted.made == list(range(5, 13))


def test_diverged_own_loops_are_kept(tmp_path, counted):
    def wild(problem, body, head, batches):
        for i, _ in enumerate(batches):
            yield (body, head) if i < 5 else (body * torch.inf, head)

    strategies = {"own": wild, "exact": BestResponse(0.05)}
    expected = compare(Scalar(), strategies, **OPTIONS)
    assert expected.status["own"] == ["DIVERGED"] * 3
    for _ in range(2):
        found = compare(Scalar(), strategies, checkpoint=tmp_path / "kept", **OPTIONS)
        assert_same(found, expected)
