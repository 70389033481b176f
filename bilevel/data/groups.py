"""Row groups: what the data of a problem must look like."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.arrays import refusal, tensor_of
from bilevel.core.checks import check_instance
from bilevel.core.progress import RowCallback
from bilevel.data.tasks import by_tasks
from bilevel.errors import DataError, ProblemError, ShapeError
from bilevel.problem.base import Batch, Groups, NumberedBatch
from bilevel.problem.criteria import AbstractCriterion
from bilevel.problem.linear_head import LinearHeadProblem

GROUPS = ("train", "validation", "test")
ROWS_AT_ONCE = 4096
"""Rows that are looked at at once: they may come from a file."""
CHUNK_ROWS = 8192
"""Rows of a piece, or between two reports."""


def check_finite(
    groups: Groups, remedy: str, dtype: torch.dtype | None = None, *, named: bool = True
) -> None:
    """Raise if a value is NaN or infinite; a few rows are looked at at once.

    Args:
        groups: the row groups.
        remedy: how the message ends.
        dtype: finite values are looked at in this type, if theirs holds larger ones; None: all
            values in their own type.
        named: whether the first axis is that of the rows, so that the first bad one has a number.
    """
    for name, group in groups.items():
        for path, leaf in trees.named_leaves(group):
            if dtype is not None and _fits(leaf.dtype, dtype):
                continue
            bad, first = count_not_finite(leaf, dtype)
            if bad:
                where = f"; the first is in row {first}" if named else ""
                raise DataError(
                    f'data["{name}"]{path} holds {bad} values that are NaN or infinite{remedy}'
                    f"{where}."
                )


def _fits(given: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether every number of one type is a finite one of another."""
    if not given.is_floating_point:
        return True
    return torch.finfo(given).max <= torch.finfo(dtype).max


def count_not_finite(leaf: Tensor, dtype: torch.dtype | None = None) -> tuple[int, int]:
    """How many values are NaN or infinite, and the first row with one (-1: none)."""
    bad, first = 0, -1
    if not leaf.is_floating_point():
        return bad, first
    for start in range(0, len(leaf), ROWS_AT_ONCE):
        some = leaf[start : start + ROWS_AT_ONCE]
        some = some.reshape(len(some), -1).to(dtype or leaf.dtype)
        if bool(some.sum().isfinite()):  # no sum with one of them is
            continue
        wrong = ~some.isfinite()
        count = int(wrong.sum())
        if count and first < 0:
            first = start + int(wrong.any(1).nonzero()[0])
        bad += count
    return bad, first


def check_groups(groups: Any) -> Groups:
    """Return the groups, or say what is wrong with them; NumPy arrays become tensors."""
    if not isinstance(groups, dict):
        raise DataError(f"`data` must return a dict of row groups, got {type(groups).__name__}.")
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise DataError(f"Unknown row groups {sorted(unknown)}; there are {', '.join(GROUPS)}.")
    # what cannot be taken is left, to be refused by its place
    found: Groups = trees.tree_map(lambda x: x if refusal(x) else tensor_of(x, "data"), groups)
    for name, group in found.items():
        sizes = {}
        for path, leaf in trees.named_leaves(group):
            where = f'data["{name}"]{path}'
            wrong = refusal(leaf) or ("" if leaf.ndim else "a tensor without axes")
            if wrong:
                raise DataError(
                    f"{where} must be a tensor with a leading row axis, or such a NumPy array of "
                    f"numbers; got {wrong}."
                )
            sizes[where] = len(leaf)
        if len(set(sizes.values())) > 1:
            raise ShapeError(f'The leaves of data["{name}"] differ in their rows: {sizes}.')
        if not sizes or 0 in sizes.values():
            raise DataError(f'data["{name}"] is empty.')
    check_finite(found, ". Drop those rows or impute them")
    if found and "train" not in found:
        raise DataError('`data` must hold the group "train", or nothing at all.')
    return found


def check_targets(
    problem: LinearHeadProblem, groups: Groups, *, per_seed: bool, adapted: bool = False
) -> None:
    """Check the targets of a linear head problem, for every seed.

    Args:
        problem: whose criterion is asked.
        groups: of all seeds if `per_seed`.
        per_seed: whether leaves have an axis of seeds.
        adapted: whether heads of single tasks are asked for, whose targets may all be the same.

    Raises:
        DataError: targets are constant or of the wrong type, or labels out of range.
        ShapeError: their shape does not fit `outputs`.
    """
    check_instance(problem.criterion, AbstractCriterion, "criterion", "SquaredError()")
    pairs = [pair for some in by_tasks(groups) for pair in some.items()]
    for name, group in pairs if problem.tasks else groups.items():
        if not isinstance(group, Batch | NumberedBatch):
            raise ProblemError(
                f'data["{name}"] of {type(problem).__name__} must be a '
                f"`bilevel.Batch(inputs, targets)`, got {type(group).__name__}."
            )
        if problem.criterion.quadratic:
            _check_curvature(problem.criterion, problem.outputs)
        given = group.targets if per_seed else group.targets.unsqueeze(0)
        for targets in given.flatten(1, 2) if problem.tasks else given:
            try:
                problem.criterion.check_targets(targets, problem.outputs)
                if name == "train":
                    problem.criterion.check_training(targets, problem.outputs)
            except DataError:
                if not (adapted and bool((targets == targets[0]).all(0).any())):
                    raise


def _check_curvature(criterion: AbstractCriterion, outputs: int | None) -> None:
    """A criterion that calls itself quadratic must have curvature 1 in every output."""
    shape = (4,) if outputs is None else (4, outputs)
    at, step = torch.linspace(-1, 2, 4 * (outputs or 1), dtype=torch.float64).reshape(shape), 0.5
    for column in range(outputs or 1):
        along = torch.zeros(shape, dtype=torch.float64)
        (along if outputs is None else along[:, column])[:] = step
        low, middle, high = (criterion.rows(at + s * along, at.flip(0)) for s in (-1, 0, 1))
        if not torch.allclose(high - 2 * middle + low, torch.full_like(low, step**2)):
            raise ProblemError(
                f"{type(criterion).__name__} says `quadratic = True`, which promises curvature 1 "
                "in the prediction, but its curvature differs. Scale it (`row_weights` weighs "
                "rows), or set `quadratic = False`."
            )


def floating(values: Any, name: str) -> Tensor:
    """A tensor that shares its numbers with what was given, if it is floating point."""
    wrong = refusal(values)
    if not wrong:
        found = tensor_of(values, name)
        if found.is_floating_point():
            return found
        wrong = str(values.dtype)
    raise DataError(
        f"`{name}` must be a tensor or a NumPy array of floating-point numbers, got {wrong}. "
        "Convert what you add, a piece at a time, with `.astype(float)` or `.float()`."
    )


def check_piece(some: Tensor, name: str, start: int) -> None:
    """Raise `DataError` if rows from number `start` on are not all finite."""
    bad, first = count_not_finite(some)
    if bad:
        raise DataError(
            f"`{name}` holds {bad} values that are NaN or infinite in row {start + first} and the "
            "few thousand rows after it. Drop those rows or impute them; nothing of this call was "
            "added."
        )


def pieces(
    inputs: Tensor, targets: Tensor, size: int, report: RowCallback | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """A few rows after the other, with the number of the first one."""
    total, every = len(inputs), max(1, CHUNK_ROWS // size)
    for i, start in enumerate(range(0, total, size)):
        stop = min(start + size, total)
        yield start, inputs[start:stop], targets[start:stop]
        if report is not None and (i % every == every - 1 or stop == total):
            report(stop, total)
