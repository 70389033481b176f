"""Solutions on disk: the same bits, going on as if nothing had happened, and damage refused."""

import pytest
import torch
from small_problems import Scalar, Smooth

import bilevel
from bilevel import Solution, trees
from bilevel.errors import ArgumentError, ResultsError, ResultsExistError
from problems.toy import ScalarProduct

STRATEGIES = {
    "rmsprop": bilevel.TwoTimescale(0.01, 0.05),
    "adam": bilevel.TwoTimescale(0.01, 0.05, bilevel.Adam(), "simultaneous"),
    "momentum": bilevel.TwoTimescale(0.01, 0.05, bilevel.SGD(0.9)),
    "plain": bilevel.TwoTimescale(0.01, 0.05, bilevel.SGD()),
    "clipped": bilevel.TwoTimescale(0.01, 0.05, bilevel.Clipped(1.0)),
    "best response": bilevel.BestResponse(0.05),
    "inner sgd": bilevel.BestResponse(0.05, bilevel.FastSGD(0.2, 2, batch_size=4)),
}


def train(strategy, steps=12, problem=None, **options):
    settings = {"seeds": [4, 1], "batch_size": 6, "every": 5, "dtype": torch.float64}
    return bilevel.solve(problem or Smooth(), strategy, steps=steps, **(settings | options))


def assert_same(found, expected):
    assert trees.equal(found.body, expected.body)
    assert trees.equal(found.head, expected.head)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_loaded_solution_is_the_same_and_goes_on_bit_for_bit(name, tmp_path):
    strategy = STRATEGIES[name]
    whole, half = train(strategy, 24), train(strategy)
    path = half.save(tmp_path / "half.safetensors")
    found = Solution.load(path, Smooth())
    assert_same(found, half)
    assert (found.seeds, found.status, found.bound_kind, found.bound_note) == (
        half.seeds,
        half.status,
        half.bound_kind,
        half.bound_note,
    )
    assert torch.equal(found.steps, half.steps)
    assert found.history.keys() == half.history.keys()
    for metric, values in found.history.items():
        assert torch.equal(values, half.history[metric])
    assert_same(train(strategy, state=found.state), whole)
    assert torch.equal(found.predict(torch.ones(3, 3)), half.predict(torch.ones(3, 3)))


def test_bodies_and_heads_that_are_single_numbers(tmp_path):
    solved = train(bilevel.uniform(0.1, bilevel.SGD()), problem=Scalar())
    assert_same(Solution.load(solved.save(tmp_path / "scalar"), Scalar()), solved)


def test_a_file_is_never_overwritten(tmp_path):
    solved = train(STRATEGIES["plain"])
    path = solved.save(tmp_path / "kept")
    before = path.read_bytes()
    with pytest.raises(ResultsExistError, match="never overwritten"):
        train(STRATEGIES["rmsprop"]).save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "header", "number", "text", "empty"])
def test_a_damaged_file_is_refused_by_name(damage, tmp_path):
    path = train(STRATEGIES["plain"]).save(tmp_path / "mine.safetensors")
    raw = path.read_bytes()
    changed = {
        "cut": raw[:-3],
        "header": raw[:12] + b"x" + raw[13:],
        "number": raw[:-1] + bytes([raw[-1] ^ 1]),
        "text": raw.replace(b"COMPLETED", b"CONVERGED"),
        "empty": b"",
    }[damage]
    assert changed != raw
    path.write_bytes(changed)
    with pytest.raises(ResultsError, match=r"mine\.safetensors is damaged"):
        Solution.load(path, Smooth())


def test_what_is_no_solution_is_refused(tmp_path):
    from bilevel.storage.tensors import write_tensors

    with pytest.raises(ResultsError, match="There is no file"):
        Solution.load(tmp_path / "absent", Smooth())
    write_tensors(tmp_path / "other", {"x": torch.ones(2)}, {"kind": "something"})
    with pytest.raises(ResultsError, match="holds no solution"):
        Solution.load(tmp_path / "other", Smooth())


def test_other_problems_and_strategies_are_refused(tmp_path):
    solved = train(STRATEGIES["plain"])
    path = solved.save(tmp_path / "run")
    for problem in (ScalarProduct(), Smooth(outputs=2)):
        with pytest.raises(ResultsError, match=r"of another form.*\(Smooth\)"):
            Solution.load(path, problem)
    state = Solution.load(path, Smooth()).state
    for name in ("rmsprop", "best response"):
        with pytest.raises(ArgumentError, match="`state` does not fit"):
            train(STRATEGIES[name], state=state)
