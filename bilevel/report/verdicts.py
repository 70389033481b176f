"""What is concluded: which strategy is best, and what beats what."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bilevel.report.doubts import all_of, aside
from bilevel.report.missing import ended
from bilevel.report.sentences import Result, change, equal, single, verdict
from bilevel.report.words import UNKNOWN, Content, joined, metric_name, number, score_name, span

Family = Mapping[str, Any]
"""One of the families of `Comparison.content`."""
WITH = {"": "", "tuned": " with tuned rates", "given": " with the rates as given"}
GROUPS = {
    "significantly better": "significantly better than",
    "significantly worse": "significantly worse than",
    "not significant": "no significant difference from",
    "equal on every seed": "on every seed equal to",
    "better in the one run": "in the one run better than",
    "worse in the one run": "in the one run worse than",
    "equal in the one run": "in the one run equal to",
    "not comparable": "not comparable with",
}


def leads(content: Content) -> list[str]:
    """Which strategy is best, in a paragraph for each family: tuned ones, then the others."""
    return [
        " ".join(filter(None, [_at_the_end(content, family), _stopped_early(content, family)]))
        for family in content["families"]
    ]


def cards(content: Content) -> list[dict[str, Any]]:
    """Questions and answers on each strategy that is not a baseline.

    Returns:
        Per family with an answer, its kind and "answers": per strategy, (question, answer, reasons)
        against the uniform rates among the baselines (or against all baselines, if there are none)
        and against the others.
    """
    found = []
    for family in content["families"]:
        if answers := [card for name in family["names"] if (card := _card(content, family, name))]:
            found.append({"kind": family["kind"], "answers": answers})
    return found


def labelled(family: Family) -> list[dict[str, Any]]:
    """Results of a family with the names that strategies have within it, without ", tuned"."""
    labels = {name: label for label, name in family["names"].items()}
    return [
        {**result, **{key: labels[result[key]] for key in ("strategy", "baseline")}}
        for result in family["paired"]
    ]


def ranked(content: Content, key: str, counts: str, names: Collection[str]) -> list[str]:
    """Names of the strategies with the best mean among those with a value of every run.

    Args:
        content: Everything known.
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
    best, near = (max if content["higher"] else min)(means.values()), content["rounding"]
    return [name for name, mean in means.items() if math.isclose(mean, best, rel_tol=near)]


def _at_the_end(content: Content, family: Family) -> str:
    """Which strategy has the best mean final value, and which are not ranked."""
    names, runs, metric = family["names"], content["runs"], metric_name(content["headline"])
    counts = {label: content["counts"].get(name, runs) for label, name in names.items()}
    partial = {label: count for label, count in counts.items() if count < runs}
    best = ranked(content, "intervals", "counts", names.values())
    if not best:
        where = " in every run" if any(partial.values()) else ""
        return f"No strategy ended with a finite {metric}{where}."
    metric = metric if runs == 1 else f"mean {metric}"
    spent = content["unit"].counted(content["step"]) + WITH[family["kind"]]
    value = _value(content["intervals"][best[0]]) + aside(content, names)
    if len(names) == 1:
        return f"After {spent}, the {metric} of {joined(list(names))} is {value}."
    same = ", equal on every seed" if min(runs, len(best)) > 1 and _equal(content, best) else ""
    has = _have(content, family, best, "counts")
    if len(partial) == len(names) - 1:
        (alone,) = names.keys() - partial.keys()
        has = f"{alone} alone can be ranked, by its"
    text = f"After {spent}, {has} {metric}{same}: {value}."
    if partial:
        verb = "is" if len(partial) == 1 else "are"
        without = "a value of every run" if runs > 1 else "a value"
        some = [f"{label} ({count} of {runs} runs)" for label, count in partial.items()]
        named = joined(some if runs > 1 else list(partial))
        text += f" Without {without}, {named} {verb} not ranked."
    return text


def _stopped_early(content: Content, family: Family) -> str:
    """Which strategy is best when each run stops where its score is best, or ""."""
    best = ranked(content, "validation", "counts_validation", family["names"].values())
    if not best:
        return ""
    value = _value(content["validation"][best[0]]) + aside(content, family["names"])
    has = f"{_have(content, family, best, 'counts_validation')}:"
    who = has if len(family["names"]) > 1 else "it is"
    return (
        f"With every run stopped where its {score_name(content['score'])} was best, {who} {value}."
    )


