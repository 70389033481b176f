"""`bilevel compare cartpole`: what is judged, what is written, and going on after Ctrl-C."""

import csv
import dataclasses
import os
import signal
import sys

import numpy as np
import pytest
from command_line import run

import bilevel
from bilevel.commands.compare import Compare
from bilevel.comparison import checkpoint as checkpoint_module
from bilevel.errors import ArgumentError, MissingPackageError, ResultsError
from bilevel.storage.folder import write_atomically
from bilevel.storage.results import write_results
from bilevel.training.cohort import Cohort
from problems.deep_q.cartpole import cartpole
from problems.deep_q.settings import Settings

TINY = ["cartpole", "--seeds", "2", "--steps", "24", "--every", "8"]
PAIR = ["--strategies", "two-timescale", "head exact"]
EIGHT = ["uniform slow", "uniform fast", "two-timescale", "swapped", "uniform sqrt",
         "five head steps", "head refitted", "head exact"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """The problem by its name, wherever the package was installed from."""
    from bilevel.problem import registry

    true = registry.load

    def load(name, *rest):
        return cartpole if name == "cartpole" else true(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", load)
        patch.setattr(
            "bilevel.comparison.compare.seconds_per_step",
            lambda trained, *_: dict.fromkeys(trained, 1.0),
        )
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Results without figures, which take seconds."""

    def report(self, folder):
        with write_atomically(folder) as hidden:
            write_results(hidden, self.content())
            (hidden / "report.html").touch()
        return folder / "report.html"

    monkeypatch.setattr(bilevel.Comparison, "report", report)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cartpole") / "whole"
    assert run("compare", *TINY, "--output", folder) == 0
    return folder


def test_eight_configurations_are_judged_by_two_returns_in_pairs(whole):
    found = bilevel.Comparison.load(whole)
    assert list(found.strategies) == EIGHT
    assert found.headline == "last_return"
    assert found.settings["also_judged"] == ["area_return"]
    assert len(found.paired()) == 28
    assert {each.kind for each in found.paired()} == {"difference"}
    with (whole / "paired.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["metric"] for row in rows] == ["last_return"] * 28 + ["area_return"] * 28
    last = found.final("last_return")
    area = found.final("area_return")
    for row in rows:
        values = last if row["metric"] == "last_return" else area
        gap = (values[row["strategy"]] - values[row["baseline"]]).mean()
        assert float(row["effect"]) == pytest.approx(gap)
    assert found.history["two-timescale"]["agent_steps"][-1].tolist() == [592.0, 592.0]


def test_the_report_says_what_is_judged_and_shows_both(whole):
    page = (whole / "report.html").read_text()
    assert "return of the last fifth. The same is asked of the return averaged" in page
    assert "The same for the return averaged over all steps" in page
    assert "by experience of its own" in page
    assert "the same random numbers at every step" in page
    assert "saw the same rows" not in page
    assert "eps=1e-05" in page


def test_all_strategies_start_alike_and_from_the_same_point(whole):
    history = bilevel.Comparison.load(whole).history
    for metric in ("mean_max_q", "objective", "episodes", "area_return"):
        first = [history[name][metric][0] for name in EIGHT]
        assert all(np.allclose(first[0], other, atol=1e-7) for other in first), metric


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("step", [5, 30])  # in the first training, in the second
def test_ctrl_c_in_the_middle_of_a_step_and_resume_are_bit_identical(step, tmp_path):
    """The signal comes while environments and replay memories change."""
    partial, whole = tmp_path / "run.partial", tmp_path / "whole"
    assert run("compare", *TINY, *PAIR, "--output", whole) == 0
    true, left = Cohort.step, iter(range(step, -1, -1))

    def step_of(self):
        act = self.sampler.experience._act

        def told(*at):
            if next(left, None) == 0:
                signal.raise_signal(signal.SIGINT)
            act(*at)

        self.sampler.experience._act = told
        true(self)
        self.sampler.experience._act = act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "step", step_of)
        patch.setattr(checkpoint_module, "SECONDS", 0)
        assert run("compare", *TINY, *PAIR, "--output", tmp_path / "run") == 130
    assert partial.is_dir()
    assert run("compare", "--resume", partial) == 0
    one, other = (bilevel.Comparison.load(folder) for folder in (whole, tmp_path / "run"))
    assert one.status == other.status
    for name, table in one.history.items():
        for metric, values in table.items():
            assert values.tobytes() == other.history[name][metric].tobytes(), (name, metric)
    assert sorted(os.listdir(tmp_path)) == ["run", "whole"]


def test_without_the_extra_it_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(
        MissingPackageError, match=r'CartPole needs .* `pip install "bilevel\[rl\]"`'
    ):
        cartpole()
    assert run("compare", "cartpole", "--output", tmp_path / "run") == 2
    assert 'pip install "bilevel[rl]"' in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--batch-size", "32", "--sampling", "epochs"), "leave out --batch-size, --sampling"),
        (("--optimizer", "adam", "--clip", "1"), "leave out --optimizer, --clip"),
    ],
)
def test_options_that_would_change_nothing_are_refused(options, match, tmp_path, capsys):
    assert run("compare", *TINY, *options, "--output", tmp_path / "run") == 2
    assert match in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_what_is_not_said_is_asked_of_the_problem():
    from bilevel.commands.first_example import numbers

    problem = cartpole()
    assert numbers(Compare(problem="cartpole"), problem.usual) == (2.5e-4, 1.25e-3, 20, 3626)
    assert problem.settings.steps(3626) == 15_000
    asked = Compare(problem="cartpole", steps=7, head_lr=1e-2)
    assert numbers(asked, problem.usual) == (2.5e-4, 1e-2, 20, 7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gamma": 1.0}, "`gamma` must be below 1"),
        ({"epsilon": 1.5}, "`epsilon` must be at most 1"),
        ({"target_every": 501}, "`target_every` must be a multiple of `every`, 4"),
        ({"batch": 0}, "`batch` must be a positive integer"),
        ({"width": 0}, "a width of `Layers`"),
        ({"ridge": 0.0}, "`ridge`"),
        ({"scaled": "no"}, "`scaled` must be True or False"),
    ],
)
def test_numbers_out_of_range_are_refused(options, match):
    with pytest.raises(ArgumentError, match=match):
        cartpole(**options)


def test_a_checkpoint_is_of_one_environment_network_and_settings(tmp_path):
    pair = {"two": cartpole().strategies(1e-3, 5e-3)["two-timescale"]}
    options = {"seeds": 2, "steps": 4, "checkpoint": tmp_path / "kept"}
    bilevel.compare(cartpole(), pair, **options)
    for other in ({"scaled": False}, {"gamma": 0.9}, {"width": 32}):
        with pytest.raises(ResultsError, match="differs in experience"):
            bilevel.compare(cartpole(**other), pair, **options)


def test_updates_may_be_as_far_apart_as_is_asked():
    settings = cartpole(every=3, start=300, target_every=600).settings
    assert (settings.every, settings.start) == (3, 300)


def test_updates_and_steps_are_counted_alike():
    settings = Settings()
    for updates in (0, 1, 2, 3626):
        assert settings.updates(settings.steps(updates)) == updates
    assert settings.updates(499) == 0
    assert settings.exploring(0) == 1.0
    assert settings.exploring(3750) == pytest.approx(0.525)
    assert settings.exploring(10**6) == 0.05
    assert dataclasses.replace(settings, every=2).updates(502) == 2


@pytest.mark.usefixtures("untimed")
def test_rates_are_tuned_by_returns_and_not_by_the_objective():
    problem = cartpole()
    pair = {"two": problem.strategies(1e-3, 5e-3)["two-timescale"]}
    found = bilevel.compare(problem, pair, seeds=2, steps=6, every=3, tune=(0.5, 1, 2))
    tuning = found.settings["tuning"]
    assert tuning["metric"] == "last_return"
    assert list(found.strategies) == ["two", "two, tuned"]
    assert found.score() is None
