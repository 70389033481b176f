"""What the benchmarks share: the loop one would write, and a fair contest of speed."""

import argparse
import pathlib
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import peer
import torch
from torch import Tensor, nn

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort

SEEDS, ALPHA, BETA, RIDGE = 30, 5e-4, 5e-3, 1e-4


class Contender(Protocol):
    """What takes part in a contest."""

    def advance(self, count: int) -> float | None:
        """Make steps. CPU seconds, where it was another process that took them."""


class UserLoop:
    """What one would write without this library, for one seed.

    Args:
        inputs: (N, D).
        targets: (N, K).
        body: makes the features.
        head: the last layer.
        batch: rows per step.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, body: nn.Module, head: nn.Linear, batch: int
    ) -> None:
        self.inputs, self.targets, self.batch = inputs, targets, batch
        self.head, self.model = head, nn.Sequential(body, head)
        levels = [
            {"params": body.parameters(), "lr": ALPHA},
            {"params": head.parameters(), "lr": BETA},
        ]
        self.optimizer = torch.optim.RMSprop(levels)

    @classmethod
    def dense(
        cls, inputs: Tensor, targets: Tensor, widths: Sequence[int], batch: int
    ) -> "UserLoop":
        """With ReLU layers of these widths."""
        layers: list[nn.Module] = []
        fan_in = inputs.shape[1]
        for width in widths:
            layers += [nn.Linear(fan_in, width), nn.ReLU()]
            fan_in = width
        head = nn.Linear(fan_in, targets.shape[1])
        return cls(inputs, targets, nn.Sequential(*layers), head, batch)

    def advance(self, count: int) -> None:
        """Make steps."""
        for _ in range(count):
            rows = torch.randint(len(self.targets), (self.batch,))
            inputs, targets = self.inputs[rows], self.targets[rows]
            self.optimizer.zero_grad()
            error = self.model(inputs) - targets
            fit = 0.5 * error.square().sum(1).mean()
            loss = fit + 0.5 * RIDGE * self.head.weight.square().sum()
            loss.backward()
            self.optimizer.step()


def prepare(
    problem: bilevel.StackelbergProblem,
    order: str,
    batch: int,
    *,
    compile: bool = False,
    seeds: int = SEEDS,
) -> Cohort:
    """All seeds of the library's training, two-timescale with RMSProp in float32."""
    data = TrainingData(problem, list(range(seeds)), torch.float32, "cpu")
    strategy = bilevel.TwoTimescale(ALPHA, BETA, order=order)  # type: ignore[arg-type]
    return Cohort(Assembly.of(data, batch), strategy, compile=compile)


def run(
    description: str,
    problem: bilevel.StackelbergProblem,
    user: UserLoop,
    sizes: Sequence[int],
    batch: int,
    *,
    steps: int,
    warm_up: int,
) -> None:
    """Print how much faster than the user's loop the library trains, eagerly and compiled.

    Beside it JAX, if there is an environment of peers.

    Args:
        description: of the benchmark, for `--help`.
        problem: what the library trains.
        user: the same as a loop.
        sizes: of the layers of the network, inputs and outputs included.
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
    if peer.installed():
        peers = peer.Peers(
            "networks", sizes=list(sizes), batch=batch, rows=len(user.targets), seeds=SEEDS,
            steps=options.steps, alpha=ALPHA, beta=BETA, ridge=RIDGE,
        )  # fmt: skip
        for order in ("simultaneous", "alternating"):
            contenders[f"{order}, JAX"] = (peer.PeerTraining(peers, order, options.steps), SEEDS)
    network = "-".join(map(str, sizes))
    print(f"{SEEDS} seeds, {network} ReLU, batch {batch}, RMSProp; {machine()}")
    contest(contenders, steps=options.steps, rounds=options.rounds, warm_up=warm_up)


def machine() -> str:
    """Processor and torch."""
    places = pathlib.Path("/proc/cpuinfo")
    lines = places.read_text().splitlines() if places.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, one thread, torch {torch.__version__}"


def seconds_per_step(contender: Contender, steps: int) -> float:
    """The mean CPU time of a step."""
    began = time.process_time()
    told = contender.advance(steps)
    return (time.process_time() - began if told is None else told) / steps


def contest(
    contenders: Mapping[str, tuple[Contender, int]], *, steps: int, rounds: int, warm_up: int
) -> None:
    """Print how much faster each contender is than the first one, in CPU time.

    Args:
        contenders: by name, each with the number of runs that it trains at once.
        steps: in a turn of a contender.
        rounds: of turns; times are medians over rounds, ratios medians of ratios in a round.
        warm_up: steps before that: lazy set-up, compilation.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    if not peer.installed():
        print(peer.MISSING)
    for name, (contender, _) in contenders.items():
        began = time.perf_counter()
        contender.advance(warm_up)
        if "compiled" in name:
            print(f"{name}: compilation took {time.perf_counter() - began:.0f} s", flush=True)
    for _ in range(rounds):
        for name, (contender, runs) in contenders.items():
            times[name].append(seconds_per_step(contender, steps) / runs)
    baseline = next(iter(times.values()))
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(baseline, found, strict=True))
        microseconds = statistics.median(found) * 1e6
        print(f"{name:26} {microseconds:8.1f} us per step and seed   {ratio:5.1f} x", flush=True)
