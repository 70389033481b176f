"""Plant mistakes in a copy of the checkout, one at a time, and see which test finds each.

    python tests/project/mutants.py [--all] [WORDS ...]

The copy lies in a temporary folder; the checkout stays as it is. Every mistake of the table below
replaces one piece of text, which must be in its file exactly once: when code has been rewritten,
the script says which entry to mend instead of testing nothing. The tests named beside the mistakes
must pass on the copy as it is; then each mistake is planted alone and must make one of its tests
fail. WORDS choose the mistakes whose descriptions hold one of them; with --all, a mistake that its
own tests miss must get past the default suite too. Exits with 1 if one survives.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
IGNORED = (".*", "__pycache__", "results", "site", "build", "dist", "shared")
SECONDS = 1800
"""The longest that tests may take; a mistake that keeps them from ending is found, too."""


class Mistake(NamedTuple):
    """What to plant.

    Attributes:
        what: in words.
        file: relative to the checkout.
        text: in the file exactly once.
        instead: takes its place.
        tests: files of tests, or single ones, that should find it, below `tests/`.
    """

    what: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


MISTAKES = [
    # gradients
    Mistake(
        "Implicit adds the adjoint's term",
        "bilevel/hypergradients/implicit.py",
        "torch.sub, direct, pulled",
        "torch.add, direct, pulled",
        ("hypergradients/test_implicit.py",),
    ),
    Mistake(
        "Unrolled does not carry the adjoint back through a step",
        "bilevel/hypergradients/unrolled.py",
        "adjoint = descend(adjoint,",
        "_ = descend(adjoint,",
        ("hypergradients/test_unrolled.py",),
    ),
    Mistake(
        "the bias is left out of the ridge's gradient",
        "bilevel/derivatives/features.py",
        "bias + problem.ridge * columns[:, -1:] if",
        "bias if",
        ("derivatives/test_oracles.py",),
    ),
    Mistake(
        "the penalty of the body is left out of its gradient",
        "bilevel/derivatives/features.py",
        "*map(torch.ones_like, penalties)",
        "*map(torch.zeros_like, penalties)",
        ("derivatives/test_oracles.py",),
    ),
    Mistake(
        "the last, shorter chunk weighs as much as a whole one",
        "bilevel/data/rows.py",
        "(done - start) / total",
        "self.chunks.rows / total",
        ("data/test_chunks.py",),
    ),
    Mistake(
        "the softmax Hessian has no off-diagonal",
        "bilevel/problem/criteria/softmax.py",
        "            weighted(self.class_weights, shares, targets, 0.5),\n",
        "",
        ("problem/test_criteria.py",),
    ),
    Mistake(
        "F is taken on the training rows",
        "problems/analytic/penalties.py",
        'rows = batch["validation"]',
        'rows = batch["train"]',
        ("problems/analytic/test_analytic_problems.py",),
    ),
    # heads, sets, bounds
    Mistake(
        "the bound of a head is divided by L instead of mu",
        "bilevel/bounds/heads.py",
        "safe / mu",
        "safe / largest",
        ("bounds/test_certificate.py",),
    ),
    Mistake(
        "a jitter is not reported",
        "bilevel/linear/cholesky.py",
        "weak, int(Status.JITTERED)",
        "weak, int(Status.CONVERGED)",
        ("heads/test_quadratic_heads.py", "heads/test_head_data.py"),
    ),
    Mistake(
        "a ball is projected onto without dividing by the norm",
        "bilevel/problem/sets/ball.py",
        "wide * (self.radius / norm)",
        "wide * self.radius",
        ("problem/test_sets.py",),
    ),
    # optimisers, schedules, strategies
    Mistake(
        "RMSProp takes its smoothing the wrong way round",
        "bilevel/optimizers/rmsprop.py",
        "(square * kept).addcmul_(slope, slope, value=1 - kept)",
        "(square * (1 - kept)).addcmul_(slope, slope, value=kept)",
        ("optimizers/test_optimizers.py",),
    ),
    Mistake(
        "Adam does not correct the bias of its squares",
        "bilevel/optimizers/adam.py",
        "s / per_run(square_scale, s)",
        "s",
        ("optimizers/test_optimizers.py",),
    ),
    Mistake(
        "the longest gradient of all runs decides what is clipped",
        "bilevel/optimizers/clipped.py",
        "norm = trees.norm(gradient)",
        "norm = trees.norm(gradient).amax(0, keepdim=True)",
        ("optimizers/test_clipped.py",),
    ),
    Mistake(
        "a schedule is one step ahead",
        "bilevel/core/schedules.py",
        "(k + self.offset)",
        "(k + 1 + self.offset)",
        ("core/test_schedules.py",),
    ),
    Mistake(
        "the head of an alternating step sees the old body",
        "bilevel/strategies/two_timescale.py",
        'body if self.order == "simultaneous" else moved',
        "body",
        ("strategies/test_strategies.py",),
    ),
    Mistake(
        "swapped is two-timescale",
        "bilevel/strategies/presets.py",
        '"swapped": TwoTimescale(head_lr, body_lr',
        '"swapped": TwoTimescale(body_lr, head_lr',
        ("strategies/test_strategy_arguments.py",),
    ),
    Mistake(
        "uniform sqrt has the arithmetic mean",
        "bilevel/strategies/presets.py",
        "(body_lr * head_lr) ** 0.5",
        "(body_lr + head_lr) / 2",
        ("strategies/test_strategy_arguments.py",),
    ),
    # rows, runs, training
    Mistake(
        "step k sees the rows of step k + 1",
        "bilevel/data/sampler.py",
        "self._block(key, k // BLOCK, draw), slice",
        "trees.tree_map(lambda x: x.roll(-1, 0), self._block(key, k // BLOCK, draw)), slice",
        ("data/test_epochs.py", "data/test_sampling.py"),
    ),
    Mistake(
        "the rows of a seed depend on the number of runs",
        "bilevel/data/sampler.py",
        "pick(total, size, block, seed,",
        "pick(total, size, block, seed + len(self.data.seeds),",
        ("data/test_sampling.py",),
    ),
    Mistake(
        "runs that ended go on moving",
        "bilevel/training/cohort.py",
        "trees.where(ended, self._frozen, self.state.strategy)",
        "self.state.strategy",
        ("training/test_training_endings.py",),
    ),
    Mistake(
        "the tolerance is not relative to the first norm",
        "bilevel/training/cohort.py",
        "norm <= tolerance * first",
        "norm <= tolerance",
        ("training/test_training.py",),
    ),
    Mistake(
        "a training goes on one step late",
        "bilevel/training/training.py",
        "whole = check_state(state, self.state)",
        "whole = state._replace(step=state.step + 1)",
        ("training/test_training_endings.py", "training/test_training.py"),
    ),
    # comparisons and files
    Mistake(
        "Holm's correction is left out",
        "bilevel/comparison/statistics/paired.py",
        "factors * p_values[order]",
        "p_values[order]",
        ("comparison/test_paired.py",),
    ),
    Mistake(
        "the sign test is one-sided",
        "bilevel/comparison/statistics/paired.py",
        "wins, wins + losses, 0.5)",
        'wins, wins + losses, 0.5, "greater")',
        ("comparison/test_paired.py",),
    ),
    Mistake(
        "a test metric selects",
        "bilevel/comparison/statistics/judging.py",
        'if metric.startswith("validation_")]',
        'if metric.startswith("test_")]',
        ("comparison/test_judging.py",),
    ),
    Mistake(
        "the columns of a history are in another order",
        "bilevel/storage/history.py",
        '["strategy", "seed"]',
        '["seed", "strategy"]',
        ("storage/test_storage.py",),
    ),
    Mistake(
        "a checkpoint takes its place before it is on the disk",
        "bilevel/storage/folder.py",
        "file.flush()\n                os.fsync(file.fileno())",
        "file.flush()",
        ("storage/test_storage.py",),
    ),
    Mistake(
        "a checkpoint is written over the one before",
        "bilevel/storage/folder.py",
        "hidden.replace(path)",
        "path.write_bytes(hidden.read_bytes())",
        ("storage/test_storage.py",),
    ),
]


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, which must import its own code and leave nothing compiled behind."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file may be of one size and one second
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def failed_test(copy: Path, *tests: str) -> str | None:
    """The first test that fails; None: they all pass."""
    chosen = [f"tests/{test}" for test in tests]
    try:
        found = run(copy, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen)
    except subprocess.TimeoutExpired:
        return f"still running after {SECONDS} s"
    if found.returncode == 0:
        return None
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", found.stdout, re.MULTILINE)
    if found.returncode != 1 or named is None:  # nothing was collected, or an import failed
        sys.exit(f"The tests {' '.join(chosen)} did not run:\n{found.stdout}{found.stderr}")
    return named[1].removeprefix("tests/")


def planted(mistake: Mistake) -> str:
    """The file with the mistake in it."""
    text = (ROOT / mistake.file).read_text()
    if (count := text.count(mistake.text)) != 1:
        sys.exit(
            f"{mistake.file} holds {mistake.text!r} {count} times instead of once. Mend the entry "
            f"{mistake.what!r} of tests/project/mutants.py."
        )
    return text.replace(mistake.text, mistake.instead)


def copied(folder: str) -> Path:
    """A copy of the checkout that imports its own code."""
    copy = Path(folder) / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*IGNORED))
    for package in ("bilevel", "problems"):
        code = f"import {package}; print({package}.__file__)"
        where = run(copy, "-c", code).stdout.strip()
        if Path(where) != copy / package / "__init__.py":
            sys.exit(f"The copy imports {package} from {where or 'nowhere'}, not its own.")
    return copy


def found_by(mistake: Mistake, copy: Path, *, everything: bool) -> str | None:
    """Plant one mistake, look which test fails, and take it out again."""
    file = copy / mistake.file
    before = file.read_text()
    file.write_text(planted(mistake))
    try:
        found = failed_test(copy, *mistake.tests)
        return failed_test(copy) if found is None and everything else found
    finally:
        file.write_text(before)


def main() -> None:
    """Plant the mistakes one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="run the default suite on survivors")
    parser.add_argument("words", nargs="*", help="of the descriptions of the mistakes to plant")
    asked = parser.parse_args()
    for mistake in MISTAKES:  # all of them, so that none grows stale
        planted(mistake)
    chosen = [m for m in MISTAKES if not asked.words or any(w in m.what for w in asked.words)]
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(str(Path(folder).resolve()))
        if wrong := failed_test(copy, *sorted({test for m in chosen for test in m.tests})):
            sys.exit(f"Without any mistake {wrong} fails.")
        for mistake in chosen:
            began = time.perf_counter()
            found = found_by(mistake, copy, everything=asked.all)
            if found is None:
                survived.append(mistake.what)
            seconds = time.perf_counter() - began
            where = f"{mistake.what}  ({mistake.file})"
            print(f"{where:<100} {seconds:4.0f} s  {found or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mistakes found.")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
