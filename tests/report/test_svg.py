"""SVG text of figures: reproducible, short, and to be put into a page."""

import re

import numpy as np
from drawn import curves, series

from bilevel.report import figures
from bilevel.report.svg import inline_svg, to_svg, without_legend


def test_svg_is_the_same_byte_for_byte():
    parts = series(np.random.default_rng(0).uniform(0.1, 9.0, (20, 5)))
    first = to_svg(curves(parts))
    assert first == to_svg(curves(parts))
    assert "<dc:date>" not in first
    assert ">two-timescale<" in first


def test_svg_keeps_the_digits_of_its_text():
    svg = to_svg(curves(series([[0.0011], [0.0012], [0.0014]])))
    assert re.search(r">0\.001\d+<", svg)
    assert not re.search(r'd="[^"]*\d\.\d{3}', svg)


def test_without_its_legend_a_figure_ends_below_its_axes():
    drawn = to_svg(curves(series([[2.0], [1.0]])))
    alone = without_legend(drawn, figures.CURVES)
    assert "legend" in drawn
    assert "legend" not in alone
    assert f'viewBox="0 0 280.8 {72 * figures.CURVES:g}"' in alone
    points = " ".join(re.findall(r"\b[ML] ([-\d. ]+)", alone)).split()  # x, y, x, y, ...
    assert (
        max(map(float, points[1::2])) == 72 * figures.CURVES
    )  # the background's, and nothing is below
    axes = re.compile(r'<g id="axes_1">.*^  </g>', re.DOTALL | re.MULTILINE)
    assert (
        axes.search(alone)[0] == axes.search(drawn)[0].partition('  <g id="legend_1">')[0].rstrip()
    )
    assert without_legend(alone, 1.0) == alone


def test_inline_svg_has_a_title_and_no_names_of_groups():
    svg = inline_svg(to_svg(curves(series([[2.0], [1.0]]))), "a < b & c")
    assert svg.startswith("<svg viewBox=")
    assert "<title>a &lt; b &amp; c</title>" in svg
    assert '<g id="' not in svg
    assert "http" not in svg
