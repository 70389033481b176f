"""A comparison in shards is the one that one process makes: numbers, words, resumed or not.

All seven strategies, twelve seeds, two data sets and two processes, in two minutes:
python -m pytest -n 0 -m slow tests/comparison/engines/test_sharded.py
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupts import raise_at
from own_loops import in_place
from small_problems import Scalar, Smooth

import bilevel
from bilevel import OwnLoop, TwoTimescale, compare, uniform
from bilevel.comparison import checkpoint, kept
from bilevel.comparison.engines import stage
from bilevel.comparison.engines.inline import Inline
from bilevel.comparison.engines.processes import Processes
from bilevel.errors import AllRunsFailedError, ArgumentError, ResultsError
from bilevel.storage.results import read_results

OPTIONS = {"seeds": [4, 0], "steps": 4, "every": 2, "batch_size": 6, "dtype": torch.float64}
STRATEGIES = {"slow": uniform(0.005), "two": TwoTimescale(0.005, 0.05), "own": OwnLoop(in_place),
              "exact": bilevel.BestResponse(0.01)}  # fmt: skip


class KilledError(Exception):
    """The process is gone: nothing is tidied up."""


class Many(Inline):
    """This process, which says that it is several; it notes the shards that it computes."""

    def __init__(self, workers=8):
        super().__init__()
        self.workers, self.seen = workers, []

    def submit(self, function, /, *args):
        self.seen.append(getattr(args[0], "name", "") if function.__name__ == "compute" else "")
        return super().submit(function, *args)

    @property
    def shards(self):
        return [name for name in self.seen if name]


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """All is written and told of when it is there, however fast or slow the machine is."""
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)
    monkeypatch.setattr(stage, "OFTEN", -1.0)


def assert_equal(one, other, *, bitwise=False):
    assert list(one.history) == list(other.history)
    assert one.status == other.status
    assert (one.headline, one.metrics, one.baselines) == (
        other.headline, other.metrics, other.baselines)  # fmt: skip
    for name, table in one.history.items():
        for metric, values in table.items():
            tolerance = 0 if bitwise else 1e-12
            np.testing.assert_allclose(
                other.history[name][metric], values, rtol=tolerance, atol=tolerance
            )


def without_times(comparison, folder):
    """The files of a report, but for what was timed."""
    comparison.seconds_per_step.update(dict.fromkeys(comparison.seconds_per_step, 0.01))
    comparison.environment.pop("shards", None)
    comparison.report(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PAIR = {name: STRATEGIES[name] for name in ("slow", "exact")}
TUNED = {"tune": bilevel.Tuning((0.5, 1, 2), seeds=2)}
CASES = {
    "strategies": (Smooth(), STRATEGIES, {}),
    "other data for each seed": (Smooth(redraws_data=True), PAIR, {"seeds": 4}),
    "tuned": (Smooth(), PAIR, TUNED),
    "gradients": (Smooth(), PAIR, {"budget": "gradients", "steps": 40, "every": 20}),
}


class Constant(Smooth):
    """All starts are one."""

    def init_body(self, generator):
        return super().init_body(torch.Generator().manual_seed(1))

    def init_head(self, generator):
        return super().init_head(torch.Generator().manual_seed(1))


CASES["one run"] = (Constant(), {"exact": STRATEGIES["exact"]}, {"batch_size": None})
CASES["some are one run"] = (Constant(), {k: STRATEGIES[k] for k in ("own", "exact")},
                             {"batch_size": None})  # fmt: skip


QUICK = ("strategies", "other data for each seed", "tuned", "one run")


@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=[] if k in QUICK else pytest.mark.slow) for k in CASES]
)
def test_numbers_are_those_of_one_process(case, tmp_path):
    problem, strategies, changes = CASES[case]
    options = OPTIONS | changes
    whole, engine, seen = compare(problem, strategies, **options), Many(), []
    found = compare(
        problem, strategies, engine=engine, checkpoint=tmp_path / "kept", callback=seen.append,
        **options,
    )  # fmt: skip
    assert_equal(whole, found)
    tunings = [one.settings.pop("tuning", {}).pop("strategies", {}) for one in (whole, found)]
    assert found.settings == whole.settings
    for name, told in tunings[0].items():  # scores are equal up to rounding
        score = pytest.approx(told["score"], rel=1e-12)
        assert tunings[1][name] == told | {"score": score}
    assert len(engine.shards) == len(set(engine.shards)) >= (1 if case == "one run" else 4)
    assert seen[-1].shards == (len(found.environment["shards"]) - sum(
        shard["stage"] == "tuning" for shard in found.environment["shards"]),) * 2  # fmt: skip
    assert seen[-1].step == seen[-1].steps
    if case != "tuned":
        return
    again = Many(3)
    assert_equal(found, compare(
        problem, strategies, engine=again, checkpoint=tmp_path / "kept", **options
    ), bitwise=True)  # fmt: skip
    assert again.shards == []


def test_the_report_is_that_of_one_process_but_for_times(tmp_path, undrawn):
    """Every shard holds what one process computes together, so that all bits are the same."""
    problem, strategies, changes = CASES["tuned"]
    options = OPTIONS | changes
    one = without_times(compare(problem, strategies, **options), tmp_path / "one")
    found = compare(problem, strategies, engine=Many(1), **options)
    assert without_times(found, tmp_path / "many") == one


def test_runs_that_take_turns_are_the_same_in_bits():
    pair = {"two": STRATEGIES["two"]}
    options = OPTIONS | {"seeds": 6, "max_runs_at_once": 2}
    engine = Many(1)
    found = compare(Smooth(), pair, engine=engine, **options)
    assert len(engine.shards) == 3
    assert_equal(compare(Smooth(), pair, **options), found, bitwise=True)


def test_runs_that_diverge_are_told_of_as_in_one_process():
    """A shard all of whose runs have diverged ends before the others."""
    strategies = {"wild": uniform(2.0, bilevel.SGD()), "two": uniform(0.1, bilevel.SGD())}
    options = {"steps": 12, "every": 2, "seeds": 5, "dtype": torch.float64}
    whole = compare(Scalar(), strategies, **options)
    assert {"COMPLETED", "DIVERGED"} == {code for codes in whole.status.values() for code in codes}
    assert_equal(whole, compare(Scalar(), strategies, engine=Many(), **options))
    with pytest.raises(AllRunsFailedError):
        compare(Scalar(), {"wild": uniform(200.0, bilevel.SGD())}, engine=Many(), **options)


@pytest.mark.parametrize("number", [10, pytest.param(3, marks=pytest.mark.slow)])
def test_what_is_missing_is_computed_and_nothing_else(number, tmp_path):
    problem, strategies, changes = CASES["tuned"]
    options = OPTIONS | changes
    whole = compare(problem, strategies, **options)
    first, second, folder = Many(2), Many(3), tmp_path / "kept"
    with pytest.raises(KilledError):
        compare(
            problem, strategies, engine=first, checkpoint=folder,
            callback=raise_at(number, KilledError), **options,
        )  # fmt: skip
    found = compare(problem, strategies, engine=second, checkpoint=folder, **options)
    assert_equal(whole, found)
    assert first.shards
    assert second.shards
    computed = first.shards + second.shards
    assert len(set(computed)) == len(computed) == len(found.environment["shards"])


@pytest.mark.parametrize(
    "harm", ["folder", "result", *(pytest.param(k, marks=pytest.mark.slow) for k in ("all", "cut"))]
)
def test_what_is_deleted_or_damaged_is_computed_again(harm, tmp_path):
    problem, strategies = Smooth(), PAIR
    first, second, folder = Many(), Many(), tmp_path / "kept"
    whole = compare(problem, strategies, engine=first, checkpoint=folder, **OPTIONS)
    place = folder / kept.SHARDS / first.shards[1]
    if harm == "folder":
        shutil.rmtree(place)
    elif harm == "result":
        path = place / kept.RESULT
        path.write_bytes(path.read_bytes()[:-40])
    elif harm == "all":
        shutil.rmtree(folder / kept.SHARDS)
    else:
        (folder / kept.CUT).unlink()
    found = compare(problem, strategies, engine=second, checkpoint=folder, **OPTIONS)
    assert_equal(whole, found, bitwise=harm != "all")
    expected = {"all": first.shards, "cut": []}.get(harm, [first.shards[1]])
    assert sorted(second.shards) == sorted(expected)


def test_a_comparison_goes_from_one_process_to_an_engine_and_back(tmp_path):
    problem, strategies = Smooth(), PAIR
    whole = compare(problem, strategies, **OPTIONS)
    folder, engine = tmp_path / "kept", Many()
    with pytest.raises(KilledError):
        compare(
            problem, strategies, checkpoint=folder, callback=raise_at(2, KilledError), **OPTIONS
        )
    assert len(kept.trainings(folder)) == 1  # some of its records
    with pytest.raises(KilledError):
        compare(
            problem, strategies, checkpoint=folder, engine=engine,
            callback=raise_at(2, KilledError), **OPTIONS,
        )  # fmt: skip
    assert_equal(whole, compare(problem, strategies, checkpoint=folder, **OPTIONS))
    assert kept.clear(folder) == []
    assert list(folder.iterdir()) == []


def test_only_our_files_are_cleared(tmp_path):
    folder = tmp_path / "kept"
    compare(Smooth(), PAIR, engine=Many(), checkpoint=folder, **OPTIONS)
    other = folder / kept.SHARDS / "training-0" / "notes.txt"
    other.write_text("mine")
    assert kept.clear(folder) == [kept.SHARDS]
    assert [path for path in folder.rglob("*") if path.is_file()] == [other]


def test_a_cut_of_another_comparison_is_refused(tmp_path):
    folder = tmp_path / "kept"
    pair = {"slow": STRATEGIES["slow"]}
    compare(Smooth(), pair, engine=Many(), checkpoint=folder, **OPTIONS)
    path = folder / kept.CUT
    path.write_text(path.read_text().replace('"training": [', '"training": [[0, 1],'))
    with pytest.raises(ResultsError, match=f"{kept.CUT} that does not fit"):
        compare(Smooth(), pair, engine=Many(), checkpoint=folder, **OPTIONS)


class Apart(Many):
    """Workers that do not see the folder."""

    def submit(self, function, /, *args):
        if function.__name__ == "compute":
            args = (args[0]._replace(folder="/elsewhere"),)
        return super().submit(function, *args)


@pytest.mark.parametrize("large", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_that_do_not_see_the_folder_send_values(large, tmp_path, monkeypatch):
    monkeypatch.setattr("bilevel.comparison.engines.jobs.LARGE", 10 if large else 2**20)
    problem, strategies = Smooth(), PAIR
    folder, first, again = tmp_path / "kept", Apart(), Apart()
    found = compare(problem, strategies, engine=first, checkpoint=folder, **OPTIONS)
    assert_equal(compare(problem, strategies, **OPTIONS), found)
    assert len(list(folder.rglob(kept.RESULT))) == len(set(first.shards))
    compare(problem, strategies, engine=again, checkpoint=folder, **OPTIONS)
    assert again.shards == []


def test_ctrl_c_keeps_what_is_done(tmp_path):
    problem, strategies = Smooth(), PAIR
    folder, first, second = tmp_path / "kept", Many(1), Many()
    found = compare(
        problem, strategies, engine=first, checkpoint=folder, callback=raise_at(2), **OPTIONS
    )
    assert 0 < len(found.settings["not_trained"]) < len(strategies)
    whole = compare(problem, strategies, engine=second, checkpoint=folder, **OPTIONS)
    assert_equal(compare(problem, strategies, **OPTIONS), whole)
    assert set(first.shards) & set(second.shards) == set()
    with pytest.raises(KeyboardInterrupt):
        compare(problem, strategies, engine=Many(), callback=raise_at(1), **OPTIONS)


def test_threads_will_do():
    with ThreadPoolExecutor(3) as executor:
        found = compare(Smooth(), PAIR, engine=executor, **OPTIONS)
    assert_equal(compare(Smooth(), PAIR, **OPTIONS), found)


@pytest.mark.parametrize("engine", ["process:2", "processes:0", "processes:many", "", 3, object()])
def test_what_is_no_engine_is_refused(engine):
    with pytest.raises((ArgumentError, LookupError), match="engine"):
        compare(Smooth(), PAIR, engine=engine, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["friedman1", "digits"])
def test_seven_strategies_on_two_processes(name, tmp_path, undrawn):
    problem = bilevel.load_problem(name)
    strategies = bilevel.preset_strategies(5e-4, 5e-3) | {"sgd": uniform(1e-3, bilevel.SGD())}
    tuning = bilevel.Tuning((0.3, 1, 3), seeds=2)
    options = {"seeds": 12, "steps": 60, "tune": tuning, "dtype": torch.float64}
    assert len(strategies) == 7
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = compare(problem, strategies, **options)
        engine = Processes(2)
        try:
            found = compare(
                problem, strategies, engine=engine, checkpoint=tmp_path / "kept", **options
            )
        finally:
            engine.close()
    finally:
        torch.set_num_threads(before)
    assert_equal(whole, found)
    one, many = (
        without_times(comparison, tmp_path / str(i)) for i, comparison in enumerate([whole, found])
    )
    assert set(one) == set(many)
    assert read_results(Path(tmp_path / "1"))["settings"] == whole.settings
