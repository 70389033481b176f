"""`advise`: its parts against other ways to the same numbers, and what it says of built cases."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from command_line import run
from scipy import stats

import bilevel
from bilevel.analysis.advice.advice import Advice
from bilevel.analysis.advice.range_tests import PER_DECADE, range_tests
from bilevel.analysis.advice.search import KEPT, search
from bilevel.analysis.advice.setting import Setting
from bilevel.analysis.advice.trials import Trials, as_losses, best_first, scores
from bilevel.analysis.advice.verdict import Ratio, is_gain, ratio
from bilevel.errors import ArgumentError, ProblemError
from bilevel.training.cohort import Cohort
from problems.planted_scales import PlantedScales, Pretrained
from problems.regression import friedman1

SGD, RMSPROP = bilevel.SGD(), bilevel.RMSProp(eps=1e-30)


def setting(problem, optimizer=SGD, batch_size=32, dtype=torch.float64):
    return Setting(problem, optimizer, "alternating", batch_size, "iid", dtype, "cpu")


def tiny():
    return friedman1(width=4, train=60, validation=30, test=30)


@pytest.fixture(scope="module")
def gained():
    """An advice on a problem whose head needs a rate that is thousands of times the body's."""
    heard = []
    problem = Pretrained(0.01)
    made = bilevel.advise(
        problem, optimizer=SGD, steps=120, batch_size=32, seeds=3, held_out_seeds=8,
        callback=heard.append,
    )  # fmt: skip
    return made, heard


@pytest.fixture
def counted(monkeypatch):
    """Steps times runs of every piece of a training."""
    made, advance = [], Cohort.advance

    def counting(self, count):
        made.append(count * len(self.state.codes))
        advance(self, count)

    monkeypatch.setattr(Cohort, "advance", counting)
    return made


# planted scales


@pytest.mark.parametrize(("optimizer", "power"), [(SGD, 2), (RMSPROP, 1)])
@pytest.mark.parametrize("make", [PlantedScales, Pretrained], ids=["levels", "head"])
def test_planted_scales_are_a_change_of_units(make, optimizer, power):
    """Rates in other units make the same predictions, step by step."""
    scales = {"head_scale": 0.01} | ({"body_scale": 0.1} if make is PlantedScales else {})
    plain, planted = make(), make(**scales)
    body, head = 1 / scales.get("body_scale", 1) ** power, 1 / scales["head_scale"] ** power
    options = {"steps": 30, "seeds": 2, "every": 10, "batch_size": 16, "dtype": torch.float64}
    usual = bilevel.solve(plain, bilevel.TwoTimescale(1e-3, 1e-2, optimizer), **options)
    strategy = bilevel.TwoTimescale(1e-3 * body, 1e-2 * head, optimizer)
    other = bilevel.solve(planted, strategy, **options)
    for metric in ("objective", "test_mse"):
        torch.testing.assert_close(other.history[metric], usual.history[metric], rtol=1e-8, atol=0)


def test_range_tests_find_planted_scales():
    """SGD: a body in units of a tenth has its centre a hundred times higher, up to two steps."""
    plain, planted = (
        range_tests(setting(problem), setting(problem).data(range(3)))
        for problem in (PlantedScales(), PlantedScales(0.1))
    )
    step = 10 ** (1 / PER_DECADE)
    assert planted.head / plain.head == pytest.approx(1, rel=step**2 - 1)
    assert planted.body / plain.body == pytest.approx(100, rel=step**2 - 1)
    assert planted.steps < 3 * 180  # each ends where the loss blows up


def test_a_range_test_ends_where_sgd_becomes_unstable():
    """The head of a quadratic g blows up above 2 / lambda_max, some steps later: it is below."""
    problem = Pretrained()
    made = setting(problem, batch_size=None)
    data = made.data([0])
    body = data.initial(problem.init_body, "body")[0]
    features = problem.features(body, data.groups["train"].inputs[0])
    largest = float(torch.linalg.eigvalsh(features.mT @ features / len(features))[-1])
    centre = range_tests(made, data).head
    assert 0.02 / largest < centre < 2 / largest


# trials


def test_trials_that_go_on_are_whole_trainings():
    pairs = [(1e-3, 1e-2), (1e-2, 1e-2), (1e-3, 1e-3)]
    at = setting(tiny(), RMSPROP)
    data = at.data([3, 5])
    first = Trials(at, data, pairs)
    first.losses("validation_mse", 6)
    went_on = first.kept([pairs[2], pairs[0]]).losses("validation_mse", 12)
    for row, (body, head) in zip(went_on, (pairs[2], pairs[0]), strict=True):
        whole = bilevel.solve(
            at.problem, at.strategy(body, head), steps=12, batch_size=32, seeds=[3, 5], every=12,
            dtype=torch.float64,
        )  # fmt: skip
        expected = whole.history["validation_mse"][-1].numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_losses_are_positive_and_errors_count_half_a_row_at_least():
    data = setting(tiny()).data([0])
    accuracies = np.array([[1.0, 0.9, np.nan]])
    found = as_losses("test_accuracy", accuracies, data)
    np.testing.assert_allclose(found, [[0.5 / 30, 0.1, np.nan]], rtol=1e-12)
    with pytest.raises(ProblemError, match="judged by ratios of objective, which is negative"):
        as_losses("objective", np.array([[-0.1]]), data)


