"""Small legal arguments for what loops in plain torch use."""

import torch

from bilevel import loops
from tests.support.legal_arguments import X32, Net, X, Y


def optimised():
    net = Net()
    return net, torch.optim.SGD(net.parameters(), 0.1)


def refit():
    """One that waits for the targets of a forward pass."""
    net = Net()
    made = loops.HeadRefit(net, "fc", 0.1, 1)
    net(X32)
    return made


LEGAL = {
    "bilevel.loops.HeadRefit": lambda: {"model": Net(), "head": "fc", "ridge": 0.1, "every": 2},
    "bilevel.loops.HeadRefit.step": lambda: {"targets": torch.from_numpy(Y)},
    "bilevel.loops.HeadRefit.load_state_dict": lambda: {"state": refit().state_dict()},
    "bilevel.BalancedRates": lambda: {"lr": 0.1},
    "bilevel.loops.balanced_rates": lambda: {"model": Net(), "lr": 0.1},
    "bilevel.loops.group_rates": lambda: dict(
        zip(("model", "optimizer"), optimised(), strict=True)
    ),
    "bilevel.loops.from_module": lambda: {
        "make_model": Net, "loss": "mse", "data": (X, Y), "head": "fc"
    },
    "bilevel.loops.param_groups": lambda: {
        "model": Net(), "head": "fc", "body_lr": 0.1, "head_lr": 0.2
    },
}  # fmt: skip