def _have(content: Content, family: Family, best: Sequence[str], counts: str) -> str:
    """Who has it: "a has the lowest", "a and b share the lowest" or, of all, "have the same"."""
    labels = joined([label for label, name in family["names"].items() if name in best])
    ranked = [content[counts].get(name) == content["runs"] for name in family["names"].values()]
    rank = "highest" if content["higher"] else "lowest"
    several = "have the same" if len(best) == sum(ranked) else f"share the {rank}"
    return f"{labels} {several if len(best) > 1 else f'has the {rank}'}"


def _equal(content: Content, names: Sequence[str]) -> bool:
    """Whether several strategies have the same final value on every seed, up to rounding."""
    near, runs = content["rounding"], zip(*map(content["final"].get, names), strict=True)
    return all(math.isclose(min(values), max(values), rel_tol=near) for values in runs)


def _value(mean: Mapping[str, float]) -> str:
    ends = span(mean["low"], mean["high"])
    return number(mean["value"]) + ("" if ends == UNKNOWN else f", 95 % interval {ends}")


def _card(content: Content, family: Family, name: str) -> list[tuple[str, str, str]]:
    labels = {each: label for label, each in family["names"].items()}
    baselines = [labels[each] for each in family["baselines"]]
    uniform = [label for label in baselines if label.startswith("uniform")]
    first = uniform or baselines
    own = [result for result in labelled(family) if result["strategy"] == name]
    against = [result for result in own if result["baseline"] in first]
    others = [result for result in own if result["baseline"] not in first]
    group = "uniform rates" if uniform else joined(first, "or")
    rivals = joined([result["baseline"] for result in others], "or")
    asked = ((f"Does {name} beat {group}?", against),
             (f"Is {name} better than {rivals}?", others))  # fmt: skip
    return [
        (question, _short(results), _reasons(content, family, results))
        for question, results in asked
        if results
    ]


def _short(results: Sequence[Result]) -> str:
    """The answer; of the one run of each where there is no more."""
    alone, found = all(map(single, results)), {verdict(result) for result in results}
    word = "{} in the one run" if alone else "significantly {}"
    better, worse = word.format("better") in found, word.format("worse") in found
    if better and worse:
        return "It depends on which."
    if better:
        answer = "yes." if len(found) == 1 else "in part."
        return f"In the one run, {answer}" if alone else answer.capitalize()
    if found == {"not comparable"}:
        return "Cannot be said."
    if found == {"equal on every seed"}:
        return "No: they are equal." if len(results) == 1 else "No: all are equal."
    return "Not in the one run." if alone else "No." if worse else "Not shown."


def _reasons(content: Content, family: Family, results: Sequence[Result]) -> str:
    """Group baselines by verdict: "Significantly better than a (5 % below); no ... b (...)."."""
    parts = []
    for word, start in GROUPS.items():
        group = [_brief(content, family, result) for result in results if verdict(result) == word]
        if group:
            parts.append(f"{start} {joined(group)}")
    text = "; ".join(parts)
    labels = [results[0]["strategy"], *(result["baseline"] for result in results)]
    said = all_of(content, {label: family["names"][label] for label in labels})
    return f"{text[:1].upper()}{text[1:]}{', though ' * bool(said)}{said}."


def _brief(content: Content, family: Family, result: Result) -> str:
    names = [family["names"][result[key]] for key in ("strategy", "baseline")]
    failed = result["failed"], result["baseline_failed"]
    lost = [name for name, count in zip(names, failed, strict=True) if count]
    if result["pairs"] == 0 and single(result):
        who = "both" if all(failed) else "one of the two"
        return f"{result['baseline']} ({who} {ended(content, *lost, runs=len(lost))})"
    if result["pairs"] == 0:
        return f"{result['baseline']} (no seed on which both runs ended with a number)"
    words = change(result)
    if words == "equal to" and (single(result) or equal(result)):
        return str(result["baseline"])
    words = "equal on average" if words == "equal to" else words
    runs = "failed runs" if ended(content, *lost) == "failed" else "runs without a value"
    return f"{result['baseline']} ({words}{f', {runs} aside' if lost else ''})"
