"""What `progress=True` shows, and that it changes no number."""

import io
import sys

import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.errors import ArgumentError, MissingPackageError
from problems.toy import ScalarProduct

PAIR = {"a [b]": bilevel.uniform(0.01), "c": bilevel.TwoTimescale(0.01, 0.1)}
OPTIONS = {"steps": 20, "every": 5}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Standard error as a file, or a terminal."""

    def show(kind=io.StringIO):
        found = kind()
        monkeypatch.setattr(sys, "stderr", found)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return found

    return show


def problem():
    return ScalarProduct(noise_scale=0.1)


def test_solve_says_runs_steps_and_time_left(screen):
    shown = screen()
    found = bilevel.solve(problem(), PAIR["c"], seeds=3, progress=True, **OPTIONS)
    text = shown.getvalue()
    for words in ("TwoTimescale, 3 runs", "20 of 20 steps", "ETA", "0:00:0"):
        assert words in text
    plain = bilevel.solve(problem(), PAIR["c"], seeds=3, **OPTIONS)
    for a, b in zip(trees.leaves(found.state.strategy), trees.leaves(plain.state.strategy),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    for name, values in plain.history.items():
        assert torch.equal(values.nan_to_num(), found.history[name].nan_to_num())


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end(screen):
    shown = screen(Terminal)
    bilevel.solve(problem(), PAIR["c"], seeds=3, progress=True, **OPTIONS)
    assert "TwoTimescale, 3 runs" in shown.getvalue()
    assert "\x1b[2K" in shown.getvalue()[-20:]  # the line is erased


def test_compare_says_what_is_trained(screen):
    shown, seen = screen(), []
    found = bilevel.compare(problem(), PAIR, seeds=3, progress=True, callback=seen.append,
                            **OPTIONS)  # fmt: skip
    assert "2 strategies together, 6 runs" in shown.getvalue()
    assert "40 of 40 steps" in shown.getvalue()
    assert [progress.step for progress in seen] == [0, 5, 10, 15, 20]
    plain = bilevel.compare(problem(), PAIR, seeds=3, **OPTIONS)
    for name in PAIR:
        assert (plain.final()[name] == found.final()[name]).all()
    alone = {"a [b]": PAIR["a [b]"]}
    bilevel.compare(problem(), alone, seeds=3, budget="gradients", progress=True, **OPTIONS)
    assert "a [b], 3 runs" in shown.getvalue()  # no markup of rich
    assert "of 20 gradients" in shown.getvalue()


def test_other_callbacks_are_called_after_it(screen):
    screen()
    seen = []
    bilevel.solve(problem(), PAIR["c"], seeds=2, progress=True,
                  callback=lambda k, values: seen.append((k, len(values["objective"]))),
                  **OPTIONS)  # fmt: skip
    assert seen == [(k, 2) for k in (0, 5, 10, 15, 20)]
    with pytest.raises(ArgumentError, match="`callback` must be a function"):
        bilevel.solve(problem(), PAIR["c"], seeds=2, progress=True, callback=3, **OPTIONS)


def test_nothing_is_shown_where_nobody_asked(screen, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    shown = screen()
    bilevel.solve(problem(), PAIR["c"], seeds=2, **OPTIONS)
    assert shown.getvalue() == ""
    for train in (
        lambda: bilevel.solve(problem(), PAIR["c"], seeds=2, progress=True, **OPTIONS),
        lambda: bilevel.compare(problem(), PAIR, seeds=2, progress=True, **OPTIONS),
    ):
        with pytest.raises(MissingPackageError, match=r"rich, which is not .*`pip install rich`"):
            train()
        with pytest.raises(ArgumentError, match="`progress` must be True or False"):
            bilevel.solve(problem(), PAIR["c"], progress="yes")
