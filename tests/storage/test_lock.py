"""A folder in use is refused, with who works in it; nothing in it is harmed."""

import os
import subprocess
import sys
import threading

import pytest

from bilevel.errors import ResultsError, ResultsInUseError, UnwritableError
from bilevel.storage import lock as lock_module
from bilevel.storage.folder import HeldFolder, held, tidy, write_atomically
from bilevel.storage.lock import LOCK

HOLDER = """
import sys
from bilevel.storage.folder import held
with held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_once_and_gone_if_it_stays_empty(tmp_path):
    folder = tmp_path / "deep" / "kept"
    with held(folder) as first:
        assert os.fspath(first) == str(folder)
        with pytest.raises(ResultsInUseError, match=rf"kept is in use by process {os.getpid()} on"):
            held(folder).__enter__()
        with held(first) as again:  # by who has it already
            assert again is first
        assert os.listdir(folder) == [LOCK]
    assert os.listdir(tmp_path) == []
    with held(folder):
        (folder / "mine").write_text("")
    assert os.listdir(folder) == ["mine"]


def test_an_empty_folder_of_the_user_stays(tmp_path):
    with held(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_another_thread_is_refused_too(tmp_path):
    found = []

    def work():
        with pytest.raises(ResultsInUseError) as caught:
            held(tmp_path).__enter__()
        found.append(caught.value)

    with held(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(found) == 1


def test_a_crash_releases_the_folder(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
    with subprocess.Popen(command, text=True, **options) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ResultsInUseError, match=f"in use by process {process.pid} on"):
            held(tmp_path).__enter__()
        process.kill()
        process.wait()
    assert os.listdir(tmp_path) == [LOCK]
    with held(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_what_is_no_folder_is_refused(kind, tmp_path):
    path = tmp_path / "kept"
    path.write_text("") if kind == "file" else path.symlink_to(tmp_path / "nowhere")
    message = "kept is no folder" if kind == "file" else "kept is a link to nothing"
    with pytest.raises(ResultsError, match=message):
        held(path).__enter__()
    assert os.listdir(tmp_path) == ["kept"]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UnwritableError, match="cannot be written"):
        held(tmp_path).__enter__()
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_file_system_without_locks_is_worked_on(tmp_path, monkeypatch):
    def take(descriptor):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module, "_take", take)
    with held(tmp_path), held(tmp_path):
        pass


def test_what_can_only_be_read_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with held(tmp_path) as folder:
        assert folder == HeldFolder(tmp_path)
        assert os.listdir(tmp_path) == []


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Who held it ended after we had opened its file, and before we had its lock."""
    true, removed = lock_module._take, []

    def take(descriptor):
        true(descriptor)
        if not removed:
            removed.append((tmp_path / LOCK).unlink())

    monkeypatch.setattr(lock_module, "_take", take)
    with held(tmp_path):
        assert (tmp_path / LOCK).exists()
        with pytest.raises(ResultsInUseError):
            held(tmp_path).__enter__()


def test_who_has_just_taken_the_lock_is_waited_for(tmp_path, monkeypatch):
    """Its process is not in the file yet."""
    with held(tmp_path):
        text = (tmp_path / LOCK).read_text()
        (tmp_path / LOCK).write_text("")
        monkeypatch.setattr(lock_module.time, "sleep", lambda _: (tmp_path / LOCK).write_text(text))
        with pytest.raises(ResultsInUseError, match=f"by process {os.getpid()} on"):
            held(tmp_path).__enter__()


def test_results_that_are_being_written_are_refused_at_once(tmp_path):
    with write_atomically(tmp_path / "run") as hidden:
        (hidden / "a.txt").write_text("a")
        with pytest.raises(ResultsInUseError, match=f"in use by process {os.getpid()}"):
            write_atomically(tmp_path / "run").__enter__()
    assert os.listdir(tmp_path) == ["run"]
    assert os.listdir(tmp_path / "run") == ["a.txt"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    hiding = tmp_path / ".run.partial"
    for make in (lambda: tidy(tmp_path / "run"), lambda: write_atomically(tmp_path / "run")):
        (hiding / "new").mkdir(parents=True)
        (hiding / "new" / "half.txt").write_text("a")
        (hiding / LOCK).write_text("process 1 on earth\n")
        if (made := make()) is not None:
            with made as hidden:
                assert os.listdir(hidden) == []
        assert not hiding.exists()
    assert os.listdir(tmp_path) == ["run"]


def test_who_changes_folders_releases_the_lock_that_it_took(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "kept").mkdir(parents=True)
    monkeypatch.chdir(here)
    with held(there / "kept"):
        with held("kept"):
            os.chdir(there)
        assert (there / "kept" / LOCK).exists()
        assert not (here / "kept" / LOCK).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_does_not_hold_what_its_parent_held(tmp_path):
    script = f"""
import os, sys, time
from bilevel.storage.folder import held
held({str(tmp_path)!r}).__enter__()
if os.fork() == 0:
    time.sleep(60)
print("forked", flush=True)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"forked\n"
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        with held(tmp_path):
            pass
        parent.stdout.close()
