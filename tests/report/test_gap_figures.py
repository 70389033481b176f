"""How far heads are from their best responses, drawn: all panels share an axis that shows them."""

import numpy as np
import pytest

from bilevel.report import figures
from bilevel.report.palette import LINES

NAN = float("nan")


def test_rounding_errors_do_not_set_the_limits_of_the_gaps():
    assert figures.gap_limits([]) is None
    assert figures.gap_limits([(np.zeros((2, 2)), np.full((2, 2), NAN))]) is None
    exact, tracking = np.full((4, 2), 1e-15), np.array([[1.0], [0.01]])
    low, high = figures.gap_limits([(exact, None), (tracking, None)])
    assert (low, high) == pytest.approx((0.005, 2.0), rel=0.01)
    assert figures.gap_limits([(exact, None)]) == pytest.approx((0.5e-15, 2e-15))
    exploding = np.array([[1.0], [0.01], [1e20]])
    assert figures.gap_limits([(exploding, None)])[1] == figures.EXPLODED
    # without a row yet the first head is the best one, and its bound is a rounding error
    gap, bound = np.array([[0.0], [0.1], [0.3]]), np.array([[1e-13], [0.2], [0.5]])
    assert figures.gap_limits([(gap, bound)]) == (0.05, 1.0)


def test_what_lies_below_the_axis_is_written():
    gap, bound = np.full((3, 2), 1e-9), np.full((3, 2), 0.02)
    places = {"places": np.arange(3), "limits": (0.01, 1.0), "xlabel": "step"}
    figure = figures.gaps("best response", LINES[0], gap=gap, bound=bound, **places)
    assert figure.axes[0].texts[0].get_text() == "in the end below this axis:\ndistance 1.00e-9"
    figure = figures.gaps("swapped", LINES[0], gap=bound, bound=None, **places)
    assert not figure.axes[0].texts
