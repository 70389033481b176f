"""Tables: plain text for terminals, rows for CSV files."""

import math
from collections.abc import Sequence
from typing import Any

from bilevel.core.html_table import html_lines, html_table
from bilevel.report import first_page, sentences, stationarity, tuning, words

Rows = tuple[list[str], list[list[Any]]]
"""Names of the columns, and rows."""


def plain(content: words.Content) -> str:
    """Final values, cost and statuses of every strategy, then the comparisons in words.

    Columns that nothing is known for are left out.
    """
    table = aligned(*_values(content))
    if content["tuning"]:
        searched = tuning.plain_rows(content)
        table += "\n\n" + aligned(tuning.COLUMNS, searched)
        table += "\n" + tuning.introduction(content)
    return "\n".join([table, "", *_said(content)]).rstrip()


def notebook(content: words.Content) -> str:
    """The same as HTML."""
    header, rows = _values(content)
    found = html_lines([f"Comparison on {content['problem']}"])
    found += html_table(header, rows, slice(1, len(header) - 1))
    if content["tuning"]:
        searched = tuning.plain_rows(content)
        found += html_table(tuning.COLUMNS, searched, slice(1, len(tuning.COLUMNS) - 1))
        found += html_lines([tuning.introduction(content)])
    return found + html_lines(_said(content))


def _values(content: words.Content) -> tuple[list[str], list[tuple[str, ...]]]:
    """Names of the columns, and a row for each strategy."""
    threshold, costs = content["threshold"], content["cost"].values()
    columns = [(sentences.final(content), _means(content, "intervals", "counts"))]
    if content["accuracy"]:
        right = [content["accuracy"].get(key, math.nan) for key in content["strategies"]]
        columns.append(("accuracy", [words.number(value) for value in right]))
    if content["validation"]:
        columns.append(
            (words.stopped_at(content["score"]), _means(content, "validation", "counts_validation"))
        )
    if math.isfinite(threshold):
        reach = [words.reached(content["steps_to"].get(key)) for key in content["strategies"]]
        columns.append((f"{content['unit'].noun}s to {words.number(threshold)}", reach))
    if any(math.isfinite(cost["seconds"]) for cost in costs):
        columns.append(("seconds/run", [words.number(cost["seconds"]) for cost in costs]))
    statuses = [words.status_words(content["status"][key]) for key in content["strategies"]]
    rows = list(zip(content["strategies"], *(cells for _, cells in columns), statuses,
                    strict=True))  # fmt: skip
    return ["strategy", *(title for title, _ in columns), "runs"], rows


def _said(content: words.Content) -> list[str]:
    """What came out, in sentences."""
    said = sentences.pairs(content)
    first, last = sentences.power(content), sentences.ending(content)
    doubt, fall = sentences.doubtful(content), stationarity.fall(content)
    asked = first_page.scale(content), first_page.overfits(content)
    return list(filter(None, [doubt, first, *said, *asked, fall, last]))


def summary(content: words.Content) -> Rows:
    """One row per strategy."""
    ends = ("value", "low", "high")
    unit = content["unit"]
    columns = ["strategy", "metric", unit.column, "runs", "runs_with_value",
               *(f"final_{end}" for end in ends), "validation_best_runs_with_value",
               *(f"validation_best_{end}" for end in ends),
               "threshold", f"median_{unit.budget}_to_threshold", "steps_per_run",
               "gradients_per_run", "seconds_per_run", "statuses", "validation_best_by",
               "runs_with_inexact_head"]  # fmt: skip
    rows = []
    for name in content["strategies"]:
        final = content["intervals"].get(name, {})
        best = content["validation"].get(name, {})
        cost = content["cost"][name]
        rows.append(
            [name, content["headline"], content["step"], content["runs"],
             content["counts"].get(name, 0), *(final.get(end) for end in ends),
             content["counts_validation"].get(name), *(best.get(end) for end in ends),
             content["threshold"], content["steps_to"].get(name), cost["steps"],
             cost["gradients"], cost["seconds"], words.status_words(content["status"][name]),
             content["score"] if best else None, sum(content["doubts"][name].values())]
        )  # fmt: skip
    return columns, rows


def paired(content: words.Content) -> Rows:
    """One row per comparison of two strategies, for final and for validation-best values."""
    results = [("final", result) for result in content["paired"]]
    results += [
        (words.stopped_at(content["score"]), result) for result in content["paired_validation"]
    ]
    further = content["also_judged"].values()
    results += [("final", result) for found in further for result in found]
    names = list(results[0][1]) if results else []
    return ["values", *names], [[which, *result.values()] for which, result in results]


def tuned(content: words.Content) -> Rows:
    """One row per strategy whose rates were searched."""
    effect = ("kind", "effect", "low", "high", "wins", "losses", "p_adjusted", "significant")
    columns = ["strategy", "metric", "final_as_given", "final_tuned",
               *(f"change_{key}" if key in ("kind", "effect", "low", "high") else key
                 for key in effect),
               "factors", "trials", "failed", "edge", "search_metric", "search_score"]  # fmt: skip
    rows = []
    for row in content["tuning"]["rows"]:
        change = row["change"] or {}
        ends = (content["intervals"].get(row[key], {}) for key in ("strategy", "tuned"))
        rows.append(
            [row["strategy"], content["headline"], *(mean.get("value") for mean in ends),
             *(change.get(key) for key in effect), tuning.factors(row), row["trials"],
             row["failed"], row["edge"], content["tuning"]["metric"], row["score"]]
        )  # fmt: skip
    return columns, rows


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: the first and the last column to the left, numbers between to the right.

    Args:
        header: Names of the columns.
        rows: Cells, as many per row as there are names.

    Returns:
        Lines of text without trailing spaces.

    Examples:
        >>> aligned(["a", "n", "z"], [["x", "10", "ok"]]).splitlines()
        ['a   n  z', '-  --  --', 'x  10  ok']
    """
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    table.insert(1, ["-" * width for width in widths])
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _means(content: words.Content, key: str, counts: str) -> list[str]:
    cells = []
    for name in content["strategies"]:
        mean = content[key].get(name, {"value": math.nan, "low": math.nan})
        cell = words.number(mean["value"])
        if not math.isnan(mean["low"]):
            cell += f" ({words.span(mean['low'], mean['high'])})"
        count = content[counts].get(name, content["runs"])
        if count < content["runs"] > 1:  # a mean of survivors
            cell += f" ({count} of {content['runs']} runs)"
        cells.append(cell)
    return cells
