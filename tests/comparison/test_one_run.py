"""Where no seed makes a difference there is one run, and nothing is said about chance."""

import re

import numpy as np
import pytest
import torch
from small_problems import N, Noisy, Scalar, Smooth, grouped

from bilevel import (
    SGD,
    BestResponse,
    Comparison,
    FastSGD,
    OwnLoop,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.comparison import compare as compare_module
from bilevel.report import verdicts
from bilevel.training.cohort import Cohort

PAIR = {"slow": uniform(0.005), "two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.01)}
OPTIONS = {"seeds": [4, 0, 2], "steps": 6, "every": 2, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


class Steady(Smooth):
    """Starts that do not depend on the seed; `redraws_data` and `spread` as given."""

    spread = 0.0

    def init_body(self, generator):
        weight = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
        return {
            "weight": weight + self.spread * torch.randn(3, 4, generator=generator),
            "bias": torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64),
        }

    def init_head(self, generator):
        return torch.tensor([1.0, -1.0, 0.5, 0.2], dtype=torch.float64)


class Copied(Steady):
    """Data that are redrawn, but are the same every time."""

    redraws_data = True

    def data(self, seed=None):
        return grouped(0)


class SteadyNoise(Noisy):
    """Starts as fixed as those of hyper-parameters; the steps are noisy."""

    def init_body(self, generator):
        return torch.tensor(1.5, dtype=torch.float64)

    def init_head(self, generator):
        return torch.tensor(0.5, dtype=torch.float64)


class Silent(SteadyNoise):
    """Noise of size zero."""

    def noise(self, generator, steps):
        return {name: 0 * leaf for name, leaf in super().noise(generator, steps).items()}


def descending(problem, body, head, batches):
    """A loop that draws nothing."""
    for batch in batches:
        with torch.enable_grad():
            at = head.detach().requires_grad_()
            (slope,) = torch.autograd.grad(problem.head_objective(body, at, batch), at)
        head = head - 0.05 * slope
        yield body, head


def shaken(problem, body, head, batches):
    """A loop that draws noise of its own from the seed."""
    source = torch.Generator().manual_seed(batches.seed)
    for _ in batches:
        head = head + 0.01 * torch.randn(head.shape, generator=source, dtype=head.dtype)
        yield body, head


# alone: one run is trained, and said to be one

ALONE = {
    "all rows": (Steady(), {"batch_size": None}),
    "in order": (Steady(), {"batch_size": 5, "sampling": "sequential"}),
    "whole epochs": (Steady(), {"batch_size": N, "sampling": "epochs"}),
    "the same data": (Copied(), {"batch_size": None}),
    "silent noise": (Silent(), {}),
}
ALIVE = {
    "starts": (Steady(spread=0.1), {"batch_size": None}),
    "data": (Steady(redraws_data=True), {"batch_size": None}),
    "rows": (Steady(), {"batch_size": 5}),
    "as many rows as there are": (Steady(), {"batch_size": N}),
    "epochs": (Steady(), {"batch_size": 5, "sampling": "epochs"}),
    "noise": (SteadyNoise(), {}),
    "starts without data": (Scalar(), {}),
}


@pytest.mark.parametrize("case", ALONE)
def test_one_run_is_trained_and_said_to_be_one(case, monkeypatch):
    problem, options = ALONE[case]
    trained, true = [], Cohort.__init__

    def made(self, assembly, strategy, **others):
        trained.append(list(assembly.data.seeds))
        true(self, assembly, strategy, **others)

    monkeypatch.setattr(Cohort, "__init__", made)
    found = compare(problem, PAIR, **(OPTIONS | options))
    assert trained[-2:] == [[4, 4], [4]]  # after a look at all
    assert found.settings["seeds"] == [4]
    assert found.settings["seeds_asked"] == [4, 0, 2]
    assert found.settings["same_runs"] == list(PAIR)
    assert {values.shape for values in found.final().values()} == {(1,)}
    for result in found.paired():
        assert (result.pairs, result.lost, result.wins + result.losses) == (1, 0, 1)
        assert np.isnan([result.low, result.high, result.p_value, result.p_adjusted]).all()
        assert not result.significant
    for interval in found.content()["intervals"].values():
        assert np.isnan([interval["low"], interval["high"]]).all()
    text = found.table()
    assert "do not depend on the seed" in text
    assert "there is one run of each strategy, without an interval or a p-value" in text
    assert len(re.findall("in the one run of each", text)) == 3
    assert not re.search(r"signific|correction|1 runs|of 1 seed", text)
    alone = compare(problem, PAIR, **(OPTIONS | options | {"seeds": [0]}))
    for name, values in alone.final().items():  # any other seed makes it too
        assert values == pytest.approx(found.final()[name], rel=1e-12)


@pytest.mark.parametrize("case", ALIVE)
def test_runs_that_differ_in_anything_are_all_trained(case):
    problem, options = ALIVE[case]
    found = compare(problem, PAIR, **(OPTIONS | options))
    assert found.settings["seeds"] == [4, 0, 2]
    assert not {"seeds_asked", "same_runs"} & set(found.settings)
    assert "one run" not in found.table()
    assert np.isfinite([result.p_value for result in found.paired()]).all()
    for values in found.final().values():
        assert len(set(values.tolist())) == 3


@pytest.mark.parametrize("case", ALONE)
def test_solve_warns_where_all_runs_are_one(case):
    problem, options = ALONE[case]
    with pytest.warns(UserWarning, match="All 3 runs are one and the same.*`seeds=1`"):
        found = solve(problem, PAIR["two"], steps=2, seeds=3, **options)
    first, _, last = found.history["objective"].unbind(1)
    torch.testing.assert_close(first, last, rtol=1e-6, atol=0)  # float32, epochs in other orders
    solve(problem, PAIR["two"], steps=2, seeds=1, **options)  # which says nothing


@pytest.mark.parametrize("case", ALIVE)
def test_solve_says_nothing_where_runs_differ(case):
    problem, options = ALIVE[case]
    solve(problem, PAIR["two"], steps=2, seeds=3, **options)


def test_solve_says_nothing_where_rates_or_inner_rows_differ():
    options = {"seeds": 3, "batch_size": None}
    rates = torch.tensor([0.01, 0.02, 0.03])
    solve(Steady(), TwoTimescale(rates, 0.1), steps=2, **options)
    solve(Steady(), BestResponse(0.01, FastSGD(0.1, 2, batch_size=4)), steps=2, **options)


def test_a_single_seed_says_nothing_of_others():
    found = compare(Smooth(), PAIR, **(OPTIONS | {"seeds": 1, "batch_size": 5}))
    assert "same_runs" not in found.settings
    assert "With one seed there is no interval and no p-value" in found.table()
    assert np.isnan([result.p_value for result in found.paired()]).all()


# beside strategies that draw


def test_strategies_that_draw_are_repeated_and_the_others_are_not_counted_as_often():
    """Inner rows of its own tell the runs of one strategy apart: the other two are still one."""
    strategies = PAIR | {"inner": BestResponse(0.01, FastSGD(0.1, 2, batch_size=4))}
    del strategies["slow"]
    found = compare(Steady(), strategies, batch_size=None, baselines=["two"], **OPTIONS)
    assert found.settings["seeds"] == [4, 0, 2]
    assert found.settings["same_runs"] == ["two", "exact"]
    assert len(set(found.final()["inner"].tolist())) == 3
    results = {(result.strategy, result.baseline): result for result in found.paired()}
    exact = results["exact", "two"]
    assert (exact.pairs, exact.wins + exact.losses) == (1, 1)
    assert np.isnan(exact.p_value)
    inner = results["inner", "two"]
    assert (inner.pairs, np.isnan(inner.p_value)) == (3, False)
    content, text = found.content(), found.table()
    assert np.isnan(content["intervals"]["two"]["low"])
    assert np.isfinite(content["intervals"]["inner"]["low"])
    assert "all seeds make the same run of two and exact: they have no interval" in text
    assert "exact is" in text
    assert "in the one run of each" in text


def test_own_loops_are_looked_at_afterwards():
    options = OPTIONS | {"batch_size": None}
    still = compare(Steady(), {"own": descending, "two": PAIR["two"]}, **options)
    assert still.settings["seeds"] == [4]
    assert still.settings["seeds_asked"] == [4, 0, 2]
    assert np.isnan(still.paired()[0].p_value)
    moved = compare(Steady(), {"own": shaken, "two": PAIR["two"]}, **options)
    assert moved.settings["seeds"] == [4, 0, 2]
    assert moved.settings["same_runs"] == ["two"]
    assert np.isfinite(moved.paired()[0].p_value)
    alone = compare(Steady(), {"own": OwnLoop(shaken)}, **options)
    assert "same_runs" not in alone.settings


class Deaf(Scalar):
    """Rows and noise are drawn, but nothing looks at them."""

    def data(self, seed=None):
        return {"train": torch.arange(N, dtype=torch.float64)}

    def init_body(self, generator):
        return torch.tensor(1.5, dtype=torch.float64)

    def init_head(self, generator):
        return torch.tensor(0.5, dtype=torch.float64)

    def noise(self, generator, steps):
        return torch.randn(steps, generator=generator)


def test_rows_that_nothing_looks_at_make_no_other_runs():
    found = compare(Deaf(), PAIR, batch_size=4, **OPTIONS)
    assert found.settings["seeds"] == [4]
    assert found.settings["same_runs"] == list(PAIR)
    assert np.isnan([result.p_value for result in found.paired()]).all()
    mixed = compare(Deaf(), PAIR | {"own": shaken}, batch_size=4, **OPTIONS)
    assert mixed.settings["seeds"] == [4, 0, 2]
    assert mixed.settings["same_runs"] == list(PAIR)


def drifting(problem, body, head, batches):
    """A loop whose bodies differ between seeds, which g does not see where heads are zero."""
    source = torch.Generator().manual_seed(batches.seed)
    for _ in batches:
        body = body | {"bias": body["bias"] + torch.rand(4, generator=source, dtype=head.dtype)}
        yield body, 0 * head


def test_runs_that_differ_where_g_does_not_look_are_not_one():
    found = compare(Steady(), {"own": drifting, "two": PAIR["two"]}, batch_size=None, **OPTIONS)
    assert len(set(found.history["own"]["objective"][-1])) == 1
    assert found.settings["same_runs"] == ["two"]


def test_a_start_alone_does_not_tell_that_runs_are_one():
    def stop(progress):
        raise KeyboardInterrupt

    options = OPTIONS | {"batch_size": None, "callback": stop}
    found = compare(Steady(), {"own": shaken}, **options)
    assert found.step == 0
    assert "same_runs" not in found.settings
    assert compare(Steady(), {"two": PAIR["two"]}, **options).settings["same_runs"] == ["two"]


# what else follows


def test_rates_are_searched_on_one_seed_too():
    found = compare(Steady(), {"two": PAIR["two"]}, tune=(0.5, 2.0), batch_size=None, **OPTIONS)
    assert found.settings["tuning"]["seeds"] == [5]
    assert "The seed makes no difference" in found.table()
    assert "never saw" not in found.table()


@pytest.mark.usefixtures("undrawn")
def test_a_report_on_one_run_speaks_of_nothing_else(tmp_path):
    strategies = {"two": PAIR["two"], "exact": PAIR["exact"], "wild": uniform(1e200, SGD())}
    found = compare(Steady(), strategies, batch_size=None, **OPTIONS)
    assert found.status["wild"] == ["DIVERGED"]
    page = found.report(tmp_path / "kept").read_text(encoding="utf-8")
    text = re.sub(r"(?s)<(style|svg).*?</\1>|<[^>]*>", "", page)
    assert "there is one run of each strategy" in text
    assert "In the one run better than two" in text or "In the one run worse than two" in text
    assert "0 to 2" not in text
    assert "4, 0, 2" in text  # the seeds that were asked for
    for words in ("ignifican", "p corrected", "1 runs", "1 seed", "over seeds", "bootstrap",
                  "95&nbsp;%"):  # fmt: skip
        assert words not in text, words
    assert str(Comparison.load(tmp_path / "kept")) == str(found)


def test_equal_strategies_share_the_first_place():
    twins = {"still": uniform(1e-9), "a": PAIR["two"], "b": PAIR["two"]}
    content = compare(Smooth(), twins, batch_size=5, **OPTIONS).content()
    (lead,) = verdicts.leads(content)
    assert "a and b share the lowest mean test MSE" in lead
    assert "a and b share the lowest:" in lead  # where runs are stopped early
