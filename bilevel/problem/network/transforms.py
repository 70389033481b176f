"""What torch's transforms (`vmap` and the like) hide: the numbers of a tensor inside them.

torch documents no way out of a transform; its own code uses the functions below. Nothing else here
does, and the tests call them under every transform, so that a change of torch is seen there.
"""

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, maybe_get_bdim
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Compute with ordinary tensors, as if no transform was under way and nothing was compiled."""
    compiled = "torch._dynamo" in sys.modules  # else there is nothing, and its import takes seconds
    stance = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    with temporarily_clear_interpreter_stack(), torch.inference_mode(False), stance:
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor itself, without a graph; of many under `vmap` the first one.

    To be called in `outside_transforms`.
    """
    axes = []
    while is_functorch_wrapped_tensor(tensor):
        axes.append(maybe_get_bdim(tensor))  # -1 where it is no axis of `vmap`
        tensor = get_unwrapped(tensor)
    for axis in reversed(axes):  # an axis is counted among those that outer transforms leave
        tensor = tensor.select(axis, 0) if axis >= 0 else tensor
    return tensor.detach()
