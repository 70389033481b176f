"""Rows of a user's module: tensors, or data sets of torch that fit in memory."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from bilevel.core.arrays import tensor_of
from bilevel.core.checks import single
from bilevel.core.generators import generator
from bilevel.data.groups import GROUPS, check_groups
from bilevel.errors import ArgumentError, DataError, ShapeError, spell
from bilevel.problem.base import Batch, Groups

PAIR = ("inputs", "targets")
EXAMPLE = "`(inputs, targets)`, a data set of torch, or a dict of them by group"


def groups_of(data: Any, validation: float, test: float) -> Groups:
    """The row groups of `from_module`, in the types that they were given in.

    Args:
        data: see `from_module`.
        validation: the share of rows for the group of that name.
        test: the same.
    """
    shares = {"validation": validation, "test": test}
    for name, share in shares.items():
        single(share, f"`{name}`", zero_allowed=True)
    if isinstance(data, Mapping):
        if any(shares.values()):
            raise ArgumentError(
                "`validation` and `test` split rows that are given as a whole, but `data` is a "
                "dict of groups: put the rows of these groups there."
            )
        unknown = [name for name in data if name not in GROUPS]
        if unknown or "train" not in data:
            raise DataError(
                f"`data` is a dict of row groups: it must have 'train', and may have 'validation' "
                f"and 'test', but has {spell(list(data))}."
            )
        return check_groups({name: _batch(data[name], f"data[{name!r}]") for name in data})
    whole = check_groups({"train": _batch(data, "data")})["train"]
    return _split(whole, {name: float(share) for name, share in shares.items() if share})


def _split(whole: Batch, shares: dict[str, float]) -> Groups:
    """Rows drawn once, the same for all seeds."""
    n = len(whole.inputs)
    counts = {name: round(share * n) for name, share in shares.items()}
    if sum(shares.values()) >= 1 or 0 in counts.values() or sum(counts.values()) > n - 2:
        raise ArgumentError(
            f"`validation` and `test` are shares of the {n} rows that leave some for each group "
            f"and two for training, got {shares}."
        )
    order = torch.randperm(n, generator=generator(0, "rows of a module"))
    sizes = [n - sum(counts.values()), *counts.values()]
    places = order.split(sizes)  # type: ignore[no-untyped-call]
    if len(sizes) == 1:
        return {"train": whole}
    names = ["train", *counts]
    return {
        name: Batch(*(leaf[some.sort().values.to(leaf.device)] for leaf in whole))
        for name, some in zip(names, places, strict=True)
    }


def _batch(given: Any, name: str) -> Batch:
    """The rows of a group as tensors."""
    if isinstance(given, TensorDataset):
        given = given.tensors
    if isinstance(given, Dataset):
        return _read(given, name)
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or len(given) != 2:
        raise DataError(f"`{name}` must be {EXAMPLE}, got {spell(given)}.")
    leaves = []
    for place, what in enumerate(PAIR):
        leaves.append(tensor_of(given[place], f"{name}[{place}]"))
        if not leaves[-1].ndim:
            raise ShapeError(f"The {what} of `{name}` must have a row axis, got a number.")
    inputs, targets = leaves
    if len(inputs) != len(targets):
        raise ShapeError(
            f"`{name}` has {len(inputs)} rows of inputs and {len(targets)} rows of targets."
        )
    return Batch(inputs, targets)


def _read(rows: Dataset[Any], name: str) -> Batch:
    """All rows of a data set, each read once."""
    if isinstance(rows, IterableDataset) or not isinstance(rows, Sized):
        raise DataError(
            f"`{name}` is a {type(rows).__name__}, whose rows have no numbers and no count. "
            "Collect what fits in memory: `(torch.stack(inputs), torch.stack(targets))`."
        )
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(len(rows)):
        row = rows[i]
        if not isinstance(row, Sequence) or isinstance(row, str | bytes) or len(row) != 2:
            raise DataError(
                f"Row {i} of `{name}` must be a pair (input, target), got {spell(row)}."
            )
        for place, (leaves, what) in enumerate(zip(found, PAIR, strict=True)):
            leaves.append(tensor_of(row[place], f"{name}[{i}][{place}]"))
            if leaves[-1].shape != leaves[0].shape:
                raise ShapeError(
                    f"The {what} of `{name}` differ in shape: {tuple(leaves[0].shape)} in row 0, "
                    f"{tuple(leaves[-1].shape)} in row {i}. Pad or crop them."
                )
    if not found[0]:
        raise DataError(f"`{name}` is empty.")
    return Batch(torch.stack(found[0]), torch.stack(found[1]))
