"""Do runs of different seeds differ at all?

Where the starts, the data and the rows of the steps do not depend on the seed, or no strategy looks
at what does, all runs are one and the same: to count it once for every seed would make certainty
out of nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data.draws import BLOCK
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData

Array = NDArray[Any]
DISTANCES = {"head_residual", "head_gap", "head_bound",
             "phi_gradient_norm", "gradient_gap", "gradient_bound"}  # fmt: skip
"""Records that are nothing but rounding where a run has arrived."""
SAME = 1e-6
"""Runs that nothing but rounding tells apart stay this near to one another, relatively."""


def start_alike(state: Any, runs: slice = slice(None)) -> bool:
    """Whether trees with leaves (R, ...), such as strategies' states, are the same in these runs.

    Args:
        state: the trees.
        runs: which of the R runs.
    """
    leaves = [x[runs] for x in trees.leaves(state) if isinstance(x, Tensor) and x.ndim]
    return all(torch.equal(leaf, leaf[:1].expand_as(leaf)) for leaf in leaves)


def same_data(data: TrainingData) -> bool:
    """Whether the data are the same for all seeds."""
    return not data.per_seed or start_alike(data.groups)


def same_steps(sampler: Sampler, data: TrainingData) -> bool:
    """Whether the rows and the noise of every step are the same for all seeds.

    Args:
        sampler: of these runs, or of some of them.
        data: of all of them.
    """
    if data.online:
        return False
    for name, size in sampler.batch_sizes.items():
        rows = data.sizes[name]
        if size is None or rows == 1 or sampler.sampling == "sequential":
            continue
        if sampler.sampling != "epochs" or size % rows:  # whole epochs: the rows, in other orders
            return False
    if not sampler.noisy:
        return True
    noise = data.problem.noise
    drawn = [noise(generator(seed, "noise", 0), BLOCK) for seed in data.distinct]
    return all(trees.equal(drawn[0], other) for other in drawn[1:])


def turned_out_alike(table: Mapping[str, Array]) -> bool:
    """Whether runs that start alike on the same data stayed together, up to rounding.

    Args:
        table: Metric -> (T, R) values; the first record says no more than that they start alike.
    """
    if not np.isfinite(table["objective"][1:]).any():
        return False
    return all(
        np.allclose(values, values[:, :1], rtol=SAME, atol=0.0, equal_nan=True)
        for name, values in table.items()
        if name not in DISTANCES
    )
