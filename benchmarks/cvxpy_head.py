"""A constrained head: by projected Newton steps, by cvxpy compiled once, or built each time?

2,000 rows, 32 features, squared error, the head in a box, which holds about half of it; float64,
one thread. The features change before every solve, as those of a training do. All take turns; in a
turn each solves ten heads in a row, as steps of a training follow each other. Medians of CPU time
of single solves, features and Gram matrices in all of them:

- `ProjectedNewton()`, from the last head;
- `Cvxpy()`, with the factor of the Gram matrix and the Newton steps in its time;
- the same problem built and solved with all rows each time, as one writes it first;
- a problem written by hand, the factor of the Gram matrix its parameter, without Newton steps;
- OSQP called by hand, set up once: the Gram matrix updated in it, from the last head, to 1e-6.

The first solve of a turn finds the memory and the caches as the others left them, and new pages for
its features: what it takes is told beside it.

Thirty such heads at once by `ProjectedNewton()`, a run each, and what their Gram matrices alone
take.

Run: `make bench BENCH=cvxpy_head`, or `python benchmarks/cvxpy_head.py [--rounds 15]`.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import cvxpy
import numpy as np
import osqp
import scipy.sparse
import torch
from scipy.optimize import lsq_linear

import bilevel
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles

ROWS, FEATURES, RIDGE, BOUND = 2000, 32, 1e-3, 0.5
IN_A_ROW, NEEDED = 10, 120.0
RUNS, NEEDED_EACH = 30, 0.6
CLOSE = 1e-6


class BoxedRidge(bilevel.LinearHeadProblem):
    """Features w z; the head in a box."""

    ridge = RIDGE

    def __init__(self, head_set: bilevel.ConvexSet) -> None:
        source = np.random.default_rng(0)
        self.z = source.standard_normal((ROWS, FEATURES))
        noise = source.standard_normal(ROWS)
        self.y = self.z @ source.standard_normal(FEATURES) + noise
        self.head_set = head_set

    def data(self, seed: int | None = None) -> dict[str, bilevel.Batch]:
        """All rows."""
        return {"train": bilevel.Batch(torch.from_numpy(self.z), torch.from_numpy(self.y))}

    def init_body(self, generator: torch.Generator) -> torch.Tensor:
        """w = 1."""
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator: torch.Generator) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(FEATURES, dtype=torch.float64)

    def features(self, body: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """w z."""
        return body * inputs


class Library:
    """What a step of `BestResponse` calls, from the last head."""

    def __init__(
        self, problem: BoxedRidge, solver: bilevel.AbstractHeadSolver, runs: int = 1
    ) -> None:
        self.solver, self.oracles = solver, Oracles(problem)
        data = TrainingData(problem, list(range(runs)), torch.float64, "cpu")
        self.rows = Sampler(data, None, ("train",)).full
        self.head = torch.zeros(runs, FEATURES, dtype=torch.float64)
        self.bodies = torch.linspace(1.0, 1.2, runs, dtype=torch.float64)
        self.state = solver.init(self.oracles, self.bodies, self.head, self.rows)

    def __call__(self, w: float) -> np.ndarray:
        """The head at a body, the first one of the runs."""
        at = (self.oracles, w * self.bodies, self.head, self.rows, self.state, 0)
        found = self.solver.solve(*at)
        self.head, self.state = found.head, found.state
        return found.head[0].numpy()


def built(problem: BoxedRidge) -> Callable[[float], np.ndarray]:
    """A new cvxpy problem with all rows for every solve."""

    def solve(w: float) -> np.ndarray:
        theta = cvxpy.Variable(FEATURES)
        fit = cvxpy.sum_squares(w * problem.z @ theta - problem.y) / (2 * ROWS)
        objective = fit + RIDGE / 2 * cvxpy.sum_squares(theta)
        task = cvxpy.Problem(cvxpy.Minimize(objective), [theta >= -BOUND, theta <= BOUND])
        task.solve(solver="CLARABEL")
        return theta.value

    return solve


def by_hand(problem: BoxedRidge) -> Callable[[float], np.ndarray]:
    """One cvxpy problem whose parameters are the factor of the Gram matrix and its target."""
    theta = cvxpy.Variable(FEATURES)
    root, target = cvxpy.Parameter((FEATURES, FEATURES)), cvxpy.Parameter(FEATURES)
    objective = cvxpy.Minimize(0.5 * cvxpy.sum_squares(root @ theta - target))
    task = cvxpy.Problem(objective, [theta >= -BOUND, theta <= BOUND])

    def solve(w: float) -> np.ndarray:
        z = w * problem.z
        factor = np.linalg.cholesky(z.T @ z / ROWS + RIDGE * np.eye(FEATURES))
        root.value, target.value = factor.T, np.linalg.solve(factor, z.T @ problem.y / ROWS)
        task.solve(solver="CLARABEL")
        return theta.value

    return solve


def osqp_by_hand(problem: BoxedRidge) -> Callable[[float], np.ndarray]:
    """OSQP itself: its matrix and its vector updated, started where it ended."""
    task, upper = osqp.OSQP(), np.triu_indices(FEATURES)
    order = np.lexsort(upper)  # column by column, as it keeps them
    entries = upper[0][order], upper[1][order]
    dense = scipy.sparse.csc_matrix(np.triu(np.ones((FEATURES, FEATURES))))
    limits = np.full(FEATURES, BOUND)
    options = {"verbose": False, "eps_abs": CLOSE, "eps_rel": CLOSE, "warm_starting": True}
    identity = scipy.sparse.identity(FEATURES, format="csc")
    task.setup(dense, np.zeros(FEATURES), identity, -limits, limits, **options)

    def solve(w: float) -> np.ndarray:
        z = w * problem.z
        gram = z.T @ z / ROWS + RIDGE * np.eye(FEATURES)
        task.update(Px=gram[entries], q=-(z.T @ problem.y) / ROWS)
        return task.solve().x

    return solve


def active_set(problem: BoxedRidge, w: float) -> np.ndarray:
    """The head by scipy's active-set method on the rows."""
    rows = np.vstack([w * problem.z / np.sqrt(ROWS), np.sqrt(RIDGE) * np.eye(FEATURES)])
    right = np.concatenate([problem.y / np.sqrt(ROWS), np.zeros(FEATURES)])
    return lsq_linear(rows, right, (-BOUND, BOUND), method="bvls", tol=1e-14).x


