"""How much faster is one training of 30 large networks than the loop a user would write?

784-128-64-10 ReLU networks, squared error against one-hot classes, batches of 64 from 10,000 rows
that all seeds share: the shapes of MNIST, with random numbers. The loop: `nn.Module` and
`torch.optim.RMSprop`, one seed after another. See `benchmarks/core.py` for how times are taken.

Run: `make bench`, or `python benchmarks/large.py [--eager] [--rounds 9] [--steps 20]`.
"""

from typing import Any

import torch
from contest import RIDGE, UserLoop, run
from torch import Tensor

import bilevel
from bilevel.problem.network.hidden_layers import uniform

ROWS, INPUTS, WIDTHS, CLASSES, BATCH = 10_000, 784, (128, 64), 10, 64


class Images(bilevel.LinearHeadProblem):
    """Random numbers of the shapes of MNIST."""

    ridge, fit_bias, outputs = RIDGE, True, CLASSES

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """Rows that every seed sees."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(self.rows, INPUTS, generator=generator)
        classes = torch.randint(CLASSES, (self.rows,), generator=generator)
        targets = torch.nn.functional.one_hot(classes, CLASSES).float()
        return {"train": bilevel.Batch(inputs, targets)}

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights and biases of the hidden layers."""
        body, fan_in = {}, INPUTS
        for layer, width in enumerate(WIDTHS, 1):
            body[f"weight{layer}"] = uniform((fan_in, width), fan_in, generator)
            body[f"bias{layer}"] = uniform((width,), fan_in, generator)
            fan_in = width
        return body

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Weights and biases of the last layer."""
        return uniform((WIDTHS[-1] + 1, CLASSES), WIDTHS[-1], generator)

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The last hidden layer."""
        hidden = torch.relu(inputs @ body["weight1"] + body["bias1"])
        return torch.relu(hidden @ body["weight2"] + body["bias2"])


def main() -> None:
    """Print the ratios."""
    problem = Images()
    rows = problem.data()["train"]
    user = UserLoop.dense(rows.inputs, rows.targets, WIDTHS, BATCH)
    run(__doc__, problem, user, (INPUTS, *WIDTHS, CLASSES), BATCH, steps=20, warm_up=3)


if __name__ == "__main__":
    main()
