"""The result of `compare()`: what every strategy did on every seed, and what follows from it."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from bilevel.comparison.statistics import costs, families, judging
from bilevel.comparison.statistics.overfitting import overfitting
from bilevel.comparison.statistics.paired import PairedResult, compare_pairs, mean_intervals
from bilevel.comparison.statistics.parts import in_order
from bilevel.comparison.statistics.rules import against_references
from bilevel.comparison.statistics.thresholds import reach_common_level
from bilevel.comparison.statistics.values import Values, count_finite
from bilevel.errors import ArgumentError, ResultsError, check_name
from bilevel.report import doubts, tables
from bilevel.report.units import UNITS, Unit
from bilevel.storage.folder import located, write_atomically, write_csv
from bilevel.storage.history import write_history
from bilevel.storage.reading import REMEDY
from bilevel.storage.results import read_results, write_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Strategies compared on one problem, over the same seeds.

    `compare()` makes it, `load` reads it back. Runs that failed have no final and no
    validation-best value: both are NaN, and such a run loses its seed. All strategies are compared
    at the same place of their budget: after Ctrl-C, at the last one that all have.

    With `budget="gradients"`, whatever is said of steps here counts gradient evaluations instead; a
    strategy has made as many whole steps by then as they pay for.

    Attributes:
        problem: Name of the problem.
        settings: How it was trained; must hold "seeds", the R seeds that were trained. "budget" is
            what was equal for all strategies; "tuning" is how rates were searched; "same_runs" are
            strategies whose runs do not depend on the seed, and "seeds_asked" the seeds that all
            make the one run that is told of.
        strategies: Name -> how it is written in Python.
        steps: (T,) recorded steps; gradient evaluations if they were the budget.
        history: Name -> metric -> (T, R) values.
        status: Name -> R names of `Status` members.
        gradients_per_step: Name -> gradient evaluations of one step.
        seconds_per_step: Name -> seconds of one step of all seeds, divided by their number; NaN
            where it was not measured.
        baselines: Names that the others are compared with.
        headline: The metric to judge by.
        environment: Versions, platform, threads.
        bound_kind: "proven", "estimated" or "unknown" (no `head_bound` in the history).
    """

    problem: str
    settings: dict[str, Any]
    strategies: dict[str, str]
    steps: Array
    history: dict[str, dict[str, Array]]
    status: dict[str, list[str]]
    gradients_per_step: dict[str, float]
    seconds_per_step: dict[str, float]
    baselines: tuple[str, ...]
    headline: str
    environment: dict[str, Any] = field(default_factory=dict)
    bound_kind: str = "unknown"

    def __post_init__(self) -> None:
        """Check once that the parts belong together, and bring all into one order."""
        for part, ordered in in_order(vars(self)).items():
            object.__setattr__(self, part, ordered)

    def __repr__(self) -> str:
        return (
            f"Comparison(problem={self.problem!r}, strategies={list(self.strategies)}, "
            f"seeds={len(self.settings['seeds'])}, {self._unit.budget}={int(self.steps[-1])})"
        )

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return tables.notebook(self.content())

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics that some strategy has, in the order of the history."""
        return list(dict.fromkeys(name for table in self.history.values() for name in table))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(strategy, baseline): the others against each baseline, then the others in pairs.

        Where rates were tuned, these are tuned with tuned, then those with the rates as given;
        then comes every tuned strategy with its own rates as given.
        """
        found = self._families
        pairs = [pair for family in found for pair in family.pairs]
        return list(dict.fromkeys([*pairs, *found[0].changes]))

    @property
    def step(self) -> int:
        """The step that is compared: the last one that all strategies have."""
        return int(self.steps[self._values.common])

    def final(self, metric: str | None = None) -> dict[str, Array]:
        """Value of each run at `step`, or where it converged before.

        Args:
            metric: Name of a metric; None for the headline.

        Returns:
            Name -> (R,) values, NaN for runs that failed; without strategies that lack it.
        """
        return self._values.last(self._known(metric))

    def validation_best(self, metric: str | None = None) -> dict[str, Array]:
        """Value of each run at the record, up to `step`, where its score is best.

        Args:
            metric: Name of a metric; None for the headline.

        Returns:
            Name -> (R,) values, NaN for runs that failed or have no finite score; empty where
            nothing but the metric itself or the training rows could choose the record, see `score`.
        """
        metric = self._known(metric)
        score = self.score(metric)
        return {} if score is None else self._values.best(metric, score)

    def score(self, metric: str | None = None) -> str | None:
        """The metric that says where a run would have been stopped, for `validation_best`.

        Args:
            metric: The metric that is shown; None for the headline.

        Returns:
            The validation metric that belongs to it, or another one, or F where F is not g; None
            where that is the metric itself, or would be the objective on the training rows.
        """
        metric = self._known(metric)
        found = judging.selecting(self.metrics, metric)
        return None if found in (metric, "objective") else found

    def paired(
        self, metric: str | None = None, which: Literal["final", "validation"] = "final"
    ) -> list[PairedResult]:
        """Compare all `pairs` seed by seed.

        Args:
            metric: Name of a metric; None for the headline.
            which: Final or validation-best values.

        Returns:
            One result per pair whose two strategies have the values.
        """
        kinds = {"final": self.final, "validation": self.validation_best}
        check_name(which, kinds, "kind of values")
        metric = self._known(metric)
        values = kinds[which](metric)
        pairs = [pair for pair in self.pairs if values.keys() >= set(pair)]
        same, rounding = self.settings.get("same_runs", ()), judging.rounding(self.settings)
        return compare_pairs(values, pairs, metric, same, rounding=rounding)

    def steps_to_threshold(self) -> tuple[float, dict[str, float]]:
        """How fast the level is reached that half of the runs of every strategy reach.

        Returns:
            The threshold, the worst over strategies of the median final headline value, and
            name -> median over seeds of the first recorded step there, inf for never; see
            `bilevel.comparison.statistics.thresholds.reach_common_level`.
        """
        final, history = self.final(), self._values.compared()
        tables = {name: history[name][self.headline] for name in final}
        higher = judging.higher_is_better(self.headline)
        return reach_common_level(self.steps, tables, final, higher)

    def table(self) -> str:
        """Final values, statuses and cost of every strategy, and the comparisons, as plain text."""
        return tables.plain(self.content())

    def content(self) -> dict[str, Any]:
        """Everything that tables and the page show, as dictionaries, arrays and paired results.

        Returns:
            The fields of this object with what follows from them: final and validation-best
            values, intervals, paired results, cost; and as "unit" the words of what the budget
            counts, a `bilevel.report.units.Unit`.
        """
        final, best = self.final(), self.validation_best()
        threshold, steps_to = self.steps_to_threshold()
        last, total, places = int(self.steps[-1]), self.step, self._positions()
        planned = self.settings.get("steps", last)
        interrupted = any("INTERRUPTED" in codes for codes in self.status.values())
        cut = total < last or (interrupted and total < planned)
        results = [asdict(result) for result in self.paired()]
        by_pair = {(result["strategy"], result["baseline"]): result for result in results}
        beside = judging.accuracy_beside(self.headline, self.metrics)
        same, further = (self.settings.get(key, ()) for key in ("same_runs", "also_judged"))
        right = {} if beside is None else self._means(self.final(beside), beside)
        return {
            **vars(self),
            "runs": len(self.settings["seeds"]),
            "higher": judging.higher_is_better(self.headline),
            "unit": self._unit,
            "step": total,
            "planned": planned,
            "interrupted": interrupted,
            "cut": cut,
            "at": self._unit.at(total) if cut else "",
            "counts": count_finite(final),
            "counts_validation": count_finite(best),
            "final": final,
            "intervals": self._means(final, self.headline),
            "rounding": judging.rounding(self.settings),
            "score": self.score(),
            "same_runs": [name for name in self.strategies if name in same],
            "doubts": doubts.found(self.status, self.settings.get("interrupted_heads", {})),
            "body_objective": judging.body_objective(self.metrics),
            "accuracy": {name: mean["value"] for name, mean in right.items()},
            "validation": self._means(best, self.headline),
            "paired": results,
            "paired_validation": [asdict(result) for result in self.paired(which="validation")],
            "also_judged": {each: list(map(asdict, self.paired(each))) for each in further},
            "left_out": sum(len(each.possible) - len(each.pairs) for each in self._families),
            "families": families.family_results(self._families, by_pair),
            "tuning": families.tuning_results(self.settings.get("tuning"), self._families, by_pair),
            "overfitting": overfitting(self._values, self.steps, self.headline),
            "references": against_references(final, self.settings, self.headline),
            "threshold": threshold,
            "steps_to": steps_to,
            "positions": places,
            "cost": costs.spent(places, self._values.common),
        }

    def plot(self, metric: str | None = None, against: str | None = None) -> "Figure":
        """Median and 10 % to 90 % band of a metric over training.

        Args:
            metric: Name of a metric; None for the headline.
            against: "steps", "gradients" (evaluations) or "seconds" (per run); None: what the
                budget counts.

        Returns:
            A matplotlib figure; `figure.savefig("curves.svg")` writes it.

        Raises:
            ArgumentError: If `against` is unknown, or seconds were not measured.
        """
        from bilevel.report import html  # a training does not wait for matplotlib

        places, against = self._positions(), against if against is not None else self._unit.budget
        if str(against) not in places:
            raise ArgumentError(
                f"`against` must be one of {list(places)} here, got {against!r}"
                + (": seconds were not measured." if str(against) == "seconds" else ".")
            )
        return html.curve_figure(self.content(), self._known(metric), against=against)

    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write everything to a new folder: tables, figures as SVG and one page.

        Args:
            folder: Where to; must not exist. `~` is the home folder, here and elsewhere.

        Returns:
            Path of `report.html`.

        Raises:
            ResultsExistError: If the folder exists.
        """
        from bilevel.report import html

        content = self.content()
        with write_atomically(folder) as hidden:
            write_results(hidden, content)
            write_csv(hidden / "summary.csv", *tables.summary(content))
            write_csv(hidden / "paired.csv", *tables.paired(content))
            if content["tuning"]:
                write_csv(hidden / "tuning.csv", *tables.tuned(content))
            drawn = html.draw(content)
            for name, (_, svg) in drawn.items():
                (hidden / f"{name}.svg").write_text(svg, encoding="utf-8")
            (hidden / "report.html").write_text(html.page(content, drawn), encoding="utf-8")
        return located(folder) / "report.html"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the whole history as one table: strategy, seed, step (or gradients), metrics.

        Args:
            path: File to write.
        """
        seeds, column = self.settings["seeds"], self._unit.column
        write_history(located(path), self.history, seeds, self.steps, column)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Comparison":
        """Read what `report` wrote; all numbers are the same, bit for bit.

        Args:
            folder: The results folder.

        Returns:
            The comparison.

        Raises:
            ResultsError: If a file is missing or malformed; names it.
        """
        path = located(folder)
        found = read_results(path)
        try:
            return cls(**found)
        except ResultsError as error:
            raise ResultsError(f"{path / 'config.json'} is malformed: {error} {REMEDY}") from error

    def _known(self, metric: str | None) -> str:
        metric = self.headline if metric is None else metric
        check_name(metric, self.metrics, "recorded metric")
        return metric

    def _means(self, values: dict[str, Array], metric: str) -> dict[str, dict[str, float]]:
        same, rounding = self.settings.get("same_runs", ()), judging.rounding(self.settings)
        return mean_intervals(values, judging.bounds(metric, self.history), same, rounding)

    @property
    def _unit(self) -> Unit:
        """What the recorded steps count."""
        return UNITS[self.settings.get("budget", "steps")]

    @property
    def _families(self) -> list[families.Family]:
        """Which strategies are compared with one another."""
        searched = (self.settings.get("tuning") or {}).get("strategies", {})
        return families.families(list(self.strategies), self.baselines, searched)

    @property
    def _values(self) -> Values:
        return Values(self.history, self.status, len(self.steps))

    def _positions(self) -> costs.Positions:
        spent = self.gradients_per_step, self.seconds_per_step
        return costs.positions(self._unit.budget, self.steps, *spent)