def test_a_failed_run_is_the_worst_trial():
    found = scores(np.array([[1.0, 4.0], [0.1, np.nan], [1.0, np.inf]]))
    np.testing.assert_allclose(found, [math.log(2.0), np.inf, np.inf])
    pairs = ["a", "b", "c"]
    assert best_first(pairs, dict(zip(pairs, found, strict=True)), 1) == ["a"]


@pytest.mark.parametrize("wrong", ["body", "uniform"])
def test_both_arms_are_extended_alike(wrong, counted):
    """A centre far below the best rate puts that at an end."""
    at = setting(tiny(), RMSPROP)
    data = at.data([0, 1])
    centres = range_tests(at, data)._replace(body=3e-3, head=3e-3, uniform=3e-3)
    counted.clear()
    found = search(at, data, centres._replace(**{wrong: 3e-6}), "validation_mse", 41)
    assert any(wrong in words for words in found.edges)
    assert len(found.grid) == len(found.rates) > 25
    uniform = {(rate, rate) for rate in found.rates}
    assert found.after_half.keys() == uniform | set(found.grid)
    assert found.final.keys() <= found.after_half.keys()
    assert len(found.final) <= 4 * KEPT
    assert found.run_steps == sum(counted)


def test_rates_inside_are_not_extended(counted):
    at = setting(Pretrained())
    data = at.data([0, 1])
    centres = range_tests(at, data)
    counted.clear()
    found = search(at, data, centres._replace(body=1.5, head=0.1, uniform=0.3), "objective", 60)
    assert not found.edges
    assert len(found.grid) == len(found.rates) == 25
    left = [pair for pair in found.grid if pair in found.final]
    assert KEPT <= len(left) <= 2 * KEPT  # a uniform rate may be one of them
    assert found.final[found.pair] == min(found.final[pair] for pair in left)
    assert found.run_steps == sum(counted)


# the verdict


def test_ratios_are_paired_t_intervals():
    first, second = np.exp(np.random.default_rng(0).normal(size=(2, 12)))
    found = ratio(first, second)
    test = stats.ttest_rel(np.log(first), np.log(second))
    interval = test.confidence_interval(0.95)
    expected = np.exp([np.log(first / second).mean(), interval.low, interval.high])
    np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
    assert found.lost == 0


def test_ratios_of_losses_of_zero_are_numbers():
    found = ratio(np.array([1e-3, 1e-3]), np.array([np.finfo(float).tiny, 1e-3]))
    assert (found.low, found.high) == (0.0, math.inf)
    assert found.value > 1e100


def test_failed_runs_lose_their_pairs():
    even = np.ones(20)
    failed = np.where(np.arange(20) < 2, np.nan, 1.0)
    worse, better, both = ratio(failed, even), ratio(even, failed), ratio(failed, failed)
    assert worse.value > 1.5
    assert better.value == pytest.approx(1 / worse.value)
    assert both.value == 1
    assert worse.lost == better.lost == both.lost == 2


@pytest.mark.parametrize(
    ("ratios", "gain"),
    [
        ([(0.9, 0.85, 0.95), (0.97, 0.95, 0.99), (0.5, 0.4, 0.6)], True),
        ([(0.9, 0.85, 0.95), (0.985, 0.98, 0.99)], False),  # hardly
        ([(0.9, 0.85, 0.95), (0.97, 0.93, 1.01)], False),  # not for sure
        ([(0.9, 0.85, 0.95), (1.2, 1.1, 1.3)], False),
    ],
)
def test_a_gain_beats_every_uniform_rate_by_a_margin(ratios, gain):
    assert is_gain([Ratio(*numbers, 0) for numbers in ratios]) is gain


# the advice


def test_a_planted_gain_is_found(gained):
    advice, _ = gained
    assert advice.gain
    assert advice.head_lr / advice.body_lr > 1000
    assert advice.hardest.high < 1
    assert (advice.body_lr, advice.head_lr) == advice.pair
    assert advice.strategy.head_lr(0) == advice.head_lr
    assert advice.metric == "test_mse"
    assert advice.chosen_by == "validation_mse"
    assert set(advice.seeds).isdisjoint(advice.held_out)
    assert advice.head_gap.values[-1] < advice.head_gap.values[0]


