"""What workers are given to do in tests of engines; nothing here needs torch."""

import os
import signal
import time
from pathlib import Path


def noted(path, seconds=0.0):
    """Note this process in a file, and wait."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
    return os.getpid()


def killed_first(path):
    """The first process that comes here is killed; the next one says who it is."""
    first = not Path(path).exists()
    noted(path)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def killed(path):
    """Whoever comes here is killed."""
    noted(path)
    os.kill(os.getpid(), signal.SIGKILL)


def fails():
    """Raises."""
    raise ValueError("said by the task")


def processes(path):
    """Who noted themselves so far."""
    return [int(line) for line in Path(path).read_text().split()] if Path(path).exists() else []


def wait_for(condition, seconds=60.0):
    """Wait until a condition holds; returns what it is."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return found
