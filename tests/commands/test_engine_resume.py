"""`bilevel compare --engine`, interrupted, goes on with the same engine or with another one.

All cases: python -m pytest -m "slow or not slow" tests/commands/test_engine_resume.py
"""

from concurrent.futures import Future

import pytest
from command_line import PAIR, TINY, run

from bilevel.commands import asked
from bilevel.comparison import compare
from bilevel.comparison.engines import work
from bilevel.comparison.engines.base import AbstractEngine
from bilevel.errors import EngineError

ASKED = ["compare", "diabetes", *TINY, *PAIR]


class Counting(AbstractEngine):
    """Computes at once, until it is told to do something else than the shard with that number."""

    name, workers, window = "counting", 1, 1

    def __init__(self):
        self.submitted, self.at, self.what, self.closed = 0, None, None, 0

    def submit(self, function, /, *args):
        self.submitted += 1
        if self.submitted == self.at:
            raise self.what
        future = Future()
        future.set_result(function(*args))
        return future

    def close(self):
        self.closed += 1


@pytest.fixture
def engine(monkeypatch):
    found = Counting()
    names = []
    monkeypatch.setattr(asked, "engine_of", lambda name: names.append(name) or found)
    found.names = names
    monkeypatch.setattr(compare, "seconds_per_step", untimed)
    monkeypatch.setattr(work, "seconds_per_step", untimed)
    return found


def untimed(strategies, *_):
    return dict.fromkeys(strategies, 1.0)


@pytest.mark.parametrize(
    ("what", "code", "other"),
    [
        (KeyboardInterrupt(), 130, []),
        (EngineError("gone"), 1, ["--engine", "none"]),
        pytest.param(KeyboardInterrupt(), 130, ["--engine", "other:1"], marks=pytest.mark.slow),
    ],
)
def test_what_is_missing_is_submitted_and_no_more(
    what, code, other, engine, reports, tmp_path, capsys
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*ASKED, "--output", whole) == 0
    engine.at, engine.what = 2, what
    assert run(*ASKED, "--output", cut, "--engine", "counting:1", "--threads", "2") == code
    assert "To go on: bilevel compare --resume" in capsys.readouterr().err
    assert (engine.threads, engine.closed, engine.names) == (2, 1, ["counting:1"])
    engine.at, before = None, engine.submitted
    assert run("compare", "--resume", f"{cut}.partial", *other) == 0
    again = {"--engine none": [], "--engine other:1": ["other:1"], "": ["counting:1"]}
    assert engine.names[1:] == again[" ".join(other)]
    if engine.names[1:]:
        assert engine.submitted == before + 2  # one shard, and the times
    found, expected = reports[cut], reports[whole]
    for name, table in expected.history.items():
        for metric, values in table.items():
            assert found.history[name][metric].tobytes() == values.tobytes()
