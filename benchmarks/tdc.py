"""How much faster are 30 seeds of neural TDC as one training than a loop over one run?

The loop: plain tensors and the formulas of Algorithm 1 for two layers, one sample a step, no
automatic differentiation, one run after another. Both draw i.i.d. transitions of a random process
of 30 states; tanh features, M = 5 and 50. Times are per update and run, all loop costs included,
CPU time of one thread, rounds interleaved, medians. JAX (`vmap`, `scan`) stands beside them after
`make bench-peers`.

Run: `make bench BENCH=tdc`, or `python benchmarks/tdc.py [--eager] [--rounds 9] [--steps 260]`.
"""

import argparse

import peer
import torch
from contest import SEEDS, Contender, contest, machine

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort
from problems.mspbe import Known, NeuralMSPBE, random_process
from problems.mspbe.bodies import Layers

ALPHA, BETA, ZETA, LENGTH = 0.01, 0.05, 0.1, 10_000


class UserLoop:
    """What one would write without this library, for one seed.

    Args:
        problem: whose transitions it draws.
        width: M.
    """

    def __init__(self, problem: NeuralMSPBE, width: int) -> None:
        rows = problem.data(0)["train"]
        self.inputs, self.next_inputs = rows.inputs.float(), rows.next_inputs.float()
        self.rewards, self.discount = rows.rewards.float(), problem.discount
        self.weight = torch.randn(self.inputs.shape[1], width)
        self.theta, self.omega = torch.zeros(width), torch.zeros(width)

    def advance(self, count: int) -> None:
        """Make steps."""
        for _ in range(count):
            row = int(torch.randint(LENGTH, ()))
            x, x_next, reward = self.inputs[row], self.next_inputs[row], self.rewards[row]
            theta, omega = self.theta, self.omega
            phi, phi_next = torch.tanh(x @ self.weight), torch.tanh(x_next @ self.weight)
            q = phi @ omega
            delta = reward + self.discount * (phi_next @ theta) - phi @ theta
            here = ((delta - q) * omega - q * theta) * (1 - phi * phi)
            there = self.discount * q * theta * (1 - phi_next * phi_next)
            slope = torch.outer(x, here) + torch.outer(x_next, there)
            self.omega = omega + ZETA * (delta - q) * phi
            self.theta = theta + BETA * (delta * phi - self.discount * q * phi_next)
            self.weight = self.weight - ALPHA * slope


def prepare(problem: NeuralMSPBE, *, compile: bool) -> Cohort:
    """All seeds of Algorithm 1 in float32."""
    data = TrainingData(problem, list(range(SEEDS)), torch.float32, "cpu")
    strategy = bilevel.SingleLoop(ALPHA, BETA, ZETA)
    return Cohort(Assembly.of(data, 1), strategy.fitted(problem), compile=compile)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eager", action="store_true", help="leave the compiled trainings out")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=260, help="steps in a turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    process = random_process()
    for width in (5, 50):
        source = Known(process, "iid", LENGTH)
        problem = NeuralMSPBE(source, Layers(process.inputs.shape[1], (width,)))
        contenders: dict[str, tuple[Contender, int]] = {
            "user's loop (one seed)": (UserLoop(problem, width), 1),
            "one training": (prepare(problem, compile=False), SEEDS),
        }
        if not options.eager:
            contenders["one training, compiled"] = (prepare(problem, compile=True), SEEDS)
        if peer.installed():
            peers = peer.Peers(
                "tdc", columns=process.inputs.shape[1], width=width, rows=LENGTH, seeds=SEEDS,
                steps=options.steps, alpha=ALPHA, beta=BETA, zeta=ZETA, discount=problem.discount,
            )  # fmt: skip
            training = peer.PeerTraining(peers, "steps", options.steps)
            contenders["JAX"] = (training, SEEDS)
        print(f"neural TDC, {SEEDS} seeds, M = {width}, batch 1; {machine()}")
        contest(contenders, steps=options.steps, rounds=options.rounds, warm_up=20)


if __name__ == "__main__":
    main()
