"""What becomes of output that nobody reads."""

import os
import subprocess
import sys

import pytest
from command_line import run
from streams import deaf

from bilevel.commands.compare import Compare


def test_lists_that_nobody_reads_end_quietly(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        deaf(patch, BrokenPipeError(32, "Broken pipe"), "stdout")
        assert run("problems") == 141
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as patch:
        deaf(patch, OSError(28, "No space left on device"), "stdout")
        assert run("problems") == 1
    assert capsys.readouterr().err == "bilevel: [Errno 28] No space left on device\n"


def test_errors_of_users_code_are_no_errors_of_what_is_printed(monkeypatch, capsys):
    def fails(_):
        raise FileNotFoundError(2, "No such file", "mine.csv")

    monkeypatch.setattr(Compare, "run", fails)
    with pytest.raises(FileNotFoundError, match=r"mine\.csv"):
        run("compare")
    sys.stdout.write("heard\n")
    assert capsys.readouterr().out == "heard\n"


@pytest.mark.skipif(os.name != "posix", reason="a pipe that is closed")
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_leaves_no_traceback(closed):
    """In a process of its own: nothing is said when Python ends, either."""
    reading, writing = os.pipe()
    os.close(reading)
    command = "--help" if closed == "stdout" else "nonsense"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "bilevel", command], env=environment, **streams)
    os.close(writing)
    assert done.returncode == 141
    assert (done.stderr if closed == "stdout" else done.stdout) == b""
