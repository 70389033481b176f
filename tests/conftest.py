"""Fixtures of several files."""

import numpy as np
import pytest

from bilevel import comparing
from bilevel.comparison import Comparison


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
        comparing,
        "_seconds",
        lambda problem, strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )
