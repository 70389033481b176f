"""Other libraries beside ours: each in a process and an environment of its own.

`make bench-peers` makes the environment; without it benchmarks say so and leave the peers out.
"""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HERE = pathlib.Path(__file__).parent
PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
MISSING = "(JAX and jaxopt are left out: `make bench-peers` installs them beside this)"


@contextmanager
def one_processor() -> Iterator[None]:
    """Where the system can, for what is started inside: XLA makes a thread for each one it sees."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def installed() -> bool:
    """Whether there is an environment of peers."""
    return PYTHON.exists()


class Peers:
    """Pieces of work that a script of `benchmarks/peers` does when it is told to.

    Args:
        script: its name, without ending.
        **settings: what it reads: numbers, strings and lists of them.

    Attributes:
        pieces: what it can do.
    """

    def __init__(self, script: str, **settings: Any) -> None:
        file = HERE / "peers" / f"{script}.py"
        command = [str(PYTHON), str(file), json.dumps(settings)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = os.environ | ONE_THREAD
        with one_processor():
            self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.pieces: list[str] = self._answer()["ready"]

    def do(self, piece: str) -> tuple[float, Any]:
        """The CPU seconds that a piece took, and its value."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{piece}\n")
        self._process.stdin.flush()
        found = self._answer()
        return found["seconds"], found["value"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        return json.loads(line)


class PeerTraining:
    """A contender: a piece of a fixed number of steps."""

    def __init__(self, peers: Peers, piece: str, steps: int) -> None:
        self.peers, self.piece, self.steps = peers, piece, steps

    def advance(self, count: int) -> float:
        """The CPU seconds of so many steps, from those of a piece."""
        return self.peers.do(self.piece)[0] * count / self.steps
