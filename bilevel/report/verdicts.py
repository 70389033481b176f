"""The answers at the top of a report: which strategy is best, and what beats what."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.report.doubts import Doubts, all_of, aside
from bilevel.report.sentences import Result, change, single, verdict
from bilevel.report.words import joined, metric_name, number, score_name

WITH = {"": "", "tuned": " with tuned rates", "given": " with the rates as given"}
EQUAL = 1e-12
"""Means this near to one another, relatively, differ by rounding."""
TITLES = {"tuned": "With tuned rates", "given": "With the rates as given"}


def leads(content: Mapping[str, Any]) -> list[str]:
    """Which strategy is best, of every family: tuned ones, then those with the rates as given.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        A paragraph for each family.
    """
    return [_lead(content, family) for family in content["families"]]


def cards(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Questions and answers of every family.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Per family with an answer, its kind and the cards of `answers`.
    """
    found = []
    for family in content["families"]:
        labels = {name: label for label, name in family["names"].items()}
        baselines = [labels[name] for name in family["baselines"]]
        doubts = {label: content["doubts"][name] for label, name in family["names"].items()}
        known = labelled(family), list(family["names"]), baselines
        if asked := answers(*known, doubts=doubts, runs=content["runs"]):
            found.append({"kind": family["kind"], "answers": asked})
    return found


