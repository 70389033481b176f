"""Small legal arguments for what loops in plain torch use."""

from tests.support.legal_arguments import Net, X, Y

LEGAL = {
    "bilevel.loops.from_module": lambda: {
        "make_model": Net, "loss": "mse", "data": (X, Y), "head": "fc"
    },
    "bilevel.loops.param_groups": lambda: {
        "model": Net(), "head": "fc", "body_lr": 0.1, "head_lr": 0.2
    },
}  # fmt: skip