def test_curvatures_are_those_of_both_blocks(gained):
    """Of g where the trainings ended: dense Hessians of one run after the other."""
    advice, _ = gained
    problem = Pretrained(0.01)
    solution = bilevel.solve(
        problem, advice.strategy, steps=120, seeds=advice.seeds, batch_size=32, every=120
    )
    found = []
    for number, seed in enumerate(advice.seeds):
        batch = {"train": problem.data(seed)["train"]}
        body, head = solution.body[number].double(), solution.head[number].double()
        blocks = torch.autograd.functional.hessian(
            lambda *levels, batch=batch: problem.head_objective(*levels, batch), (body, head)
        )
        sizes = body.numel(), head.numel()
        found.append([
            torch.linalg.eigvalsh(blocks[i][i].reshape(size, size))[-1]
            for i, size in enumerate(sizes)
        ])  # fmt: skip
    expected = torch.tensor(found).median(0).values
    torch.testing.assert_close(torch.tensor(advice.curvatures), expected.float(), rtol=1e-2, atol=0)


def test_an_advice_says_what_it_found(gained):
    advice, heard = gained
    text = str(advice)
    assert text.startswith("Gain: train the head ")
    assert str(advice.hardest) in text
    assert text.endswith(f"    {advice.paste}")
    assert f"{advice.spent.run_steps:,} steps of single runs" in text
    assert heard == list(advice.budget) == ["range tests", "trial", "verdict", "explanation"]
    without = dataclasses.replace(advice, gain=False, exact=None, head_gap=None)
    assert str(without).startswith("No significant gain from two rates: train body and head at one")


def test_a_range_test_that_found_nothing_is_said(gained):
    made, _ = gained
    assert made.centres.at_an_end == []
    for body, found in ((1e-7, ["body"]), (8.6e4, ["body"]), (1e-5, [])):
        centres = made.centres._replace(body=body, head=0.1)
        assert centres.at_an_end == found
        text = str(dataclasses.replace(made, centres=centres))
        assert ("No largest useful step of the body was found" in text) == bool(found)
        assert ("largest useful step is" in text) != bool(found)


def test_the_map_has_every_rate(gained):
    advice, _ = gained
    figure = advice.figure()
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    assert {tuple(place) for place in drawn.tolist()} == set(advice.search.after_half)


def test_no_gain_recommends_one_rate():
    advice = bilevel.advise(tiny(), steps=20, seeds=2, held_out_seeds=3)
    assert not advice.gain
    assert advice.body_lr == advice.head_lr == advice.search.uniform[0]
    assert isinstance(advice, Advice)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"seeds": [0, 7], "held_out_seeds": [7, 8]}, ArgumentError, r"both have \[7\]"),
        ({"held_out_seeds": 1}, ArgumentError, "two at least"),
        ({"steps": 0}, ArgumentError, "`steps` must be a positive integer"),
        ({"callback": 3}, ArgumentError, "callback"),
        ({"optimizer": "sgd"}, ArgumentError, "optimizer"),
    ],
)
def test_bad_arguments_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        bilevel.advise(tiny(), **options)


class Fixed(Pretrained):
    """One start and one data set for all seeds."""

    redraws_data = False

    def init_body(self, generator):
        return self.weights


def test_counts_of_numpy_are_counts():
    options = {"steps": 1, "seeds": np.int64(2), "held_out_seeds": np.int64(3)}
    advice = bilevel.advise(tiny(), **options)
    assert (advice.seeds, advice.held_out) == ([0, 1], [2, 3, 4])
    assert "1 step each" in str(advice)


def test_seeds_must_make_a_difference():
    with pytest.raises(ArgumentError, match="nothing depends on the seed"):
        bilevel.advise(Fixed(), batch_size=None)


# the command


def test_the_command_prints_the_advice(tmp_path, capsys):
    options = ["--set", "width=4", "--steps", "10", "--seeds", "2", "--held-out", "3"]
    figure = tmp_path / "rates.svg"
    assert run("advise", "diabetes", *options, "--optimizer", "sgd", "--figure", figure) == 0
    printed = capsys.readouterr()
    assert "3 seeds that chose nothing" in printed.out
    assert "SGD(momentum=0.0)" in printed.out
    assert printed.err.splitlines() == [
        f"{part} ..." for part in ("range tests", "trial", "verdict", "explanation")
    ]
    assert "10⁻" in figure.read_text()  # rates are written as they are read, not as TeX


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Name a problem"),
        (["diabetes", "--figure", "rates.gif"], "must end in .svg"),
        (["diabetes", "--figure", "nowhere/rates.svg"], "nowhere, which is no folder"),
        (["--csv", "x.csv"], "--target COLUMN"),
        (["diabetes", "--target", "y"], "--csv FILE too"),
    ],
)
def test_the_command_refuses(arguments, words, capsys):
    assert run("advise", *arguments) == 2
    assert words in capsys.readouterr().err
