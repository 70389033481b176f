"""Fixtures of several files."""

import pytest

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
