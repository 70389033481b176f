"""What stands where the head of a network was: it hears what the head would be given.

The network may read what kind of layer its head is (sizes, types, the device), but not its numbers:
the head is found later, so that whatever they would be used for could only be wrong.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bilevel.errors import ArgumentError
from bilevel.problem.network.transforms import outside_transforms


class Heard(NamedTuple):
    """One call of the tap: what came in, (n, M), and a copy of what went out, (n, K)."""

    z: Tensor
    stand_in: Tensor


class Tap(nn.Linear):
    """A linear layer without numbers, with the sizes and plain attributes of the head it replaces.

    Its outputs are zeros, or for a check numbers of both signs and of all magnitudes: the network
    returns them, and not something else, only if it does nothing after its head.

    Args:
        layer: the head.
        name: its name in the network.
    """

    def __init__(self, layer: nn.Linear, name: str) -> None:
        nn.Module.__init__(self)
        plain = {k: v for k, v in vars(layer).items() if k not in vars(self)}
        plain.pop("_compiled_call_impl", None)  # the head's own code, compiled
        vars(self).update(plain, training=layer.training)
        self._name, kind = name, (layer.weight.dtype, layer.weight.device)
        for leaf, x in layer._parameters.items():
            self.register_parameter(leaf, None if x is None else _absent(x.shape, *kind))
        self._heard: list[Heard] = []
        self._turn: Tensor | None = None

    def parameters_like(self, like: Tensor, *, checked: bool) -> dict[str, Tensor]:
        """What the network is given as its head's parameters, by full names.

        Args:
            like: a parameter of the body, of the same type.
            checked: whether a use of their numbers is an error. Else they are NaN, which cannot be
                used without being found out either.
        """
        kept = _nan if torch.compiler.is_compiling() else _absent  # compiled code keeps no tensors
        make: Callable[..., Tensor] = withheld if checked else kept
        shapes = {leaf: x.shape for leaf, x in self._parameters.items() if x is not None}
        kind = like.dtype, like.device
        return {f"{self._name}.{leaf}": make(shape, *kind) for leaf, shape in shapes.items()}

    @contextlib.contextmanager
    def listening(self, turn: int | None = None) -> Iterator[list[Heard]]:
        """Hear the calls made meanwhile.

        Args:
            turn: None: the outputs are zeros. Else numbers of all magnitudes: over six turns in
                a row every output is small, ordinary and large, of both signs.
        """
        self._heard = []
        if turn is not None:  # attributes of modules are slow to set
            self._turn = torch.tensor(turn, device="cpu")
        try:
            yield self._heard
        finally:
            self._heard = []
            if turn is not None:
                self._turn = None

    def forward(self, z: Tensor) -> Tensor:
        """A stand-in for the head's outputs."""
        shape = (*z.shape[:-1], self.out_features)
        if self._turn is None:
            stand_in = torch.zeros(shape, dtype=z.dtype, device=z.device)
        else:
            stand_in = _numbers(math.prod(shape), self._turn, z.dtype).to(z.device).reshape(shape)
        self._heard.append(Heard(z, stand_in))
        return stand_in if self._turn is None else stand_in.clone()


def _numbers(count: int, turn: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Distinct numbers of a type: small, ordinary and large ones, up to nearly the largest."""
    places = torch.arange(count, dtype=torch.float64, device="cpu")
    spread = ((places + 1) * (math.sqrt(5) - 1) / 2).frac()  # never repeats, fills (0, 1)
    info = torch.finfo(dtype)
    bounds = places.new_tensor([info.eps, 1e-2, 1e2, info.max / 8]).log()
    band = ((places + turn) % 3).long()
    sizes = (bounds[band] + spread * bounds.diff()[band]).exp()
    return torch.where((places + turn) % 2 == 0, sizes, -sizes).to(dtype)


def _nan(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)


@functools.cache
def _absent(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A parameter of NaN."""
    with outside_transforms():  # kept for later calls, hence of no transform
        return nn.Parameter(_nan(shape, dtype, device))


@functools.cache
def withheld(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> "Withheld":
    """A tensor of which all can be known but its numbers."""
    with outside_transforms():
        found: Withheld = Withheld._make_subclass(Withheld, _nan(shape, dtype, device), True)
        return found


class Withheld(Tensor):
    """A tensor of which all can be known but its numbers: to use them is an error."""

    # a subclass of `Tensor`, since only that sees each use, in C code too; to `isinstance` it is an
    # `nn.Parameter`, as the head's own weight is
    _is_param = True

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer what needs no numbers.

        Raises:
            ArgumentError: the numbers are asked for.
        """
        first = bool(args) and isinstance(args[0], cls)
        known = (
            func in _READS
            or (func in _LIKE_ANOTHER and not first)
            or (func is Tensor.type and len(args) == 1 and not kwargs)
        )
        if not known and func not in _VIEWS:
            name = getattr(func, "__name__", str(func))
            # no TypeError, of which torch's operators make one of their own
            raise ArgumentError(
                f"The network uses the numbers of its head's weight or bias outside of the head "
                f"(in `{name}`), so that they are no numbers of the head alone and the two levels "
                "are not separate. Call the head once, as the last operation, give the body "
                "weights of its own, and put penalties of the head into the problem. Sizes, "
                "`dtype` and `device` of the head's weight may be read."
            )
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return found if known else found.as_subclass(cls)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Withheld(shape={tuple(self.shape)}, dtype={self.dtype})"


_NUMBERS = {"T", "H", "mT", "mH", "data", "real", "imag", "_base"}
_GETTERS = {
    name: getattr(Tensor, name).__get__
    for name in dir(Tensor)
    if inspect.isgetsetdescriptor(inspect.getattr_static(Tensor, name)) and name[:2] != "__"
}
_READS = {
    *(getter for name, getter in _GETTERS.items() if name not in _NUMBERS),
    *(Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.stride),
    *(Tensor.element_size, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.is_complex),
    *(Tensor.get_device, Tensor.__len__, Tensor.__hash__, Tensor.new_zeros, Tensor.new_ones),
    *(Tensor.new_empty, Tensor.new_full, Tensor.new_tensor),
    *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.numel),
    *(torch.is_floating_point, torch.is_complex, torch.result_type),
}
"""What needs no numbers of any argument."""
_LIKE_ANOTHER = {Tensor.to, Tensor.type_as, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as}
"""What needs no numbers of its second argument."""
_VIEWS = {Tensor.detach, torch.detach, Tensor.t, torch.t, *map(_GETTERS.get, ("data", "T", "mT"))}
"""What gives the same numbers again, withheld too."""
