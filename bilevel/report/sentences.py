"""Sentences that say what the numbers say: direction, size, certainty, and what was left out."""

import math
from collections.abc import Mapping
from typing import Any

from bilevel.report.doubts import all_of, aside
from bilevel.report.words import UNKNOWN, counted, joined, metric_name, number, probability

Result = Mapping[str, Any]

ONE_RUN = "Since the start and the data do not depend on the seed, nor anything else that matters,"
FEWEST = 3  # pairs for an interval of their mean


def single(result: Result) -> bool:
    """Whether there is one run of each: nothing then tells chance from strategy.

    Args:
        result: Fields of `PairedResult`.
    """
    return bool(result["pairs"] + result["lost"] == 1)


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
        Such as "0.890 to 1.01", "too few seeds" or "n/a" (all pairs are equal, or there is one
        run of each).
    """
    if math.isfinite(result["low"]) and math.isfinite(result["high"]):
        return f"{number(result['low'])} to {number(result['high'])}"
    return "too few seeds" if result["pairs"] < FEWEST and not single(result) else UNKNOWN


def verdict(result: Result) -> str:
    """Whether the sign test found a difference, and in whose favour.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        "significantly better", "significantly worse", "not significant", or "not comparable"
        where both runs failed on every seed. Of one run each: "better", "worse" or "equal in the
        one run".
    """
    if single(result) and (result["pairs"] or result["wins"] or result["losses"]):
        side = "better" if result["wins"] else "worse" if result["losses"] else "equal"
        return f"{side} in the one run"
    if math.isnan(result["p_value"]):
        return "not comparable"
    if not result["significant"]:
        return "not significant"
    return f"significantly {'better' if result['wins'] > result['losses'] else 'worse'}"


def pair_sentence(result: Result, at: str = "", said: str = "") -> str:
    """One comparison in words.

    Args:
        result: Fields of `PairedResult`.
        at: Where, such as "at step 10", if that is not the end of the budget.
        said: What must not be left out of the two, of `doubts.aside`.

    Returns:
        Such as "two-timescale is 5 % below uniform slow on test MSE, interval 0.89 to 1.01,
        better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    """
    strategy, baseline, pairs = result["strategy"], result["baseline"], result["pairs"]
    seeds = counted(pairs + result["lost"], "seed")
    name = f"{metric_name(result['metric'])} {at}".rstrip() + said
    if verdict(result) == "not comparable":
        return (
            f"{strategy} cannot be compared with {baseline} on {name}: both failed"
            f"{'' if single(result) else f' on all {seeds}'}."
        )
    if single(result):
        if pairs:
            return f"{strategy} is {change(result)} {baseline} on {name}, in the one run of each."
        lost = strategy if result["failed"] else baseline
        return (
            f"{strategy} has no {result['kind']} to {baseline} on {name}: the run of {lost} failed."
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


def pair(content: Mapping[str, Any], result: Result) -> str:
    """`pair_sentence` in a comparison.

    Args:
        content: As `Comparison.content` gives it.
        result: One of its results.
    """
    names = (result["strategy"], result["baseline"])
    return pair_sentence(result, content["at"], aside(names, content["doubts"], content["runs"]))


def doubtful(content: Mapping[str, Any]) -> str:
    """Which strategies are compared with heads that are not what they should be.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        A sentence, or "".
    """
    text = all_of(list(content["strategies"]), content["doubts"], content["runs"])
    return f"Mind that {text}." if text else ""


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
    """What the number of runs allows to say: why there is one only, or `power_note`.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Sentences, or "".
    """
    same = content["same_runs"]
    if len(same) == len(content["strategies"]):
        return (
            f"{ONE_RUN} all seeds make the same run: there is one run of "
            f"{'each' if len(same) > 1 else 'the'} strategy, without an interval or a p-value."
        )
    if content["runs"] == 1:
        alone = "With one seed there is no interval and no p-value: another seed may say otherwise."
        return alone if content["paired"] else ""
    results = [result for result in content["paired"] if not single(result)]
    counting = max((result["wins"] + result["losses"] for result in results), default=0)
    # the correction is for all comparisons, also those that have no p-value
    tested = len(content["paired"]) if results else 0
    found = [power_note(tested, counting, content["runs"])]
    if same:
        found.append(
            f"{ONE_RUN} all seeds make the same run of {joined(same)}: "
            f"{'it has' if len(same) == 1 else 'they have'} no interval"
            f"{', and no p-value against each other' if len(same) > 1 else ''}."
        )
    return " ".join(filter(None, found))


def ending(content: Mapping[str, Any]) -> str:
    """Where things are compared and what was not trained, if not as asked for.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Sentences, or "" where every strategy was trained to the end.
    """
    found = []
    if content["cut"]:
        why = "training was interrupted" if content["interrupted"] else "the last that all have"
        where = content["unit"].at(content["step"], content["planned"])
        found.append(f"Compared {where}; {why}.")
    if missing := content["settings"].get("not_trained"):
        found.append(f"Not trained, because of an interruption: {joined(missing)}.")
    return " ".join(found)


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
