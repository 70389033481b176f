"""Comparisons whose results are odd: made of final values, without training."""

import re
from typing import Any

import numpy as np

from bilevel.comparison.result import Comparison
from bilevel.report import html


def odd(
    final: dict[str, Any],
    *,
    metric: str = "test_mse",
    start: float = 10.0,
    status: dict[str, list[str]] | None = None,
    settings: dict[str, Any] | None = None,
    **fields: Any,
) -> Comparison:
    """Strategies that begin at `start` and end at these values; all completed but for `status`."""
    names, runs = list(final), len(next(iter(final.values())))
    history = {}
    for name, values in final.items():
        last = np.array(values, dtype=np.float64)
        first, objective = np.full(runs, start), np.array([[3.0], [2.0], [1.0]])
        history[name] = {
            "objective": objective * np.ones(runs),
            metric: np.stack([first, first / 2 + last / 2, last]),
        }
    parts: dict[str, Any] = {
        "problem": "toy",
        "settings": {"seeds": list(range(runs)), "steps": 20, **(settings or {})},
        "strategies": {name: f"{name}()" for name in names},
        "steps": np.array([0, 10, 20]),
        "history": history,
        "status": {name: (status or {}).get(name, ["COMPLETED"] * runs) for name in names},
        "gradients_per_step": dict.fromkeys(names, 2.0),
        "seconds_per_step": dict.fromkeys(names, np.nan),
        "baselines": (names[0],),
        "headline": metric,
    }
    return Comparison(**(parts | fields))


def read(page: str) -> str:
    """The words of a page."""
    text = re.sub(r"(?s)<(style|svg).*?</\1>|<[^>]*>", " ", page).replace("&nbsp;", " ")
    return re.sub(r"\s+", " ", text.replace("\N{NO-BREAK SPACE}", " "))


def told(comparison: Comparison) -> str:
    """All that is said of a comparison: its table and its page."""
    content = comparison.content()
    return f"{comparison.table()}\n{read(html.page(content, html.draw(content)))}"