def labelled(family: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Results of a family with the names that strategies have within it, without ", tuned".

    Args:
        family: One of the families of `Comparison.content`.

    Returns:
        Fields of `PairedResult`.
    """
    labels = {name: label for label, name in family["names"].items()}
    return [
        {**result, **{key: labels[result[key]] for key in ("strategy", "baseline")}}
        for result in family["paired"]
    ]


def ranked(content: Mapping[str, Any], key: str, counts: str, names: Sequence[str]) -> list[str]:
    """Names of the strategies with the best mean among those with a value of every run.

    Args:
        content: As `Comparison.content` gives it.
        key: Which means of it.
        counts: How many runs have a value, in it.
        names: Among which strategies.

    Returns:
        One, or several whose means are equal up to rounding; none if no strategy has a value of
        every run.
    """
    means = {
        name: content[key][name]["value"]
        for name in names
        if name in content[key] and content[counts][name] == content["runs"]
    }
    if not means:
        return []
    best = (max if content["higher"] else min)(means.values())
    return [name for name, mean in means.items() if math.isclose(mean, best, rel_tol=EQUAL)]


def headline(
    best: Sequence[str],
    mean: Mapping[str, float],
    metric: str,
    higher: bool,
    spent: str,
    *,
    partial: Mapping[str, int],
    runs: int,
    alone: bool = False,
    said: str = "",
) -> str:
    """Which strategy has the best mean final value.

    Args:
        best: Its name, or those of several that share it; none if no strategy has a finite value of
            all runs.
        mean: Its value, low and high.
        metric: Name of the metric.
        higher: Whether higher is better.
        spent: What they had: "1,500 steps".
        partial: Strategies without a value of some runs -> how many runs have one.
        runs: Runs of each strategy.
        alone: Whether there is no other strategy, so that none is best.
        said: What must not be left out, of `doubts.aside`.

    Returns:
        One sentence, or two.
    """
    name = metric_name(metric)
    some = [f"{key} ({count} of {runs} runs)" for key, count in partial.items() if count]
    if not best:
        return f"No strategy ended with a finite {name}" + (" in every run." if some else ".")
    what = name if runs == 1 else f"mean {name}"
    if alone:
        return f"After {spent}, the {what} of {best[0]} is {_value(mean)}{said}."
    text = f"After {spent}, {_have(best, higher)} {what}: {_value(mean)}{said}."
    if partial:
        verb = "is" if len(partial) == 1 else "are"
        some = [f"{key} ({count} of {runs} runs)" for key, count in partial.items()]
        without = "a value of every run" if runs > 1 else "a value"
        named = joined(some if runs > 1 else list(partial))
        text += f" Without {without}, {named} {verb} not ranked."
    return text


def early(
    best: Sequence[str],
    mean: Mapping[str, float],
    higher: bool,
    *,
    alone: bool = False,
    score: str | None = None,
    said: str = "",
) -> str:
    """Which strategy is best when each run stops where its score is best.

    Args:
        best: Its name, or those of several that share it; none if no strategy has such a value of
            all runs.
        mean: Its value, low and high.
        higher: Whether higher is better.
        alone: Whether there is no other strategy, so that none is best.
        score: Name of the score; None for a validation metric.
        said: What must not be left out, of `doubts.aside`.

    Returns:
        A sentence, or "".
    """
    if not best:
        return ""
    start = f"With every run stopped where its {score_name(score)} was best,"
    if alone:
        return f"{start} it is {_value(mean)}{said}."
    return f"{start} {_have(best, higher)}: {_value(mean)}{said}."


def answers(
    results: Sequence[Result],
    strategies: Sequence[str],
    baselines: Sequence[str],
    *,
    doubts: Doubts | None = None,
    runs: int = 0,
) -> list[list[tuple[str, str, str]]]:
    """Questions with a short answer and its reasons, for each strategy that is not a baseline.

    Args:
        results: Fields of `PairedResult` for each pair.
        strategies: All names, in order.
        baselines: The names of the baselines.
        doubts: What casts doubt on strategies, of `doubts.found`.
        runs: Runs of each strategy.

    Returns:
        Per strategy, (question, answer, reasons) against the uniform rates among the baselines (or
        against all baselines, if there are none) and against the others.
    """
    uniform = [name for name in baselines if name.startswith("uniform")]
    first = uniform or list(baselines)
    group = "uniform rates" if uniform else joined(first, "or")
    found = []
    for name in strategies:
        own = [result for result in results if result["strategy"] == name]
        against = [result for result in own if result["baseline"] in first]
        others = [result for result in own if result["baseline"] not in first]
        card = []

        def said(some: Sequence[Result], name: str = name) -> str:
            names = [name, *(result["baseline"] for result in some)]
            return _reasons(some, all_of(names, doubts or {}, runs))

        if against:
            card.append((f"Does {name} beat {group}?", _short(against), said(against)))
        if others:
            rivals = joined([result["baseline"] for result in others], "or")
            card.append((f"Is {name} better than {rivals}?", _short(others), said(others)))
        if card:
            found.append(card)
    return found


def _short(results: Sequence[Result]) -> str:
    if all(map(single, results)):
        return _short_of_one(results)
    verdicts = [verdict(result) for result in results]
    better, worse = "significantly better" in verdicts, "significantly worse" in verdicts
    if better and worse:
        return "It depends on which."
    if better:
        return "Yes." if set(verdicts) == {"significantly better"} else "In part."
    if worse:
        return "No."
    return "Cannot be said." if set(verdicts) == {"not comparable"} else "Not shown."


def _short_of_one(results: Sequence[Result]) -> str:
    """The same where there is one run of each."""
    verdicts = {verdict(result) for result in results}
    better, worse = "better in the one run" in verdicts, "worse in the one run" in verdicts
    if better and worse:
        return "It depends on which."
    if better:
        return "In the one run, yes." if len(verdicts) == 1 else "In the one run, in part."
    return "Cannot be said." if verdicts == {"not comparable"} else "Not in the one run."


def _reasons(results: Sequence[Result], said: str) -> str:
    """Group baselines by verdict: "Significantly better than a (5 % below); no ... b (...)."."""
    parts = []
    for word, start in (
        ("significantly better", "significantly better than"),
        ("significantly worse", "significantly worse than"),
        ("not significant", "no significant difference from"),
        ("better in the one run", "in the one run better than"),
        ("worse in the one run", "in the one run worse than"),
        ("equal in the one run", "in the one run equal to"),
        ("not comparable", "not comparable with"),
    ):
        group = [_brief(result) for result in results if verdict(result) == word]
        if group:
            parts.append(f"{start} {joined(group)}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}{', though ' * bool(said)}{said}."


def _brief(result: Result) -> str:
    if result["pairs"] == 0 and single(result):
        failed = result["failed"], result["baseline_failed"]
        return f"{result['baseline']} ({'both' if all(failed) else 'one of the two'} failed)"
    if result["pairs"] == 0:
        return f"{result['baseline']} (no seed on which both runs ended with a number)"
    words = change(result)
    if words == "equal to" and single(result):
        return str(result["baseline"])
    words = "equal" if words == "equal to" else words
    return f"{result['baseline']} ({words}{', failed runs aside' if result['lost'] else ''})"


def _lead(content: Mapping[str, Any], family: Mapping[str, Any]) -> str:
    names, runs, higher = family["names"], content["runs"], content["higher"]
    labels = {name: label for label, name in names.items()}
    best = ranked(content, "intervals", "counts", list(labels))
    stopped = ranked(content, "validation", "counts_validation", list(labels))
    alone = len(names) == 1
    said = aside(
        list(names), {label: content["doubts"][name] for label, name in names.items()}, runs
    )
    counts = {label: content["counts"].get(name, runs) for label, name in names.items()}
    answer = headline(
        [labels[name] for name in best],
        content["intervals"][best[0]] if best else {},
        content["headline"],
        higher,
        content["unit"].counted(content["step"]) + WITH[family["kind"]],
        partial={label: count for label, count in counts.items() if count < runs},
        runs=runs,
        alone=alone,
        said=said,
    )
    stop = early(
        [labels[name] for name in stopped],
        content["validation"][stopped[0]] if stopped else {},
        higher,
        alone=alone,
        score=content["score"],
        said=said,
    )
    return f"{answer} {stop}"


def _have(best: Sequence[str], higher: bool) -> str:
    """Who has the best value: "a has the lowest", or "a and b share the lowest"."""
    verb = "has" if len(best) == 1 else "share"
    return f"{joined(best)} {verb} the {'highest' if higher else 'lowest'}"


def _value(mean: Mapping[str, float]) -> str:
    if not math.isfinite(mean["low"]):
        return number(mean["value"])
    return f"{number(mean['value'])}, 95 % interval {number(mean['low'])} to {number(mean['high'])}"
