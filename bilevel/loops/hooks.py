"""Hooks that hear one module, and none of its copies."""

from collections.abc import Callable
from typing import Any

from torch import nn


class OwnHook:
    """A forward pre-hook of one module.

    Loops copy and store models while hooks are on them: a copy keeps this hook, which is silent
    there, and holds nothing that it knows.

    Args:
        module: whose calls are heard.
        function: what hears them.
    """

    def __init__(self, module: nn.Module | None, function: Callable[..., None] | None) -> None:
        self._module, self._function = module, function

    def __call__(self, module: nn.Module, *given: Any) -> None:
        """Hear a call."""
        if module is self._module and self._function is not None:
            self._function(*given)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OwnHook":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnHook, (None, None)
