"""Fixtures of several files."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.comparison import compare
from bilevel.comparison.result import Comparison


@pytest.fixture
def reports(monkeypatch):
    """Reports are not drawn, which takes seconds; folder -> comparison."""
    made = {}

    def report(self, folder):
        folder.mkdir(parents=True)
        made[folder] = self
        return folder / "report.html"

    monkeypatch.setattr(Comparison, "report", report)
    return made


@pytest.fixture
def untimed(monkeypatch):
    """No timing pass."""
    monkeypatch.setattr(
        compare,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made, but not turned into lines, which takes most of a report's time."""

    def savefig(self, out, **options):
        out.write('<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", savefig)
