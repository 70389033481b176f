"""What a search for rates changed: every strategy with the rates as given next to its tuned one."""

import re
from collections.abc import Mapping
from typing import Any

from bilevel.report import doubts, sentences, words
from bilevel.report.words import Content

Row = Mapping[str, Any]
"""One of the rows of a tuning."""
EDGE = "at the edge of the grid: the best rate may lie outside"
COLUMNS = ("strategy", "as given", "tuned", "change", "factors", "trials", "note")
NUMBERS = re.compile(r"\d+\.\d+(?:e-?\d+)?")


def introduction(content: Content) -> str:
    """How the search was done, and why it is fair."""
    tuning, unit, same = content["tuning"], content["unit"], content["same_runs"]
    counts = sorted({row["trials"] for row in tuning["rows"]})
    if len(counts) == 1:
        trials, equal = f"{words.counted(counts[0], 'trial')} each", "with equal effort"
    else:  # grids of one, two and three rates cannot all have the same number of points
        trials = f"{counts[0]} to {counts[-1]} trials each"
        equal = "with as equal an effort as grids of different numbers of rates allow"
    seeds = tuning["seeds"]
    after = (
        "The seed makes no difference, so that these are the runs that are compared."
        if all(row["tuned"] in same for row in tuning["rows"])
        else "The tuned strategies were then trained anew, like all others, on seeds that the "
        "search never saw."
    )
    text = (
        f"Before the comparison the rates of the strategies were searched, {equal}: {trials}, "
        f"every trial with {unit.counted(content['planned'])} on "
        f"{words.counted(len(seeds), 'seed')} ({words.setting(seeds)}). The best "
        f"{'mean ' if len(seeds) > 1 else ''}{words.metric_name(tuning['metric'])} at the end won. "
        f"{after}"
    )
    if tuning["metric"] == content["headline"]:
        text += " The same metric judges them below."
    if untuned := tuning["untuned"]:
        verb = "has no rates and takes" if len(untuned) == 1 else "have no rates and take"
        text += f" {words.joined(untuned)} {verb} part in both comparisons unchanged."
    if any(row["failed"] for row in tuning["rows"]):
        text += " A trial with a run that failed, or has no finite value, has no score."
    codes: dict[str, list[str]] = {}
    for row in tuning["rows"]:
        code = content["strategies"][row["tuned"]]
        codes.setdefault(NUMBERS.sub(_rounded, code), []).append(row["strategy"])
    for same in codes.values():
        if len(same) > 1:
            text += f" Tuned, {words.joined(same)} are one and the same strategy."
    return text


def rows(content: Content) -> list[dict[str, Any]]:
    """One for each strategy whose rates were searched."""
    return content["tuning"]["rows"] if content["tuning"] else []


def pairs(content: Content) -> dict[str, str]:
    """Strategies -> themselves with tuned rates."""
    return {row["strategy"]: row["tuned"] for row in rows(content)}


def factors(row: Row) -> str:
    """What the rates were multiplied with.

    Examples:
        >>> factors({"factors": {"body_lr = head_lr": 1.78}})
        'body_lr and head_lr × 1.78'
    """
    return ", ".join(
        f"{rates.replace(' = ', ' and ')} × {factor:g}"
        for rates, factor in sorted(row["factors"].items())  # as files keep them
    )


def note(row: Row, seeds: int) -> str:
    """What casts doubt on the choice, or ""; with how many seeds every trial had."""
    if row["failed"] == row["trials"]:
        return "no trial has a score: this is the first of them, not the best"
    heads = doubts.doubt("its trial", row.get("doubts", {}), seeds)
    return "; ".join(filter(None, [EDGE if row["edge"] else "", heads]))


def plain_rows(content: Content) -> list[list[str]]:
    """The cells of the table, as text: a row for each strategy, as `COLUMNS` says."""
    unknown, found = {"value": float("nan")}, []
    for row in content["tuning"]["rows"]:
        means = (content["intervals"].get(row[key], unknown) for key in ("strategy", "tuned"))
        failed = f", {row['failed']} without a score" if row["failed"] else ""
        found.append(
            [row["strategy"], *(words.number(mean["value"]) for mean in means),
             _change(row["change"]), factors(row), f"{row['trials']}{failed}",
             note(row, len(content["tuning"]["seeds"]))]
        )  # fmt: skip
    return found


def _change(result: sentences.Result | None) -> str:
    """The paired effect of tuning, with its interval."""
    if result is None or not result["pairs"]:
        return words.UNKNOWN
    text = sentences.size(result)
    ends = sentences.interval(result)
    return text if ends == words.UNKNOWN else f"{text} ({ends})"


def _rounded(number: re.Match[str]) -> str:
    """Products of factors and rates that differ in their last digits are the same rate."""
    return f"{float(number.group()):.3g}"
