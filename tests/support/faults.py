"""Files that fail: the n-th thing that is done to the files below a folder goes wrong."""

import builtins
import contextlib
import errno
import io
import os
import signal
from pathlib import Path

WRITING = "wxa+"
"""Modes of files that are made or changed."""


class KilledError(BaseException):
    """This process is gone: from now on nothing it does to a file happens."""


class Torn:
    """A file whose writes are counted."""

    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return self._faults.do("write", lambda: self._file.write(data), half)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)


class Faults:
    """Counts what is done to files below `root`, and lets the `number`-th fail in a `way`.

    "full": it and all that needs room after it fail, a write after half of it; "denied": it fails;
    "before", "torn", "after": the process is gone then, really if `kill`.
    """

    def __init__(self, root, number=None, way="denied", *, kill=False):
        self.root, self.number, self.way, self.kill = str(root), number, way, kill
        self.seen, self.gone, self.full = [], False, False

    def do(self, name, action, half=lambda: None):
        if self.gone:
            raise KilledError
        self.seen.append(name)
        hit = len(self.seen) - 1 == self.number
        if self.full or (hit and self.way == "full"):
            self.full = True
            if name not in ("unlink", "rmdir", "rename"):
                half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif hit and self.way == "denied":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif hit:
            self.end(name, {"after": action, "torn": half}.get(self.way, lambda: None))
        return action()

    def end(self, name, last):
        with contextlib.suppress(OSError):
            made = last()
            if name == "open" and made is not None:  # as the system does when a process is gone
                os.close(made) if isinstance(made, int) else made.close()
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        self.gone = True
        raise KilledError

    def below(self, place, dir_fd=None):
        return dir_fd is not None or os.path.abspath(os.fspath(place)).startswith(self.root)


def _moving(faults, true):
    def move(source, target, **more):
        if not faults.below(target):
            return true(source, target, **more)
        return faults.do("rename", lambda: true(source, target, **more))

    return move


def _placed(faults, name, true):
    def act(place, *more, dir_fd=None):
        options = {} if dir_fd is None else {"dir_fd": dir_fd}
        if not faults.below(place, dir_fd):
            return true(place, *more, **options)
        return faults.do(name, lambda: true(place, *more, **options))

    return act


def _opening(faults, true):
    def opened(file, mode="r", *more, **options):
        if isinstance(file, int) or not set(mode) & set(WRITING) or not faults.below(file):
            return true(file, mode, *more, **options)
        return Torn(faults.do("open", lambda: true(file, mode, *more, **options)), faults)

    return opened


def _descriptors(faults, patch):
    """`os.open` with what is done to its descriptors."""
    true, ours = os.open, set()

    def opened(place, flags, *more, dir_fd=None):
        options = {} if dir_fd is None else {"dir_fd": dir_fd}
        if dir_fd is not None or not faults.below(place) or not flags & os.O_CREAT:
            return true(place, flags, *more, **options)
        found = faults.do("open", lambda: true(place, flags, *more))
        ours.add(found)
        return found

    def on(name, known):
        action = getattr(os, name)

        def act(descriptor, *more):
            if known is not None and descriptor not in known:
                return action(descriptor, *more)
            return faults.do(name if known is None else "write", lambda: action(descriptor, *more))

        patch(os, name, act)

    patch(os, "open", opened)
    on("write", ours)
    on("ftruncate", ours)
    on("fsync", None)


@contextlib.contextmanager
def faulty(root, number=None, way="denied", *, kill=False):
    """Within the block files below `root` may fail; yields what counts them."""
    faults, undo = Faults(root, number, way, kill=kill), []

    def patch(owner, name, value):
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    _descriptors(faults, patch)
    for name in ("rename", "replace"):
        patch(os, name, _moving(faults, getattr(os, name)))
    for name in ("mkdir", "rmdir", "unlink"):
        patch(os, name, _placed(faults, name, getattr(os, name)))
    for owner in (builtins, io):
        patch(owner, "open", _opening(faults, owner.open))
    try:
        yield faults
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def hidden(root):
    """What is hidden below a folder."""
    return [path for path in Path(root).rglob("*") if path.name.startswith(".")]
