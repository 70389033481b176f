"""Small legal arguments for the public callables of `bilevel.analysis`."""

import functools

import torch

import bilevel
from bilevel import analysis
from problems.toy import ScalarProduct
from tests.support.legal_arguments import Linear, comparison, solution

FEW = {"steps": 20, "after": 0, "seeds": 2, "envelope_runs": 1, "compile": False}


@functools.cache
def points():
    return analysis.Iterates.of(solution())


@functools.cache
def landscape():
    return analysis.landscape(points(), size=2)


LEGAL = {
    "bilevel.analysis.Iterates.of": lambda: {"solution": solution()},
    "bilevel.analysis.convergence": lambda: {"problem": ScalarProduct(noise_scale=0.3), **FEW},
    "bilevel.analysis.curvature": lambda: {"points": points(), "probes": 2},
    "bilevel.analysis.explain": lambda: {
        "comparison": comparison(), "problem": Linear(),
        "strategies": {"slow": bilevel.uniform(0.01)},
    },
    "bilevel.analysis.iterates": lambda: {
        "problem": Linear(), "strategy": bilevel.uniform(0.01), "at": (0, 2), "seeds": 2
    },
    "bilevel.analysis.landscape": lambda: {"points": points(), "size": 2},
    "bilevel.analysis.moreau": lambda: {
        "problem": ScalarProduct(), "body": torch.ones(()), "rho": 0.1
    },
}  # fmt: skip
