"""A run is the same alone and among others, and after a pause."""

import dataclasses

import pytest
import torch
from q_learners import logged

import bilevel
from bilevel import trees
from problems.deep_q.cartpole import cartpole

UPDATES = 376  # 2,000 agent steps


def actions(seeds, dtype, updates=UPDATES):
    """The actions of all runs, (T, R)."""
    problem, log = logged()
    strategy = problem.strategies(1e-3, 5e-3)["two-timescale"]
    bilevel.solve(problem, strategy, steps=updates, seeds=seeds, every=updates, dtype=dtype)
    return torch.stack(max(log, key=len))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_run_3_of_5_is_run_3_alone_in_the_actions_of_2000_steps(dtype):
    together, alone = actions(range(5), dtype), actions([2], dtype)
    assert together.shape == (2000, 5)
    assert torch.equal(together[:, 2], alone[:, 0])
    assert len(together.unique(dim=1).T) == 5  # the others are others


def test_exploration_is_that_of_the_seed_in_every_strategy():
    problem, log = logged()
    pair = {k: x for k, x in problem.strategies(1e-3, 5e-3).items() if k.startswith("uniform f")}
    pair["same"] = pair["uniform fast"]
    bilevel.compare(problem, pair, seeds=2, steps=30)
    both = torch.stack(max((one for one in log if one and len(one[0]) == 4), key=len))
    assert torch.equal(both[:, :2], both[:, 2:])


def same(one, other):
    """Whether two solutions are the same, bit for bit."""
    states = [trees.leaves((x.state.strategy, x.state.experience)) for x in (one, other)]
    tensors = [[x for x in leaves if isinstance(x, torch.Tensor)] for leaves in states]
    assert len(tensors[0]) > 20
    assert trees.equal(*tensors)
    last = [torch.stack([v[-1] for v in x.history.values()]).nan_to_num() for x in (one, other)]
    return torch.equal(*last)


@pytest.mark.parametrize("name", ["two-timescale", "head refitted", "head exact"])
def test_going_on_in_the_middle_is_bit_identical(name, tmp_path):
    problem = cartpole()
    strategy = problem.strategies(1e-3, 5e-3)[name]
    options = {"seeds": 3, "every": 50}
    whole = bilevel.solve(problem, strategy, steps=200, **options)
    half = bilevel.solve(problem, strategy, steps=90, **options)
    path = half.save(tmp_path / "half")
    read = bilevel.Solution.load(path, problem)
    for state in (half.state, read.state):
        assert same(bilevel.solve(problem, strategy, steps=110, state=state, **options), whole)


def test_runs_that_take_turns_are_those_together_and_go_on():
    problem = cartpole()
    strategy = problem.strategies(1e-3, 5e-3)["two-timescale"]
    options = {"seeds": 3, "every": 20, "max_runs_at_once": 2, "dtype": torch.float64}
    turns = bilevel.solve(problem, strategy, steps=60, **options)
    together = bilevel.solve(problem, strategy, steps=60, **{**options, "max_runs_at_once": 3})
    assert torch.allclose(turns.head, together.head, atol=1e-9)
    first = bilevel.solve(problem, strategy, steps=25, **options)
    assert same(bilevel.solve(problem, strategy, steps=35, state=first.state, **options), turns)


def test_a_state_of_another_experience_is_refused():
    problem = cartpole()
    strategy = problem.strategies(1e-3, 5e-3)["two-timescale"]
    state = bilevel.solve(problem, strategy, steps=2, seeds=1).state
    other = state._replace(experience={"at": torch.zeros(1)})
    with pytest.raises(bilevel.errors.ArgumentError, match="experience that it holds is another"):
        bilevel.solve(problem, strategy, steps=2, seeds=1, state=other)


@pytest.mark.parametrize("name", ["two-timescale", "head exact"])
def test_a_run_that_is_lost_does_not_end_the_others(name):
    problem = cartpole(width=8, batch=8)
    strategy = problem.strategies(1e-3, 5e-3)[name]
    lost = dataclasses.replace(strategy, body_lr=torch.tensor([1e-3, 1e30]))
    options = {"steps": 20, "every": 10}
    both = bilevel.solve(problem, lost, seeds=2, **options)
    assert [at.name for at in both.status] == ["COMPLETED", "DIVERGED"]
    alone = bilevel.solve(problem, strategy, seeds=1, **options)
    for metric in ("last_return", "feature_rank", "agent_steps"):
        assert torch.equal(both.history[metric][:, 0], alone.history[metric][:, 0])
    assert both.history["feature_rank"][-1, 1].isnan()
