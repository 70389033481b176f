"""One call at a time in a process that has threads."""

import threading
from collections.abc import Callable
from typing import Any

_ALONE = threading.Lock()


def alone(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call a function while no other one is called by this process.

    Workers of Dask have threads; torch's number of threads and the generator that modules are
    initialised from belong to the process.
    """
    with _ALONE:
        return function(*args)
