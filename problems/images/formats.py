"""Images and labels from the bytes of their files, with numpy: nothing is unpickled."""

import math

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import DataError

Bytes = NDArray[np.uint8]
UNSIGNED_BYTE = 8  # the third byte of an IDX file: what its numbers are
RECORD = 1 + 3072  # of CIFAR-10's binary version: a label, then 32 x 32 pixels of each colour


def parse_idx(content: bytes, name: str) -> Bytes:
    """The array in an IDX file: a magic number, big-endian sizes, then the bytes.

    Args:
        content: all bytes, decompressed.
        name: of the file, for errors.

    Returns:
        An array of the stated shape, read-only.

    Raises:
        DataError: the content is no IDX file of bytes, or has another length than it states.

    Source: the format of http://yann.lecun.com/exdb/mnist.

    Examples:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "labels")
        array([7, 9], dtype=uint8)
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or not content[3]:
        raise DataError(
            f"{name} is no IDX file of bytes: it begins with {content[:4].hex(' ')}, not with "
            "00 00 08 and the number of dimensions. It is damaged, or another file."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{name} is truncated: its header alone takes {start} bytes.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    check_length(len(content), start + math.prod(shape), name)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def parse_records(content: bytes, name: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3072) and labels (n,) of a file of CIFAR-10's binary version.

    Args:
        content: all bytes.
        name: of the file, for errors.

    Raises:
        DataError: the content does not consist of records of 1 + 3,072 bytes.

    Source: the format of https://www.cs.toronto.edu/~kriz/cifar.html, binary version.
    """
    records = -(-len(content) // RECORD)
    check_length(len(content), max(1, records) * RECORD, name)
    table = np.frombuffer(content, dtype=np.uint8).reshape(records, RECORD)
    return table[:, 1:], table[:, 0]


def check_length(found: int, stated: int, name: str) -> None:
    """Raise unless a file is as long as its format says."""
    if found < stated:
        raise DataError(f"{name} is truncated: it holds {found:,} bytes of {stated:,}.")
    if found > stated:
        raise DataError(f"{name} is damaged: it holds {found:,} bytes, {stated:,} are stated.")
