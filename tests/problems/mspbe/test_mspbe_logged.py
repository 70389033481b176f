"""Logged transitions: arrays, files, their mistakes, and what is learned from them."""

import dataclasses

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import DataError, MissingDataError, ShapeError, UnknownNameError
from bilevel.problem import registry
from problems.mspbe import (
    LinearEvaluation,
    Logged,
    baird,
    exact,
    experience,
    from_transitions,
    load_transitions,
    methods,
    random_walk,
)

N, D = 6, 3


def arrays(**changes):
    """Six transitions with three features, with some arrays replaced."""
    random = np.random.default_rng(0)
    found = {
        "states": random.normal(size=(N, D)),
        "actions": random.integers(2, size=N),
        "rewards": random.normal(size=N),
        "next_states": random.normal(size=(N, D)),
        "terminated": np.array([False, True, False, False, False, True]),
        "ratios": random.uniform(0.5, 1.5, size=N),
    }
    return found | changes


def test_moments_of_logged_rows_are_their_averages():
    given = arrays()
    rows = from_transitions(**given)
    found = exact.sampled_moments(rows.inputs, rows.next_inputs, rows, 0.8)
    a, b, c = np.zeros((D, D)), np.zeros(D), np.zeros((D, D))
    for i in range(N):
        phi, rho = given["states"][i], given["ratios"][i]
        ahead = np.zeros(D) if given["terminated"][i] else given["next_states"][i]
        a += rho * np.outer(phi, phi - 0.8 * ahead) / N
        b += rho * given["rewards"][i] * phi / N
        c += np.outer(phi, phi) / N
    for ours, theirs in zip(found, (a, b, c), strict=True):
        assert torch.allclose(ours, torch.from_numpy(theirs), rtol=1e-12)


def test_what_follows_an_end_has_no_value():
    given = arrays()
    after = given["next_states"].copy()
    after[given["terminated"]] = np.nan
    rows, other = from_transitions(**given), from_transitions(**arrays(next_states=after))
    for discount in (0.5, 1.0):
        one = exact.sampled_moments(rows.inputs, rows.next_inputs, rows, discount)
        two = exact.sampled_moments(other.inputs, other.next_inputs, other, discount)
        assert torch.equal(one.a, two.a)


def test_ratios_may_be_a_function_and_arrays_are_copied():
    given = arrays(ratios=lambda states, actions: np.where(actions == 1, 1.6, 0.4))
    rows = from_transitions(**given)
    assert torch.equal(rows.ratios, torch.from_numpy(np.where(given["actions"] == 1, 1.6, 0.4)))
    given["rewards"][:] = 99.0
    assert rows.rewards.max() < 99
    tensors = {
        name: torch.from_numpy(array)
        for name, array in arrays().items()
        if name in ("states", "rewards", "next_states")
    }
    plain = from_transitions(**tensors, actions=None)
    assert torch.equal(plain.ratios, torch.ones(N, dtype=torch.float64))
    assert torch.equal(plain.continues, torch.ones(N, dtype=torch.float64))


def replaced(name, place, value):
    array = arrays()[name].astype(float)
    array[place] = value
    return {name: array}


