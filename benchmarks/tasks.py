"""What does a step of tasks that share a body cost beside the loop one would write?

Each task has a ridge head of its own, solved on its support rows; the body descends the mean loss
of the query rows, differentiated through the heads, by Adam in float64. The loop one would write:
features of all tasks in one batch, `torch.linalg.solve`, autograd, `torch.optim.Adam`, one seed
after another; `solve` has all seeds in one training and makes the same bodies, which is checked
first.

CPU milliseconds of a step and seed, one thread, interleaved, medians of ratios.

Run: `make bench BENCH=tasks`, or `python benchmarks/tasks.py [--rounds 15] [--steps 20]`.
"""

import argparse
import pathlib
import platform
import statistics
import time

import torch

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.problem.network.hidden_layers import Network
from bilevel.training.training import Training

RIDGE, LR, SEEDS = 0.1, 1e-3, (1, 10)


class Tasks(bilevel.LinearHeadProblem):
    """Random tasks of a small network.

    Args:
        inputs: D.
        network: the body.
        tasks: T.
        support: n, rows that heads are solved on.
        query: rows that the body is trained on.
    """

    tasks = True
    ridge = RIDGE

    def __init__(self, inputs: int, network: Network, tasks: int, support: int, query: int) -> None:
        self.columns, self.network = inputs, network
        generator = torch.Generator().manual_seed(0)
        self.groups = {}
        for name, rows in (("train", support), ("validation", query)):
            x = torch.randn(tasks, rows, inputs, generator=generator, dtype=torch.float64)
            y = torch.randn(tasks, rows, generator=generator, dtype=torch.float64)
            self.groups[name] = bilevel.Batch(x, y)

    def data(self, seed=None):
        """The rows of all tasks."""
        return self.groups

    def init_body(self, generator):
        """Hidden layers."""
        return self.network.init(self.columns, generator)

    def init_head(self, generator):
        """Zero."""
        return torch.zeros(self.network.outputs, dtype=torch.float64)

    def features(self, body, inputs):
        """The last hidden layer."""
        return self.network.features(body, inputs)

    def body_objective(self, body, head, batch):
        """Half the mean squared error of the query rows."""
        query = batch["validation"]
        return 0.5 * (self.predict(body, head, query.inputs) - query.targets).square().mean()


class PlainLoop:
    """What one would write, from the initial body of a seed."""

    def __init__(self, problem: Tasks, body: dict[str, torch.Tensor]) -> None:
        self.network, self.groups = problem.network, problem.groups
        self.body = {name: leaf.clone().requires_grad_() for name, leaf in body.items()}
        self.optimizer = torch.optim.Adam(self.body.values(), lr=LR)

    def advance(self, count: int) -> None:
        """Make `count` steps."""
        (x, y), (inputs, targets) = self.groups["train"], self.groups["validation"]
        for _ in range(count):
            self.optimizer.zero_grad()
            z = self.network.features(self.body, x)
            n, m = z.shape[1:]
            matrix = z.mT @ z / n + RIDGE * torch.eye(m, dtype=z.dtype)
            head = torch.linalg.solve(matrix, z.mT @ y.unsqueeze(2) / n)
            found = self.network.features(self.body, inputs) @ head
            loss = 0.5 * (found.squeeze(2) - targets).square().mean()
            loss.backward()
            self.optimizer.step()


def training(problem: Tasks, seeds: int) -> Training:
    """That of `solve`, without records."""
    strategy = bilevel.BestResponse(LR, optimizer=bilevel.Adam()).fitted(problem)
    data = TrainingData(problem, range(seeds), torch.float64, "cpu")
    return Training(strategy, data, None)


def loops(problem: Tasks, ours: Training) -> list[PlainLoop]:
    """A plain loop for each run, from where it stands."""
    body = ours.state.strategy.body
    return [
        PlainLoop(problem, {name: leaf[run] for name, leaf in body.items()})
        for run in range(len(ours.data.seeds))
    ]


def check(problem: Tasks, steps: int = 20) -> float:
    """The largest difference between the bodies of both after some steps."""
    ours = training(problem, 2)
    plain = loops(problem, ours)
    for one in [*ours.cohorts, *plain]:
        one.advance(steps)
    return max(
        float((leaf[run] - plain[run].body[name].detach()).abs().max())
        for name, leaf in ours.state.strategy.body.items()
        for run in range(2)
    )


def milliseconds(sides, steps: int, runs: int) -> float:
    """CPU time of a step and run."""
    begin = time.process_time()
    for side in sides:
        side.advance(steps)
    return (time.process_time() - begin) / steps / runs * 1e3


def processor() -> str:
    """The name of the processor, where the system tells it."""
    places = pathlib.Path("/proc/cpuinfo")
    lines = places.read_text().splitlines() if places.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


SIZES = {
    "60 tasks, 1-40-16, 10 + 15 rows": lambda: Tasks(1, Network((40, 16)), 60, 10, 15),
    "16 tasks, 32-64-64, 10 + 15 rows": lambda: Tasks(32, Network((64, 64)), 16, 10, 15),
    "16 tasks, 32-64-64, 50 + 50 rows": lambda: Tasks(32, Network((64, 64)), 16, 50, 50),
}


def main() -> None:
    """Print a line for each size and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; torch {torch.__version__}")
    print(f"{'':34} {'seeds':>5} {'plain loop':>12} {'solve':>9} {'ratio':>6}")
    for name, make in SIZES.items():
        problem = make()
        far = check(problem)
        assert far < 1e-10, f"the bodies differ by {far}"
        for seeds in SEEDS:
            ours = training(problem, seeds)
            sides = {"plain": loops(problem, ours), "ours": ours.cohorts}
            times = {side: [] for side in sides}
            for _ in range(options.rounds + 1):
                for side, made in sides.items():
                    times[side].append(milliseconds(made, options.steps, seeds))
            plain, mine = (times[side][1:] for side in sides)
            ratio = statistics.median(b / a for a, b in zip(plain, mine, strict=True))
            first, second = statistics.median(plain), statistics.median(mine)
            print(f"{name:34} {seeds:>5} {first:>9.3f} ms {second:>6.3f} ms {ratio:>6.2f}")


if __name__ == "__main__":
    main()
