"""Whatever stands in a file that is read back, the answer is a result or an error of ours.

pytest -m slow tests/storage/test_mutated_files.py      # thousands; else a sample
"""

import contextlib
import io
import os
import random
import re
import shutil
import warnings

import mutated_files
import numpy as np
import pytest
from matplotlib.figure import Figure

import bilevel
from bilevel import Comparison, Solution
from bilevel.commands.main import main
from bilevel.comparison import compare
from bilevel.comparison.engines.inline import Inline
from bilevel.errors import BilevelError
from bilevel.tables.csv_file import read_cells
from bilevel.tables.model import Model
from problems.table import table
from problems.toy import ScalarProduct

SAMPLE = {"report": 40, "rules": 20, "checkpoint": 6, "partial": 3, "shards": 4, "solution": 20,
          "model": 30}  # fmt: skip
"""How many mutations of each file the default suite looks at."""
MANY = {"report": 3000, "rules": 3000, "checkpoint": 300, "partial": 200, "solution": 600,
        "shards": 200, "model": 1000}  # fmt: skip
"""How many are looked at with `-m slow`; those of checkpoints train a little each."""
FREE = re.compile(
    r"^\.settings\.(options|arguments|command|batch_size)"  # whatever the caller gave
    r"|(score|seconds_per_step|references|commit|packages|_note|device|dtype|threads|processors).*null"
    r"|content\.plain"
    r"|content\.(about|(columns|targets)\.\d+\.first)"
)
"""Values that may be of several types."""
STRATEGIES = {"two": bilevel.TwoTimescale(0.01, 0.1), "exact": bilevel.BestResponse(0.01)}
OPTIONS = {"seeds": 2, "steps": 4, "every": 2}
COMMAND = ["compare", "scalar-product", "--seeds", "2", "--steps", "4", "--every", "2",
           "--tune", "0.5", "1", "--strategies", "two-timescale"]  # fmt: skip


