"""What does a step of 64 penalties of a softmax head cost beside LBFGS and conjugate gradients?

The 64 pixels of scikit-learn's digits, 1,198 rows and the cross-entropy F of 599 others; and 2,000
rows of 64 features in 10 classes that are drawn, 1,000 others for F: features that are correlated
(X'X/n of condition 650), or independent. A log-penalty for each feature, float64. The loop
one would write finds the head by `torch.optim.LBFGS` (strong Wolfe) and the adjoint by CG on
products of autograd, each from where the step before ended, to a gradient that is right to 1e-6.
Ours: a step of `BestResponse` with `Newton` and `Implicit`, its update included, to the same
error; and an evaluation of `minimize` at bodies that move as much, as exact as rounding. Errors of
the last gradients are printed.

CPU time of a step, one thread, interleaved, medians of ratios.

Run: `make bench BENCH=softmax_penalties`, or
`python benchmarks/softmax_penalties.py [--rounds 9] [--steps 10]`.
"""

import argparse

import numpy as np
import torch
from contest import contest, machine
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.point.walk import Walk
from bilevel.training.cohort import Cohort

ROWS, OTHERS, FEATURES, RELEVANT, CLASSES = 2_000, 1_000, 64, 20, 10
LR, START = 1e-2, -5.0
HEAD_TOLERANCE, ADJOINT_TOLERANCE, OURS = 1e-8, 1e-7, 5e-8
"""Of the largest entry of the gradient, of CG relative to its right side, and of `Newton`."""
SMALLEST = {"correlated": -1.4, "independent": 0.0}
"""As a power of ten: the smallest singular value of what mixes the features."""


