"""Rates of two-timescale trainings on the problem of Lemma 4.1."""

import numpy as np
import pytest
import torch
from command_line import run

import bilevel
from bilevel import analysis
from bilevel.analysis.rates import BODY, ENVELOPE, GRADIENT, HEAD, record_marks
from bilevel.analysis.slopes import log_slope
from bilevel.commands import convergence as command
from bilevel.errors import ArgumentError, IncompatibleError
from problems.analytic import analytic
from problems.toy import ScalarProduct

OPTIMUM = 1.470468517231
# slopes of body and head, measured by an independent implementation
REFERENCE = {
    "theorem 3.7": (-1.01, -0.63),
    "theorem 3.6": (-0.64, -0.41),
    "uniform 1/k": (-1.01, -1.00),
    "uniform 1/sqrt k": (-0.52, -0.48),
}


@pytest.fixture(scope="module")
def small():
    problem = ScalarProduct(noise_scale=0.3)
    options = {"steps": 300, "seeds": 60, "after": 30, "envelope_runs": 4, "compile": False}
    return analysis.convergence(problem, **options)


def slope(found, schedule, quantity):
    (one,) = (s for s in found.slopes if (s.schedule, s.quantity) == (schedule, quantity))
    return one


def test_short_trainings_have_about_the_slopes(small):
    for name, (body, head) in REFERENCE.items():
        for quantity, expected in ((BODY, body), (HEAD, head)):
            one = slope(small, name, quantity)
            assert one.low < one.slope < one.high
            assert abs(one.slope - expected) < 0.3, one
            assert one.runs == 60


def test_the_optimum_is_found(small):
    assert float(small.optimum) == pytest.approx(OPTIMUM, abs=1e-8)
    assert small.notes == ()
    assert set(small.failed.values()) == {0}


def test_promises(small):
    assert slope(small, "theorem 3.7", BODY).promised == pytest.approx(-2 / 3)
    assert slope(small, "theorem 3.6", ENVELOPE).promised == pytest.approx(-2 / 5)
    assert slope(small, "theorem 3.6", HEAD).promised == pytest.approx(-2 / 5)
    assert np.isnan(slope(small, "uniform 1/k", BODY).promised)


def test_curves_are_those_of_single_trainings(small):
    """One training of all schedules is that of each alone, run by run."""
    body, head = analysis.theorem_schedules()["theorem 3.6"]
    strategy = bilevel.TwoTimescale(body, head, bilevel.SGD(), order="simultaneous")
    problem = ScalarProduct(noise_scale=0.3)
    alone = bilevel.solve(problem, strategy, steps=300, seeds=60, every=300, dtype=torch.float64)
    curves = small.curves["theorem 3.6"]
    last = {
        BODY: (alone.body - OPTIMUM) ** 2,
        HEAD: alone.history["head_gap"][-1] ** 2,
        GRADIENT: alone.history["phi_gradient_norm"][-1] ** 2,
    }
    for quantity, expected in last.items():
        np.testing.assert_allclose(curves[quantity][-1], expected, rtol=1e-6, atol=1e-12)
    # a proximal point of this convex Phi solves v + l Phi'(v) = w
    w, reach = alone.body[:4].numpy(), small.l
    v = w - reach * np.sqrt(curves[ENVELOPE][-1]) * np.sign(w - OPTIMUM)
    slopes = 0.1 * v - v / (v**2 + 1) ** 2
    off = v + reach * slopes - w  # found to 1 % of the way
    assert (np.abs(off) <= 0.02 * np.abs(w - v) * (1 + 0.4 * reach)).all()


def test_a_straight_line_is_fitted_and_its_interval_covers():
    steps = np.geomspace(10, 1000, 20)
    source = np.random.default_rng(0)
    covered = 0
    for seed in range(20):
        noise = source.gamma(1.0, 1.0, (20, 50))
        found = log_slope(steps, 3 * steps[:, None] ** -0.7 * noise, seed)
        covered += found[1] <= -0.7 <= found[2]
    assert 16 <= covered <= 20
    exact = log_slope(steps, np.repeat(3 * steps[:, None] ** -0.7, 2, axis=1))
    assert exact[0] == pytest.approx(-0.7)
    assert exact[3] == pytest.approx(3)
    assert np.isnan(log_slope(steps, np.zeros((20, 3)))[0])
    assert log_slope(steps, np.full((20, 3), np.nan))[4] == 0


def test_records_are_even_in_the_logarithm_at_tens():
    marks = record_marks(60_000, 2000)
    assert marks[0] == 0
    assert marks[-1] == 60_000
    assert all(k % 10 == 0 for k in marks)
    late = np.log([k for k in marks if k > 2000])
    assert len(late) > 20
    np.testing.assert_allclose(np.diff(late), np.diff(late).mean(), rtol=0.02)
    with pytest.raises(ArgumentError, match="`after` must be below"):
        record_marks(100, 100)


def test_where_runs_settle_apart_there_is_no_optimum():
    class TwoWells(ScalarProduct):
        body_set = bilevel.Box(-3.0, 3.0)

        def init_body(self, generator):
            return 4 * torch.rand((), generator=generator, dtype=torch.float64) - 2

    options = {"steps": 40, "seeds": 8, "after": 10, "envelope_runs": 0, "compile": False}
    found = analysis.convergence(TwoWells(noise_scale=0.1), **options)
    assert found.optimum is None
    assert BODY not in found.curves["theorem 3.6"]
    assert "apart" in found.notes[0]
    given = analysis.convergence(
        TwoWells(noise_scale=0.1), optimum=torch.tensor(OPTIMUM), **options
    )
    assert BODY in given.curves["theorem 3.6"]


def test_what_cannot_work_is_refused():
    with pytest.raises(IncompatibleError):
        analysis.convergence(analytic("A5"), steps=100, after=10)
    mixed = {
        "one": (bilevel.Constant(0.1), bilevel.Constant(0.1)),
        "two": analysis.theorem_schedules()["theorem 3.6"],
    }
    with pytest.raises(ArgumentError, match="one kind"):
        analysis.convergence(ScalarProduct(), mixed, steps=100, after=10)
    with pytest.raises(ArgumentError, match="`schedules` must be a dictionary"):
        analysis.convergence(ScalarProduct(), {"one": 0.1}, steps=100, after=10)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    options = "--steps 40 --seeds 4 --after 10 --no-compile --envelope-runs 2 --output"
    assert run("convergence", *options.split(), tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "theorem 3.7        |w - w*| " in printed
    assert "Envelopes have l = " in printed
    files = {path.name for path in (tmp_path / "new").iterdir()}
    assert files == {"slopes.csv", "curves.csv", "convergence.svg", "convergence.png"}
    table = (tmp_path / "new/slopes.csv").read_text().splitlines()
    assert len(table) == 17
    drawn = (tmp_path / "new/convergence.svg").read_text()
    for words in ("|w − w*|²", "|θ − θ*(w)|²", "|∇Φ|²", "slope (promised)"):
        assert words in drawn


@pytest.mark.slow  # bilevel convergence: 1,600 runs of 60,000 steps in 20 seconds
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check:FutureWarning")
def test_the_rates_of_lemma_4_1():
    before = command.seconds()
    found = analysis.convergence(ScalarProduct(noise_scale=0.3))
    assert command.seconds() - before < 60
    for name, expected in REFERENCE.items():
        for quantity, value in zip((BODY, HEAD), expected, strict=True):
            assert abs(slope(found, name, quantity).slope - value) < 0.07, (name, quantity)
