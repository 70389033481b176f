"""Several processes on one folder: one works, the others are refused at once, nothing is harmed.

Three and five processes: python -m pytest -m slow tests/comparison/test_many_processes.py
"""

import os
import subprocess
import sys

import pytest
from interrupts import raise_at
from small_problems import Smooth
from test_checkpoint import OPTIONS, PAIR, assert_same

from bilevel import compare
from bilevel.errors import ResultsInUseError

WORKER = """
import sys
from bilevel import compare
from bilevel.comparison import checkpoint
from bilevel.comparison import compare as compare_module
from bilevel.errors import ResultsInUseError
from test_checkpoint import OPTIONS, PAIR
from small_problems import Smooth

def wait(progress):
    print("works", flush=True)
    if sys.stdin.readline() == "":  # closed: nobody waits any more
        compare_module.seconds_per_step = lambda strategies, *_: dict.fromkeys(strategies, 1.0)

checkpoint.SECONDS = -1.0
print("ready", flush=True)
sys.stdin.readline()
try:
    compare(Smooth(), PAIR, checkpoint=sys.argv[1], callback=wait, **OPTIONS)
    print("done", flush=True)
except ResultsInUseError as error:
    print("refused", error, flush=True)
"""

pytestmark = pytest.mark.usefixtures("untimed")


def start(folder):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER, str(folder)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **options)


def assert_one_works(folder, workers):
    """All begin at once; returns the one that works."""
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = {worker: worker.stdout.readline().split(maxsplit=1) for worker in workers}
    (busy,) = [worker for worker, words in said.items() if words == ["works"]]
    for worker in set(workers) - {busy}:
        refused, message = said[worker]
        assert refused == "refused"  # at once: the one that works waits until all were read
        assert f"is in use by process {busy.pid} on" in message
        assert worker.wait(60) == 0
    return busy


@pytest.mark.parametrize(
    "number", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_one_of_many_processes_works_and_its_numbers_are_right(number, tmp_path):
    """This process is one more of them."""
    folder = tmp_path / "kept"
    workers = [start(folder) for _ in range(number)]
    try:
        busy = assert_one_works(folder, workers)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ResultsInUseError, match=f"in use by process {busy.pid} on"):
            compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        busy.stdin.close()
        assert busy.stdout.read().split()[-1] == "done"
        assert busy.wait(60) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdin.close()
            worker.stdout.close()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] + 2 * [".safetensors"]
    found = compare(Smooth(), PAIR, checkpoint=folder, callback=raise_at(1), **OPTIONS)
    assert_same(found, compare(Smooth(), PAIR, **OPTIONS))


def test_two_comparisons_of_one_process_do_not_share_a_folder(tmp_path):
    folder, refused = tmp_path / "kept", []

    def again(progress):
        with pytest.raises(ResultsInUseError, match=f"in use by process {os.getpid()} on"):
            compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
        refused.append(progress.step)

    found = compare(Smooth(), PAIR, checkpoint=folder, callback=again, **OPTIONS)
    assert refused == [0, 4, 8, 12] * 2
    assert_same(found, compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS))
