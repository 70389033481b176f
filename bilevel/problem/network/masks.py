"""Dropout whose masks are a function of a key: of the run's seed and the step, and nothing else.

torch's own layer draws from a global state, so that two evaluations of one step would see two
networks, and a run among others another one than alone. Here a number of the mask is a hash of the
key, of the layer and of its place: no state, the same in every order and on every device.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bilevel.errors import ArgumentError, spell

LOW = (1 << 32) - 1
PLACE, LAYER = 0x3C6EF372, 0x1B873593
CALL = 1 << 16
"""Between the numbers of one layer's calls: more layers than a network has."""
ROUNDS = ((16, 0x7FEB352D), (15, 0x31848BAB), (14, 0x2C1B3C6D))
"""Shifts and odd factors below 2^31, whose products with 32 bits fit into int64."""


class Keyed:
    """The key that the layers of a network read while it is called; None: there are no masks."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self._calls: list[int] = []

    @contextlib.contextmanager
    def given(self, key: Tensor | None) -> Iterator[None]:
        """Use a key in the block."""
        self.key, self._calls = key, []
        try:
            yield
        finally:
            self.key, self._calls = None, []

    def number(self, layer: int) -> int:
        """That of a call of a layer: one that is called at several places draws at each anew."""
        before = self._calls.count(layer)
        self._calls.append(layer)
        return layer + CALL * before


class KeyedDropout(nn.Module):
    """What stands where an `nn.Dropout` in training mode was.

    Args:
        p: the probability of a zero.
        number: of the layer in its network.
        keyed: where the key is.
    """

    def __init__(self, p: float, number: int, keyed: Keyed) -> None:
        super().__init__()
        self.p, self._number, self._keyed = p, number, keyed

    def forward(self, x: Tensor) -> Tensor:
        """x, some of its numbers zero and the others divided by 1 - p; all of it for the key 0."""
        key = self._keyed.key
        if key is None:
            return x
        off = key == 0
        number = self._keyed.number(self._number)
        kept = (uniform(x.shape, key, number, x.device) >= self.p) | off
        scale = x.new_full((), 0.0 if self.p == 1 else 1 / (1 - self.p))
        return x * (kept * torch.where(off, torch.ones_like(scale), scale))


def uniform(shape: torch.Size, key: Tensor, number: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of a shape, float32, by a hash of a key, a layer and their places."""
    place = torch.arange(shape.numel(), device=device, dtype=torch.int64).reshape(shape)
    found = ((place & LOW) * PLACE + (key & LOW)) & LOW
    for i, (shift, factor) in enumerate(ROUNDS):
        found = ((found ^ (found >> shift)) * factor) & LOW
        if i == 0:
            found = (found + (key >> 32) + (number + 1) * LAYER + (place >> 32)) & LOW
    found = found ^ (found >> 16)
    return (found >> 8).to(torch.float32) * (1 / (1 << 24))


def draw_keys(generator: torch.Generator, steps: int) -> Tensor:
    """Keys of steps, (steps,) int64, none of them 0, with the mean zero that noise must have."""
    most = 1 << 62
    keys = torch.randint(
        -most, most, (steps,), generator=generator, device=generator.device, dtype=torch.int64
    )
    return torch.where(keys == 0, most, keys)


def check_key(key: object) -> None:
    """Raise unless a key is what `draw_keys` gives for one step."""
    if not isinstance(key, Tensor) or key.ndim or key.dtype != torch.int64:
        raise ArgumentError(
            "`noise` must be the key of one step, a 0-dim int64 tensor as `SplitModule.noise` "
            f"draws them, got {spell(key)}."
        )


def mask(module: nn.Module, keyed: Keyed) -> int:
    """Put layers with a key in the place of all `nn.Dropout` in training mode; how many there are.

    A layer that a module holds under several names draws at each call anew, as one layer does.
    """
    found = [
        (name, child)
        for name, child in module.named_modules(remove_duplicate=False)
        if draws_masks(child)
    ]
    made: dict[nn.Module, KeyedDropout] = {}
    for name, child in found:
        if name and child not in made:
            made[child] = KeyedDropout(child.p, len(made), keyed)
        module.set_submodule(name, made[child])
    return len(made)


def without_masks(module: nn.Module) -> None:
    """Let all `nn.Dropout` of a module compute as they do when it is evaluated."""
    for child in module.modules():
        if draws_masks(child):
            child.training = False


def draws_masks(child: nn.Module) -> bool:
    """Whether a layer is a plain `nn.Dropout` that draws."""
    return type(child) is nn.Dropout and child.training and child.p > 0
