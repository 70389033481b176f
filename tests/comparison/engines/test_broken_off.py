"""Comparisons in shards that end at odd places go on, and lose nothing."""

import threading

import numpy as np
import pytest
import torch
from interrupts import raise_at
from small_problems import Smooth

import bilevel
from bilevel import compare
from bilevel.comparison import checkpoint, kept
from bilevel.comparison.engines import jobs, sharded, work
from bilevel.comparison.engines.files import ShardFiles
from bilevel.comparison.engines.inline import Inline
from bilevel.errors import IncompatibleError, UnwritableError

OPTIONS = {"seeds": 4, "steps": 8, "every": 2, "batch_size": 6, "dtype": torch.float64}
PAIR = {"two": bilevel.TwoTimescale(0.005, 0.05), "exact": bilevel.BestResponse(0.01)}


class KilledError(Exception):
    """The process is gone: nothing is tidied up."""


class Many(Inline):
    """This process, which says that it is several."""

    def __init__(self, workers):
        super().__init__()
        self.workers = workers


class Counted(Smooth):
    """Counts evaluations."""

    count = 0

    def features(self, body, inputs):
        type(self).count += 1
        return super().features(body, inputs)


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)


def gone(*_):
    raise KilledError


@pytest.mark.parametrize("name", ["write_whole", "writing"])
def test_before_the_first_shard(name, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "LARGE", 10)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, name, gone)
        with pytest.raises(KilledError):
            compare(Smooth(), PAIR, engine=Many(1), checkpoint=tmp_path / "kept", **OPTIONS)
    found = compare(Smooth(), PAIR, engine=Many(1), checkpoint=tmp_path / "kept", **OPTIONS)
    assert "not_trained" not in found.settings


def test_while_shards_take_over_what_one_process_began(monkeypatch, tmp_path):
    counts = []
    for killed in (False, True):
        kept_in = {"checkpoint": tmp_path / str(killed), **OPTIONS}
        with pytest.raises(KilledError):
            compare(Counted(), PAIR, callback=raise_at(4, KilledError), **kept_in)
        if killed:
            with monkeypatch.context() as patch:
                patch.setattr(sharded, "write_tensors", gone)
                with pytest.raises(KilledError):
                    compare(Counted(), PAIR, engine=Many(1), **kept_in)
        Counted.count = 0
        compare(Counted(), PAIR, engine=Many(1), **kept_in)
        counts.append(Counted.count)
    assert counts[0] == counts[1]


def test_and_is_cut_anew(monkeypatch, tmp_path):
    folder, recorded = tmp_path / "kept", work._Pulse.recorded

    def broken(self, progress):
        recorded(self, progress)
        if progress.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work._Pulse, "recorded", broken)
        compare(Smooth(), PAIR, engine=Many(1), checkpoint=folder, **OPTIONS)
    (folder / kept.CUT).unlink()
    found = compare(Smooth(), PAIR, engine=Many(4), checkpoint=folder, **OPTIONS)
    whole = compare(Smooth(), PAIR, **OPTIONS)
    for name, table in whole.history.items():
        np.testing.assert_allclose(
            found.history[name]["objective"], table["objective"], rtol=1e-12, atol=1e-12
        )


def test_jobs_of_earlier_processes_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "LARGE", 10)
    folder = tmp_path / "kept"
    (folder / kept.SHARDS).mkdir(parents=True)
    old = jobs.Packed("0" * 64, b"x" * 11, {}).beside(folder)
    assert old.content is None
    new = jobs.Packed("1" * 64, b"y" * 11, {}).beside(folder)
    assert new.content is None
    assert [path.name for path in (folder / kept.SHARDS).iterdir()] == [f"job-{'1' * 64}"]


def test_a_full_disk_is_said(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs.Path, "mkdir", full)
    with pytest.raises(UnwritableError, match=r"shards cannot be written: .*No space left"):
        jobs.Packed("0" * 64, b"x" * 2**21, {}).beside(tmp_path / "kept")


def test_what_cannot_be_sent_is_said(tmp_path):
    problem = Smooth()
    problem.lock = threading.Lock()
    with pytest.raises(IncompatibleError, match="cannot be pickled: TypeError: cannot pickle '_th"):
        compare(problem, PAIR, engine=Many(2), **OPTIONS)


def test_nobody_waits_for_a_shard_whose_comparison_is_gone(tmp_path):
    files = ShardFiles(tmp_path / "kept", "training-0")
    assert files.gone
    task = work.Task(None, "", "", "training-0", "", (), (), (), "a", "s", 1)
    with pytest.raises(work.SupersededError):
        work._Kept(task, files).describe()
    assert not (tmp_path / "kept").exists()
    (tmp_path / "kept").mkdir()
    work._Kept(task, files).describe()
    assert files.folder.is_dir()
