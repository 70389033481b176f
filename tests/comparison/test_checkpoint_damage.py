"""Checkpoints that are damaged or of something else: refused by name, and nothing else is lost."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from small_problems import Scalar, Smooth

from bilevel import FastSGD, Tuning, compare, solve, uniform
from bilevel.comparison import compare as compare_module
from bilevel.core.schedules import AbstractSchedule
from bilevel.errors import ResultsError
from bilevel.storage.tensors import read_tensors, write_tensors
from bilevel.strategies import BestResponse, OwnLoop, TwoTimescale
from bilevel.training.cohort import Cohort

STRATEGIES = {
    "slow": uniform(0.005),
    "exact": BestResponse(0.005),
    "fast": uniform(0.05),
    "inner": BestResponse(0.01, FastSGD(0.2, 2, batch_size=4)),
}
OPTIONS = {"seeds": [4, 0, 2], "steps": 12, "every": 4, "batch_size": 6, "dtype": torch.float64}
FILES = ["training-0.safetensors", "training-1.safetensors", "training-2.safetensors"]


def untimed(patch):
    """No timing pass."""
    patch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, np.nan),
    )


@pytest.fixture(autouse=True)
def _untimed(monkeypatch):
    untimed(monkeypatch)


@pytest.fixture(scope="module")
def whole():
    """The comparison, uninterrupted."""
    with pytest.MonkeyPatch.context() as patch:
        untimed(patch)
        return compare(Smooth(), STRATEGIES, **OPTIONS)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Its checkpoint, left in the middle of the last of three trainings."""

    def callback(progress):
        if progress.strategies == ("inner",) and progress.step == 8:
            raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("interrupted") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        untimed(patch)
        compare(Smooth(), STRATEGIES, checkpoint=folder, callback=callback, **OPTIONS)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == FILES
    return folder


@pytest.fixture
def folder(interrupted, tmp_path):
    """A copy to damage."""
    return shutil.copytree(interrupted, tmp_path / "kept")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(folder, monkeypatch, message, problem=None, strategies=STRATEGIES, **changes):
    """Nothing is trained and nothing in the folder is touched."""

    def fail(*_):
        raise AssertionError("training started")

    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "step", fail)
        with pytest.raises(ResultsError, match=message) as caught:
            compare(problem or Smooth(), strategies, checkpoint=folder, **(OPTIONS | changes))
    assert contents(folder) == before
    return str(caught.value)


def assert_goes_on(folder, whole):
    found = compare(Smooth(), STRATEGIES, checkpoint=folder, **OPTIONS)
    assert found.status == whole.status
    for name, table in whole.history.items():
        for metric, values in table.items():
            assert np.array_equal(found.history[name][metric], values, equal_nan=True)


def test_the_copy_goes_on(folder, whole):
    assert_goes_on(folder, whole)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def of_another_training(path):
    shutil.copy(path.with_name("training-0.safetensors"), path)


def of_a_solution(path):
    """A file of this library, whose checksum is right."""
    path.unlink()
    solve(Smooth(), STRATEGIES["exact"], **OPTIONS).save(path)


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "cut off in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "first byte": lambda path: flip(path, 0),
    "header": lambda path: flip(path, 60),
    "middle": lambda path: flip(path, path.stat().st_size // 2),
    "last byte": lambda path: flip(path, -1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "foreign": lambda path: safetensors.torch.save_file({"codes": torch.zeros(3)}, path),
    "of another training": of_another_training,
    "a solution": of_a_solution,
}


CELLS = [
    pytest.param(file, name, marks=[] if quick else pytest.mark.slow)
    for name in DAMAGE
    for file, quick in [(FILES[1], True), (FILES[2], name in ("middle", "of another training"))]
]


@pytest.mark.parametrize(("file", "name"), CELLS)
def test_a_damaged_file_is_refused_by_name_and_costs_its_strategies_only(
    name, file, folder, whole, monkeypatch
):
    DAMAGE[name](folder / file)
    message = refused(folder, monkeypatch, file)
    assert "Delete it to train its strategies anew" in message
    others = {key: value for key, value in contents(folder).items() if key != file}
    (folder / file).unlink()
    assert_goes_on(folder, whole)
    for key, value in others.items():
        if key not in ("training-2.safetensors", file):  # which was not finished
            assert contents(folder)[key] == value


def test_damage_is_found_before_the_trainings_ahead_of_it_are_made(folder, monkeypatch):
    (folder / FILES[0]).unlink()
    flip(folder / FILES[2], 500)
    refused(folder, monkeypatch, FILES[2])


@pytest.mark.parametrize("missing", [FILES[:1], FILES[1:], FILES])
def test_deleted_files_are_trained_anew(missing, folder, whole):
    for file in missing:
        (folder / file).unlink()
    assert_goes_on(folder, whole)


def test_a_flip_of_any_byte_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"x": torch.arange(6.0), "a": torch.tensor([[True]]), "none": torch.zeros(0, 2)}
    write_tensors(path, tensors, {"step": 3, "name": "é"})
    good = path.read_bytes()
    for place in range(len(good)):
        for bit in (1, 32):
            content = bytearray(good)
            content[place] ^= bit
            path.write_bytes(content)
            with pytest.raises(ResultsError, match=r"a\.safetensors is damaged"):
                read_tensors(path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ResultsError, match=r"a\.safetensors is damaged"):
            read_tensors(path)
    path.write_bytes(good)
    found, content = read_tensors(path)
    assert content == {"step": 3, "name": "é"}
    assert {key: (x.dtype, x.shape) for key, x in found.items()} == {
        key: (x.dtype, x.shape) for key, x in tensors.items()
    }


