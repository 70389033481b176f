"""Row numbers for batches: only where a problem asks for them."""

import inspect
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from bilevel.core.checks import check_flag
from bilevel.problem.base import Batch, Groups, NumberedBatch, StackelbergProblem

NAME = "row_numbers"
_ASKS: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
"""Whether methods of a class ask: looked at once, since points are asked for thousands of times."""


def asks_row_numbers(problem: StackelbergProblem) -> bool:
    """Whether batches of a problem know the numbers of their rows.

    Raises:
        ArgumentError: `numbers_rows` is neither True, False nor None.
    """
    stated = problem.numbers_rows
    if stated is not None:
        check_flag(stated, f"numbers_rows of {type(problem).__name__}")
        return stated
    kind = type(problem)
    if kind not in _ASKS:
        own = (base for base in kind.__mro__ if not base.__module__.startswith("bilevel."))
        _ASKS[kind] = any(_asks(method) for base in own for method in vars(base).values())
    return _ASKS[kind] or any(_asks(method) for method in vars(problem).values())


def _asks(method: Any) -> bool:
    """Whether a function names row numbers."""
    return any(NAME in code.co_names for code in _codes(method))


def _codes(method: Any) -> Iterator[types.CodeType]:
    """The code of a method and of the functions inside of it; nothing for what is no function."""
    if isinstance(method, property):
        method = method.fget
    elif isinstance(method, staticmethod | classmethod | types.MethodType):
        method = method.__func__
    if not isinstance(method, types.FunctionType):
        return
    left = [inspect.unwrap(method).__code__]
    while left:
        code = left.pop()
        yield code
        left += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]


def numbered(groups: Groups, *, per_seed: bool = False, tasks: bool = False) -> Groups:
    """The groups with row numbers in every `Batch`; what is of another form stays as it is.

    Args:
        groups: leaves (n, ...); those of new tasks are left without.
        per_seed: whether leaves have an axis of seeds before all others: numbers are those of a
            seed's own rows.
        tasks: whether leaves have a task axis before that of rows: numbers count on from task to
            task.
    """

    def one(group: Any) -> Any:
        if not isinstance(group, Batch):
            return group
        shape = group.targets.shape[: 1 + per_seed + tasks]
        own = shape[int(per_seed) :]
        numbers = torch.arange(own.numel(), device=group.targets.device)
        return NumberedBatch(*group, numbers.reshape(own).expand(shape))

    return {name: one(group) for name, group in groups.items()}
