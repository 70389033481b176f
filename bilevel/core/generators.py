"""The random streams of a seed."""

import zlib

import numpy as np
import torch


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A generator for one purpose of one seed; different streams are independent."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
