"""A call that a worker with threads makes, one at a time in its process."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

_ALONE = threading.Lock()


class Call:
    """A function and its arguments; to unpickle it is to call the function.

    A worker of Dask that cannot unpickle a task, as where our package is missing, closes, and so do
    all others that the task is given to. So its task is `pickle.loads`, which every worker knows,
    of the pickle of this: then it is the task that fails, and says why.

    Args:
        function: called with `args`.
    """

    def __init__(self, function: Callable[..., Any], /, *args: Any) -> None:
        self._content = (alone, (function, *args))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._content

    def pickled(self) -> bytes:
        """What `pickle.loads` makes the result of."""
        return pickle.dumps(self, pickle.HIGHEST_PROTOCOL)


def alone(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call a function while no other one is called by this process.

    Torch's number of threads and the generator that modules are initialised from belong to the
    process.
    """
    with _ALONE:
        return function(*args)
