"""What is said: how a comparison was made, what came out, how certain it is, what was left out."""

import math
from collections.abc import Mapping
from typing import Any

from bilevel.report.doubts import all_of, aside
from bilevel.report.missing import both, ended
from bilevel.report.words import (
    UNKNOWN,
    Content,
    counted,
    joined,
    metric_name,
    number,
    probability,
    setting,
    span,
)

Result = Mapping[str, Any]
"""Fields of `PairedResult`."""
# Settings that the page says in words elsewhere.
ELSEWHERE = ("command", "data_note", "bound_note", "not_trained", "tuning", "same_runs",
             "interrupted_heads", "references", "why")  # fmt: skip

ONE_RUN = "Since the start and the data do not depend on the seed, nor anything else that matters,"
FEWEST = 3  # pairs for an interval of their mean
MANY = 12  # comparisons that are told one by one
HUGE = 1e300  # larger ones, and ratios below its inverse, are near the end of what a float holds


def single(result: Result) -> bool:
    """Whether there is one run of each: nothing then tells chance from strategy."""
    return bool(result["pairs"] + result["lost"] == 1)


def change(result: Result) -> str:
    """Size and direction of an effect, without the name of the baseline.

    Examples:
        >>> change({"kind": "ratio", "effect": 0.95})
        '5 % below'
    """
    effect = result["effect"]
    if math.isnan(effect):
        return "not comparable with"
    centre = 1.0 if result["kind"] == "ratio" else 0.0
    if effect == centre:
        return "equal to"
    side = "below" if effect < centre else "above"
    if result["kind"] == "difference":
        return f"{size(result, abs(effect))} {side}"
    if effect >= 2:
        return f"{size(result)} times"
    if effect < 1 / HUGE:
        return "a factor of more than 1e300 below"
    if effect < 0.1:
        return f"a factor of {number(1 / effect)} below"
    percent = abs(effect - 1) * 100
    if percent < 0.05:
        return f"less than 0.1 % {side}"
    return f"{percent:.0f} % {side}" if percent >= 0.95 else f"{percent:.1f} % {side}"


def equal(result: Result) -> bool:
    """Whether both have the same value on every seed, up to rounding."""
    return bool(result["pairs"]) and not (result["wins"] or result["losses"] or result["lost"])


def size(result: Result, value: float | None = None) -> str:
    """An effect, or an end of its interval, as a number; in words where a float cannot hold it."""
    value = result["effect"] if value is None else value
    if result["kind"] == "ratio" and value < 1 / HUGE:
        return "less than 1e-300"
    if abs(value) > HUGE:
        return "more than 1e300" if value > 0 else "less than -1e300"
    return number(value)


def interval(result: Result) -> str:
    """Ends of an interval, or why there is none.

    Returns:
        Such as "0.890 to 1.01", "too few seeds" or "n/a" (all pairs are equal, or there is one
        run of each).
    """
    low, high = (size(result, result[end]) for end in ("low", "high"))
    if UNKNOWN in (low, high):
        return "too few seeds" if result["pairs"] < FEWEST and not single(result) else UNKNOWN
    if "than" in low + high:
        return UNKNOWN if low == high else f"{low} to {high}"
    return span(result["low"], result["high"])


def verdict(result: Result) -> str:
    """Whether the sign test found a difference, and in whose favour.

    Returns:
        "significantly better", "significantly worse", "not significant", "equal on every seed", or
        "not comparable" where no run of both has a value. Of one run each: "better", "worse" or
        "equal in the one run".
    """
    if single(result) and (result["pairs"] or result["wins"] or result["losses"]):
        side = "better" if result["wins"] else "worse" if result["losses"] else "equal"
        return f"{side} in the one run"
    if math.isnan(result["p_value"]):
        return "not comparable"
    if equal(result):
        return "equal on every seed"
    if not result["significant"]:
        return "not significant"
    return f"significantly {'better' if result['wins'] > result['losses'] else 'worse'}"


