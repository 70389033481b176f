"""How quickly does Newton find the head of a classification, from zero and from the last head?

10,000 rows, 64 features tanh(x W) of 32 inputs, ten classes or two, ridge 1e-3, float64, to
max |gradient| <= 1e-8.

Cold: against `LogisticRegression` of scikit-learn on the same features, without an intercept, by
lbfgs and by newton-cholesky, with the loosest tolerance that reaches as far. Warm: after a step
of 1e-3 times normal numbers in W, against `torch.optim.LBFGS` (strong Wolfe line search) from the
last head. Both are given the features; what Newton takes with the features computed is a line of
its own.

A hundred classes: 20,000 rows, 64 standard normal features, labels by the largest of X B + Gumbel
noise, cold, against lbfgs. A training: steps of `BestResponse` on `digits` at its defaults, 20
runs, after 60 of them, as `bilevel compare digits` makes them, and what the heads take of it.

CPU seconds of one thread, rounds interleaved, medians; the gradients that were reached are computed
in NumPy.

Run: `make bench BENCH=newton`, or `python benchmarks/newton.py [--rounds 7]`.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import bilevel
from bilevel import trees
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.heads.newton import descent
from bilevel.heads.newton.runs import Runs
from bilevel.training.training import Training
from problems.classification import digits

ROWS, INPUTS, FEATURES, RIDGE, GOAL = 10_000, 32, 64, 1e-3, 1e-8
TOLERANCES = [10.0**-k for k in range(8, 16)]
NEEDED = {"lbfgs": {2: None, 10: 1.0, 100: 2.3}, "newton-cholesky": {2: 1.5, 10: 1.0}}
RUNS, WARM_STEPS, STEPS = 20, 60, 5


class Classes(bilevel.LinearHeadProblem):
    """Noisy labels of a random teacher; the body W, or the features as they are."""

    ridge = RIDGE

    def __init__(self, inputs, labels, classes, weight=None):
        self.batch, self.weight = bilevel.Batch(inputs, labels), weight
        self.body_free_features = weight is None
        self.outputs = None if classes == 2 else classes
        self.criterion = bilevel.LogisticLoss() if classes == 2 else bilevel.SoftmaxLoss()

    def data(self, seed=None):
        """The training rows."""
        return {"train": self.batch}

    def init_body(self, generator):
        """W, or a number that nothing depends on."""
        return torch.zeros((), dtype=torch.float64) if self.weight is None else self.weight

    def init_head(self, generator):
        """Zeros."""
        return torch.zeros(self.head_shape(FEATURES), dtype=torch.float64)

    def features(self, *given):
        """tanh(x W), or the inputs."""
        return given[0] if len(given) == 1 else torch.tanh(given[1] @ given[0])


class Heads:
    """Newton on one run of a problem."""

    def __init__(self, problem, tolerance=GOAL):
        made = Assembly.of(TrainingData(problem, [0], torch.float64, "cpu"))
        self.oracles, self.rows = made.oracles, made.sampler.full
        self.body, self.zeros = made.body, made.head
        self.solver = bilevel.Newton(tolerance)

    def cold(self):
        """From zero, without a factor."""
        memory = self.solver.init(self.oracles, self.body, self.zeros, self.rows)
        return self.solver.solve(self.oracles, self.body, self.zeros, self.rows, memory, 0)

    def warm(self, body, last):
        """From the last head and its factor."""
        return self.solver.solve(self.oracles, body, last.head, self.rows, last.state, 1)


def made(classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, labels and W."""
    source = np.random.default_rng(classes)
    x = source.standard_normal((ROWS, INPUTS))
    scores = np.tanh(x @ source.standard_normal((INPUTS, 30))) @ source.standard_normal(
        (30, classes)
    )
    labels = (scores + source.standard_normal(scores.shape)).argmax(1)
    weight = source.standard_normal((INPUTS, FEATURES)) / INPUTS**0.5
    return torch.from_numpy(x), torch.from_numpy(labels), torch.from_numpy(weight)


def hundred() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of a hundred classes."""
    source = np.random.default_rng(0)
    z = source.standard_normal((2 * ROWS, FEATURES))
    scores = z @ source.standard_normal((FEATURES, 100)) + source.gumbel(size=(2 * ROWS, 100))
    return torch.from_numpy(z), torch.from_numpy(scores.argmax(1))


def slope(z: np.ndarray, y: np.ndarray, head: np.ndarray) -> float:
    """max |gradient| at a head (M,) or (M, K)."""
    u = z @ head
    if u.ndim == 1:
        s = 1 / (1 + np.exp(-u)) - y
    else:
        s = np.exp(u - u.max(1, keepdims=True))
        s /= s.sum(1, keepdims=True)
        s[np.arange(len(y)), y] -= 1
    return float(np.abs(z.T @ s / len(y) + RIDGE * head).max())


def fitted(z: np.ndarray, y: np.ndarray, solver: str, tolerance: float) -> np.ndarray:
    """The head of scikit-learn."""
    model = LogisticRegression(
        C=1 / (len(y) * RIDGE), fit_intercept=False, solver=solver, tol=tolerance, max_iter=10_000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line search that stalls shows in the slope
        model.fit(z, y)
    return model.coef_[0] if len(model.coef_) == 1 else model.coef_.T


def loosest(z: np.ndarray, y: np.ndarray, solver: str) -> float:
    """The tolerance with which scikit-learn reaches the goal; the least if it never does."""
    for tolerance in TOLERANCES:
        if slope(z, y, fitted(z, y, solver, tolerance)) <= GOAL:
            return tolerance
    return TOLERANCES[0]


def lbfgs(z: torch.Tensor, y: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The head of `torch.optim.LBFGS`."""
    head = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [head], max_iter=5_000, max_eval=20_000, tolerance_grad=GOAL, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        u = z @ head
        if head.ndim == 1:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(u, y.double())
        else:
            loss = torch.nn.functional.cross_entropy(u, y)
        value = loss + 0.5 * RIDGE * head.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return head.detach()


