"""What does a step of `BestResponse` with `ClosedForm` cost beside the loop one would write?

friedman1: a 10-64-1 ReLU network, a batch of 64 rows for the body in float32, the head solved on
all 800 rows in float64, RMSProp. The loop one would write: autograd at the head, `torch.optim`, the
Gram matrix and `torch.linalg.solve`, one seed after another; both make the same bodies, which is
checked first. CPU time of a step and seed, one thread, interleaved, medians of ratios; beside them
JAX (`vmap`, `scan`) after `make bench-peers`.

With `--scaling`, how a step grows with rows and with runs instead; with `--memory`, the peak of a
training of 2,000 seeds.

Run: `make bench BENCH=best_response`, or
`python benchmarks/best_response.py [--rounds 9] [--eager] [--scaling] [--memory]`.
"""

import argparse
import resource
import statistics

import peer
import torch
from contest import Contender, contest, machine, seconds_per_step
from torch import Tensor

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort
from problems.regression import friedman1

SEEDS, BATCH, LR, RIDGE, MANY = 10, 64, 5e-4, 1e-4, 2_000


class PlainLoop:
    """What one would write, for one seed, from its initial body and on its rows.

    Args:
        ours: the training whose bodies it should make.
        run: which of its runs.
    """

    def __init__(self, ours: Cohort, run: int) -> None:
        train = ours.sampler.full.of_run(run)["train"]
        self.inputs, self.targets = train.inputs, train.targets
        self.exact = train.targets.double()
        self.body = {
            name: leaf[run].clone().requires_grad_()
            for name, leaf in ours.state.strategy.body.items()
        }
        self.optimizer = torch.optim.RMSprop(self.body.values(), lr=LR)
        self.rows = self.drawn
        self.solve()

    def drawn(self, k: int) -> Tensor:
        """Rows of step k."""
        return torch.randint(len(self.targets), (BATCH,))

    def features(self, inputs: Tensor) -> Tensor:
        """The hidden layer and a constant."""
        hidden = torch.relu(inputs @ self.body["weight1"] + self.body["bias1"])
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1)

    def solve(self) -> None:
        """The head on all rows."""
        with torch.no_grad():
            z = self.features(self.inputs).double()
            penalty = torch.full((z.shape[1],), RIDGE, dtype=z.dtype)
            penalty[-1] = 0
            matrix = z.T @ z / len(z) + torch.diag(penalty)
            self.head = torch.linalg.solve(matrix, z.T @ self.exact / len(z)).to(self.inputs)

    def advance(self, count: int) -> None:
        """Make `count` steps."""
        for k in range(count):
            rows = self.rows(k)
            self.optimizer.zero_grad()
            error = self.features(self.inputs[rows]) @ self.head - self.targets[rows]
            (0.5 * error.square().mean()).backward()
            self.optimizer.step()
            self.solve()


def training(runs: int, *, rows: int = 800, compile: bool = False, exact: bool = False) -> Cohort:
    """That of `solve`, without records."""
    problem = friedman1(ridge=RIDGE, train=rows)
    dtype = torch.float64 if exact else torch.float32
    data = TrainingData(problem, range(runs), dtype, "cpu")
    strategy = bilevel.BestResponse(LR).fitted(problem)
    return Cohort(Assembly.of(data, BATCH), strategy, compile=compile)


def check(steps: int = 20) -> float:
    """The largest difference between the bodies of both after some steps, in float64."""
    ours = training(2, exact=True)
    plain = [PlainLoop(ours, run) for run in range(2)]
    ours.advance(steps)
    for run, loop in enumerate(plain):
        loop.rows = lambda k, run=run: ours.sampler.draw(k).indices["train"][run]
        loop.advance(steps)
    return max(
        float((leaf[run] - loop.body[name].detach()).abs().max())
        for name, leaf in ours.state.strategy.body.items()
        for run, loop in enumerate(plain)
    )


def scaling(rounds: int) -> None:
    """Print how a step grows with rows and with runs."""
    for what, sides in (
        ("rows, 1 run", {n: (training(1, rows=n), n) for n in (800, 3_200, 12_800, 50_000)}),
        ("runs, 800 rows", {r: (training(r), r) for r in (1, 10, 30, 100)}),
    ):
        found: dict[int, list[float]] = {size: [] for size in sides}
        for turn in range(rounds + 1):
            for size, (cohort, share) in sides.items():
                steps = max(1, 100 * 800 // size if "rows" in what[:4] else 100 // size)
                seconds = seconds_per_step(cohort, steps) / share
                if turn:
                    found[size].append(seconds)
        least = found[min(sides)]
        for size, times in found.items():
            ratio = statistics.median(b / a for a, b in zip(least, times, strict=True))
            each = statistics.median(times) * 1e6
            print(f"{size:6} {what:15} {each:9.3f} us each, {ratio:.2f} of the smallest's")


def memory() -> None:
    """Print the peak memory of this process after a few steps of many seeds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bilevel.solve(
        friedman1(ridge=RIDGE),
        bilevel.BestResponse(LR),
        steps=3,
        every=3,
        seeds=MANY,
        batch_size=BATCH,
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{MANY} seeds: peak {after / 1024:.0f} MB, {before / 1024:.0f} of them imports")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--eager", action="store_true", help="leave the compiled training out")
    parser.add_argument("--scaling", action="store_true", help="rows and runs")
    parser.add_argument("--memory", action="store_true", help="peak memory of this process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        memory()
        return
    if options.scaling:
        scaling(options.rounds)
        return
    print(f"bodies differ by at most {check():.0e}; {machine()}")
    contenders: dict[str, tuple[Contender, int]] = {
        "plain loop (one seed)": (PlainLoop(training(1), 0), 1)
    }
    for compile in (False, True)[: 2 - options.eager]:
        name = "best response, compiled" if compile else "best response"
        contenders[name] = (training(SEEDS, compile=compile), SEEDS)
    if peer.installed():
        peers = peer.Peers(
            "best_response", columns=10, width=64, rows=800, batch=BATCH, seeds=SEEDS,
            steps=options.steps, alpha=LR, ridge=RIDGE,
        )  # fmt: skip
        contenders["JAX"] = (peer.PeerTraining(peers, "steps", options.steps), SEEDS)
    contest(contenders, steps=options.steps, rounds=options.rounds, warm_up=3)


if __name__ == "__main__":
    main()
