"""Calling a module in the middle of its training as if nothing had happened."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from bilevel.problem.network.rounding import same


class Precision(NamedTuple):
    """What `torch.autocast` did at a call.

    Attributes:
        device: its kind of device.
        enabled: whether it was on.
        dtype: the name of its type.
    """

    device: str
    enabled: bool
    dtype: str

    @classmethod
    def now(cls, device: str) -> "Precision":
        """What it does here."""
        dtype = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
        return cls(device, torch.is_autocast_enabled(device), dtype)

    def again(self) -> torch.autocast:
        """The same once more."""
        return torch.autocast(self.device, getattr(torch, self.dtype), enabled=self.enabled)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random states are put back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {leaf.device for leaf in model.parameters() if leaf.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(list(devices)):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for buffer, before in buffers:
                if not same(buffer, before):  # a copy would count as a change
                    buffer.copy_(before)