def silently(*arguments):
    """The exit code of a command line, without what it prints."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return main([str(argument) for argument in arguments])


def read_report(folder):
    Comparison.load(folder).table()


def read_checkpoint(folder):
    compare_({"two": STRATEGIES["two"]}, folder)


def compare_(strategies, folder, engine=None):
    options = {"checkpoint": folder, "engine": engine, **OPTIONS}
    return bilevel.compare(ScalarProduct(), strategies, **options)


def read_partial(folder):
    """`--resume`: exit code 2 is a `BilevelError`."""
    target = folder.with_name("finished")
    try:
        if silently("compare", "--resume", folder, "--output", target) == 2:
            raise BilevelError("said on the command line")
    finally:
        shutil.rmtree(target, ignore_errors=True)


def shards_folder(folder):
    """What an engine left of a comparison whose process was killed: two shards of four."""
    engine = Inline()
    engine.workers = 2
    compare_(STRATEGIES, folder, engine=engine)
    for number in (1, 2):
        shutil.rmtree(folder / "shards" / f"training-{number}")


def read_shards(folder):
    compare_(STRATEGIES, folder, engine=Inline())


def read_solution(folder):
    solution = Solution.load(folder / "run.safetensors", ScalarProduct())
    repr(solution)
    bilevel.solve(ScalarProduct(), STRATEGIES["two"], steps=2, seeds=2, state=solution.state)


def report_folder(folder):
    silently(*COMMAND, "--output", folder)


def rules_folder(folder):
    """A report of a problem with rules that need no training."""
    silently("compare", "friedman1", *COMMAND[2:8], "--strategies", "two-timescale", "--set",
             "width=2", "train=9", "validation=3", "test=3", "--output", folder)  # fmt: skip


checkpoint_folder = read_checkpoint


def partial_folder(folder):
    """What a command that was interrupted leaves, without its report."""

    def stop(progress):
        if progress.step == 4 and progress.stage == "training":
            raise KeyboardInterrupt

    from bilevel.commands import compare as command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "displayed", lambda: contextlib.nullcontext(stop))
        silently(*COMMAND, "--output", folder.with_suffix(""))
    shutil.rmtree(folder / "report")


def solution_folder(folder):
    folder.mkdir()
    solved = bilevel.solve(ScalarProduct(), STRATEGIES["two"], **OPTIONS)
    solved.save(folder / "run.safetensors")


def model_folder(folder):
    """A network on columns of text, with gaps, and counted from their first number."""
    folder.mkdir()
    rows = [
        f"{2**60 + k},{'abc'[k % 3]},{k**2 if k % 7 else ''},{2**61 + 3 * k}" for k in range(30)
    ]
    (folder / "table.csv").write_text("\n".join(["time,kind,size,aim", *rows]))
    made = table(folder / "table.csv", "aim", width=2, encode="onehot", impute="median")
    solved = bilevel.solve(made, STRATEGIES["two"], steps=2, seeds=[1])
    body = {name: leaf[0] for name, leaf in solved.body.items()}
    made.model(1, body, solved.head[0], {"seed": 1}).save(folder / "model.safetensors")


def read_model(folder):
    model = Model.load(folder)
    cells = read_cells(folder / "table.csv")
    model.predict(model.read(cells))
    model.far(model.read(cells))


READERS = {
    "report": (report_folder, read_report, ["config.json", "environment.json", "history.csv"]),
    "rules": (rules_folder, read_report, ["config.json"]),
    "checkpoint": (checkpoint_folder, read_checkpoint,
                   ["comparison.json", "training-0.safetensors"]),
    "partial": (partial_folder, read_partial, ["comparison.json", "tuning-0.safetensors"]),
    "shards": (shards_folder, read_shards,
               ["shards.json", "shards/training-0/result.safetensors"]),
    "solution": (solution_folder, read_solution, ["run.safetensors"]),
    "model": (model_folder, read_model, ["model.safetensors"]),
}  # fmt: skip
CASES = [(kind, file) for kind, (_, _, files) in READERS.items() for file in files]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "seconds_per_step", lambda s, *_, **__: dict.fromkeys(s, np.nan))
        patch.setattr(Figure, "savefig", lambda self, out, **_: out.write('<svg viewBox=""/>'))
        folders = {}
        for kind, (make, _, _) in READERS.items():
            folders[kind] = tmp_path_factory.mktemp(kind) / "made.partial"
            make(folders[kind])
        patch.setattr(Comparison, "report", lambda self, folder: folder.mkdir() or folder)
        yield folders


def mutations(path, scratch):
    """All mutations of a file, in an order of their own."""
    drawn = random.Random(path.name)
    found = list(mutated_files.of_bytes(path.read_bytes(), drawn))
    if path.suffix == ".json":
        found += mutated_files.of_json(path.read_text())
    elif path.suffix == ".csv":
        found += mutated_files.of_csv(path.read_text(), drawn)
    else:
        found += mutated_files.of_tensors(path, scratch)
    drawn.shuffle(found)
    return found


def outcomes(folder, file, read, tmp_path, count=None):
    """What became of each mutation: "refused", "accepted" or the bare error."""
    found = {}
    for name, raw in mutations(folder / file, tmp_path / "scratch")[:count]:
        copy = shutil.copytree(folder, tmp_path / "copy.partial")
        mutated_files.placed(copy / file, raw)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read(copy)
            found[name] = "accepted"
        except BilevelError:
            found[name] = "refused"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:200]
        shutil.rmtree(copy, ignore_errors=True)  # what is finished is gone
    return found


def checked(made, kind, file, tmp_path, count=None):
    _, read, _ = READERS[kind]
    found = outcomes(made[kind], file, read, tmp_path, count)
    if "MUTATED" in os.environ:  # what became of them, for a look at all of it
        with open(os.environ["MUTATED"], "a") as log:
            for name, outcome in found.items():
                print(kind, file, name, "->", outcome, file=log)
    accepted = [name for name, outcome in found.items() if outcome == "accepted"]
    swapped = [name for name in accepted if " for " in name and not FREE.search(name)]
    assert kind in ("checkpoint", "partial", "shards") or not swapped, swapped
    bare = {k: v for k, v in found.items() if v not in ("refused", "accepted")}
    assert not bare, f"{len(bare)} bare errors of {len(found)}: {dict(list(bare.items())[:20])}"


@pytest.mark.parametrize(("kind", "file"), CASES)
def test_a_mutated_file_is_refused_or_a_result(kind, file, made, tmp_path):
    checked(made, kind, file, tmp_path, SAMPLE[kind])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file"), CASES)
def test_many_mutated_files_are_refused_or_results(kind, file, made, tmp_path):
    checked(made, kind, file, tmp_path, MANY[kind])
