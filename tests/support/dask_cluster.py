"""A scheduler and workers of Dask on this machine, as the commands of Dask start them."""

import contextlib
import os
import socket
import subprocess
import sys
import warnings

from distributed import Client


def free_port():
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Cluster:
    """Processes that can be killed and started anew at the same address."""

    def __init__(self, folder):
        self.folder, self.port, self.started = folder, free_port(), []
        self.address = f"tcp://127.0.0.1:{self.port}"
        paths = [str(path) for path in sys.path if path]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def scheduler(self):
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        return self._start("distributed.cli.dask_scheduler", *options)

    def worker(self, environment=()):
        options = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--death-timeout", "30",
                   "--local-directory", str(self.folder)]  # fmt: skip
        return self._start("distributed.cli.dask_worker", self.address, *options, more=environment)

    def answers(self):
        """Whether the scheduler does."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def workers(self):
        """How many there are."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions
            with Client(self.address, set_as_default=False) as client:
                return len(client.nthreads())

    def _start(self, *command, more=()):
        log = (self.folder / f"{len(self.started)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stderr=log,
            env=self.environment | dict(more),
            cwd=self.folder,  # which Python looks into first
        )
        log.close()
        self.started.append(process)
        return process

    def end(self):
        for process in self.started:
            process.kill()  # processes of workers end with the nanny that started them
            process.wait()


@contextlib.contextmanager
def dask_cluster(folder):
    """A cluster of commands; nothing is started yet."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.end()
