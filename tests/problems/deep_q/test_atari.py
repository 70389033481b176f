"""`bilevel compare atari`: games from one command, repeated and resumed bit for bit; memory."""

import os
import signal
import sys

import numpy as np
import pytest
import torch
from command_line import run

import bilevel
from bilevel.comparison import checkpoint as checkpoint_module
from bilevel.errors import ArgumentError, MissingPackageError, NotEnoughMemoryError
from bilevel.storage.folder import write_atomically
from bilevel.storage.results import write_results
from bilevel.training.cohort import Cohort
from problems.deep_q import atari as atari_module
from problems.deep_q import memory
from problems.deep_q.atari import atari

THREE = ["uniform slow", "two-timescale", "head exact"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The problem by its name, wherever the package was installed from; results without figures."""
    from bilevel.problem import registry

    true = registry.load
    monkeypatch.setattr(
        registry, "load", lambda name, *rest: atari if name == "atari" else true(name, *rest)
    )
    monkeypatch.setattr(
        "bilevel.comparison.compare.seconds_per_step",
        lambda trained, *_: dict.fromkeys(trained, 1.0),
    )

    def report(self, folder):
        with write_atomically(folder) as hidden:
            write_results(hidden, self.content())
            (hidden / "report.html").touch()
        return folder / "report.html"

    monkeypatch.setattr(bilevel.Comparison, "report", report)


def command(game, steps, every, **options):
    """The command line of three configurations of a game."""
    given = [f"{name}={value}" for name, value in {"game": game, **options}.items()]
    trained = ["--strategies", *THREE, "--seeds", "1", "--steps", steps, "--every", every]
    return ["compare", "atari", "--set", *given, *trained]


def interrupted(asked, output, at):
    """Ctrl-C in the middle of an update of all trainings, counted from the first; then resumed."""
    true, left = Cohort.step, iter(range(at, -1, -1))

    def step(self):
        if next(left, None) == 0:
            signal.raise_signal(signal.SIGINT)
        true(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "step", step)
        patch.setattr(checkpoint_module, "SECONDS", 0)
        assert run(*asked, "--output", output) == 130
    assert run("compare", "--resume", output.with_name(output.name + ".partial")) == 0


def check_same(one, other):
    """Whether two comparisons are the same, bit for bit."""
    assert one.status == other.status == {name: ["COMPLETED"] for name in THREE}
    for name, table in one.history.items():
        for metric, values in table.items():
            assert values.tobytes() == other.history[name][metric].tobytes(), (name, metric)


def check_game(asked, updates, agent_steps, tmp_path):
    """Train, repeat with an interruption, compare; what was recorded."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run(*asked, "--output", whole) == 0
    interrupted(asked, again, at=updates + updates // 3)
    one, other = (bilevel.Comparison.load(folder) for folder in (whole, again))
    check_same(one, other)
    for table in one.history.values():
        assert table["agent_steps"][-1].tolist() == [agent_steps]
        assert table["frames"][-1].tolist() == [4 * agent_steps]
        assert np.isfinite(table["objective"][-1]).all()
        assert table["objective"][-1] > 0
        assert 1 < table["feature_rank"][-1] <= 64
    return one


def test_breakout_in_three_configurations_is_repeated_and_resumed_bit_for_bit(tmp_path):
    """So few steps of so small a network that every push can do it; those below are longer."""
    options = {"start": 100, "target_every": 60, "evaluated": 16, "width": 16, "filters": 4}
    asked = command("breakout", 26, 13, capacity=150, batch=16, **options)
    found = check_game(asked, 26, 200, tmp_path)
    heads = [found.history[name]["mean_max_q"][-1] for name in THREE]
    assert len(np.unique(heads)) == 3
    assert sorted(os.listdir(tmp_path)) == ["again", "whole"]


@pytest.mark.slow
@pytest.mark.parametrize("game", ["pong", "breakout", "space_invaders", "qbert"])
def test_four_games_for_3000_agent_steps_of_three_configurations(game, tmp_path):
    """`pytest -m slow tests/problems/deep_q/test_atari.py`, two CPU minutes a game.

    Replay memories hold 1,000 transitions, so that they are full three times over.
    """
    options = {"start": 500, "target_every": 500, "evaluated": 32, "width": 32}
    asked = command(game, 626, 313, capacity=1_000, **options)
    found = check_game(asked, 626, 3_000, tmp_path)
    for name in THREE:
        assert found.history[name]["episodes"][-1] >= 2, name


def test_replay_memories_take_what_is_said_before(capsys, tmp_path):
    options = {"start": 8, "target_every": 4, "evaluated": 4, "batch": 2, "capacity": 123_456}
    problem, made = atari(**options), []

    make = problem.replay
    problem.replay = lambda *given: made.append(make(*given)) or made[-1]
    strategy = problem.strategies(1e-3, 5e-3)["two-timescale"]
    bilevel.solve(problem, strategy, steps=1, seeds=3)
    ring = made[-1]
    assert problem.bytes_of(3) == ring.nbytes
    assert ring.used == pytest.approx(3 * 9 * 7_064, rel=0.01)  # nine frames of each run
    asked = [f"{name}={value}" for name, value in options.items()]
    only = ["--strategies", "uniform slow", "--seeds", 2, "--steps", 1]
    assert run("compare", "atari", "--set", *asked, *only, "--output", tmp_path / "run") == 0
    expected = f"2 runs of 123,456 transitions take {2 * (123_456 * 7_064 + 27_000) / 1e9:.1f} GB"
    assert expected in capsys.readouterr().err


def test_what_does_not_fit_in_memory_is_refused_with_what_does(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(atari_module, "free_bytes", lambda: 2_000_000_000)
    problem = atari(capacity=100_000)
    assert "1 run of 100,000 transitions takes 0.7 GB" in problem.room(1)
    with pytest.raises(NotEnoughMemoryError, match=r"3 runs .* 2\.1 GB, and 2\.0 GB") as refused:
        problem.room(3)
    fits = int(str(refused.value).partition("capacity=")[2].split(")")[0])
    assert 80_000 < fits < 94_000
    assert "2.0 GB are free" in atari(capacity=fits).room(3)
    strategies = problem.strategies(1e-3, 5e-3)
    with pytest.raises(NotEnoughMemoryError, match="24 runs"):
        bilevel.compare(problem, strategies, seeds=3, steps=10)
    with pytest.raises(NotEnoughMemoryError, match="3 runs"):
        bilevel.solve(problem, strategies["two-timescale"], seeds=3, steps=10)
    assert run("compare", "atari", "--output", tmp_path / "run") == 2
    assert "--set capacity=" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(atari_module, "free_bytes", lambda: 20_000_000)
    with pytest.raises(NotEnoughMemoryError, match=r"are free\. Train fewer seeds"):
        problem.room(3)  # what fits is less than what is remembered before the first update
    monkeypatch.setattr(atari_module, "free_bytes", lambda: None)
    assert problem.room(10**6).endswith("when they are full.")


def test_free_memory_is_what_the_container_leaves(monkeypatch, tmp_path):
    free = memory.free_bytes()
    assert free is None or free > 10**8
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3000 kB\n")
    assert memory.free_bytes() == 3_072_000
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert memory.free_bytes() == 700_000
    (tmp_path / "memory.max").write_text("200000\n")
    assert memory.free_bytes() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 3_072_000
    (tmp_path / "meminfo").unlink()
    built_in = memory.free_bytes()
    assert built_in is None or built_in > 10**8


def test_an_unknown_game_shows_the_nearest(capsys, tmp_path):
    assert run("compare", "atari", "--set", "game=qbart", "--output", tmp_path / "run") == 2
    assert "no Atari game 'qbart'. Did you mean 'qbert'?" in capsys.readouterr().err


def test_without_the_extra_it_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(MissingPackageError, match=r'`pip install "bilevel\[atari\]"`'):
        atari()
    assert run("compare", "atari", "--output", tmp_path / "run") == 2
    assert "Playing Atari games needs the package ale_py" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 0}, "width"),
        ({"filters": -1}, "filters"),
        ({"episode_steps": 0}, "episode_steps"),
        ({"start": 5_001}, "`start` must be a multiple of `every`, 4"),
        ({"capacity": 0}, "`capacity`"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        atari(**options)


def test_a_million_frames_are_the_default_and_rewards_are_signs():
    problem = atari(game="qbert")
    settings = problem.settings
    assert settings.steps(int(problem.usual["steps"])) * settings.frames == 1_000_000
    assert settings.clip_rewards
    assert "qbert of the Arcade Learning Environment, 27,000 steps" in problem.note
    assert problem.note != atari(game="qbert", episode_steps=500).note  # checkpoints are told apart
    assert problem.outputs == 6
    assert problem.init_body(torch.Generator().manual_seed(0))["hidden_weight"].shape == (6400, 256)
