"""A lock on a folder that the operating system keeps, so that a crash releases it."""

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bilevel.errors import ResultsInUseError

LOCK = ".bilevel.lock"
"""A file in a folder that is worked in; it says by whom."""
FAR = 2**30
"""Where Windows locks: what is locked there cannot be read, and the text is to be."""

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _release_in_child() -> None:
    """A child that outlives its parent must not hold what the parent held."""
    while _HELD:
        with contextlib.suppress(OSError):
            os.close(_HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep everybody else out of a folder, in this process too; the lock is gone with the block.

    Where the file system knows no locks, nobody is kept out: a comparison there is worth more than
    its lock.

    Raises:
        ResultsInUseError: If somebody else holds it; says which process.
        OSError: If nothing can be written there.
    """
    path = folder.absolute() / LOCK  # whatever folder the process is in when it lets go
    descriptor = _open(path)
    _HELD.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        try:
            with contextlib.suppress(OSError):  # before it is let go: then it may be another's
                path.unlink()
        finally:
            _HELD.discard(descriptor)
            os.close(descriptor)
        if sys.platform == "win32":  # where files that are open stay
            with contextlib.suppress(OSError):
                path.unlink()


def _open(path: Path) -> int:
    """The file of the lock, which is held."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise ResultsInUseError(
                f"{path.parent} is in use by {_holder(path)}: one comparison at a time works in a "
                "folder. Wait until it has ended, or name another folder."
            ) from error
        except OSError:  # no locks here
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # who held it has removed it meanwhile


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for _ in range(25):  # who has just taken the lock writes next
            time.sleep(0.02)
            if text := path.read_text(encoding="utf-8").strip():
                return text
    return "another process"
