"""Files of logged transitions: what arrays and columns are called, and what is left over."""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from bilevel.errors import DataError
from problems.mspbe import from_transitions, load_transitions
from problems.mspbe.log_files import NAMES

N = 7
RANDOM = np.random.default_rng(2)
STATES, NEXT = RANDOM.normal(size=(N, 2)), RANDOM.normal(size=(N, 2))
REWARDS, RATIOS, RETURNS = RANDOM.normal(size=N), RANDOM.uniform(0.5, 2, N), RANDOM.normal(size=N)
OVER = np.array([0, 0, 1, 0, 1, 0, 1])
CUT = np.array([0, 0, 0, 0, 1, 1, 0])
ARRAYS = {"states": STATES, "next_states": NEXT, "rewards": REWARDS}


def saved(folder, suffix, arrays):
    """A file with the arrays; in CSV files a matrix called NAME is NAME_a, NAME_b."""
    path = folder / f"rows{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
        return path
    columns = {}
    for name, values in arrays.items():
        if np.ndim(values) == 2:
            columns |= {f"{name}_{'ab'[k]}": values[:, k] for k in range(values.shape[1])}
        else:
            columns[name] = values
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(x if isinstance(x, str) else repr(float(x)) for x in row) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]))
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".csv"])


def same(found, expected):
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@SUFFIXES
@pytest.mark.parametrize(
    "name",
    [name for ours in ("terminated", "done") for name in NAMES[ours]] + ["Done", "TERMINALS"],
)
def test_every_name_of_an_end_is_understood(tmp_path, suffix, name):
    read, returns = load_transitions(saved(tmp_path, suffix, ARRAYS | {name: OVER}))
    same(read, from_transitions(STATES, None, REWARDS, NEXT, OVER))
    assert returns is None


@SUFFIXES
def test_flags_may_be_true_and_false_and_actions_words(tmp_path, suffix):
    """As pandas and NumPy write them."""
    over, cut = OVER == 1, CUT == 1
    flags = {"terminated": over, "truncated": cut}
    if suffix == ".csv":
        flags = {
            "terminated": np.where(over, "True", "False"),
            "truncated": np.where(cut, "TRUE", "FALSE"),
        }
    actions = {"action": np.where(over, "left", "right")}
    read, _ = load_transitions(saved(tmp_path, suffix, ARRAYS | flags | actions))
    same(read, from_transitions(STATES, None, REWARDS, NEXT, OVER))


@SUFFIXES
@pytest.mark.parametrize("ours", ["ratios", "returns", "rewards", "states", "next_states"])
def test_singular_and_plural_are_understood(tmp_path, suffix, ours):
    everything = ARRAYS | {"ratios": RATIOS, "returns": RETURNS}
    expected = from_transitions(STATES, None, REWARDS, NEXT, None, RATIOS)
    for name in NAMES[ours]:
        arrays = {name if key == ours else key: values for key, values in everything.items()}
        read, returns = load_transitions(saved(tmp_path, suffix, arrays))
        same(read, expected)
        assert torch.equal(returns.targets, torch.from_numpy(RETURNS))


@SUFFIXES
@pytest.mark.parametrize("name", NAMES["truncated"])
def test_a_truncated_episode_goes_on(tmp_path, suffix, name):
    """What was over was cut off, or ended."""
    expected = from_transitions(STATES, None, REWARDS, NEXT, OVER * (1 - CUT))
    both = {"dones": np.maximum(OVER, CUT), name: CUT}  # as older environments report it
    same(load_transitions(saved(tmp_path, suffix, ARRAYS | both))[0], expected)
    apart = {"dones": OVER * (1 - CUT), name: CUT}
    same(load_transitions(saved(tmp_path, suffix, ARRAYS | apart))[0], expected)
    ends = {"terminals": OVER, name: CUT}
    same(
        load_transitions(saved(tmp_path, suffix, ARRAYS | ends))[0],
        from_transitions(STATES, None, REWARDS, NEXT, OVER),
    )
    with pytest.raises(DataError, match="1 of 2 truncated transitions are marked as done"):
        load_transitions(saved(tmp_path, suffix, ARRAYS | {"done": OVER, name: CUT}))
    with pytest.raises(DataError, match="`truncated` must hold 0 and 1"):
        load_transitions(saved(tmp_path, suffix, ARRAYS | {name: 0.5 * CUT}))


@SUFFIXES
@pytest.mark.parametrize(
    "more",
    [
        {"done": OVER, "terminated": OVER},
        {"dones": OVER, "Done": OVER},
        {"terminal": OVER, "terminals": OVER},
        {"rho": RATIOS, "ratio": RATIOS},
        {"return": RETURNS, "returns": RETURNS},
        {"reward": REWARDS},
        {"obs": STATES},
        {"next_observations": NEXT},
        {"timeouts": CUT, "truncated": CUT},
    ],
)
def test_two_names_for_one_thing_are_refused(tmp_path, suffix, more):
    with pytest.raises(DataError, match="mean the same here") as caught:
        load_transitions(saved(tmp_path, suffix, ARRAYS | more))
    assert any(repr(name).rstrip("'") in str(caught.value) for name in more)


@SUFFIXES
@pytest.mark.parametrize(
    "name",
    ["env_done", "last_terminal", "terminate", "Truncate", "timed_out_timeout", "log_ratio",
     "rho_target", "discounts", "episode_ends", "masks", "gamma", "importance_weights"],
)  # fmt: skip
def test_names_that_may_matter_are_refused(tmp_path, suffix, name):
    with pytest.raises(DataError, match=f"'{name}' is not understood, but may say"):
        load_transitions(saved(tmp_path, suffix, ARRAYS | {name: OVER}))


