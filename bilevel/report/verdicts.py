"""The answers at the top of a report: which strategy is best, and what beats what."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.report.sentences import Result, change, verdict
from bilevel.report.words import joined, metric_name, number

WITH = {"": "", "tuned": " with tuned rates", "given": " with the rates as given"}
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
        if asked := answers(labelled(family), list(family["names"]), baselines):
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


def ranked(content: Mapping[str, Any], key: str, counts: str, names: Sequence[str]) -> str | None:
    """Name of the strategy with the best mean among those with a value of every run.

    Args:
        content: As `Comparison.content` gives it.
        key: Which means of it.
        counts: How many runs have a value, in it.
        names: Among which strategies.

    Returns:
        None if no strategy has a value of every run.
    """
    means = {
        name: content[key][name]["value"]
        for name in names
        if name in content[key] and content[counts][name] == content["runs"]
    }
    return (max if content["higher"] else min)(means, key=means.__getitem__) if means else None


def headline(
    best: str | None,
    mean: Mapping[str, float],
    metric: str,
    higher: bool,
    spent: str,
    *,
    partial: Mapping[str, int],
    runs: int,
    alone: bool = False,
) -> str:
    """Which strategy has the best mean final value.

    Args:
        best: Name of that strategy; None if there is none with a finite value of all runs.
        mean: Its value, low and high.
        metric: Name of the metric.
        higher: Whether higher is better.
        spent: What they had: "1,500 steps".
        partial: Strategies without a value of some runs -> how many runs have one.
        runs: Runs of each strategy.
        alone: Whether there is no other strategy, so that none is best.

    Returns:
        One sentence, or two.
    """
    name = metric_name(metric)
    some = [f"{key} ({count} of {runs} runs)" for key, count in partial.items() if count]
    if best is None:
        return f"No strategy ended with a finite {name}" + (" in every run." if some else ".")
    what = name if runs == 1 else f"mean {name}"
    if alone:
        return f"After {spent}, the {what} of {best} is {_value(mean)}."
    extreme = "highest" if higher else "lowest"
    text = f"After {spent}, {best} has the {extreme} {what}: {_value(mean)}."
    if partial:
        verb = "is" if len(partial) == 1 else "are"
        every = [f"{key} ({count} of {runs} runs)" for key, count in partial.items()]
        text += f" Without a value of every run, {joined(every)} {verb} not ranked."
    return text


def early(best: str | None, mean: Mapping[str, float], higher: bool, *, alone: bool = False) -> str:
    """Which strategy is best when each run stops at its best validation score.

    Args:
        best: Name of that strategy; None if there is none with such a value of all runs.
        mean: Its value, low and high.
        higher: Whether higher is better.
        alone: Whether there is no other strategy, so that none is best.

    Returns:
        A sentence, or "".
    """
    if best is None:
        return ""
    start = "With every run stopped where its validation score was best,"
    if alone:
        return f"{start} it is {_value(mean)}."
    return f"{start} {best} has the {'highest' if higher else 'lowest'}: {_value(mean)}."


def answers(
    results: Sequence[Result], strategies: Sequence[str], baselines: Sequence[str]
) -> list[list[tuple[str, str, str]]]:
    """Questions with a short answer and its reasons, for each strategy that is not a baseline.

    Args:
        results: Fields of `PairedResult` for each pair.
        strategies: All names, in order.
        baselines: The names of the baselines.

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
        if against:
            card.append((f"Does {name} beat {group}?", _short(against), _reasons(against)))
        if others:
            rivals = joined([result["baseline"] for result in others], "or")
            card.append((f"Is {name} better than {rivals}?", _short(others), _reasons(others)))
        if card:
            found.append(card)
    return found


def _short(results: Sequence[Result]) -> str:
    verdicts = [verdict(result) for result in results]
    better, worse = "significantly better" in verdicts, "significantly worse" in verdicts
    if better and worse:
        return "It depends on which."
    if better:
        return "Yes." if set(verdicts) == {"significantly better"} else "In part."
    if worse:
        return "No."
    return "Cannot be said." if set(verdicts) == {"not comparable"} else "Not shown."


def _reasons(results: Sequence[Result]) -> str:
    """Group baselines by verdict: "Significantly better than a (5 % below); no ... b (...)."."""
    parts = []
    for word, start in (
        ("significantly better", "significantly better than"),
        ("significantly worse", "significantly worse than"),
        ("not significant", "no significant difference from"),
        ("not comparable", "not comparable with"),
    ):
        group = [_brief(result) for result in results if verdict(result) == word]
        if group:
            parts.append(f"{start} {joined(group)}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _brief(result: Result) -> str:
    if result["pairs"] == 0:
        return f"{result['baseline']} (no seed on which both runs ended with a number)"
    words = change(result)
    words = "equal" if words == "equal to" else words
    return f"{result['baseline']} ({words}{', failed runs aside' if result['lost'] else ''})"


def _lead(content: Mapping[str, Any], family: Mapping[str, Any]) -> str:
    names, runs, higher = family["names"], content["runs"], content["higher"]
    labels = {name: label for label, name in names.items()}
    best = ranked(content, "intervals", "counts", list(labels))
    stopped = ranked(content, "validation", "counts_validation", list(labels))
    alone = len(names) == 1
    counts = {label: content["counts"].get(name, runs) for label, name in names.items()}
    answer = headline(
        labels.get(best or ""),
        content["intervals"].get(best, {}),
        content["headline"],
        higher,
        content["unit"].counted(content["step"]) + WITH[family["kind"]],
        partial={label: count for label, count in counts.items() if count < runs},
        runs=runs,
        alone=alone,
    )
    values = content["validation"].get(stopped, {})
    return f"{answer} {early(labels.get(stopped or ''), values, higher, alone=alone)}"


def _value(mean: Mapping[str, float]) -> str:
    if not math.isfinite(mean["low"]):
        return number(mean["value"])
    return f"{number(mean['value'])}, 95 % interval {number(mean['low'])} to {number(mean['high'])}"
