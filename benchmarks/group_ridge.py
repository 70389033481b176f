"""Do tuned penalties of groups and features predict better, and what do they cost?

First the banded task: X normal, five groups of 30 columns, coefficients normal times
(1, .5, .1, 0, 0) by group, as much noise as signal, 20 targets, 1,000 test rows. `RidgeCV` and
himalaya beside `GroupRidge`, on the same rows and folds; himalaya after `make bench-peers`.

Then one target, with a penalty for each feature: diabetes (also with one group), and two tasks
where 80 % of the features are irrelevant and the noise's variance is half of the signal's.

Last two classes: the log loss of test rows beside `LogisticRegressionCV`, on breast cancer (half of
the rows; a penalty for each feature, or for each of the ten properties that its features are
mean, error and worst of), and on five groups of ten columns as above.

R2 of the test rows, mean over seeds; differences are paired over seeds, with a 95 % interval of
Student's t. CPU seconds of one thread, medians; methods take turns on each seed.

Run: `make bench BENCH=group_ridge`, or `python benchmarks/group_ridge.py [--seeds 10]
[--only banded] [--figure FILE]`; all of it takes three minutes. `--figure` draws the banded task.
"""

import argparse
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import peer
from matplotlib.figure import Figure
from scipy.stats import t as student
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    ARDRegression,
    ElasticNetCV,
    LassoCV,
    LogisticRegressionCV,
    RidgeCV,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bilevel.estimators import GroupLogistic, GroupRidge
from bilevel.report.svg import STYLE, to_svg

ALPHAS = np.logspace(-2, 5, 20)
FOLDS = KFold(5, shuffle=True, random_state=0)
SCALES, BAND, TARGETS, NEW = (1.0, 0.5, 0.1, 0.0, 0.0), 30, 20, 1000
BASELINE, PEER = "RidgeCV, 20 alphas", "himalaya, random search 30"
OF_CLASSES = "LogisticRegressionCV, 10 Cs"


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

    def show(self, title: str, others: tuple[str, ...], measure: str = "R2") -> None:
        """A table, with differences from `others`."""
        others = tuple(name for name in others if name in self.found)
        headings = "".join(f"   minus {name:26}" for name in others)
        print(f"\n{title}\n{'':32} {measure:>8}{headings}")
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


def run_banded(n: int, seeds: int) -> Scores:
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
    return scores


def draw(scores: Scores, seeds: int, place: pathlib.Path) -> None:
    """The penalties of the groups at 200 rows, and R2 of test rows: a dot for each seed."""
    groups = np.repeat(np.arange(len(SCALES)), BAND).tolist()
    tasks = [banded(200, seed) for seed in range(seeds)]
    found = np.array([GroupRidge(groups).fit(task.x, task.y).alphas_ for task in tasks])
    common = np.median([RidgeCV(ALPHAS).fit(task.x, task.y).alpha_ for task in tasks])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
        for band, alphas in enumerate(found.T):
            left.plot(np.full(seeds, band), alphas, "o", color="#0072b2", alpha=0.4, ms=4, mew=0)
            left.plot([band - 0.3, band + 0.3], [np.median(alphas)] * 2, color="#0072b2")
        left.axhline(common, color="#d55e00", linestyle="--")
        left.text(
            4.3,
            common * 0.9,
            "one penalty for all (RidgeCV)",
            color="#b34f00",
            ha="right",
            va="top",
        )
        left.set(xlabel="true size of a group's coefficients", yscale="log")
        left.set_yticks([], minor=True)
        left.set_yticks([50, 100, 1000], ["50", "100", "1,000"])
        left.set_xticks(range(len(SCALES)), [f"{scale:g}" for scale in SCALES])
        left.set_title("Penalty that was found")
        for height, (name, rows) in enumerate(reversed(scores.found.items())):
            own = "GroupRidge" in name
            values, colour = np.array(rows)[:, 0], "#0072b2" if own else "#d55e00"
            right.plot(values, np.full(seeds, height), "o", color=colour, alpha=0.4, ms=4, mew=0)
            right.plot([values.mean()] * 2, [height - 0.3, height + 0.3], color=colour)
        right.set_yticks(range(len(scores.found)), list(reversed(scores.found)))
        right.set_title("R2 of test rows")
        place.write_text(to_svg(figure), encoding="utf-8")


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


def cancer(seed: int) -> Task:
    """Half of the rows."""
    x, y = load_breast_cancer(return_X_y=True)
    x, x_new, y, y_new = train_test_split(x, y, train_size=0.5, random_state=seed, stratify=y)
    return Task(x, y, x_new, y_new)


def banded_classes(seed: int) -> Task:
    """200 rows, five groups of ten columns."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200 + 2 * NEW, 50))
    f = x @ (rng.standard_normal(50) * np.repeat(SCALES, 10))
    y = (2 * f / f.std() + rng.logistic(size=len(x)) > 0).astype(int)
    return Task(x[:200], y[:200], x[200:], y[200:])


def run_classes(title: str, make: Callable[[int], Task], seeds: int, groups: Any) -> None:
    """The last part: one task of two classes."""
    scores = Scores()
    usual = LogisticRegressionCV(
        Cs=10,
        cv=5,
        scoring="neg_log_loss",
        max_iter=2000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    methods = {OF_CLASSES: make_pipeline(StandardScaler(), usual), "GroupLogistic": GroupLogistic()}
    if groups is not None:
        methods["GroupLogistic, groups"] = GroupLogistic(groups)
    for seed in range(seeds):
        task = make(seed)
        for name, model in methods.items():
            began = time.process_time()
            probable = model.fit(task.x, task.y).predict_proba(task.x_new)
            seconds = time.process_time() - began
            scores.add(name, -log_loss(task.y_new, probable), seconds)
    scores.show(f"{title}, {seeds} seeds", (OF_CLASSES,), "-logloss")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=["banded", "single", "classes"])
    parser.add_argument("--figure", type=pathlib.Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    parts = [options.only] if options.only else ["banded", "single", "classes"]
    if "banded" in parts:
        if not peer.installed():
            print("(himalaya is left out: `make bench-peers` installs it beside this)")
        for n in (200, 400):
            scores = run_banded(n, options.seeds)
            if options.figure and n == 200:
                draw(scores, options.seeds, options.figure)
    if "single" in parts:
        for n in (300, 100):
            run_single(f"diabetes, {n} rows", lambda seed, n=n: diabetes(n, seed), options.seeds)
            name, group = f"diabetes, {n} rows, one group", [0] * 10
            run_single(name, lambda seed, n=n: diabetes(n, seed), options.seeds, group)
        for n, d in ((200, 50), (300, 100)):
            title = f"{n} rows, {d} features of which {d // 5} matter"
            run_single(title, lambda seed, n=n, d=d: sparse(n, d, seed), options.seeds)
    if "classes" in parts:
        run_classes("breast cancer", cancer, options.seeds, list(range(10)) * 3)
        groups = np.repeat(range(5), 10).tolist()
        run_classes("banded classes, n 200", banded_classes, options.seeds, groups)


if __name__ == "__main__":
    main()