@SUFFIXES
def test_what_is_not_used_is_named(tmp_path, suffix):
    expected = from_transitions(STATES, None, REWARDS, NEXT, OVER)
    text = np.array(["left", "right"] * N)[:N]
    more = {"terminated": OVER, "next_action": OVER, "action_mask": REWARDS, "iteration": text}
    path = saved(tmp_path, suffix, ARRAYS | more)
    with pytest.warns(
        UserWarning, match="not used: 'next_action', 'action_mask', 'iteration'"
    ) as caught:
        read, _ = load_transitions(path)
    assert caught[0].filename == __file__
    same(read, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_transitions(saved(tmp_path, suffix, ARRAYS | {"action": OVER}))


@pytest.mark.parametrize("name", ["next_action_a", "next_reward", "next_", "coming_next_state_a"])
def test_only_next_states_are_next_states(tmp_path, name):
    path = saved(tmp_path, ".csv", ARRAYS | {name: OVER})
    with pytest.warns(UserWarning, match=f"not used: '{name}'"):
        same(load_transitions(path)[0], from_transitions(STATES, None, REWARDS, NEXT))


def test_columns_of_states_belong_together(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("state,next_state,reward\n1,2,3\n4,5,6\n")
    same(load_transitions(path)[0], from_transitions([[1.0], [4.0]], None, [3, 6], [[2.0], [5.0]]))
    path.write_text("next_obs_b,obs_a,obs_b,next_obs_a,reward\n1,2,3,4,5\n")
    same(load_transitions(path)[0], from_transitions([[2.0, 3.0]], None, [5], [[4.0, 1.0]]))
    for head in ("state_a,state_b,next_state_a", "state_a,next_state_a,next_state_b",
                 "state_a,State_a,next_state_a"):  # fmt: skip
        path.write_text(f"{head},reward\n1,2,3,4\n")
        with pytest.raises(DataError, match="`next_state_NAME` for each `state_NAME`"):
            load_transitions(path)
    path.write_text("state_a,next_state_a,gain\n1,2,3\n")
    with pytest.raises(
        DataError,
        match=r"lacks 'rewards'; it holds 'gain', .*Understood are states.*next_state_NAME",
    ):
        load_transitions(path)


@pytest.mark.parametrize("empty", ["", "NaN", "NA"])
def test_after_an_end_nothing_need_be_known(tmp_path, empty):
    cells = np.where(OVER[:, None] == 1, empty, NEXT.astype(str))
    unknown = np.where(OVER[:, None] == 1, np.nan, NEXT)
    expected = from_transitions(STATES, None, REWARDS, unknown, OVER)
    arrays = {"states": STATES, "next_states": cells, "rewards": REWARDS, "terminal": OVER}
    same(load_transitions(saved(tmp_path, ".csv", arrays))[0], expected)
    with pytest.raises(DataError, match=r"`next_states` is NaN .* in 3 of 7 .* number 2\. Mark"):
        load_transitions(saved(tmp_path, ".csv", arrays | {"terminal": 0 * OVER}))
    states = np.where(OVER[:, None] == 1, empty, STATES.astype(str))
    with pytest.raises(DataError, match="'states_a' lacks 3 of 7 values, the first in line 4"):
        load_transitions(saved(tmp_path, ".csv", arrays | {"states": states}))


def test_digits_that_states_lose_are_told(tmp_path):
    stamps = np.array([str(2**62 + 3 * k) for k in range(N)])
    arrays = {"state": stamps, "next_state": stamps, "rewards": REWARDS}
    with pytest.warns(UserWarning, match="float64 loses digits of the numbers in 'state'"):
        load_transitions(saved(tmp_path, ".csv", arrays))


def test_remarks_on_all_transitions_are_named(tmp_path):
    """One number says nothing about where episodes end; objects are never read."""
    more = {"discount": 0.9, "env_done": "never", "info": np.array([None] * N)}
    path = saved(tmp_path, ".npz", ARRAYS | more)
    with pytest.warns(UserWarning, match="not used: 'discount', 'env_done', 'info'"):
        same(load_transitions(path)[0], from_transitions(STATES, None, REWARDS, NEXT))


def test_damaged_archives_end_in_errors_of_the_library(tmp_path):
    """No error of zip files, of zlib or of NumPy's format, in 200 damaged files."""
    path, random = saved(tmp_path, ".npz", ARRAYS), np.random.default_rng(0)
    np.savez_compressed(tmp_path / "small.npz", **ARRAYS)
    np.save(tmp_path / "one.npy", STATES)
    damaged = [b"", b"PK", (tmp_path / "one.npy").read_bytes()]
    for whole in (path.read_bytes(), (tmp_path / "small.npz").read_bytes()):
        for _ in range(100):
            raw = bytearray(whole)
            start = int(random.integers(len(raw)))
            end = start + int(random.choice([1, 7, len(raw)]))
            raw[start:end] = random.bytes(int(random.integers(8)))
            damaged.append(bytes(raw))
    for raw in damaged:
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            load_transitions(path)
    for raw in damaged[:3]:
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"rows.npz cannot be read as an .npz file of plain"):
            load_transitions(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"rows.npz is a folder: name an .npz file"):
        load_transitions(path)
