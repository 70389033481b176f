"""Fixtures of several files."""

import signal
from collections import defaultdict

import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.comparison import compare
from bilevel.comparison.result import Comparison
from bilevel.data import draws, sampler
from bilevel.report import figures
from tests.support.sampled import in_sample


def pytest_configure():
    """Ctrl-C is heard in tests of it, also in the background of a shell, which has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the cells that are not in the sample of their table as slow."""
    tables = defaultdict(list)
    for item in items:
        tables[item.nodeid.partition("[")[0]].append(item)
    for name, cells in tables.items():
        taken = in_sample(name, len(cells))
        for number, item in enumerate(cells):
            if number not in taken:
                item.add_marker(pytest.mark.slow)


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


@pytest.fixture
def undrawn(monkeypatch, unrendered):
    """Figures have their files and titles, and nothing on them: for tests of words and numbers."""
    for name in ("curves", "gaps", "strip", "forest"):
        monkeypatch.setattr(figures, name, lambda *_, **__: Figure())


@pytest.fixture
def short_blocks(monkeypatch):
    """Rows and noise are drawn for eight steps at a time, not for 256."""
    for module in (draws, sampler):
        monkeypatch.setattr(module, "BLOCK", 8)
