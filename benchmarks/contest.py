"""What the benchmarks share: the loop one would write, and a fair contest of speed."""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort

SEEDS, ALPHA, BETA, RIDGE = 30, 5e-4, 5e-3, 1e-4


class Contender(Protocol):
    """What takes part in a contest."""

    def seconds_per_step(self, steps: int) -> float:
        """The mean time of `steps` steps."""


class UserLoop:
    """What one would write without this library, for one seed.

    Args:
        inputs: (N, D).
        targets: (N, K).
        widths: of the hidden layers.
        batch: rows per step.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, widths: Sequence[int], batch: int) -> None:
        self.inputs, self.targets, self.batch = inputs, targets, batch
        layers: list[nn.Module] = []
        fan_in = inputs.shape[1]
        for width in widths:
            layers += [nn.Linear(fan_in, width), nn.ReLU()]
            fan_in = width
        body = nn.Sequential(*layers)
        self.head = nn.Linear(fan_in, targets.shape[1])
        self.model = nn.Sequential(body, self.head)
        levels = [
            {"params": body.parameters(), "lr": ALPHA},
            {"params": self.head.parameters(), "lr": BETA},
        ]
        self.optimizer = torch.optim.RMSprop(levels)

    def seconds_per_step(self, steps: int) -> float:
        """The mean time of `steps` steps."""
        began = time.perf_counter()
        for _ in range(steps):
            rows = torch.randint(len(self.targets), (self.batch,))
            inputs, targets = self.inputs[rows], self.targets[rows]
            self.optimizer.zero_grad()
            error = self.model(inputs) - targets
            fit = 0.5 * error.square().sum(1).mean()
            loss = fit + 0.5 * RIDGE * self.head.weight.square().sum()
            loss.backward()
            self.optimizer.step()
        return (time.perf_counter() - began) / steps


def prepare(
    problem: bilevel.StackelbergProblem, order: str, batch: int, *, compile: bool = False
) -> Cohort:
    """All seeds of the library's training, two-timescale with RMSProp in float32."""
    data = TrainingData(problem, list(range(SEEDS)), torch.float32, "cpu")
    strategy = bilevel.TwoTimescale(ALPHA, BETA, order=order)  # type: ignore[arg-type]
    return Cohort(Assembly.of(data, batch), strategy, compile=compile)


def run(
    description: str,
    problem: bilevel.StackelbergProblem,
    user: UserLoop,
    network: str,
    batch: int,
    *,
    steps: int,
    warm_up: int,
) -> None:
    """Print how much faster than the user's loop the library trains, eagerly and compiled.

    Args:
        description: of the benchmark, for `--help`.
        problem: what the library trains.
        user: the same as a loop.
        network: what it is called.
        batch: rows per step.
        steps: in a turn of a contender, by default.
        warm_up: steps before that: lazy set-up, compilation.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--eager", action="store_true", help="leave the compiled trainings out")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=steps, help="steps in a turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    contenders: dict[str, tuple[Contender, int]] = {"user's loop (one seed)": (user, 1)}
    for compile in (False, True)[: 2 - options.eager]:
        for order in ("simultaneous", "alternating"):
            training = prepare(problem, order, batch, compile=compile)
            contenders[f"{order}, compiled" if compile else order] = (training, SEEDS)
    print(f"{SEEDS} seeds, {network} ReLU, batch {batch}, RMSProp, torch {torch.__version__}")
    contest(contenders, steps=options.steps, rounds=options.rounds, warm_up=warm_up)


def contest(
    contenders: Mapping[str, tuple[Contender, int]], *, steps: int, rounds: int, warm_up: int
) -> None:
    """Print how much faster each contender is than the first one.

    Args:
        contenders: by name, each with the number of runs that it trains at once.
        steps: in a turn of a contender.
        rounds: of turns; times are medians over rounds, ratios medians of ratios in a round.
        warm_up: steps before that: lazy set-up, compilation.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for name, (contender, _) in contenders.items():
        began = time.perf_counter()
        contender.seconds_per_step(warm_up)
        if "compiled" in name:
            print(f"{name}: compilation took {time.perf_counter() - began:.0f} s", flush=True)
    for _ in range(rounds):
        for name, (contender, runs) in contenders.items():
            times[name].append(contender.seconds_per_step(steps) / runs)
    baseline = next(iter(times.values()))
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(baseline, found, strict=True))
        microseconds = statistics.median(found) * 1e6
        print(f"{name:26} {microseconds:8.1f} us per step and seed   {ratio:5.1f} x", flush=True)