def at_once(problem: BoxedRidge, rounds: int) -> None:
    """Many heads, a run each."""
    heads, z, y = Library(problem, bilevel.ProjectedNewton(), RUNS), *map(
        torch.from_numpy, (problem.z, problem.y)
    )  # fmt: skip
    seconds: list[list[float]] = [[], []]
    for number in range(-1, rounds):
        w = 1 + 1e-3 * number
        began = time.process_time()
        heads(w)
        between = time.process_time()
        rows = (w * heads.bodies)[:, None, None] * z
        torch.cat([rows.mT @ rows, rows.mT @ y[:, None]], 2)
        if number >= 0:
            seconds[0].append((between - began) / RUNS)
            seconds[1].append((time.process_time() - between) / RUNS)
    each, grams = (1e3 * statistics.median(values) for values in seconds)
    told = "met" if each <= NEEDED_EACH else "NOT met"
    print(f"{RUNS} heads at once: {each:.2f} ms each (needed {NEEDED_EACH}: {told}), features and")
    print(f"Gram matrices alone {grams:.2f} ms")


def main() -> None:
    """Print times, ratios and errors, with what is needed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    problem = BoxedRidge(bilevel.Box(-BOUND, BOUND))
    contenders = {
        "ProjectedNewton()": Library(problem, bilevel.ProjectedNewton()),
        "Cvxpy(), compiled once": Library(problem, bilevel.Cvxpy()),
        "by hand, compiled once": by_hand(problem),
        "OSQP by hand, set up once": osqp_by_hand(problem),
        "built with all rows": built(problem),
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for number in range(-1, rounds):  # the first one sets up
        for name, solve in contenders.items():
            turn = []
            for step in range(IN_A_ROW):
                w = 1 + 1e-3 * number + 1e-4 * step
                began = time.process_time()
                solve(w)
                turn.append(time.process_time() - began)
            if number >= 0:
                seconds[name].append(turn)
    median = {name: statistics.median(itertools.chain(*turns)) for name, turns in seconds.items()}
    first = {name: statistics.median(turn[0] for turn in turns) for name, turns in seconds.items()}
    slowest = median["built with all rows"]
    print(
        f"{ROWS} rows, {FEATURES} features, a box; medians of {rounds} turns of {IN_A_ROW} solves"
    )
    for name, value in median.items():
        alone = f"the first of a turn {1e3 * first[name]:.2f} ms, {slowest / first[name]:.1f} x"
        print(f"  {name}: {1e3 * value:.2f} ms, {slowest / value:.1f} x ({alone})")
    ratio = slowest / median["ProjectedNewton()"]
    told = "met" if ratio >= NEEDED else "NOT met"
    print(
        f"ProjectedNewton is {ratio:.0f} times faster than building (needed {NEEDED:.0f}: {told})"
    )
    at_once(problem, rounds)

    w = 1.003
    head, expected = contenders["Cvxpy(), compiled once"](w), active_set(problem, w)
    held = int((np.abs(expected) == BOUND).sum())
    free = BoxedRidge(bilevel.Everywhere())
    newton = contenders["ProjectedNewton()"](w)
    errors = {
        "ProjectedNewton()": np.abs(head - newton).max(),
        f"an active-set method ({held} of {FEATURES} held)": np.abs(head - expected).max(),
        "ClosedForm without constraints": np.abs(
            Library(free, bilevel.Cvxpy())(w) - Library(free, bilevel.ClosedForm())(w)
        ).max(),
    }
    for name in ("by hand, compiled once", "OSQP by hand, set up once"):
        apart = np.abs(contenders[name](w) - expected).max()
        print(f"{name}: {apart:.1e} from the active-set method")
    for name, error in errors.items():
        told = "met" if error <= CLOSE else "NOT met"
        print(f"largest difference from {name}: {error:.1e} (needed {CLOSE:.0e}: {told})")


if __name__ == "__main__":
    main()
