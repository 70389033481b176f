"""An update is a step of deep Q-learning."""

import dataclasses

import pytest
import torch
from q_learners import SETTINGS, ByHand, FrozenQ, largest

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from problems.deep_q.configurations import OPTIMIZER, configurations

ALPHA, BETA = 1e-3, 4e-3
SEEDS = [0, 4, 9]


def compared(name, updates=50):
    """The largest difference between the library and a loop by hand after some updates."""
    problem = FrozenQ()
    strategies = configurations(ALPHA, BETA, SETTINGS)
    rates = {"uniform fast": (BETA, BETA), "two-timescale": (ALPHA, BETA), "head exact": (ALPHA, 0)}
    solution = bilevel.solve(
        problem, strategies[name], steps=updates, seeds=SEEDS, every=20, dtype=torch.float64
    )
    worst = 0.0
    for run, seed in enumerate(SEEDS):
        body = problem.init_body(generator(seed, "body"))
        head = problem.init_head(generator(seed, "head"))
        by_hand = ByHand(problem, seed, body, head, rates[name])
        for k in range(updates):
            by_hand.update(k, exact=name == "head exact")
        mine = trees.take((solution.body, solution.head), run)
        worst = max(worst, largest(mine, by_hand.parts()))
        assert largest(mine, (body, head)) > 1e-2  # it went somewhere
    return worst


@pytest.mark.parametrize("name", ["uniform fast", "two-timescale", "head exact"])
def test_fifty_updates_on_a_frozen_replay_are_those_of_a_loop_by_hand(name):
    assert compared(name) < 1e-12


def test_the_ridge_has_no_slope_at_the_head_before_an_update():
    strategy = bilevel.TwoTimescale(ALPHA, BETA, OPTIMIZER, "simultaneous")
    made = [
        bilevel.solve(
            FrozenQ(dataclasses.replace(SETTINGS, ridge=ridge)),
            strategy,
            steps=30,
            seeds=2,
            dtype=torch.float64,
        )
        for ridge in (0.1, 10.0)
    ]
    assert trees.equal(made[0].body, made[1].body)
    assert torch.equal(made[0].head, made[1].head)


def test_a_large_ridge_holds_the_exact_head_at_the_one_before():
    """Drawn to zero at every update the head would collapse."""
    problem = FrozenQ(dataclasses.replace(SETTINGS, ridge=1e12))
    strategy = configurations(ALPHA, BETA, SETTINGS)["head exact"]
    solution = bilevel.solve(problem, strategy, steps=3, seeds=1, dtype=torch.float64)
    head = problem.init_head(generator(0, "head"))
    assert largest(solution.head[0], head) < 1e-10
