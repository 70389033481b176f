"""Test accuracies as bars, one panel for each number of clean rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bilevel.report.svg import FAINT, style, to_svg
from problems.hyper_cleaning.experiment import BILEVEL, METHODS, NOISY, ORACLE
from problems.hyper_cleaning.table import Line

LEARNED, OTHERS, LIMITS = "#0072b2", "#9aa3ad", "#d55e00"


def picture(tables: Mapping[int, Sequence[Line]], file: Path, title: str) -> None:
    """Draw the tables; bars are standard errors.

    Args:
        tables: the lines of each number of clean rows.
        file: an SVG file.
        title: of the data.
    """
    with style():
        figure = Figure(figsize=(1.2 + 3.0 * len(tables), 3.4), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
        for panel, (clean, lines) in zip(panels, tables.items(), strict=True):
            colours = [
                LEARNED if name in BILEVEL else LIMITS if name in (NOISY, ORACLE) else OTHERS
                for name in METHODS
            ]
            values = [line.accuracy for line in lines]
            errors = [line.error for line in lines]
            panel.barh(range(len(lines)), values, xerr=errors, color=colours, ecolor=FAINT)
            panel.set_yticks(range(len(lines)), [line.method for line in lines])
            panel.set_xlim(min(values) - 3, max(values) + 2)
            panel.set_title(f"{clean:,} clean rows")
            panel.set_xlabel("test accuracy, per cent")
            panel.grid(axis="y", visible=False)
        panels[0].invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left")
        file.write_text(to_svg(figure))
