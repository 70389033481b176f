"""How much memory tensors hold, counted as they are made and freed: the same on every machine."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors that operations inside the block make.

    Attributes:
        now: bytes that are held now.
        peak: the most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        given = {key for key, _ in _storages((args, kwargs))}
        for key, storage in _storages(made):
            if key not in given and key not in self._known:
                self._known.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        return made

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(tree: Any) -> list[tuple[int, torch.UntypedStorage]]:
    """What holds the numbers of all tensors in nested containers, with its address as a name."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return [(tensor.untyped_storage()._cdata, tensor.untyped_storage()) for tensor in tensors]
