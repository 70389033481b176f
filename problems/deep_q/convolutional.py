"""The network for frames: one convolution and a layer, ReLU, under a linear head."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional, init

from bilevel.core.checks import check_positive_integer

Body = dict[str, Tensor]
BRIGHTEST = 255.0
ROWS_AT_ONCE = 256
"""Observations that are convolved together: as floating numbers they take 113 kB each."""


class RunsConvolved(torch.autograd.Function):
    """A convolution whose mapping over runs is a loop.

    torch maps one with weights of each run to a single grouped convolution, which is slower on a
    CPU than the convolutions one after another (`benchmarks/atari.py`). Images may be bytes: they
    become numbers of the type of the weights here, so that those of one run at a time are held.
    """

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        """(n, C, H, W) and (O, C, k, k) to (n, O, h, w)."""
        return functional.conv2d(images.to(weight.dtype), weight, bias, stride)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives need."""
        images, weight, _, ctx.stride = inputs
        ctx.save_for_backward(images, weight)

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        """The pull-back of a cotangent."""
        images, weight = ctx.saved_tensors
        sizes = (ctx.stride,) * 2, (0, 0), (1, 1), False, (0, 0), 1
        given = along[0], images.to(weight.dtype), weight, [len(weight)]
        wanted = [*ctx.needs_input_grad[:3]]
        return (*torch.ops.aten.convolution_backward(*given, *sizes, wanted), None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Any) -> tuple[Tensor, int]:
        """The convolutions of all runs, one after another."""
        runs = [
            [one] * info.batch_size if axis is None else one.unbind(axis)
            for one, axis in zip(given[:3], in_dims[:3], strict=True)
        ]
        stride = given[3]
        made = [convolved(x, w, b, stride) for x, w, b in zip(*runs, strict=True)]
        return torch.stack(made), 0


def convolved(images: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """(n, C, H, W), (O, C, k, k) and (O,) to (n, O, h, w); mapped over runs, a loop."""
    found: Tensor = RunsConvolved.apply(images, weight, bias, stride)  # type: ignore[no-untyped-call]
    return found


@dataclasses.dataclass(frozen=True)
class Convolutional:
    """A `QNetwork`: z(s) = relu(V relu(W * s / 255 + b) + c), * a convolution.

    Args:
        filters: channels of the convolution.
        kernel: its width.
        stride: its stride.
        width: M, features.
        shape: of observations, (K, H, W).

    Raises:
        ArgumentError: a number is not a positive integer.
    """

    filters: int = 16
    kernel: int = 8
    stride: int = 4
    width: int = 256
    shape: tuple[int, int, int] = (4, 84, 84)

    def __post_init__(self) -> None:
        for name in ("filters", "kernel", "stride", "width"):
            check_positive_integer(getattr(self, name), name)

    @property
    def flat(self) -> int:
        """Numbers that the convolution makes of an observation."""
        sides = ((side - self.kernel) // self.stride + 1 for side in self.shape[1:])
        return self.filters * math.prod(sides)

    def init_body(self, generator: torch.Generator) -> Body:
        """As torch initialises `nn.Conv2d` and `nn.Linear`."""
        kernels = (self.filters, self.shape[0], self.kernel, self.kernel)
        weight, bias = as_torch(kernels, generator)
        hidden, hidden_bias = as_torch((self.width, self.flat), generator)
        return {
            "weight": weight,
            "bias": bias,
            "hidden_weight": hidden.T.contiguous(),  # as its gradient comes: optimisers walk both
            "hidden_bias": hidden_bias,
        }

    def init_head(self, actions: int, generator: torch.Generator) -> Tensor:
        """(M + 1, actions), as torch initialises `nn.Linear`; the last row is the bias."""
        weight, bias = as_torch((actions, self.width), generator)
        return torch.cat([weight.T, bias.unsqueeze(0)])

    def features(self, body: Body, observations: Tensor) -> Tensor:
        """The features (n, M) of observations (n, K, H, W), uint8 or floating."""
        # the weights are divided, since pixels are many: * is linear
        weight = body["weight"] / BRIGHTEST
        found = []
        for some in torch.split(observations, ROWS_AT_ONCE):
            first = functional.relu(convolved(some, weight, body["bias"], self.stride))
            second = torch.addmm(body["hidden_bias"], first.flatten(1), body["hidden_weight"])
            found.append(functional.relu(second))
        return torch.cat(found) if len(found) > 1 else found[0]

    def features_of_runs(self, body: Body, observations: Tensor) -> Tensor:
        """The features (R, n, M) of bodies with leaves (R, ...), and (R, n, K, H, W); no graph."""
        with torch.no_grad():
            runs = zip(*(leaf.unbind() for leaf in body.values()), strict=True)
            bodies = (dict(zip(body, leaves, strict=True)) for leaves in runs)
            return torch.stack(
                [self.features(one, some) for one, some in zip(bodies, observations, strict=True)]
            )


def as_torch(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight of the shape (out, ...) and its bias (out,), as torch's layers begin."""
    weight = init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return weight, torch.empty(shape[0]).uniform_(-bound, bound, generator=generator)
