"""CartPole is learned: `pytest -m slow tests/problems/deep_q/test_dq_sanity.py`, 2 CPU-minutes."""

import pytest

import bilevel
from problems.deep_q.cartpole import cartpole


@pytest.mark.slow
@pytest.mark.usefixtures("untimed")
def test_fast_rates_and_two_timescales_learn_cartpole():
    problem = cartpole()
    made = problem.strategies(2.5e-4, 1.25e-3)
    chosen = {name: made[name] for name in ("uniform slow", "uniform fast", "two-timescale")}
    updates = problem.settings.updates(15_000)
    last = bilevel.compare(problem, chosen, seeds=20, steps=updates).final("last_return")
    for name in ("uniform fast", "two-timescale"):
        assert last[name].mean() >= 250
    assert max(values.max() for values in last.values()) >= 400
