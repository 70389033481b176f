"""Figures of landscapes and curvatures: what is on them, whatever the numbers are."""

import numpy as np
import pytest

from bilevel.report import curvatures, landscapes
from bilevel.report.svg import to_svg

PLACES = np.linspace(-1, 1, 5)
PLANE = 1 + PLACES[:, None] ** 2 + 3 * PLACES[None, :] ** 2


def surfaces(joint, phi, steps=(0, 10)):
    return landscapes.surfaces(steps, PLACES, np.asarray(joint), np.asarray(phi), title="a title")


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="center"), axes.get_title(loc="left"), axes.get_xlabel()]
    return [text for text in found if text]


def test_a_landscape_has_both_objectives_twice_at_every_iterate():
    figure = surfaces([9 * PLANE, 8 * PLANE], [PLANE, PLANE])
    assert len(figure.axes) == 2 * 4 + 1  # and the scale of colours
    found = texts(figure)
    assert {"iterate 0", "iterate 10", "a title", "objective: height and colour"} <= set(found)
    assert sum("reduced" in text for text in found) == 2
    heights = {axes.get_zlim() for axes in figure.axes if axes.name == "3d"}
    assert len(heights) == 1  # one scale for all
    low, high = heights.pop()
    assert low < 0 < np.log10(9 * 5) < high


def test_a_landscape_is_drawn_the_same_way_twice():
    first, second = (to_svg(surfaces([PLANE], [PLANE], (3,))) for _ in range(2))
    assert first == second
    assert "<image" not in first  # lines and areas only


@pytest.mark.parametrize(
    "plane",
    [np.full((5, 5), 2.0), np.full((5, 5), np.nan), -PLANE, 1e300 * PLANE,
     np.where(PLACES[:, None] > 0, np.nan, PLANE)],
)  # fmt: skip
def test_odd_numbers_are_drawn(plane):
    to_svg(surfaces([PLANE], [plane], (3,)))


def test_numbers_at_the_end_of_all_axes_are_drawn():
    to_svg(surfaces([1e300 * PLANE], [1e300 * PLANE], (3,)))


def values(steps, runs, names=("joint_largest", "phi_largest", "head_norm", "scale")):
    drawn = np.random.default_rng(0)
    return {name: 1 + drawn.random((len(steps), runs)) for name in names}


def test_curves_have_the_start_beside_logarithms():
    steps = (0, 10, 50, 200, 1000)
    figure = curvatures.along(steps, values(steps, 4))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["largest eigenvalue", "trace", "norms", "gradients"]
    first = figure.axes[0]
    assert [len(line.get_xdata()) for line in first.lines] == [5, 5]
    assert first.get_xscale() == "symlog"
    assert first.get_xlim() == (0, 1000)
    assert figure.axes[1].lines[:] == []


@pytest.mark.parametrize(
    ("steps", "factor"),
    [((0,), 1.0), ((5,), 0.0), ((0, 1), -1.0), ((7, 8, 9), np.nan), ((0, 1, 20), 1e250)],
)
def test_odd_curves_are_drawn(steps, factor):
    found = {name: factor * table for name, table in values(steps, 1).items()}
    to_svg(curvatures.along(steps, found))
