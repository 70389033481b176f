"""What do a gradient and a head at a single point cost, with their bounds and without?

Ridge: 200 log-penalties on 2,000 + 1,000 rows, well conditioned and badly: `hypergradient`, and
what one would write: LBFGS for the head and conjugate gradients for the adjoint, to a relative
error of 1e-8 in the gradient. Below it the limit, one Cholesky factor of a Gram matrix by hand.

Features: a head on 2,000 x 200 features that are the body, with squared errors and with five
classes: `Implicit()` with its bound, and without. Heads of the catalogue: `best_response`.

CPU milliseconds of one thread, sides in turns; a ratio is the median of those of all rounds.

Run: `make bench BENCH=point`, or `python benchmarks/point.py [--rounds 7] [--only ridge]`.
"""

import argparse
import statistics
import time

import torch

import bilevel
from problems.classification import digits
from problems.regression import friedman1

ROWS, VALIDATION, FEATURES = 2000, 1000, 200
TASKS = {"cond 3": (0.0, -2.0), "cond 600": (1.4, -8.0)}
"""By which power of ten the scales of the columns fall, and the log-penalties."""


class _Penalties(bilevel.LinearHeadProblem):
    """A penalty for each feature, judged by validation rows."""

    body_free_features = True

    def __init__(self, fall, start):
        generator = torch.Generator().manual_seed(0)
        scales = torch.logspace(0, -fall, FEATURES, dtype=torch.float64)
        truth = torch.randn(20, generator=generator, dtype=torch.float64)
        self.start = torch.full((FEATURES,), start, dtype=torch.float64)
        self.groups = {}
        for name, count in (("train", ROWS), ("validation", VALIDATION)):
            x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64) * scales
            noise = torch.randn(count, generator=generator, dtype=torch.float64)
            self.groups[name] = bilevel.Batch(x, x[:, :20] @ truth + 0.5 * noise)

    def data(self, seed=None):
        return self.groups

    def init_body(self, generator):
        return self.start.clone()

    def init_head(self, generator):
        return torch.zeros(FEATURES, dtype=torch.float64)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body.exp()

    def body_objective(self, body, head, batch):
        x, y = batch["validation"]
        return 0.5 * (x @ head - y).square().mean()


def by_descent(problem, w):
    """LBFGS for the head, conjugate gradients for the adjoint."""
    (x, y), (xv, yv) = problem.groups["train"], problem.groups["validation"]

    def g(head, w):
        return 0.5 * (x @ head - y).square().mean() + 0.5 * (w.exp() * head.square()).sum()

    head = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    settings = {"max_iter": 20000, "max_eval": 40000, "tolerance_grad": 1e-9}
    found = torch.optim.LBFGS([head], tolerance_change=0, line_search_fn="strong_wolfe", **settings)

    def closure():
        found.zero_grad()
        loss = g(head, w)
        loss.backward()
        return loss

    found.step(closure)
    head, w = head.detach().requires_grad_(), w.clone().requires_grad_()
    (slope,) = torch.autograd.grad(g(head, w), head, create_graph=True)
    (right,) = torch.autograd.grad(0.5 * (xv @ head - yv).square().mean(), head)
    adjoint = torch.zeros_like(right)
    left = along = right
    square = left @ left
    stop = 1e-18 * square
    while square > stop:
        (product,) = torch.autograd.grad(slope, head, along, retain_graph=True)
        length = square / (along @ product)
        adjoint, left = adjoint + length * along, left - length * product
        before, square = square, left @ left
        along = left + square / before * along
    return -torch.autograd.grad(slope, w, adjoint)[0]


def by_factor(problem, w):
    """One factor for the head and the adjoint."""
    (x, y), (xv, yv) = problem.groups["train"], problem.groups["validation"]
    hessian = x.mT @ x / ROWS
    hessian.diagonal().add_(w.exp())
    factor = torch.linalg.cholesky(hessian)
    head = torch.cholesky_solve((x.mT @ y / ROWS).unsqueeze(1), factor)
    right = xv.mT @ (xv @ head - yv.unsqueeze(1)) / VALIDATION
    adjoint = torch.cholesky_solve(right, factor)
    return -(w.exp() * (head * adjoint).squeeze(1))


class _Rows(bilevel.LinearHeadProblem):
    """A head on features that are the body."""

    def __init__(self, features, targets, **settings):
        self.inputs, self.targets = features, targets
        for name, value in settings.items():
            setattr(self, name, value)

    def data(self, seed=None):
        return {"train": bilevel.Batch(self.inputs, self.targets)}

    def init_body(self, generator):
        return self.inputs.clone()

    def init_head(self, generator):
        return self.inputs.new_zeros(self.head_shape(self.inputs.shape[1]))

    def features(self, body, inputs):
        return body

    def penalty(self, body):
        return 0.1

    def body_objective(self, body, head, batch):
        return head.square().sum()


def contest(sides, rounds):
    """Print milliseconds of each side, and how many times faster than the first it is."""
    times = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            begin = time.process_time()
            side()
            times[name].append((time.process_time() - begin) * 1e3)
    first, *_ = times.values()
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(first[1:], found[1:], strict=True))
        print(f"  {name:<32} {statistics.median(found[1:]):>10.2f} ms {ratio:>8.2f}", flush=True)


def ridge(rounds):
    """Penalties of a ridge regression."""
    for name, task in TASKS.items():
        problem = _Penalties(*task)
        w, exact = problem.start, by_factor(problem, problem.start)
        sides = {
            "LBFGS and CG by hand": lambda p=problem, w=w: by_descent(p, w),
            "hypergradient": lambda p=problem, w=w: bilevel.hypergradient(p, w).body,
            "hypergradient(bound=False)": lambda p=problem, w=w: (
                bilevel.hypergradient(p, w, bound=False).body
            ),
            "one factor by hand": lambda p=problem, w=w: by_factor(p, w),
        }
        print(f"ridge, 200 penalties, {name}")
        for side, made in sides.items():
            off = float((made() - exact).norm() / exact.norm())
            # line searches of LBFGS end at the rounding of g, which the condition magnifies
            assert off < (1e-5 if "LBFGS" in side else 1e-10), f"{side}: {off}"
        contest(sides, rounds)


def features(rounds):
    """Features as the body."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64)
    labels = torch.arange(ROWS) % 5
    problems = {
        "squared errors": _Rows(z, z.sum(1)),
        "five classes": _Rows(z, labels, criterion=bilevel.SoftmaxLoss(), outputs=5),
    }
    for name, problem in problems.items():
        print(f"2,000 x 200 features as the body, {name}")
        contest(
            {
                "hypergradient(bound=False)": lambda p=problem: bilevel.hypergradient(
                    p, z, bound=False
                ),
                "hypergradient": lambda p=problem: bilevel.hypergradient(p, z),
            },
            rounds,
        )


def heads(rounds):
    """Heads of the catalogue, at their initial bodies."""
    for name, problem in {"friedman1": friedman1(), "digits": digits()}.items():
        body = problem.init_body(torch.Generator().manual_seed(0))
        print(f"best_response, {name}")
        contest(
            {
                "bound=False": lambda p=problem, w=body: bilevel.best_response(p, w, bound=False),
                "with its bound": lambda p=problem, w=body: bilevel.best_response(p, w),
            },
            rounds,
        )


PARTS = {"ridge": ridge, "features": features, "heads": heads}


def main():
    """Print a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            part(arguments.rounds)


if __name__ == "__main__":
    main()
