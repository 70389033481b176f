"""Products of many small matrices."""

import torch
from torch import Tensor

FEW = 7
"""Terms of a sum that the compiler of torch writes out, as part of what it is used in."""


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """A B for (R, n, k) and (R, k, m); in compiled code without a call of its own for few terms."""
    if torch.compiler.is_compiling() and a.shape[2] <= FEW:
        return (a.unsqueeze(3) * b.unsqueeze(1)).sum(2)
    return a @ b
