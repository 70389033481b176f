"""The random streams of a seed, and how rows are drawn from them.

Rows are drawn in blocks of 256 steps: the block of a step, and with it the step's rows, can be
drawn without the blocks before it.
"""

import zlib
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import ArgumentError

BLOCK = 256

Sampling = Literal["iid", "epochs", "sequential"]
"""How rows are drawn: with replacement, in epochs without, or in the order of the data."""


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A generator for one purpose of one seed; different streams are independent."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def iid_rows(total: int, size: int, block: int, seed: int, *stream: str) -> Tensor:
    """`size` of `total` rows for each step of a block, with replacement: (BLOCK, size)."""
    source = generator(seed, *stream, block)
    return torch.randint(total, (BLOCK, size), generator=source)


def epoch_rows(total: int, size: int, block: int, seed: int, *stream: str) -> Tensor:
    """Rows in random permutations, a new one for every epoch: (BLOCK, size).

    Step k takes the positions [k size, (k + 1) size) of the permutations of epochs 0, 1, 2, ...
    one after the other. A batch may begin in one epoch and end in the next, so no row is dropped.
    Only the epochs that the block touches are drawn.
    """
    start, count = block * BLOCK * size, BLOCK * size
    first, last = start // total, (start + count - 1) // total
    epochs = [
        torch.randperm(total, generator=generator(seed, "epochs", *stream, epoch))
        for epoch in range(first, last + 1)
    ]
    return torch.cat(epochs)[start - first * total :][:count].reshape(BLOCK, size)


def sequential_rows(total: int, size: int, block: int) -> Tensor:
    """Rows in the order of the data, over and over: (BLOCK, size).

    Step k takes the positions [k size, (k + 1) size); after the last row comes the first.
    """
    start = block * BLOCK * size % total
    return (start + torch.arange(BLOCK * size)).remainder(total).reshape(BLOCK, size)


def check_sampling(sampling: object) -> None:
    """Raise unless `sampling` names a way to draw rows."""
    if sampling not in get_args(Sampling):
        raise ArgumentError(
            '`sampling` must be "iid" (with replacement), "epochs" (every row once per epoch) or '
            f'"sequential" (in the order of the data, as a trajectory is), got {sampling!r}.'
        )
