"""Figure 1 of arXiv 2605.15530, and the numbers behind it, in about three minutes:

make test ARGS="-m slow tests/analysis/test_figure_one.py"
"""

import functools
import time

import pytest

import bilevel
from bilevel import analysis
from bilevel.analysis.medians import median
from problems.teacher import teacher

STRATEGY = bilevel.TwoTimescale(5e-4, 5e-3, order="simultaneous")  # RMSProp
STEPS = (0, 50, 200, 1000, 4000)
SEEDS = 100
"""Five times as many as those of the reference, whose medians are 18 % from the true ones or so."""
REFERENCE = {
    ("default", 0): (0.133, 134, 249), ("default", 50): (2.6, 69.9, 133),
    ("default", 200): (11.5, 32.1, 79), ("default", 1000): (22.8, 17.5, 35.7),
    ("default", 4000): (44.7, 18.6, 46.5), ("unit", 0): (11.5, 4.3, 9.0),
    ("unit", 4000): (9.2, 4.0, 9.3),
}  # fmt: skip
"""Medians over 20 seeds, of an implementation of somebody else's: joint, reduced, at theta*."""
MATRICES = ("joint", "phi", "best")
ELSEWHERE = {("unit", 0, "joint")}
"""Over 400 seeds the median is 8.7, from 8.4 to 9.0."""


@functools.cache
def found(start):
    options = {"at": STEPS, "batch_size": 32, "seeds": SEEDS}
    points = analysis.iterates(teacher(start=start), STRATEGY, **options)
    return analysis.curvature(points, probes=1)


def medians(start, step):
    values = found(start).values
    return [median(values[f"{name}_largest"][STEPS.index(step)].numpy()) for name in MATRICES]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "step"), REFERENCE)
def test_largest_eigenvalues_are_those_of_the_reference(start, step):
    for name, mine, wanted in zip(
        MATRICES, medians(start, step), REFERENCE[start, step], strict=True
    ):
        near = abs(mine.value / wanted - 1) <= 0.25 or mine.low <= wanted <= mine.high
        assert near != ((start, step, name) in ELSEWHERE), (name, mine, wanted)


@pytest.mark.slow
def test_what_is_sharper_early_is_flatter_late():
    joint, phi, best = (one.value for one in medians("default", 0))
    assert 500 * joint < phi < 0.7 * best
    joint, phi, best = (one.value for one in medians("default", 4000))
    assert 2 * phi < joint < 1.2 * best
    for step in (0, 4000):
        joint, phi, best = (one.value for one in medians("unit", step))
        assert phi < 0.7 * min(joint, best)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["default", "unit"])
def test_the_difference_is_one_of_scales(start):
    values = found(start).values
    assert bool((values["phi_largest"] <= values["best_largest"] * (1 + 1e-9)).all())
    # g_ww is a square in the head, but for what residuals add: as large as the heads are long
    ratio = values["best_largest"] / values["joint_largest"]
    for measured, scale in zip(ratio, values["scale"], strict=True):
        assert float(measured.median() / scale.median()) == pytest.approx(1.0, rel=0.35)


@pytest.mark.slow
def test_a_landscape_takes_three_seconds():
    points = analysis.iterates(teacher(), STRATEGY, at=(0, 200), batch_size=32, seeds=1)
    taken = []
    for _ in range(3):
        before = time.process_time()
        surfaces = analysis.landscape(points, size=51)
        taken.append((time.process_time() - before) / len(points.steps))
    assert surfaces.phi.shape == (2, 51, 51)
    assert min(taken[1:]) <= 3.0
    assert bool((surfaces.phi <= surfaces.joint).all())
