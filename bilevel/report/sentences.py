"""Sentences that say what the numbers say: direction, size, certainty, and what was left out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.report.words import UNKNOWN, counted, joined, metric_name, number, probability

Result = Mapping[str, Any]

FEWEST = 3  # pairs for an interval, as in `bilevel.analysis.paired`


def change(result: Result) -> str:
    """Size and direction of an effect, without the name of the baseline.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        Such as "5 % below", "2.4 times", "0.012 above" or "equal to".

    Examples:
        >>> change({"kind": "ratio", "effect": 0.95})
        '5 % below'
    """
    effect = result["effect"]
    if not math.isfinite(effect):
        return "not comparable with"
    centre = 1.0 if result["kind"] == "ratio" else 0.0
    if effect == centre:
        return "equal to"
    side = "below" if effect < centre else "above"
    if result["kind"] == "difference":
        return f"{number(abs(effect))} {side}"
    if effect >= 2:
        return f"{number(effect)} times"
    if effect < 0.1:
        return f"a factor of {number(1 / effect)} below"
    percent = abs(effect - 1) * 100
    if percent < 0.05:
        return f"less than 0.1 % {side}"
    return f"{percent:.0f} % {side}" if percent >= 0.95 else f"{percent:.1f} % {side}"


def interval(result: Result) -> str:
    """Ends of an interval, or why there is none.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        Such as "0.890 to 1.01", "too few seeds" or "n/a" (all pairs are equal).
    """
    if math.isfinite(result["low"]) and math.isfinite(result["high"]):
        return f"{number(result['low'])} to {number(result['high'])}"
    return "too few seeds" if result["pairs"] < FEWEST else UNKNOWN


def verdict(result: Result) -> str:
    """Whether the sign test found a difference, and in whose favour.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        "significantly better", "significantly worse", "not significant", or "not comparable"
        where both runs failed on every seed.
    """
    if math.isnan(result["p_value"]):
        return "not comparable"
    if not result["significant"]:
        return "not significant"
    return f"significantly {'better' if result['wins'] > result['losses'] else 'worse'}"


def pair_sentence(result: Result, step: int | None = None) -> str:
    """One comparison in words.

    Args:
        result: Fields of `PairedResult`.
        step: At which step, where that is not the last one that was asked for.

    Returns:
        Such as "two-timescale is 5 % below uniform slow on test MSE, interval 0.89 to 1.01,
        better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    """
    strategy, baseline, pairs = result["strategy"], result["baseline"], result["pairs"]
    seeds = counted(pairs + result["lost"], "seed")
    name = metric_name(result["metric"]) + ("" if step is None else f" at step {step:,}")
    if verdict(result) == "not comparable":
        return (
            f"{strategy} cannot be compared with {baseline} on {name}: both failed on all {seeds}."
        )
    if pairs:
        parts = [f"{strategy} is {change(result)} {baseline} on {name}"]
        of = "" if result["kind"] == "ratio" else " of the difference"
        if pairs < FEWEST:
            parts.append("too few seeds for an interval")
        elif interval(result) != UNKNOWN:
            parts.append(f"interval{of} {interval(result)}")
    else:
        parts = [
            f"{strategy} has no {result['kind']} to {baseline} on {name}, since on no seed did "
            "both runs end with a number"
        ]
    parts.append(f"better on {result['wins']} of {seeds}{_aside(result)}")
    text = f"{', '.join(parts)}: {verdict(result)} "
    text += f"({probability(result['p_adjusted'])} after correction)."
    if pairs and result["lost"]:
        text += f" The {result['kind']} is over the {counted(pairs, 'seed')} where both ended."
    return text


def power_note(comparisons: int, counting: int, seeds: int) -> str:
    """Say so when no result of the sign test could be significant.

    Args:
        comparisons: How many pairs of strategies are compared together.
        counting: Seeds that a sign test can count: not ties. The most over the comparisons.
        seeds: Seeds in all.

    Returns:
        A sentence, or "" when there are seeds enough.
    """
    if not comparisons or comparisons * 2.0 ** (1 - counting) < 0.05:
        return ""
    needed = next(n for n in range(1, 99) if comparisons * 2.0 ** (1 - n) < 0.05)
    has = f"With {counted(seeds, 'seed')}"
    if counting < seeds:
        has += f", of which no comparison can count more than {counting} (the rest are ties),"
    return (
        f"{has} and {counted(comparisons, 'comparison')} even a win on every "
        f"seed would not be significant; that needs at least {needed} seeds."
    )


def power(content: Mapping[str, Any]) -> str:
    """`power_note` of a comparison.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        A sentence, or "".
    """
    results = content["paired"]
    counting = max((result["wins"] + result["losses"] for result in results), default=0)
    return power_note(len(results), counting, content["runs"])


def ending(content: Mapping[str, Any]) -> str:
    """At which step things are compared and what was not trained, if not as asked for.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Sentences, or "" where every strategy was trained to the end.
    """
    found = []
    if content["cut"]:
        why = "training was interrupted" if content["interrupted"] else "the last that all have"
        found.append(f"Compared at step {content['step']:,} of {content['planned']:,}; {why}.")
    if missing := content["settings"].get("not_trained"):
        found.append(f"Not trained, because of an interruption: {joined(missing)}.")
    return " ".join(found)


def headline(
    best: str | None,
    mean: Mapping[str, float],
    metric: str,
    higher: bool,
    steps: int,
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
        steps: Number of steps.
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
        return f"After {counted(steps, 'step')}, the {what} of {best} is {_value(mean)}."
    extreme = "highest" if higher else "lowest"
    text = f"After {counted(steps, 'step')}, {best} has the {extreme} {what}: {_value(mean)}."
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


def _aside(result: Result) -> str:
    """Ties and failures, in brackets."""
    both = result["failed"] + result["baseline_failed"] - result["lost"]
    alone = result["lost"] - both
    parts = []
    if equal := result["ties"] - both:
        parts.append(f"equal on {equal}")
    if alone:
        own = result["failed"] - both
        sides = ((result["strategy"], own), (result["baseline"], alone - own))
        runs = joined([f"{counted(count, 'run')} of {name}" for name, count in sides if count])
        parts.append(f"{runs} failed and {'counts as a loss' if alone == 1 else 'count as losses'}")
    if both:
        parts.append(f"both failed on {both}, which count{'s' * (both == 1)} as equal")
    return f" ({'; '.join(parts)})" if parts else ""


def _value(mean: Mapping[str, float]) -> str:
    if not math.isfinite(mean["low"]):
        return number(mean["value"])
    return f"{number(mean['value'])}, 95 % interval {number(mean['low'])} to {number(mean['high'])}"
