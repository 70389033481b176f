"""What does the gradient of 200 ridge penalties cost beside LBFGS and conjugate gradients by hand?

2,000 rows of 200 features, F half the mean squared error of 1,000 others, penalties of 10^-2,
float64, features of one scale (condition 3.5); or 10^-3.4 and scales from 1 to 10^-1.4 (608). The
loop one would write finds the head by `torch.optim.LBFGS` and the adjoint by CG on products of
autograd, both from zero, to an error in the gradient that is printed. Ours: a step of
`BestResponse` with `ClosedForm` and `Implicit`, its RMSProp update included; the limit is such a
step by hand. All errors are printed, against the closed form.

CPU time of a gradient and run, one thread, interleaved, medians of ratios; beside them JAX (a
Cholesky factor of the kept Gram matrix) and jaxopt (LBFGS and CG) after `make bench-peers`.

Run: `make bench BENCH=hypergradient`, or
`python benchmarks/hypergradient.py [--rounds 9] [--eager]`.
"""

import argparse
import math
import pathlib
import tempfile

import numpy as np
import peer
import torch
from contest import Contender, contest, machine, seconds_per_step
from torch import Tensor

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.training.cohort import Cohort

ROWS, OTHERS, FEATURES, LR, SEEDS = 2_000, 1_000, 200, 1e-2, 10
SETTINGS = {"3.5": (0.0, -2.0, -9.0), "608": (-1.4, -3.41, -11.0)}
"""As powers of ten, by condition: the smallest scale of a feature, the penalties, and the tolerance
of LBFGS, and a tenth of that of CG. An error of 1e-8 in the gradient is reached in the first."""


class Penalties(bilevel.LinearHeadProblem):
    """One log-penalty for each feature.

    Args:
        smallest: scales of the features go from 1 to 10 to this power.
        start: the first penalties are 10 to this power.
        tolerance: of LBFGS, 10 to this power.
    """

    body_free_features = True

    def __init__(self, smallest: float, start: float, tolerance: float) -> None:
        self.start, self.tolerance = start * math.log(10), 10**tolerance
        source = np.random.default_rng(0)
        scales = np.geomspace(1, 10**smallest, FEATURES)
        w = source.standard_normal(20)
        self.groups = {}
        for name, rows in (("train", ROWS), ("validation", OTHERS)):
            x = source.standard_normal((rows, FEATURES))
            y = x[:, :20] @ w + 0.5 * source.standard_normal(rows)
            arrays = (torch.from_numpy(x * scales), torch.from_numpy(y))
            self.groups[name] = bilevel.Batch(*arrays)

    def data(self, seed=None):
        """The rows."""
        return self.groups

    def init_body(self, generator):
        """All alike."""
        return torch.full((FEATURES,), self.start, dtype=torch.float64)

    def init_head(self, generator):
        """Zero."""
        return torch.zeros(FEATURES, dtype=torch.float64)

    def features(self, inputs):
        """The inputs."""
        return inputs

    def penalty(self, body):
        """exp of the body."""
        return body.exp()

    def body_objective(self, body, head, batch):
        """Half the mean squared error of the validation rows."""
        rows = batch["validation"]
        return 0.5 * (rows.inputs @ head - rows.targets).square().mean()


class Limit:
    """A step by hand: the Gram matrix kept, one Cholesky factor for head and adjoint."""

    def __init__(self, problem: Penalties) -> None:
        (x, y), (self.z, t) = problem.groups["train"], problem.groups["validation"]
        self.gram, self.moment = x.T @ x / ROWS, x.T @ y.unsqueeze(1) / ROWS
        self.t = t.unsqueeze(1)
        self.body = problem.init_body(None)
        self.squares = torch.zeros_like(self.body)

    def gradient(self, body: Tensor) -> Tensor:
        """grad Phi."""
        penalty, matrix = body.exp(), self.gram.clone()
        matrix.diagonal().add_(penalty)
        factor = torch.linalg.cholesky(matrix)
        head = torch.cholesky_solve(self.moment, factor)
        right = self.z.T @ (self.z @ head - self.t) / OTHERS
        return -(penalty * head[:, 0] * torch.cholesky_solve(right, factor)[:, 0])

    def advance(self, count: int) -> None:
        """Steps of RMSProp."""
        for _ in range(count):
            slope = self.gradient(self.body)
            self.squares.mul_(0.99).addcmul_(slope, slope, value=0.01)
            self.body = self.body - LR * slope / (self.squares.sqrt() + 1e-8)


class PlainLoop:
    """LBFGS and CG by hand."""

    def __init__(self, problem: Penalties) -> None:
        self.problem, self.body = problem, problem.init_body(None)
        self.squares = torch.zeros_like(self.body)

    def gradient(self, body: Tensor) -> Tensor:
        """grad Phi."""
        (x, y), (z, t) = self.problem.groups["train"], self.problem.groups["validation"]
        w = body.clone().requires_grad_()

        def g(head: Tensor) -> Tensor:
            return 0.5 * (x @ head - y).square().mean() + 0.5 * (w.exp() * head * head).sum()

        head = solved(g, body, self.problem.tolerance)
        slope = torch.autograd.grad(g(head), head, create_graph=True)[0]
        (right,) = torch.autograd.grad(0.5 * (z @ head - t).square().mean(), head)

        def product(vector: Tensor) -> Tensor:
            return torch.autograd.grad(slope, head, vector, retain_graph=True)[0]

        return -torch.autograd.grad(slope, w, by_cg(product, right, 10 * self.problem.tolerance))[0]

    advance = Limit.advance