def pixels() -> dict[str, bilevel.Batch]:
    """Two thirds of the digits, and the others."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = torch.from_numpy(x[order] / 16), torch.from_numpy(y[order]).long()
    split = 2 * len(y) // 3
    return {
        "train": bilevel.Batch(x[:split], y[:split]),
        "validation": bilevel.Batch(x[split:], y[split:]),
    }


def drawn(smallest: float) -> dict[str, bilevel.Batch]:
    """Mixed normal features; noisy labels of the first ones. `smallest`: see `SMALLEST`."""
    source = np.random.default_rng(0)
    turn = np.linalg.qr(source.standard_normal((FEATURES, FEATURES)))[0]
    mix = turn * np.geomspace(1, 10**smallest, FEATURES) @ turn.T
    mix /= np.linalg.norm(mix, axis=0)
    w, groups = source.standard_normal((RELEVANT, CLASSES)), {}
    for name, rows in (("train", ROWS), ("validation", OTHERS)):
        x = source.standard_normal((rows, FEATURES))
        noise = 2.0 * source.gumbel(size=(rows, CLASSES))
        labels = (x[:, :RELEVANT] @ w + noise).argmax(1)
        groups[name] = bilevel.Batch(torch.from_numpy(x @ mix), torch.from_numpy(labels))
    return groups


class Penalties(bilevel.LinearHeadProblem):
    """A log-penalty for each feature."""

    body_free_features = True
    criterion = bilevel.SoftmaxLoss()
    outputs = CLASSES

    def __init__(self, groups: dict[str, bilevel.Batch]) -> None:
        self.groups = groups

    def data(self, seed=None):
        """The rows."""
        return self.groups

    def init_body(self, generator):
        """All alike."""
        return torch.full((FEATURES,), START, dtype=torch.float64)

    def init_head(self, generator):
        """Zero."""
        return torch.zeros(FEATURES, CLASSES, dtype=torch.float64)

    def features(self, inputs):
        """The inputs."""
        return inputs

    def penalty(self, body):
        """exp of the body."""
        return body.exp()

    def body_objective(self, body, head, batch):
        """The cross-entropy of the validation rows."""
        rows = batch["validation"]
        return functional.cross_entropy(rows.inputs @ head, rows.targets)


class Moving:
    """Steps of RMSProp along the gradients of a subclass."""

    def __init__(self, problem: Penalties) -> None:
        self.problem, self.body = problem, problem.init_body(None)
        self.squares = torch.zeros_like(self.body)
        self.last = (self.body, self.gradient(self.body))

    def gradient(self, body: Tensor) -> Tensor:
        """grad Phi."""
        raise NotImplementedError

    def advance(self, count: int) -> None:
        """Make steps."""
        for _ in range(count):
            slope = self.gradient(self.body)
            self.last = self.body, slope
            self.squares.mul_(0.99).addcmul_(slope, slope, value=0.01)
            self.body = self.body - LR * slope / (self.squares.sqrt() + 1e-8)


class PlainLoop(Moving):
    """LBFGS and CG by hand, from the last head and the last adjoint."""

    def __init__(self, problem: Penalties) -> None:
        self.head = problem.init_head(None).requires_grad_()
        self.adjoint = torch.zeros_like(self.head)
        super().__init__(problem)

    def gradient(self, body: Tensor) -> Tensor:
        """grad Phi."""
        (x, y), (z, t) = self.problem.groups["train"], self.problem.groups["validation"]
        w, head = body.clone().requires_grad_(), self.head

        def g() -> Tensor:
            return (
                functional.cross_entropy(x @ head, y)
                + 0.5 * (w.exp().unsqueeze(1) * head * head).sum()
            )

        optimizer = torch.optim.LBFGS(
            [head], max_iter=1_000, tolerance_grad=HEAD_TOLERANCE, tolerance_change=0.0,
            history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = g()
            value.backward(inputs=[head])
            return value

        optimizer.step(closure)
        slope = torch.autograd.grad(g(), head, create_graph=True)[0]
        (right,) = torch.autograd.grad(functional.cross_entropy(z @ head, t), head)

        def product(vector: Tensor) -> Tensor:
            return torch.autograd.grad(slope, head, vector, retain_graph=True)[0]

        self.adjoint = by_cg(product, right, self.adjoint)
        return -torch.autograd.grad(slope, w, self.adjoint)[0]


def by_cg(product, right: Tensor, start: Tensor) -> Tensor:
    """H^{-1} b by conjugate gradients."""
    found, left = start, right - product(start)
    along, square = left, left.square().sum()
    stop = ADJOINT_TOLERANCE**2 * right.square().sum()
    while square > stop:
        curved = product(along)
        length = square / (along * curved).sum()
        found, left = found + length * along, left - length * curved
        now = left.square().sum()
        along, square = left + now / square * along, now
    return found


class Evaluated(Moving):
    """What `minimize` asks at a body."""

    def __init__(self, problem: Penalties) -> None:
        self.walk = Walk(TrainingData(problem, [0], torch.float64, "cpu"), None, None, None)
        super().__init__(problem)

    def gradient(self, body: Tensor) -> Tensor:
        """grad Phi."""
        return self.walk(body).slope


class Trained(Moving):
    """A step of `BestResponse`, that of `solve` without records; the error is of its gradient."""

    def __init__(self, problem: Penalties) -> None:
        self.solver = bilevel.Newton(OURS)
        strategy = bilevel.BestResponse(LR, self.solver, bilevel.Implicit()).fitted(problem)
        made = Assembly.of(TrainingData(problem, [0], torch.float64, "cpu"))
        self.cohort = Cohort(made, strategy)

    def advance(self, count: int) -> None:
        """Make steps."""
        self.cohort.advance(count)

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """The body, and its gradient at the head of the state."""
        cohort, state = self.cohort, self.cohort.state.strategy
        at = (cohort.oracles, state.body)
        answer = bilevel.Answer(state.head, self.solver, state.start, 0, state.factor)
        found = bilevel.Implicit().gradient(*at, answer, cohort.sampler.rows(0), state.gradient)
        return state.body[0], found.body[0]


def error(problem: Penalties, side: Moving) -> float:
    """Of the last gradient, relative, against one that is as near as rounding."""
    body, found = side.last
    solver = bilevel.Newton(tolerance=1e-14)
    method = bilevel.Implicit(bilevel.Dense())
    true = bilevel.hypergradient(problem, body, method, solver=solver, bound=False).body
    return float((found - true).norm() / true.norm())


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = {"digits": pixels()}
    data |= {f"{name} features": drawn(smallest) for name, smallest in SMALLEST.items()}
    for name, groups in data.items():
        problem = Penalties(groups)
        sides = {
            "LBFGS and CG": PlainLoop(problem),
            "BestResponse": Trained(problem),
            "minimize": Evaluated(problem),
        }
        print(f"{name}; {machine()}")
        runs = {side: (made, 1) for side, made in sides.items()}
        contest(runs, steps=options.steps, rounds=options.rounds, warm_up=3)
        for side, made in sides.items():
            print(f"  relative error of {side}: {error(problem, made):.0e}")


if __name__ == "__main__":
    main()
