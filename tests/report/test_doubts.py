"""A head that was projected, jittered or not solved is named in every sentence that ranks it."""

import re

import numpy as np
import pytest
import torch
from comparison_example import example
from small_problems import Smooth

from bilevel import SGD, BestResponse, Box, ClosedForm, Comparison, FastSGD, TwoTimescale, compare
from bilevel.comparison import compare as compare_module
from bilevel.core.status import Status
from bilevel.report import doubts, sentences, verdicts

OPTIONS = {"seeds": 3, "steps": 4, "every": 2, "batch_size": 6, "dtype": torch.float64}
PROJECTED = "in every run of closed a head was projected, not solved"
STRATEGIES = {
    "closed": BestResponse(0.005, ClosedForm()),
    "two": TwoTimescale(0.005, 0.05),
    "rough": BestResponse(0.01, FastSGD(0.2, 3, tolerance=1e-12)),
}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


class Boxed(Smooth):
    """Heads in a box that the free ones leave."""

    head_set = Box(-0.05, 0.05)


def test_every_status_between_fine_and_failed_has_words():
    doubtful = {s.name for s in Status if Status.INTERRUPTED < s < Status.DIVERGED}
    assert set(doubts.WORDS) == doubtful
    assert {"OUTSIDE_SET", "JITTERED", "NOT_CONVERGED"} <= doubtful


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        (["COMPLETED"] * 3, ""),
        (["CONVERGED", "DIVERGED", "NO_MINIMISER"], ""),  # without a value they are not ranked
        (["COMPLETED", "JITTERED", "DIVERGED"], "in 1 of 3 runs of a a singular head was solved"),
        (["OUTSIDE_SET"] * 3, "in every run of a a head was projected, not solved"),
        (["OUTSIDE_SET"], "in the run of a a head was projected, not solved"),
        (["NOT_CONVERGED", "OUTSIDE_SET"], "in 1 of 2 runs of a a head solver stopped early and "
         "in 1 of 2 runs of a a head was projected"),
    ],
)  # fmt: skip
def test_words(statuses, words):
    content = {"doubts": doubts.found({"a": statuses}, {}), "runs": len(statuses)}
    said = doubts.all_of(content, {"a": "a"})
    assert said.startswith(words)
    assert bool(words) == bool(said)


@pytest.mark.usefixtures("undrawn")
def test_every_ranking_sentence_says_so(tmp_path):
    found = compare(Boxed(), STRATEGIES, **OPTIONS)
    assert found.status["closed"] == ["OUTSIDE_SET"] * 3
    content = found.content()
    (lead,) = verdicts.leads(content)
    ranking = [part for part in re.split(r"(?<=\.) (?=[A-Z])", lead) if "lowest" in part]
    assert len(ranking) == 2  # at the end, and stopped early
    for result in content["paired"]:
        said = sentences.pair(content, result)
        ranking.append(said)
        names = {result["strategy"], result["baseline"]}
        assert ("of closed a head was projected" in said) == ("closed" in names)
        assert ("of rough a head solver stopped early" in said) == ("rough" in names)
    for part in ranking[:2]:
        assert PROJECTED in part
        assert "in every run of rough a head solver stopped early" in part
    (card,) = verdicts.cards(content)
    reasons = [reason for row in card["answers"] for _, _, reason in row]
    assert len(reasons) == 3
    assert all(", though in every run of " in reason for reason in reasons)
    table = found.table()
    assert f"Mind that {PROJECTED} and in every run of rough" in table
    page = found.report(tmp_path / "kept").read_text(encoding="utf-8")
    assert page.count(PROJECTED) >= 6
    summary = (tmp_path / "kept" / "summary.csv").read_text(encoding="utf-8").splitlines()
    column = summary[0].split(",").index("runs_with_inexact_head")
    assert [line.split(",")[-1] for line in summary[1:]] == ["3", "0", "3"]
    assert column == len(summary[0].split(",")) - 1
    assert str(Comparison.load(tmp_path / "kept")) == table


def test_exact_heads_are_spoken_of_as_before():
    found = compare(Smooth(), {"closed": BestResponse(0.005), "two": STRATEGIES["two"]}, **OPTIONS)
    assert "projected" not in found.table()
    assert "Mind" not in found.table()


@pytest.mark.usefixtures("undrawn")
def test_an_interruption_does_not_hide_it(tmp_path):
    """Runs that are cut off are INTERRUPTED; what became of their heads is known all the same."""

    def stop(progress):
        if "closed" in progress.strategies and progress.step == 2:
            raise KeyboardInterrupt

    pair = {"two": STRATEGIES["two"], "closed": STRATEGIES["closed"]}
    found = compare(Boxed(), pair, callback=stop, **OPTIONS)
    assert found.status["closed"] == ["INTERRUPTED"] * 3
    assert PROJECTED in sentences.pair(found.content(), found.content()["paired"][0])
    found.report(tmp_path / "kept")
    assert PROJECTED in Comparison.load(tmp_path / "kept").table()


def test_trials_of_a_search_say_so_too():
    strategies = {"closed": BestResponse(0.005, ClosedForm(), optimizer=SGD())}
    found = compare(Boxed(), strategies, tune=(0.5, 2.0), **OPTIONS)
    assert found.settings["tuning"]["strategies"]["closed"]["doubts"] == {"OUTSIDE_SET": 5}
    assert "in every run of its trial a head was projected" in found.table()


def test_one_doubtful_run_of_many_is_counted():
    plain = example()
    status = plain.status | {"swapped": ["COMPLETED"] * 11 + ["JITTERED"]}
    found = example(status=status)
    text = "in 1 of 12 runs of swapped a singular head was solved with jitter"
    assert text not in plain.table()
    assert text in verdicts.leads(found.content())[0]
    said = [line for line in found.table().splitlines() if "swapped" in line and " is " in line]
    assert said
    assert all(text in line for line in said)