# comparison.json


def edited(folder, change):
    path = folder / "comparison.json"
    content = json.loads(path.read_text())
    change(content["comparison"])
    path.write_text(json.dumps(content))


def test_an_edited_description_is_refused(folder, monkeypatch):
    edited(folder, lambda content: content.update(steps=13))
    refused(folder, monkeypatch, r"differs in steps\.")


def test_a_description_edited_to_fit_is_refused_by_the_trainings(folder, monkeypatch):
    edited(folder, lambda content: content.update(batch_size=5))
    refused(folder, monkeypatch, FILES[0], batch_size=5)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"comparison": 3}', "\xff"])
def test_a_malformed_description_is_refused_by_name(text, folder, monkeypatch):
    (folder / "comparison.json").write_text(text, encoding="latin-1")
    refused(folder, monkeypatch, "comparison.json")


def test_a_missing_description_is_refused_by_name(folder, monkeypatch):
    (folder / "comparison.json").unlink()
    refused(folder, monkeypatch, "comparison.json")


def test_a_folder_of_something_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("...")
    refused(tmp_path, monkeypatch, "holds no comparison")


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ResultsError, match="file"):
        compare(Smooth(), STRATEGIES, checkpoint=path, **OPTIONS)


# another comparison


class Other(Smooth):
    """Another class with the same data."""


def other_data():
    problem = Smooth()
    problem.groups = problem.data()
    problem.groups["test"].targets[3] += 1e-9
    return problem


OTHERS = {
    "rate": ({"strategies": STRATEGIES | {"slow": uniform(0.006)}}, "differs in strategies"),
    "name": ({"strategies": {f"{key}.": s for key, s in STRATEGIES.items()}}, "in strategies"),
    "structure": ({"strategies": STRATEGIES | {"slow": TwoTimescale(0.1, 0.2, head_steps=2)}},
                  "in strategies"),
    "fewer": ({"strategies": {"slow": STRATEGIES["slow"]}}, "in strategies"),
    # the runs of one training are in this order
    "order": ({"strategies": {key: STRATEGIES[key] for key in ("fast", "slow", "exact", "inner")}},
              "in strategies"),
    "seeds": ({"seeds": [4, 0, 3]}, "differs in seeds"),
    "order of seeds": ({"seeds": [0, 4, 2]}, "differs in seeds"),
    "steps": ({"steps": 16}, "differs in steps"),
    "every": ({"every": 3}, "differs in every"),
    "budget": ({"steps": 48, "every": 16, "budget": "gradients"}, "in budget, every, steps"),
    "batch size": ({"batch_size": {"train": 6}}, "in batch_size"),
    "sampling": ({"sampling": "epochs"}, "in sampling"),
    "dtype": ({"dtype": torch.float32}, "in data_sha256, dtype"),
    "tune": ({"tune": (0.5, 1)}, "in tune"),
    "data": ({"problem": other_data()}, "in data_sha256"),
    "problem": ({"problem": Other()}, "in problem"),
    "option of the problem": ({"problem": Smooth(ridge=0.2)}, "started elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_comparison_is_refused(name, folder, monkeypatch):
    changes, message = OTHERS[name]
    refused(folder, monkeypatch, message, **changes)


def test_another_search_for_rates_is_refused(tmp_path, monkeypatch):
    """The headline decides by which metric rates are chosen."""
    two = {"two": TwoTimescale(0.005, 0.05)}
    compare(Smooth(), two, checkpoint=tmp_path / "kept", tune=(0.5, 1), **OPTIONS)
    for tune, headline in [((0.5, 2), None), (Tuning((0.5, 1), 4), None), ((0.5, 1), "test_r2")]:
        options = {"strategies": two, "tune": tune, "headline": headline}
        refused(tmp_path / "kept", monkeypatch, "in tune", **options)


def test_equal_strategies_made_anew_are_the_same_comparison(tmp_path):
    """What tells parts from each other must not be where they are in memory."""

    class Halving(AbstractSchedule):
        def __call__(self, k):
            return 0.02 * 0.5**k

    def make():
        def loop(problem, body, head, batches):
            for _ in batches:
                yield body, head

        return {"halving": TwoTimescale(Halving(), 0.1), "own": OwnLoop(loop)}

    one, other = make(), make()
    first = compare(Scalar(), one, checkpoint=tmp_path / "kept", **OPTIONS)
    again = compare(Scalar(), other, checkpoint=tmp_path / "kept", **OPTIONS)
    assert again.status == first.status