def pair(content: Content, result: Result) -> str:
    """One comparison in words.

    Returns:
        Such as "two-timescale is 5 % below uniform slow on test MSE, interval 0.89 to 1.01,
        better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    """
    strategy, baseline, pairs = result["strategy"], result["baseline"], result["pairs"]
    seeds = counted(pairs + result["lost"], "seed")
    name = f"{metric_name(result['metric'])} {content['at']}".rstrip()
    name += aside(content, {strategy: strategy, baseline: baseline})
    if verdict(result) == "not comparable":
        ends = both(content, strategy, baseline)
        where = f" on {'all' if ends == 'both failed' else 'any of'} {seeds}" * (not single(result))
        return f"{strategy} cannot be compared with {baseline} on {name}: {ends}{where}."
    if single(result):
        if pairs:
            return f"{strategy} is {change(result)} {baseline} on {name}, in the one run of each."
        lost = strategy if result["failed"] else baseline
        return (
            f"{strategy} has no {result['kind']} to {baseline} on {name}: the run of {lost} "
            f"{ended(content, lost)}."
        )
    if equal(result):
        where = "both seeds" if pairs == 2 else f"all {seeds}"
        return f"{strategy} is equal to {baseline} on {name}, on {where}."
    if pairs:
        parts = [f"{strategy} is {change(result)} {baseline} on {name}"]
        if result["wins"] and result["losses"]:
            parts = [parts[0].replace(" is equal to", " is on average equal to")]
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
    parts.append(f"better on {result['wins']} of {seeds}{_aside(content, result)}")
    text = f"{', '.join(parts)}: {verdict(result)} "
    text += f"({probability(result['p_adjusted'])} after correction)."
    if pairs and result["lost"]:
        text += f" The {result['kind']} is over the {counted(pairs, 'seed')} where both ended."
    return text


def pairs(content: Content) -> list[str]:
    """Every comparison in words; of many, those that found a difference, and how many did not."""
    paired, open_ = content["paired"], "not significant"
    if len(paired) <= MANY:
        return [pair(content, result) for result in paired]
    found = [pair(content, result) for result in paired if verdict(result) != open_]
    if left := sum(verdict(result) == open_ for result in paired):
        others = f"the other {left} {'is' if left == 1 else 'are'} not" if found else "none is"
        name = f"{metric_name(content['headline'])} {content['at']}".rstrip()
        found.append(
            f"Of {len(paired)} comparisons on {name}, {others} significant; the report has them "
            "all."
        )
    return found


def final(content: Content) -> str:
    """What the values are called that strategies are judged by."""
    name = metric_name(content["headline"])
    return f"{name} {content['at']}" if content["at"] else f"final {name}"


def doubtful(content: Content) -> str:
    """Which strategies are compared with heads that are not what they should be, or ""."""
    text = all_of(content, {name: name for name in content["strategies"]})
    return f"Mind that {text}." if text else ""


def power(content: Content) -> str:
    """What the number of runs allows to say: why there is one only, how few they are, or ""."""
    same, seeds = content["same_runs"], content["runs"]
    if len(same) == len(content["strategies"]):
        return (
            f"{ONE_RUN} all seeds make the same run: there is one run of "
            f"{'each' if len(same) > 1 else 'the'} strategy, without an interval or a p-value."
        )
    if seeds == 1:
        alone = "With one seed there is no interval and no p-value: another seed may say otherwise."
        return alone if content["paired"] else ""
    found = []
    # the test does not count ties; the correction is for all pairs, also those without a p-value
    tested = [result for result in content["paired"] if not single(result)]
    counting = max((result["wins"] + result["losses"] for result in tested), default=0)
    pairs = len(content["paired"])
    if counting and pairs * 2.0 ** (1 - counting) >= 0.05:
        needed = next(n for n in range(1, 99) if pairs * 2.0 ** (1 - n) < 0.05)
        ties = f", of which no comparison can count more than {counting} (the rest are ties),"
        found.append(
            f"With {counted(seeds, 'seed')}{ties if counting < seeds else ''} and "
            f"{counted(pairs, 'comparison')} even a win on every seed would not be significant; "
            f"that needs at least {needed} seeds{' that are no ties' if counting < seeds else ''}."
        )
    if same:
        found.append(
            f"{ONE_RUN} all seeds make the same run of {joined(same)}: "
            f"{'it has' if len(same) == 1 else 'they have'} no interval"
            f"{', and no p-value against each other' if len(same) > 1 else ''}."
        )
    return " ".join(found)


