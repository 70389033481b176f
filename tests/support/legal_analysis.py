"""Small legal arguments for public callables of `bilevel.analysis`."""

import torch

from problems.toy import ScalarProduct

FEW = {"steps": 20, "after": 0, "seeds": 2, "envelope_runs": 1, "compile": False}
LEGAL = {
    "bilevel.analysis.convergence": lambda: {"problem": ScalarProduct(noise_scale=0.3), **FEW},
    "bilevel.analysis.moreau": lambda: {
        "problem": ScalarProduct(), "body": torch.ones(()), "rho": 0.1
    },
}  # fmt: skip
