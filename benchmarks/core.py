"""How much faster is one training of 30 seeds than the loop a user would write?

The loop: `nn.Module` and `torch.optim.RMSprop` with a parameter group for each level, one seed
after another. Both train a 10-64-1 ReLU network on batches of 32, two-timescale. Times are per step
and seed, all loop costs included (drawing and gathering rows too), one thread, rounds interleaved,
medians.

Run: `make bench`, or `python benchmarks/core.py [--eager] [--rounds 9] [--steps 260]`.
"""

import argparse
import statistics
import time

import torch
from torch import nn

import bilevel
from bilevel.sampling import TrainingData
from bilevel.training import Training
from problems.regression import Network, friedman1

SEEDS, BATCH, WIDTH, ALPHA, BETA, RIDGE = 30, 32, 64, 5e-4, 5e-3, 1e-4


class UserLoop:
    """What one would write without this library, for one seed."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.hidden, self.head = nn.Linear(inputs.shape[1], WIDTH), nn.Linear(WIDTH, 1)
        self.model = nn.Sequential(self.hidden, nn.ReLU(), self.head)
        levels = [
            {"params": self.hidden.parameters(), "lr": ALPHA},
            {"params": self.head.parameters(), "lr": BETA},
        ]
        self.optimizer = torch.optim.RMSprop(levels)

    def seconds_per_step(self, steps: int) -> float:
        """The mean time of `steps` steps."""
        began = time.perf_counter()
        for _ in range(steps):
            rows = torch.randint(len(self.targets), (BATCH,))
            inputs, targets = self.inputs[rows], self.targets[rows]
            self.optimizer.zero_grad()
            error = self.model(inputs).squeeze(1) - targets
            loss = 0.5 * error.square().mean() + 0.5 * RIDGE * self.head.weight.square().sum()
            loss.backward()
            self.optimizer.step()
        return (time.perf_counter() - began) / steps


def prepare(problem: bilevel.StackelbergProblem, order: str, *, compile: bool = False) -> Training:
    """30 seeds of the library's training."""
    data = TrainingData(problem, list(range(SEEDS)), torch.float32, "cpu")
    strategy = bilevel.TwoTimescale(ALPHA, BETA, order=order)  # type: ignore[arg-type]
    return Training(problem, strategy, data, BATCH, compile=compile)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eager", action="store_true", help="leave the compiled trainings out")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=260)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = friedman1(width=WIDTH, ridge=RIDGE)
    assert problem.network == Network(WIDTH, 1, "relu")
    rows = problem.data(0)["train"]
    user = UserLoop(rows.inputs.float(), rows.targets.float())
    contenders = {
        "user's loop (one seed)": (user, 1),
        "simultaneous": (prepare(problem, "simultaneous"), SEEDS),
        "alternating": (prepare(problem, "alternating"), SEEDS),
    }
    if not options.eager:
        for order in ("simultaneous", "alternating"):
            contenders[f"{order}, compiled"] = (prepare(problem, order, compile=True), SEEDS)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, (contender, _) in contenders.items():
        began = time.perf_counter()
        contender.seconds_per_step(20)  # warm-up: lazy set-up, compilation
        if "compiled" in name:
            print(f"{name}: compilation took {time.perf_counter() - began:.0f} s")
    for _ in range(options.rounds):
        for name, (contender, seeds) in contenders.items():
            times[name].append(contender.seconds_per_step(options.steps) / seeds)
    baseline = times["user's loop (one seed)"]
    print(f"{SEEDS} seeds, 10-{WIDTH}-1 ReLU, batch {BATCH}, RMSProp, torch {torch.__version__}")
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(baseline, found, strict=True))
        microseconds = statistics.median(found) * 1e6
        print(f"{name:26} {microseconds:8.1f} us per step and seed   {ratio:5.1f} x")


if __name__ == "__main__":
    main()
