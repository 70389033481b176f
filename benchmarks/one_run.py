"""What does one seed alone cost beside the loop one would write?

Many seeds share the overhead of each operation; one has it all to itself. Two-timescale RMSProp in
float32, not compiled: a 10-64-1 ReLU network on batches of 32, in both orders, and a small CNN on
pictures of 28 x 28 in batches of 128, given as an `nn.Module`. The loops: `nn.Module` and
`torch.optim.RMSprop` with a parameter group for each level.

CPU time of a step, one thread, rounds interleaved, medians.

Run: `make bench BENCH=one_run`, or `python benchmarks/one_run.py [--rounds 15]`.
"""

import argparse
from typing import Any

import torch
from contest import RIDGE, Contender, UserLoop, contest, machine, prepare
from torch import Tensor, nn

import bilevel
from problems.regression import friedman1

PICTURES, CLASSES = 2000, 10


class Convolutions(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(32 * 6 * 6, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.fc(self.body(pictures))
        return scores


class Pictures(bilevel.LinearHeadProblem):
    """Random pictures with random classes as one-hot targets."""

    ridge, fit_bias, outputs = RIDGE, True, CLASSES

    def __init__(self) -> None:
        self.parts = bilevel.split(Convolutions)

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """Rows that every seed sees."""
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(PICTURES, 1, 28, 28, generator=generator)
        classes = torch.randint(CLASSES, (PICTURES,), generator=generator)
        return {"train": bilevel.Batch(pictures, nn.functional.one_hot(classes, CLASSES).float())}

    def init_body(self, generator: torch.Generator) -> Any:
        """torch's own."""
        return self.parts.init_body(generator)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """torch's own."""
        return self.parts.init_head(generator)

    def features(self, body: Any, inputs: Tensor) -> Tensor:
        """What the last layer sees."""
        return self.parts.features(body, inputs)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, pictures = friedman1(ridge=RIDGE), Pictures()
    rows, images = network.data(0)["train"], pictures.data()["train"]
    dense = UserLoop.dense(rows.inputs.float(), rows.targets.float().unsqueeze(1), (64,), 32)
    module = Convolutions()
    convolutions = UserLoop(images.inputs, images.targets, module.body, module.fc, 128)
    for name, problem, user, batch, steps in (
        ("10-64-1, batch 32", network, dense, 32, 100),
        ("CNN 28 x 28, batch 128", pictures, convolutions, 128, 5),
    ):
        contenders: dict[str, tuple[Contender, int]] = {"user's loop": (user, 1)}
        for order in ("simultaneous", "alternating"):
            contenders[order] = (prepare(problem, order, batch, seeds=1), 1)
        print(f"one seed, {name}; {machine()}")
        contest(contenders, steps=steps, rounds=options.rounds, warm_up=3)


if __name__ == "__main__":
    main()
