"""The one place that differentiates, and the problem's contract."""
