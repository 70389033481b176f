"""Arrays and tensors that others made: taken as plain numbers, or refused by what they are."""

import mmap
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.errors import DataError, ShapeError

WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
"""Whole numbers that operations of torch lack, as others that hold them."""


def refusal(given: Any) -> str:
    """What an object is that cannot be taken as numbers, with a remedy; empty if it can."""
    if isinstance(given, Tensor):
        return trees.unusable(given)
    if not isinstance(given, np.ndarray):
        return type(given).__name__
    if np.ma.is_masked(given):  # what stands under a mask is no data
        return "a masked array: drop the rows with masked values, or fill them in"
    if given.dtype.kind in "biuf":
        return ""
    remedy = "; `.astype(float)` makes numbers of objects, columns of 0 and 1 encode text"
    return f"an array of {given.dtype}{remedy * (given.dtype.kind in 'OSU')}"


def tensor_of(given: Any, name: str) -> Tensor:
    """The numbers of a tensor, or of what `array_of` takes, as a tensor; shared where torch can."""
    if isinstance(given, Tensor) and given.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return from_array(given.numpy(force=True))
    if isinstance(given, Tensor) and not refusal(given):
        return trees.detach(given)  # type: ignore[no-any-return]
    return from_array(array_of(given, name))


def array_of(given: Any, name: str) -> NDArray[Any]:
    """The numbers of an array, a tensor or nested sequences; shared where NumPy can.

    Raises:
        DataError: it holds no real numbers, or hides some: masked arrays, sparse tensors ...
        ShapeError: it is made of sequences of different lengths.
    """
    try:
        if isinstance(given, Tensor):
            wrong = refusal(given)
            # NumPy has no bfloat16
            given = given.float() if given.dtype == torch.bfloat16 else given
            found = np.empty(0) if wrong else given.numpy(force=True)
        else:
            # of sequences the masks of their parts count, too
            take = np.ma.array if isinstance(given, list | tuple) else np.asanyarray
            found = take(given)
            wrong = refusal(found)
    except ValueError as error:  # lists of different lengths
        raise ShapeError(f"`{name}` must be an array or a tensor: {error}") from error
    except Exception as error:  # objects may raise anything when they are asked for an array
        raise DataError(f"`{name}` cannot be read as an array: {error}") from error
    if wrong:
        raise DataError(f"`{name}` must hold numbers, got {wrong}.")
    return np.asarray(found)


def from_array(array: NDArray[Any]) -> Tensor:
    """A tensor of the numbers of an array; a memory map is shared, not read, where torch can.

    Raises:
        DataError: whole numbers are too large for torch.
    """
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)  # torch has no long double
    if array.dtype.name == "uint64" and array.size and array.max() >= 2**63:
        raise DataError("An array of uint64 holds numbers beyond 2^63 - 1: use `.astype(float)`.")
    wide = WIDER if array.ndim == 1 or not is_mapped(array) else {}  # maps are not read
    array = array.astype(wide.get(array.dtype.name, array.dtype.newbyteorder("=")), copy=False)
    plain = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if plain and array.flags.aligned and is_mapped(array):
        with warnings.catch_warnings():
            # of a read-only array, which nothing here writes to
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array.view(np.ndarray))
    # torch refuses negative strides and warns about arrays that are read-only
    return torch.as_tensor(np.require(array, requirements=["C", "W"]))


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether the numbers of an array lie in a memory map."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)
