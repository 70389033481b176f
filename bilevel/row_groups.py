"""Row groups: what the data of a problem must look like."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import DataError, ShapeError
from bilevel.problem import Groups

GROUPS = ("train", "validation", "test")


def check_finite(groups: Groups, remedy: str) -> None:
    """Raise if a value is NaN or infinite; the message ends with `remedy`."""
    for name, group in groups.items():
        for path, leaf in trees.named_leaves(group):
            if leaf.is_floating_point() and not leaf.isfinite().all():
                bad = int((~leaf.isfinite()).sum())
                raise DataError(
                    f'data["{name}"]{path} holds {bad} values that are NaN or infinite{remedy}.'
                )


def check_groups(groups: Any) -> Groups:
    """Return the groups, or say what is wrong with them; NumPy arrays become tensors."""
    if not isinstance(groups, dict):
        raise DataError(f"`data` must return a dict of row groups, got {type(groups).__name__}.")
    unknown = set(groups) - set(GROUPS)
    if unknown:
        raise DataError(f"Unknown row groups {sorted(unknown)}; there are {', '.join(GROUPS)}.")
    found: Groups = trees.tree_map(_as_data, groups)
    for name, group in found.items():
        sizes = {}
        for path, leaf in trees.named_leaves(group):
            where = f'data["{name}"]{path}'
            if not isinstance(leaf, Tensor) or leaf.ndim == 0:
                raise DataError(
                    f"{where} must be a tensor with a leading row axis, or such a NumPy array of "
                    f"numbers; got {_described(leaf)}."
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


def _as_data(leaf: Any) -> Any:
    """NumPy numbers become tensors, tensors lose their graph; all else is left to be refused."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        if leaf.dtype.kind == "f" and leaf.dtype.itemsize > 8:
            leaf = leaf.astype(np.float64)  # torch has no long double
        native = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
        # torch refuses negative strides and warns about arrays that are read-only
        return torch.as_tensor(np.require(native, requirements=["C", "W"]))
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _described(leaf: Any) -> str:
    """The type of a leaf that is refused, in words."""
    if isinstance(leaf, Tensor):
        return "a tensor without axes"
    if isinstance(leaf, np.ndarray):
        return f"an array of {leaf.dtype}"
    return type(leaf).__name__
