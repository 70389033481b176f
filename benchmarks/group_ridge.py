"""Do tuned penalties of groups and features predict better, and what do they cost?

First the banded task: X normal, five groups of 30 columns, coefficients normal times
(1, .5, .1, 0, 0) by group, as much noise as signal, 20 targets, 1,000 test rows. `RidgeCV` and
himalaya beside `GroupRidge`, on the same rows and folds; himalaya after `make bench-peers`.

Then one target, with a penalty for each feature: diabetes (also with one group), and two tasks
where 80 % of the features are irrelevant and the noise's variance is half of the signal's.

R2 of the test rows, mean over seeds; differences are paired over seeds, with a 95 % interval of
Student's t. CPU seconds of one thread, medians; methods take turns on each seed.

Run: `make bench BENCH=group_ridge`, or `python benchmarks/group_ridge.py [--seeds 10]
[--only banded]`.
"""

import argparse
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import peer
from scipy.stats import t as student
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ARDRegression, ElasticNetCV, LassoCV, RidgeCV
from sklearn.model_selection import KFold

from bilevel.estimators import GroupRidge

ALPHAS = np.logspace(-2, 5, 20)
FOLDS = KFold(5, shuffle=True, random_state=0)
SCALES, BAND, TARGETS, NEW = (1.0, 0.5, 0.1, 0.0, 0.0), 30, 20, 1000
BASELINE, PEER = "RidgeCV, 20 alphas", "himalaya, random search 30"


class Task(NamedTuple):
    """Rows to fit, and rows to predict."""

    x: Any
    y: Any
    x_new: Any
    y_new: Any

    def score(self, predicted: Any) -> float:
        """R2, over all targets."""
        varying = np.square(self.y_new - self.y_new.mean(0)).mean()
        return float(1 - np.square(predicted - self.y_new).mean() / varying)


def banded(n: int, seed: int) -> Task:
    """Groups that all targets need alike."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + NEW, BAND * len(SCALES)))
    w = rng.standard_normal((x.shape[1], TARGETS)) * np.repeat(SCALES, BAND)[:, None]
    f = x @ w
    y = f + rng.standard_normal(f.shape) * f.std(0)
    return Task(x[:n], y[:n], x[n:], y[n:])


def sparse(n: int, d: int, seed: int) -> Task:
    """One feature in five matters."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((n + 2 * NEW, d)), np.zeros(d)
    w[: d // 5] = rng.standard_normal(d // 5)
    f = x @ w
    y = f + rng.standard_normal(len(f)) * f.std() / np.sqrt(2)
    return Task(x[:n], y[:n], x[n:], y[n:])


def diabetes(n: int, seed: int) -> Task:
    """In units of the training rows."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, new = order[:n], order[n:]
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    return Task(x[train], y[train], x[new], y[new])


class Scores:
    """R2 and CPU seconds of each method on each seed."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, score: float, seconds: float) -> None:
        """A seed's."""
        self.found.setdefault(name, []).append((score, seconds))

    def fit(self, name: str, model: Any, task: Task) -> None:
        """Measure one of this process."""
        began = time.process_time()
        predicted = model.fit(task.x, task.y).predict(task.x_new)
        seconds = time.process_time() - began
        self.add(name, task.score(predicted), seconds)

    def show(self, title: str, others: tuple[str, ...]) -> None:
        """A table, with differences from `others`."""
        others = tuple(name for name in others if name in self.found)
        print(f"\n{title}\n{'':34}     R2" + "".join(f"   minus {name:26}" for name in others))
        for name, rows in self.found.items():
            scores, seconds = np.array(rows).T
            line = f"{name:34} {scores.mean():6.4f}"
            for other in others:
                line += f"   {interval(scores - np.array(self.found[other])[:, 0]):32}"
            print(f"{line} {np.median(seconds):7.3f} s{self.ratio(seconds)}", flush=True)

    def ratio(self, seconds: Any) -> str:
        """Beside himalaya."""
        if PEER not in self.found:
            return ""
        ratios = np.array(self.found[PEER])[:, 1] / seconds
        return f"   {np.median(ratios):6.1f} x"


def interval(differences: Any) -> str:
    """Mean and a 95 % interval, least, and how many are above zero."""
    n = len(differences)
    half = student.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    wins = int((differences > 0).sum())
    return f"{differences.mean():+.4f} +- {half:.4f} ({wins} of {n} better)"


def ours(groups: Any, *, per_target: bool = False) -> Iterator[tuple[str, GroupRidge]]:
    """By folds, and by the evidence."""
    for criterion in ("cv", "evidence"):
        name = f"GroupRidge, {criterion}{', per target' * per_target}"
        yield name, GroupRidge(groups, criterion=criterion, per_target=per_target)


def run_banded(n: int, seeds: int) -> None:
    """The first part, for a number of rows."""
    scores, groups = Scores(), np.repeat(np.arange(len(SCALES)), BAND)
    tasks = [banded(n, seed) for seed in range(seeds)]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "tasks.npz"
        names = {PEER: "random search", "himalaya, its gradient solver": "hyper-gradient"}
        others = None
        if peer.installed():
            stacked = {
                key: np.stack([getattr(task, key) for task in tasks]) for key in Task._fields
            }
            np.savez(file, groups=groups, alphas=ALPHAS, **stacked)
            others = peer.Peers("group_ridge", file=str(file), methods=list(names.values()))
        for task in tasks:
            scores.fit(BASELINE, RidgeCV(ALPHAS), task)
            for name, piece in names.items() if others else ():
                seconds, value = others.do(piece)
                scores.add(name, value, seconds)
            for per_target in (False, True):
                for name, model in ours(groups.tolist(), per_target=per_target):
                    scores.fit(name, model, task)
        if others:
            others.close()
    scores.show(f"banded, n {n}, {TARGETS} targets, {seeds} seeds", (BASELINE, PEER))


def run_single(title: str, make: Callable[[int], Task], seeds: int, groups: Any = None) -> None:
    """The second part: one task of one target."""
    scores = Scores()
    for seed in range(seeds):
        task = make(seed)
        scores.fit(BASELINE, RidgeCV(ALPHAS), task)
        for name, model in ours(groups):
            scores.fit(name, model, task)
        if groups is None:
            for criterion in ("cv", "evidence"):
                model = GroupRidge(criterion=criterion, shrink=0.0)
                scores.fit(f"GroupRidge, {criterion}, shrink 0", model, task)
            scores.fit("ARDRegression", ARDRegression(), task)
            scores.fit("LassoCV", LassoCV(cv=FOLDS), task)
            ratios = [0.1, 0.5, 0.9, 1.0]
            scores.fit("ElasticNetCV", ElasticNetCV(cv=FOLDS, l1_ratio=ratios), task)
    scores.show(f"{title}, {seeds} seeds", (BASELINE,))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=["banded", "single"])
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.only != "single":
        if not peer.installed():
            print("(himalaya is left out: `make bench-peers` installs it beside this)")
        for n in (200, 400):
            run_banded(n, options.seeds)
    if options.only != "banded":
        for n in (300, 100):
            run_single(f"diabetes, {n} rows", lambda seed, n=n: diabetes(n, seed), options.seeds)
            name, group = f"diabetes, {n} rows, one group", [0] * 10
            run_single(name, lambda seed, n=n: diabetes(n, seed), options.seeds, group)
        for n, d in ((200, 50), (300, 100)):
            title = f"{n} rows, {d} features of which {d // 5} matter"
            run_single(title, lambda seed, n=n, d=d: sparse(n, d, seed), options.seeds)


if __name__ == "__main__":
    main()