def timed(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, in turns, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def line(name: str, seconds: float, own: float, needed: float | None, reached: float) -> None:
    """One row of the table."""
    wanted = "" if needed is None else f"(needed: {needed:g})"
    print(
        f"  {name:28s} {1e3 * seconds:9.1f} ms   {seconds / own:6.2f} times Newton {wanted:14s}"
        f" max |gradient| {reached:.0e}"
    )


def cold(classes: int, rounds: int) -> None:
    """From zero."""
    if classes == 100:
        z, y = hundred()
    else:
        x, y, weight = made(classes)
        z = torch.tanh(x @ weight)
    heads, arrays = Heads(Classes(z, y, classes)), (z.numpy(), y.numpy())
    contestants: dict[str, Callable[[], object]] = {"Newton": heads.cold}
    asked = [solver for solver, ratios in NEEDED.items() if classes in ratios]
    tolerances = {solver: loosest(*arrays, solver) for solver in asked}
    for solver, tolerance in tolerances.items():
        contestants[solver] = lambda s=solver, t=tolerance: fitted(*arrays, s, t)
    seconds = timed(contestants, rounds)
    print(f"\nCold, {classes} classes:")
    own = seconds["Newton"]
    line("Newton", own, own, None, slope(*arrays, heads.cold().head[0].numpy()))
    for solver, tolerance in tolerances.items():
        reached = slope(*arrays, fitted(*arrays, solver, tolerance))
        line(f"scikit-learn {solver}", seconds[solver], own, NEEDED[solver][classes], reached)


def warm(classes: int, rounds: int) -> None:
    """After a small step of the body."""
    x, y, weight = made(classes)
    heads = Heads(Classes(x, y, classes, weight))
    last, steps = heads.cold(), []
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal(weight.shape))
    body = trees.single(weight + 1e-3 * noise)
    z = torch.tanh(x @ body[0])
    run = descent.Descent.run

    def counted(self: descent.Descent) -> Runs:
        found = run(self)
        steps.append((int(found.steps), int(found.factored)))
        return found

    given = Heads(Classes(z, y, classes))
    descent.Descent.run = counted
    solved = given.warm(given.body, last)
    descent.Descent.run = run
    contestants = {
        "Newton": lambda: given.warm(given.body, last),
        "Newton and the features": lambda: heads.warm(body, last),
        "LBFGS": lambda: lbfgs(z, y, last.head[0]),
    }
    seconds = timed(contestants, rounds)
    own, arrays = seconds["Newton"], (z.numpy(), y.numpy())
    print(f"\nWarm, {classes} classes, after a body step of 1e-3:")
    line("Newton", own, own, None, slope(*arrays, solved.head[0].numpy()))
    name = "Newton and the features"
    line(name, seconds[name], own, None, slope(*arrays, heads.warm(body, last).head[0].numpy()))
    reached = slope(*arrays, lbfgs(z, y, last.head[0]).numpy())
    line("torch.optim.LBFGS", seconds["LBFGS"], own, 20.0, reached)
    print(f"  Newton's steps: {steps[0][0]} (needed: at most 3), new factors: {steps[0][1]}")


def training(rounds: int) -> None:
    """Steps of a training, and how much of them its heads take."""
    problem, solving = digits(), [0.0]
    strategy = bilevel.BestResponse(5e-4).fitted(problem)
    data = TrainingData(problem, list(range(RUNS)), torch.float32, "cpu")
    made = Training(strategy, data, 64)
    (cohort,) = made.cohorts
    cohort.advance(WARM_STEPS)
    solve, run, ways = type(strategy.solver).solve, descent.Descent.run, []

    def timed_solve(*given):
        began = time.process_time()
        found = solve(*given)
        solving[0] += time.process_time() - began
        return found

    def counted(self: descent.Descent) -> Runs:
        ways.append(run(self))
        return ways[-1]

    type(strategy.solver).solve, descent.Descent.run = timed_solve, counted
    steps, heads = [], []
    for _ in range(rounds):
        began, solving[0] = time.process_time(), 0.0
        cohort.advance(STEPS)
        steps.append((time.process_time() - began) / STEPS / RUNS)
        heads.append(solving[0] / STEPS / RUNS)
    type(strategy.solver).solve, descent.Descent.run = solve, run
    counts = [float(sum(x.double().mean() for x in way)) for way in
              ([w.steps for w in ways], [w.factored for w in ways])]  # fmt: skip
    print(f"\nA training of digits, {RUNS} runs, after {WARM_STEPS} steps, per run and step:")
    step, head = (1e3 * statistics.median(values) for values in (steps, heads))
    print(f"  a step {step:.1f} ms (needed: at most 9), of which its head {head:.1f} ms")
    print(f"  {counts[0] / len(ways):.1f} steps of Newton, {counts[1] / len(ways):.2f} factors")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(__doc__.splitlines()[0])
    for classes in (10, 2):
        cold(classes, rounds)
        warm(classes, rounds)
    cold(100, rounds)
    training(rounds)


if __name__ == "__main__":
    main()
