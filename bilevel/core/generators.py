"""The random streams of a seed."""

import functools
import zlib

import numpy as np
import torch


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A generator for one purpose of one seed; different streams are independent."""
    return torch.Generator().manual_seed(_state(seed, stream))


@functools.lru_cache(maxsize=64)
def _state(seed: int, stream: tuple[str | int, ...]) -> int:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


FEW = 100_000
"""Numbers that are kept, so that they need not be drawn again."""


def normal(stream: str, *shape: int) -> torch.Tensor:
    """Standard normal numbers, float64, the same in every call; not to be written into."""
    few = torch.Size(shape).numel() <= FEW
    return _kept_normal(stream, shape) if few else _normal(stream, shape)


def _normal(stream: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, stream), dtype=torch.float64)


_kept_normal = functools.lru_cache(maxsize=8)(_normal)
