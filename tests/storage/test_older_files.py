"""Files that version 0.1 wrote before its modules moved: they load, and trainings go on from them.

Written by, at commit 42d03e9, `bilevel.solve(...).save` and an interrupted `bilevel.compare`
with the arguments below.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

import bilevel
from bilevel.core.parts import signature, without_modules
from bilevel.storage.stored_tree import StoredTree
from problems.toy import ScalarProduct

OLD = Path(__file__).parent / "written_by_0_1"
STRATEGY = bilevel.TwoTimescale(0.01, 0.1, bilevel.Adam())
PAIR = {"two": bilevel.TwoTimescale(0.01, 0.1), "exact": bilevel.BestResponse(0.01)}


def test_a_saved_solution_loads_and_goes_on():
    found = bilevel.Solution.load(OLD / "solution.safetensors", ScalarProduct())
    assert len(found.status) == 2
    options = {"seeds": 2, "every": 10}
    further = bilevel.solve(ScalarProduct(), STRATEGY, steps=20, state=found.state, **options)
    whole = bilevel.solve(ScalarProduct(), STRATEGY, steps=40, **options)
    torch.testing.assert_close(further.body, whole.body, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(further.head, whole.head, rtol=1e-4, atol=1e-6)


def test_an_interrupted_comparison_goes_on(tmp_path, untimed):
    kept = tmp_path / "checkpoint"
    shutil.copytree(OLD / "checkpoint", kept)
    options = {"seeds": 2, "steps": 20, "every": 5}
    seen = []

    def look(progress):
        seen.append(progress.step)

    found = bilevel.compare(ScalarProduct(), PAIR, checkpoint=kept, callback=look, **options)
    assert seen[0] > 5  # it did not begin anew
    whole = bilevel.compare(ScalarProduct(), PAIR, **options)
    for name in PAIR:
        for metric, values in whole.history[name].items():
            if metric in ("objective", "phi", "body_error"):
                np.testing.assert_allclose(found.history[name][metric], values, rtol=1e-4)


def test_nothing_was_stored_as_an_empty_tuple_or_as_none():
    tree = (torch.ones(2), None, 3)
    stored = StoredTree.of(tree)
    for plain in (stored.plain, {**stored.plain, "[1]": None}):
        found = StoredTree(stored.tensors, plain).fill(tree)
        assert torch.equal(found[0], tree[0])
        assert found[1:] == (None, 3)
    assert StoredTree(stored.tensors, {}).fill(tree) is None
    assert StoredTree({**stored.tensors, "[1]": torch.ones(2)}, stored.plain).fill(tree) is None


def test_parts_are_spelled_without_modules():
    old = "(bilevel.strategies.two_timescale.TwoTimescale, ('lr', (bilevel.schedules.Constant, 1)))"
    assert without_modules(old) == "(bilevel.TwoTimescale, ('lr', (bilevel.Constant, 1)))"
    assert without_modules("(mine.bilevel_parts.Constant, 'bilevel')").startswith("(mine.bilevel_")
    spelled = signature(STRATEGY)
    assert spelled.startswith("(bilevel.TwoTimescale, ('body_lr', (bilevel.Constant, ('value',")
    assert spelled == without_modules(spelled)
