"""The arguments of a training, checked before it starts."""

import contextlib
import dataclasses
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.core.checks import meant
from bilevel.errors import ArgumentError, counted, spell
from bilevel.storage.stored_tree import StoredTree
from bilevel.strategies import AbstractStrategy
from bilevel.training.state import TrainingState

MOST_SEEDS = 10**6
"""More runs than that are a slip of the pen."""


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds: a count means 0, 1, ...; they must be distinct and not negative."""
    found: list[int] = []
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        found = list(range(min(seeds, MOST_SEEDS + 1)))
    elif isinstance(seeds, Iterable) and not isinstance(seeds, str):
        with contextlib.suppress(TypeError):  # tensors and arrays may be one number
            found = [_seed(seed) for seed in itertools.islice(seeds, MOST_SEEDS + 1)]
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ArgumentError(
            f"`seeds` must be a positive count, or distinct integers from 0, got {spell(seeds)}."
        )
    if len(found) > MOST_SEEDS:
        raise ArgumentError(f"`seeds` must be at most {MOST_SEEDS:,}, got {spell(seeds)}.")
    return found


def _seed(value: Any) -> int:
    """An integer of Python, NumPy or torch; -1 for anything else."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def check_state(state: Any, fresh: TrainingState) -> TrainingState:
    """`state`, or an error unless it could have come from the start `fresh` of this training."""
    if not isinstance(state, TrainingState):
        raise ArgumentError(f"`state` must be the `.state` of a solution, got {type(state)}.")
    if state.seeds != fresh.seeds:
        raise ArgumentError(
            f"`state` belongs to the seeds {state.seeds}, not to {fresh.seeds}. Pass the same "
            "`seeds`."
        )

    if isinstance(state.strategy, StoredTree):
        device = fresh.codes.device
        state = state._replace(
            strategy=state.strategy.fill(fresh.strategy, device),
            codes=state.codes.to(device),
            first_norm=state.first_norm.to(device),
        )

    def described(made: Any) -> list[Any]:
        return [type(made)] + [
            (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
            for leaf in trees.leaves(made)
        ]

    if state.structure != fresh.structure or described(state.strategy) != described(fresh.strategy):
        raise ArgumentError(
            "`state` does not fit: it comes from another problem, strategy or `dtype`. Pass those "
            "of the training that it ended."
        )
    if (state.experience is None) != (fresh.experience is None):
        raise ArgumentError(
            "`state` does not fit: rows depend on what was learned, and it does not hold that. "
            "Pass the whole `.state` of the solution."
        )
    checked: TrainingState = state
    return checked


def check_strategy(strategy: Any, runs: int) -> bool:
    """Whether all runs share the numbers of a strategy; an error unless these fit the runs."""
    if not isinstance(strategy, AbstractStrategy) or not dataclasses.is_dataclass(strategy):
        raise ArgumentError(
            f"A strategy is an instance of a dataclass that derives from AbstractStrategy, got "
            f"{spell(strategy)}.{meant(strategy, AbstractStrategy)}"
        )
    counts = parts.run_counts(parts.numbers(strategy))
    if counts - {runs}:
        raise ArgumentError(
            f"The strategy has hyper-parameters for {sorted(counts - {runs})} runs, but there "
            f"{'is' if runs == 1 else 'are'} {counted(runs, 'seed')}."
        )
    return not counts