def solved(g, like: Tensor, tolerance: float) -> Tensor:
    """The head by LBFGS."""
    head = torch.zeros_like(like, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [head], max_iter=20_000, max_eval=40_000, tolerance_grad=tolerance, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = g(head)
        value.backward(inputs=[head])
        return value

    optimizer.step(closure)
    return head.detach().requires_grad_()


def by_cg(product, right: Tensor, tolerance: float, steps: int = 5_000) -> Tensor:
    """H^{-1} b by conjugate gradients."""
    found, left, along = torch.zeros_like(right), right, right
    square = left @ left
    stop = tolerance**2 * square
    for _ in range(steps):
        curved = product(along)
        length = square / (along @ curved)
        found, left = found + length * along, left - length * curved
        now = left @ left
        if now < stop:
            break
        along, square = left + now / square * along, now
    return found


class Dear:
    """One step of a side stands for all."""

    def __init__(self, side: PlainLoop) -> None:
        self.side = side

    def advance(self, count: int) -> float:
        """CPU seconds."""
        return count * seconds_per_step(self.side, 1)


class PeerGradient:
    """A contender: the gradient at the initial body, as often as steps are asked for."""

    def __init__(self, peers: peer.Peers, piece: str) -> None:
        self.peers, self.piece = peers, piece

    def advance(self, count: int) -> float:
        """CPU seconds."""
        return sum(self.peers.do(self.piece)[0] for _ in range(count))


def training(problem: Penalties, runs: int, *, compile: bool = False) -> Cohort:
    """That of `solve`, without records."""
    strategy = bilevel.BestResponse(LR, gradient=bilevel.Implicit()).fitted(problem)
    data = TrainingData(problem, range(runs), torch.float64, "cpu")
    return Cohort(Assembly.of(data), strategy, compile=compile)


def exact(problem: Penalties) -> Tensor:
    """grad Phi at the initial body, by a dense solve."""
    (x, y), (z, t) = problem.groups["train"], problem.groups["validation"]
    penalty = problem.init_body(None).exp()
    matrix = x.T @ x / ROWS + torch.diag(penalty)
    head = torch.linalg.solve(matrix, x.T @ y / ROWS)
    return -penalty * head * torch.linalg.solve(matrix, z.T @ (z @ head - t) / OTHERS)


def check(problem: Penalties, steps: int = 3) -> None:
    """Print the errors of all gradients at the initial body."""
    true, body = exact(problem), problem.init_body(None)
    ours = training(problem, 1)
    answer = bilevel.hypergradients.Answer
    state = ours.state.strategy
    strategy = ours.strategy
    told = strategy.gradient.gradient(
        ours.oracles, state.body, answer(state.head, strategy.solver, state.start, 0, state.factor),
        ours.sampler.rows(0), state.gradient,
    )  # fmt: skip
    sides = {
        "LBFGS and CG": PlainLoop(problem).gradient(body),
        "by hand": Limit(problem).gradient(body),
        "Implicit": told.body[0],
    }
    for name, found in sides.items():
        print(f"  relative error of {name}: {float((found - true).norm() / true.norm()):.0e}")


def of_peers(problem: Penalties) -> dict[str, PeerGradient]:
    """The gradients of others at the initial body, with their errors printed."""
    (x, y), (z, t) = problem.groups["train"], problem.groups["validation"]
    arrays = {"x": x, "y": y, "x_new": z, "y_new": t, "body": problem.init_body(None)}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rows.npz"
        np.savez(file, **{name: array.numpy() for name, array in arrays.items()})
        peers = peer.Peers("ridge_hypergradient", file=str(file))
    true = exact(problem)
    for name in peers.pieces:
        found = torch.tensor(peers.do(name)[1], dtype=torch.float64)
        print(f"  relative error of {name}: {float((found - true).norm() / true.norm()):.0e}")
    return {name: PeerGradient(peers, name) for name in peers.pieces}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--eager", action="store_true", help="leave compiled trainings out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for condition, setting in SETTINGS.items():
        problem = Penalties(*setting)
        print(f"condition {condition}; {machine()}")
        check(problem)
        sides: dict[str, tuple[Contender, int]] = {"LBFGS and CG": (Dear(PlainLoop(problem)), 1)}
        for runs in (1, SEEDS):
            for compile in (False, True)[: 2 - options.eager]:
                name = f"ours, {runs} run{'s' * (runs > 1)}{', compiled' * compile}"
                sides[name] = (training(problem, runs, compile=compile), runs)
        sides["by hand"] = (Limit(problem), 1)
        if peer.installed():
            sides |= {name: (side, 1) for name, side in of_peers(problem).items()}
        contest(sides, steps=options.steps, rounds=options.rounds, warm_up=2)


if __name__ == "__main__":
    main()
