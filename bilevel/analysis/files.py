"""A folder with figures for print and the numbers behind them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bilevel.analysis.curvatures import Curvatures
from bilevel.analysis.landscapes import Landscape
from bilevel.report.svg import to_svg
from bilevel.storage.folder import write_atomically, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESOLUTION = 200
"""Of PNG files, dots per inch."""


def write(
    folder: Path, surfaces: Landscape | None, curved: Curvatures | None, title: str = ""
) -> None:
    """landscape.* and curvature.*, each as SVG, PDF and PNG, with its numbers as CSV.

    Args:
        folder: A new one.
        surfaces: None: there is no landscape.
        curved: None: there are no curvatures.
        title: What the landscape shows.
    """
    with write_atomically(folder) as hidden:
        if surfaces is not None:
            write_figure(hidden / "landscape", surfaces.figure(title))
            write_csv(hidden / "landscape.csv", ("step", "a", "b", "joint", "phi"), rows(surfaces))
        if curved is not None:
            write_figure(hidden / "curvature", curved.figure())
            write_csv(hidden / "curvature.csv", ("name", "step", "seed", "value"), curved.rows())


def write_figure(path: Path, figure: "Figure") -> None:
    """A figure under a name with three endings."""
    path.with_suffix(".svg").write_text(to_svg(figure), encoding="utf-8")
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(path.with_suffix(".png"), dpi=RESOLUTION)


def rows(found: Landscape) -> Iterator[tuple[float, ...]]:
    """All points of all planes."""
    a, b = torch.cartesian_prod(found.places, found.places).T.tolist()
    for i, step in enumerate(found.steps):
        joint, phi = found.joint[i].flatten().tolist(), found.phi[i].flatten().tolist()
        for point in zip(a, b, joint, phi, strict=True):
            yield step, *point
