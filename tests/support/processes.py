"""Processes that several tests of policy evaluation go through."""

from problems.mspbe import (
    MarkovRewardProcess,
    baird,
    boyan,
    random_process,
    random_walk,
    restarting_chain,
    two_state,
)

PROCESSES: dict[str, MarkovRewardProcess] = {
    "two-state": two_state(),
    "two-state 0.8": two_state(0.8),
    "walk": random_walk(),
    "walk inverted": random_walk(features="inverted"),
    "walk dependent": random_walk(features="dependent"),
    "walk 19": random_walk(19, "dependent", right=0.5),
    "boyan": boyan(),
    "chain": restarting_chain(seed=1),
    "baird": baird(),
    "random": random_process(seed=2),
}
