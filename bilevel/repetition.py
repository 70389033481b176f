"""Do runs of different seeds differ at all?

Where the starts, the data and the rows of the steps do not depend on the seed, all runs are one and
the same: to count it once for every seed would make certainty out of nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.drawing import BLOCK, generator
from bilevel.sampling import Sampler, TrainingData
from bilevel.trees import Tree

Array = NDArray[Any]
SAME = 1e-6
"""Runs that nothing but rounding tells apart stay this near to one another, relatively."""


def start_alike(state: Any, runs: slice = slice(None)) -> bool:
    """Whether trees with leaves (R, ...), such as strategies' states, are the same in these runs.

    Args:
        state: the trees.
        runs: which of the R runs.
    """
    tensors = [leaf for leaf in trees.leaves(state) if isinstance(leaf, Tensor) and leaf.ndim]
    return all(_alike(leaf[runs]) for leaf in tensors)


def see_the_same(sampler: Sampler, data: TrainingData) -> bool:
    """Whether the data, and the rows and noise of every step, are the same for all seeds.

    Args:
        sampler: of these runs, or of some of them.
        data: of all of them.
    """
    for name, size in sampler.batch_sizes.items():
        rows = data.sizes[name]
        if size is None or rows == 1 or sampler.sampling == "sequential":
            continue
        if sampler.sampling != "epochs" or size % rows:  # whole epochs: the rows, in other orders
            return False
    if data.per_seed and not all(_alike(leaf) for leaf in trees.leaves(data.groups)):
        return False
    if not sampler.noisy:
        return True
    noise, seeds = sampler.problem.noise, sorted(set(data.seeds))
    drawn = [noise(generator(seed, "noise", 0), BLOCK) for seed in seeds]
    return all(trees.equal(drawn[0], other) for other in drawn[1:])


def turned_out_alike(table: Mapping[str, Array]) -> bool:
    """Whether runs that start alike on the same rows stayed together, up to rounding.

    Args:
        table: Metric -> (T, R) values.
    """
    objectives = [table[name] for name in ("objective", "body_objective") if name in table]
    return all(
        np.allclose(values, values[:, :1], rtol=SAME, atol=0.0, equal_nan=True)
        for values in objectives
    )


def _alike(values: Tree) -> bool:
    """Whether all entries along the first dimension are equal."""
    return bool(torch.equal(values, values[:1].expand_as(values)))
