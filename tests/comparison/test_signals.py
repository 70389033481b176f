"""Comparisons in processes that are killed or told to end, and gone on with by another one."""

import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import run
from small_problems import Smooth
from test_checkpoint import OPTIONS, PAIR, assert_same

from bilevel import Comparison, compare
from bilevel.report import html
from bilevel.training.cohort import Cohort

KILLED = """
import sys, time
from bilevel import compare
from bilevel.comparison import checkpoint
from test_checkpoint import OPTIONS, PAIR
from small_problems import Smooth

checkpoint.SECONDS = 0
compare(Smooth(), PAIR, checkpoint=sys.argv[1], callback=lambda _: time.sleep(0.2), **OPTIONS)
"""
TOLD = """
import sys, time
from bilevel.commands import main as cli
from bilevel.comparison import checkpoint
from bilevel.report import html
from bilevel.training.cohort import Cohort

html.draw, html.page = lambda content: {}, lambda *_: ""
true = Cohort.record

def record(*arguments, **options):
    time.sleep(0.1)
    return true(*arguments, **options)

checkpoint.SECONDS, Cohort.record = 0, record
sys.exit(cli.main(sys.argv[1:]))
"""
COMMAND = ["compare", "scalar-product", "--seeds", "3", "--steps", "12", "--every", "2",
           "--strategies", "uniform slow", "best response"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("untimed")


@pytest.fixture
def made(monkeypatch):
    """The steps that are made in this process."""
    steps, true = [], Cohort.step

    def step(training):
        true(training)
        steps.append(training.state.step)

    monkeypatch.setattr(Cohort, "step", step)
    return steps


def end(script, arguments, file, number):
    """Send a signal to a Python process as soon as a file is there; return its exit code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while not file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(120)
    finally:
        process.kill()
        process.wait()


def test_a_killed_comparison_goes_on_bitwise(tmp_path, made):
    folder = tmp_path / "kept"
    file = folder / "training-0.safetensors"
    assert end(KILLED, [folder], file, signal.SIGKILL) == -signal.SIGKILL
    assert not (folder / "training-1.safetensors").exists()
    found = compare(Smooth(), PAIR, checkpoint=folder, **OPTIONS)
    assert 12 <= len(made) <= 24
    assert_same(found, compare(Smooth(), PAIR, **OPTIONS))


def test_a_command_that_is_told_to_end_goes_on_bitwise(tmp_path, made, monkeypatch):
    folder, partial = tmp_path / "run", tmp_path / "run.partial"
    file = partial / "training-0.safetensors"
    monkeypatch.setattr(html, "draw", lambda content: {})
    monkeypatch.setattr(html, "page", lambda *_: "")
    assert end(TOLD, [*COMMAND, "--output", folder], file, signal.SIGTERM) == 143
    assert (partial / "report" / "report.html").exists()
    assert not folder.exists()
    assert run("compare", "--resume", partial) == 0
    assert 12 <= len(made) <= 24  # told at the first record, no step was made before
    assert not partial.exists()
    assert run(*COMMAND, "--output", tmp_path / "whole") == 0
    assert_same(Comparison.load(folder), Comparison.load(tmp_path / "whole"))