def ending(content: Content) -> str:
    """Where things are compared and what was not trained; "" if all was trained to the end."""
    found = []
    if content["cut"]:
        why = "training was interrupted" if content["interrupted"] else "the last that all have"
        where = content["unit"].at(content["step"], content["planned"])
        found.append(f"Compared {where}; {why}.")
    if left_out := content["left_out"]:
        paired = [result for family in content["families"] for result in family["paired"]]
        baselines = joined(list(dict.fromkeys(result["baseline"] for result in paired)))
        found.append(
            f"Only pairs with {baselines} are compared, {left_out:,} others are not: nobody reads "
            "so many, and each would raise the p-values of all."
        )
    if missing := content["settings"].get("not_trained"):
        found.append(f"Not trained, because of an interruption: {joined(missing)}.")
    return " ".join(found)


def settings(content: Content) -> list[tuple[str, str]]:
    """Name and value of every setting, in the order of the alphabet."""
    unit, found = content["unit"], []
    for key, value in sorted(content["settings"].items()):
        if key in ELSEWHERE:
            continue
        if key == "arguments":  # of the command: those that say something
            value = {name: x for name, x in value.items() if x not in (None, "", [], {})}
        text = setting(value)
        if key == "batch_size" and value is None:
            text = "all tasks" if "number_of_tasks" in content["settings"] else "all rows"
        elif key in ("steps", "every") and unit.budget != "steps":
            text = unit.counted(value)
        found.append((key.replace("_", " "), text))
    return found


def budget(content: Content) -> str:
    """What was equal for all strategies."""
    total = content["unit"].counted(content["planned"])
    if content["unit"].budget == "steps":
        return (
            f"{total} of the body for every strategy. A step of one may cost more than a step of "
            "another; the table of final values says what they cost."
        )
    return (
        f"{total} for every strategy, so that one whose steps are dearer makes fewer of them. "
        "Each makes as many whole steps as its budget pays for."
    )


def judged(content: Content) -> str:
    """By what strategies are judged, and what g has to do with it."""
    headline = content["headline"]
    known = {metric for table in content["history"].values() for metric in table}
    text = f"The {metric_name(headline)}"
    if headline.startswith("test_"):
        text += ", of rows that choose nothing"
    elif not content["settings"].get("experience") and not any(
        metric.startswith("test_") for metric in known
    ):
        text += ", since there is no test metric"
    text += "."
    if further := joined([f"the {metric_name(each)}" for each in content["also_judged"]]):
        text += f" The same is asked of {further}, with a correction of its own."
    if content["body_objective"] != "objective":
        text += (
            " The body minimises its own objective F and the head another one, g. A better body "
            "may well have a larger g, which is shown but says nothing about who is better."
        )
    return text


def rows(content: Content) -> str:
    """How the rows, or the tasks, of a step were drawn; "" where the settings do not say."""
    known = content["settings"]
    one = "task" if "number_of_tasks" in known else "row"
    if "sampling" not in known:
        return ""
    size = known.get("batch_size")
    if size is None:
        return "All of them, at every step."
    start = f"{counted(size, one)} at every step" if isinstance(size, int) else "Some"
    if known["sampling"] == "epochs":
        return (
            f"{start}, drawn without replacement: in every epoch each {one} is used once, in a "
            "random order."
        )
    if known["sampling"] == "sequential":
        return f"{start}, in the order of the data, over and over."
    return f"{start}, drawn with replacement, independently of all other steps (i.i.d.)."


def _aside(content: Content, result: Result) -> str:
    """Ties and runs without a value, in brackets."""
    neither = result["failed"] + result["baseline_failed"] - result["lost"]
    alone = result["lost"] - neither
    names, parts = (result["strategy"], result["baseline"]), []
    if ties := result["ties"] - neither:
        parts.append(f"equal on {ties}")
    if alone:
        own = result["failed"] - neither
        sides = {
            name: count for name, count in zip(names, (own, alone - own), strict=True) if count
        }
        runs = joined([f"{counted(count, 'run')} of {name}" for name, count in sides.items()])
        lost = ended(content, *sides, runs=alone)
        parts.append(f"{runs} {lost} and {'counts as a loss' if alone == 1 else 'count as losses'}")
    if neither:
        ends = both(content, *names)
        parts.append(f"{ends} on {neither}, which count{'s' * (neither == 1)} as equal")
    return f" ({'; '.join(parts)})" if parts else ""
