"""Which rows a step sees: drawn, permuted or in order."""

from typing import Literal

import torch
from torch import Tensor

from bilevel.core.generators import generator

BLOCK = 256

Sampling = Literal["iid", "epochs", "sequential"]
"""How rows are drawn: with replacement, in epochs without, or in the order of the data."""


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
