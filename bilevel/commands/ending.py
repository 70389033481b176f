"""How a command ends when it is told to, or when nobody reads what it prints."""

import contextlib
import functools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@contextlib.contextmanager
def told_to_end() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end a training like Ctrl-C, so that what there is is kept.

    A signal that was ignored before, as after `nohup`, still is. Yields the signals that came; the
    last one says with which code to exit.
    """
    told, before = [int(signal.SIGINT)], {}

    def tell(number: int, _: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    try:
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                with contextlib.suppress(ValueError):  # only the main thread receives signals
                    before[number] = signal.signal(number, tell)
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_to_go_on(partial: Path) -> str:
    """How to go on with the comparison in a folder; nothing where nothing was kept."""
    from bilevel.comparison.kept import DESCRIPTION, FINISHED

    if not any((partial / name).is_file() for name in (DESCRIPTION, FINISHED)):
        return ""
    return f"To go on: {shlex.join(['bilevel', 'compare', '--resume', str(partial)])}"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, on the standard output by default, if somebody is there to read it."""
    print(text, file=Lossy(stream or sys.stdout), flush=True)


class Lossy:
    """A stream that nobody may hear: what cannot be written is lost, and ends nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stream, name, None)
        return functools.partial(self._try, found) if name in ("write", "flush") else found

    def _try(self, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except (OSError, ValueError, TypeError):  # broken, closed, or none at all
            mute(self._stream)


def unheard(stream: Any) -> OSError | None:
    """Why nobody hears a stream, which is muted then; None if it is heard, or if there is none."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        mute(stream)
        return error
    return None


def mute(stream: Any) -> None:
    """Nobody reads a stream any more: what is still in its buffer goes nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
