"""Loops that end when all runs are done: when to ask whether they are."""

import torch
from torch import Tensor

EVERY = 8
"""Steps between two questions to an accelerator."""


def steps_between(device: torch.device) -> int:
    """How many steps are made between two looks at what a device has computed.

    An accelerator works behind the program's back, and to ask is to wait for it: some further steps
    are cheaper. A processor has nothing to wait for.
    """
    return 1 if device.type == "cpu" else EVERY


def all_done(done: Tensor, step: int) -> bool:
    """Whether all runs (R,) are known to be done at a step of a loop in which these stand still."""
    return step % steps_between(done.device) == 0 and bool(done.all())