MISTAKES = {
    "empty": (
        {name: array[:0] for name, array in arrays().items()},
        DataError,
        "There are no transitions",
    ),
    "one axis": ({"states": np.arange(N)}, ShapeError, r"np\.eye\(S\)\[states\]"),
    "next states": ({"next_states": np.ones((N, D + 1))}, ShapeError, r"`next_states` must be"),
    "actions": (
        {"actions": np.ones(N - 1)},
        ShapeError,
        "`actions` has 5 entries",
    ),
    "rewards": ({"rewards": np.ones((N, 1))}, ShapeError, r"`rewards` must be \(6,\)"),
    "ratios": ({"ratios": np.ones(N + 1)}, ShapeError, r"`ratios` must be \(6,\)"),
    "ratios broadcast": ({"ratios": np.ones((N, N))}, ShapeError, r"`ratios` must be \(6,\)"),
    "negative ratio": (replaced("ratios", 4, -0.1), DataError, "`ratios` is -0.1 for transition 4"),
    "reward nan": (replaced("rewards", 2, np.nan), DataError, "the first number 2"),
    "reward infinite": (replaced("rewards", 5, np.inf), DataError, "`rewards` is NaN or infinite"),
    "state nan": (replaced("states", (3, 1), np.nan), DataError, "`states` is NaN or infinite"),
    "next state nan": (replaced("next_states", (0, 1), np.nan), DataError, "`next_states` is NaN"),
    "terminated": ({"terminated": np.full(N, 0.5)}, DataError, "`terminated` must hold 0 and 1"),
    "text": ({"rewards": np.array(["1"] * N)}, DataError, "`rewards` must hold numbers"),
    "ragged": ({"states": [[1.0], [1.0, 2.0]]}, ShapeError, "`states` must be an array"),
    "function without actions": (
        {"actions": None, "ratios": lambda s, a: a},
        DataError,
        "give `actions` too",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    changes, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        from_transitions(**arrays(**changes))


def test_files_hold_the_same_rows(tmp_path):
    given = arrays()
    rows = from_transitions(**given)
    np.savez(tmp_path / "rows.npz", **given, returns=np.arange(N))
    read, returns = load_transitions(tmp_path / "rows.npz")
    assert all(torch.equal(x, y) for x, y in zip(rows, read, strict=True))
    assert torch.equal(returns.targets, torch.arange(N).double())
    other = {"observations": given["states"], "next_observations": given["next_states"],
             "terminals": given["terminated"], "rewards": given["rewards"]}  # fmt: skip
    np.savez(tmp_path / "other.npz", **other)
    read, returns = load_transitions(tmp_path / "other.npz")
    assert torch.equal(read.continues, rows.continues)
    assert returns is None
    columns = {"reward": given["rewards"], "terminated": given["terminated"].astype(float)}
    for i in range(D):
        columns |= {
            f"next_state_{i}": given["next_states"][:, i],
            f"state_{i}": given["states"][:, i],
        }
    columns |= {"action": given["actions"], "ratio": given["ratios"]}
    lines = [",".join(columns)]
    lines += [",".join(repr(float(x)) for x in row) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    read, returns = load_transitions(tmp_path / "rows.csv")
    assert all(torch.equal(x, y) for x, y in zip(rows, read, strict=True))


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(MissingDataError, match="does not exist"):
        load_transitions(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        load_transitions(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", **arrays(actions=np.array([None] * N)))
    with pytest.raises(DataError, match="cannot be read"):
        load_transitions(tmp_path / "objects.npz")
    np.savez(tmp_path / "lacking.npz", states=np.ones((N, D)))
    with pytest.raises(DataError, match="lacks 'rewards', 'next_states'; it holds 'states'"):
        load_transitions(tmp_path / "lacking.npz")
    np.savez(tmp_path / "ratio.npz", **arrays(**replaced("ratios", 0, -1.0)))
    with pytest.raises(DataError, match=r"ratio\.npz: `ratios` is -1"):
        load_transitions(tmp_path / "ratio.npz")
    np.savez(tmp_path / "returns.npz", **arrays(), returns=np.full(N, np.nan))
    with pytest.raises(DataError, match="`returns` is NaN"):
        load_transitions(tmp_path / "returns.npz")
    csv = tmp_path / "pairs.csv"
    csv.write_text("state_x,next_state_y,reward\n1,2,3\n")
    with pytest.raises(DataError, match="`next_state_NAME` for each `state_NAME`"):
        load_transitions(csv)
    csv.write_text("state_x,next_state_x,gains\n1,2,3\n")
    with pytest.raises(DataError, match="lacks 'rewards'; it holds 'gains'"):
        load_transitions(csv)
    with pytest.raises(bilevel.errors.ArgumentError, match=r"`discount` \(gamma\)"):
        Logged(from_transitions(**arrays()), 1.5)


def test_logged_experience_of_a_process_gives_its_values():
    """LSTD on a long off-policy trajectory comes near the exact head; a wrong ratio would not."""
    process = random_walk(features="dependent")
    walked = experience.draw(process, "markovian", 40_000, seed=5)
    rows = from_transitions(
        walked.inputs, None, walked.rewards, walked.next_inputs, 1 - walked.continues, walked.ratios
    )
    found = exact.moments(process.inputs, process.model, 1.0)
    target = exact.lstd(found)

    def distance(transitions):
        solution = bilevel.solve(
            LinearEvaluation(Logged(transitions, 1.0)),
            methods.LSTD(),
            steps=1,
            batch_size=None,
            seeds=1,
            dtype=torch.float64,
        )
        assert solution.history["train_mspbe"][-1] < 1e-20
        return float((solution.head[0] - target).norm())

    assert distance(rows) < 0.05
    assert distance(rows._replace(ratios=torch.ones_like(rows.ratios))) > 0.3


def test_problems_of_the_command_line(tmp_path):
    np.savez(tmp_path / "rows.npz", **arrays())
    logged = registry.load_problem("transitions", file=str(tmp_path / "rows.npz"), discount=0.9)
    assert logged.source.name == "rows.npz"
    known = registry.load_problem("policy-evaluation", process="baird", kind="markovian", length=50)
    assert known.discount == 0.99
    assert torch.equal(known.init_head(torch.Generator()), baird().initial_head)
    for problem in (logged, known):
        assert list(problem.strategies(0.1, 0.2)) == [
            "TD", "GTD2", "TDC", "TDRC", "LSTD", "LSTD ridge",
        ]  # fmt: skip
    small = registry.load_problem("policy-evaluation", process="baird", discount=0.5)
    assert small.discount == 0.5
    with pytest.raises(UnknownNameError, match="Did you mean 'boyan'"):
        registry.load_problem("policy-evaluation", process="boyans")


def test_problems_keep_the_contract():
    process = dataclasses.replace(random_walk(features="dependent"), discount=0.9)
    rows = from_transitions(**arrays())
    for problem in (LinearEvaluation(process), LinearEvaluation(Logged(rows, 0.8))):
        bilevel.check_problem(problem)
