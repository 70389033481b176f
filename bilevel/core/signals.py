"""Signals that wait until something is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator

ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, and other signals that end a training, come after the block; once each.

    For what changes in place and cannot be undone. Signals that were ignored stay so; outside of
    the main thread, which alone receives any, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    try:
        for name in ENDING:
            number = getattr(signal, name, None)
            # None: of a handler that Python did not install, and could not put back
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda told, _: came.append(told))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
