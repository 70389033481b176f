"""Small legal arguments for public callables that need a problem with tasks."""

import functools

import torch

import bilevel
from tests.support.legal_arguments import FEW, ROWS, Linear, X, Y


class OfTasks(Linear):
    """Two tasks, the same rows twice."""

    tasks = True

    def data(self, seed=None):
        return {"train": bilevel.Batch(*(torch.stack([leaf, leaf]) for leaf in ROWS["train"]))}


@functools.cache
def solution():
    return bilevel.solve(OfTasks(), bilevel.uniform(0.01), batch_size=1, **FEW)


LEGAL = {
    "bilevel.Solution.adapt": lambda: {"inputs": X, "targets": Y},
    "bilevel.adapt": lambda: {
        **{"problem": OfTasks(), "body": torch.tensor(1.0)},
        **{"inputs": X, "targets": Y},
    },
    "problem sinusoid": lambda: {"train": 3, "test": 2, "width": (3, 2)},
    "problem episodes": lambda: {"train": 3, "test": 2, "width": 3},
}
