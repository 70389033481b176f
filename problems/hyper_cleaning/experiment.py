"""All ways of cleaning on the rows of one seed, judged alike."""

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from problems.hyper_cleaning import filters, learned
from problems.hyper_cleaning.heads import (
    RIDGES,
    accuracy,
    chosen_ridge,
    of_given,
    out_of_fold,
    whole_head,
)
from problems.hyper_cleaning.labels import auc, f1
from problems.hyper_cleaning.rows import Rows

NOISY, CLEAN, BOTH = "noisy rows only", "clean rows only", "both"
TRIVIAL, FILTER, ITERATED = "trivial filter", "cross-fitted filter", "iterated filter"
TIED, CELLS = "two numbers", "cells"
PER_ROW, STOPPED, ORACLE = "per row", "per row, stopped", "oracle"
METHODS = (
    NOISY, CLEAN, BOTH, TRIVIAL, FILTER, ITERATED, TIED, CELLS, PER_ROW, STOPPED, ORACLE,
)  # fmt: skip
BILEVEL = (TIED, CELLS, PER_ROW, STOPPED)


@dataclasses.dataclass(frozen=True)
class Result:
    """One method on the rows of one seed.

    Attributes:
        data: the data set.
        clean: validation rows.
        seed: of the rows.
        method: one of `METHODS`.
        accuracy: of the test rows, per cent.
        f1: of the training rows that it keeps, or whose weight is above one half, per cent; NaN
            where it judges none.
        auc: of its weights, or of the filter's probabilities, per cent; NaN likewise.
        ridge: that was chosen.
        seconds: of CPU time, beside those of what it builds on.
    """

    data: str
    clean: int
    seed: int
    method: str
    accuracy: float
    f1: float
    auc: float
    ridge: float
    seconds: float


Judge = Callable[..., None]


def experiment(rows: Rows, data: str, seed: int) -> list[Result]:
    """Every method of `METHODS`; no test row and no right label has a say in any but the oracle."""
    found: dict[str, Result] = {}
    begun = time.process_time()

    def judge(
        method: str, head: Tensor, ridge: float, kept: Tensor | None = None,
        told: Tensor | None = None,
    ) -> None:  # fmt: skip
        nonlocal begun
        now, begun = time.process_time() - begun, time.process_time()
        found[method] = Result(
            data,
            len(rows.labels),
            seed,
            method,
            100 * accuracy(rows, head),
            float("nan") if kept is None else 100 * float(f1(kept, rows.right)),
            float("nan") if told is None else 100 * float(auc(told, rows.right)),
            ridge,
            now,
        )

    one = torch.ones(rows.count, dtype=torch.float64)
    ridge = plain(rows, judge)
    scored = out_of_fold(rows, one, ridge)
    kept = scored.argmax(1) == rows.given
    by_filter, head = ridge_and_head(rows, one * kept)
    judge(FILTER, head, by_filter, kept, of_given(rows, scored))
    kept = filters.iterated(rows, kept, by_filter)
    again, head = ridge_and_head(rows, one * kept)
    judge(ITERATED, head, again, kept)
    for method, fit in ((TIED, learned.two_numbers), (CELLS, learned.cells)):
        made = fit(rows, scored, ridge)
        judge(method, made.head(rows), made.ridge, made.weights > 0.5, made.weights)
    by_row(rows, judge)
    return [found[method] for method in METHODS]


def plain(rows: Rows, judge: Judge) -> float:
    """What needs no scores; the ridge of heads on all rows."""
    one = torch.ones(rows.count, dtype=torch.float64)
    ridge, head = ridge_and_head(rows, one, 0.0)
    judge(NOISY, head, ridge)
    ridge, alone = ridge_and_head(rows, 0 * one)
    judge(CLEAN, alone, ridge)
    kept = filters.trivial(rows, alone)
    ridge, head = ridge_and_head(rows, one * kept)
    judge(TRIVIAL, head, ridge, kept)
    ridge, head = ridge_and_head(rows, one * rows.right)
    judge(ORACLE, head, ridge, rows.right)
    ridge, head = ridge_and_head(rows, one)
    judge(BOTH, head, ridge)
    return ridge


def by_row(rows: Rows, judge: Judge) -> None:
    """A weight for each row, at the end and where it was stopped."""
    made = learned.per_row(rows)
    for method, weights in ((PER_ROW, made.last), (STOPPED, made.stopped)):
        best = learned.ridge_aside(rows, weights, made.aside, RIDGES)
        judge(method, whole_head(rows, weights, best), best, weights > 0.5, weights)


def ridge_and_head(rows: Rows, weights: Tensor, own: float = 1.0) -> tuple[float, Tensor]:
    """The ridge that is chosen for weights of training rows, and the head with it."""
    ridge = chosen_ridge(rows, weights, own)
    return ridge, whole_head(rows, weights, ridge, own)
