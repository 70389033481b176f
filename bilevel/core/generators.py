"""The random streams of a seed, and how rows are drawn from them.

Rows are drawn in blocks of 256 steps: the block of a step, and with it the step's rows, can be
drawn without the blocks before it.
"""

import zlib

import numpy as np
import torch


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A generator for one purpose of one seed; different streams are independent."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
