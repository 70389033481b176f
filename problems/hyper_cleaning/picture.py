"""Test accuracies with standard errors, one panel for each number of clean rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bilevel.report.svg import style, to_svg
from problems.hyper_cleaning.experiment import BILEVEL, METHODS, NOISY, ORACLE
from problems.hyper_cleaning.table import Line

LEARNED, OTHERS, LIMITS = "#0072b2", "#78818c", "#d55e00"


def picture(tables: Mapping[int, Sequence[Line]], file: Path, title: str) -> None:
    """Draw the tables: means and standard errors.

    Args:
        tables: the lines of each number of clean rows.
        file: an SVG file.
        title: of the data.
    """
    with style():
        figure = Figure(figsize=(1.2 + 3.0 * len(tables), 3.4), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False, sharex=True, sharey=True)[0]
        for panel, (clean, lines) in zip(panels, tables.items(), strict=True):
            colours = [
                LEARNED if name in BILEVEL else LIMITS if name in (NOISY, ORACLE) else OTHERS
                for name in METHODS
            ]
            for place, (line, colour) in enumerate(zip(lines, colours, strict=True)):
                panel.errorbar(line.accuracy, place, xerr=line.error, fmt="o", color=colour)
            panel.set_yticks(range(len(lines)), [line.method for line in lines])
            panel.set_title(f"{clean:,} clean rows")
            panel.set_xlabel("test accuracy, per cent")
        panels[0].invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left")
        file.write_text(to_svg(figure))
