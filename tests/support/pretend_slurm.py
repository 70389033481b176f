"""The commands of Slurm that submitit and we call, on this machine, without Slurm.

`installed(folder)` puts them into a folder; run as one of them, this file is it. Jobs are
processes; their states are files. There is no accounting, as on many clusters.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")
PARTITION = "short"


def installed(folder):
    """The commands, in a folder to put on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{folder}" {name} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def sbatch(folder, script):
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", Path(script).read_text()))
    if (busy := folder / "busy").exists():
        busy.unlink()
        sys.exit("sbatch: error: Batch job submission failed: Socket timed out on send/recv")
    if asked["partition"] != PARTITION:
        sys.exit(f"sbatch: error: invalid partition specified: {asked['partition']}")
    number = str(len(list((folder / "jobs").glob("*.sh"))) + 1)
    (folder / "jobs" / f"{number}.sh").write_text(Path(script).read_text())
    write(folder / "jobs" / f"{number}.state", "PENDING")
    begin(folder, number)
    sys.stdout.write(f"Submitted batch job {number}\n")


def write(path, text):
    """At once: who reads meanwhile finds the old text or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def begin(folder, number):
    """Start a job, unless jobs are held."""
    if (folder / "held").exists():
        return
    subprocess.Popen(
        [sys.executable, __file__, str(folder), "run", number],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def run(folder, number):
    """What Slurm does on a node."""
    jobs = folder / "jobs"
    state = jobs / f"{number}.state"
    while True:
        write(state, "RUNNING")
        environment = os.environ | {"SLURM_JOB_ID": number, "SLURM_JOBID": number}
        job = subprocess.Popen(["/bin/bash", str(jobs / f"{number}.sh")], env=environment)
        write(jobs / f"{number}.pid", str(job.pid))
        code = job.wait()
        again = jobs / f"{number}.again"
        if not again.exists():
            break
        again.unlink()
        write(state, "PENDING")
    if state.read_text() == "RUNNING":
        write(state, "COMPLETED" if code == 0 else "FAILED")


def srun(folder, *arguments):
    options, command = {}, list(arguments)
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in ("--output", "--error"):
            options[option] = command.pop(0)
    number = os.environ["SLURM_JOB_ID"]
    for option, descriptor in (("--output", 1), ("--error", 2)):
        path = options[option].replace("%j", number).replace("%t", "0")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.execvp(command[0], command)


def squeue(folder, *arguments):
    if (folder / "down").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    (asked,) = [one.removeprefix("--jobs=") for one in arguments if one.startswith("--jobs=")]
    states = {number: folder / "jobs" / f"{number}.state" for number in asked.split(",")}
    there = {number: state for number, state in states.items() if state.exists()}
    if not there and len(states) == 1:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for number, state in there.items():
        sys.stdout.write(f"{number} {state.read_text()}\n")


def scancel(folder, number):
    jobs = folder / "jobs"
    write(jobs / f"{number}.state", "CANCELLED")
    if (jobs / f"{number}.pid").exists():
        os.killpg(os.getpgid(int((jobs / f"{number}.pid").read_text())), signal.SIGKILL)


def scontrol(folder, action, number):
    assert action == "requeue"
    (folder / "jobs" / f"{number}.again").touch()


if __name__ == "__main__":
    where, name, *rest = sys.argv[1:]
    globals()[name](Path(where), *rest)
    sys.exit(0)
