"""Whether the parts of a comparison belong together, and in one order."""

from collections.abc import Mapping
from typing import Any

from bilevel.core.status import Status
from bilevel.errors import ResultsError
from bilevel.report.units import UNITS

PARTS = ("history", "status", "gradients_per_step", "seconds_per_step")
"""Fields with an entry for every strategy."""


def in_order(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Comparison` with an entry for every strategy, in their order.

    Raises:
        ResultsError: A strategy is missing or unknown, or numbers of seeds or records differ.
    """
    names, seeds = list(fields["strategies"]), fields["settings"]["seeds"]
    if (budget := fields["settings"].get("budget", "steps")) not in UNITS:
        raise ResultsError(f"The budget must be one of {list(UNITS)}, got {budget!r}.")
    for part in PARTS:
        if set(fields[part]) != set(names):
            raise ResultsError(f"`{part}` must have the strategies {names} as its keys.")
    if unknown := set(fields["baselines"]) - set(names):
        raise ResultsError(f"Baselines {sorted(unknown)} are not among {names}.")
    if fields["headline"] not in {m for table in fields["history"].values() for m in table}:
        raise ResultsError(f"The headline {fields['headline']!r} is no metric of the history.")
    of_heads = fields["settings"].get("interrupted_heads", {})
    shape = len(fields["steps"]), len(seeds)
    for name in names:
        for statuses in (fields["status"][name], of_heads.get(name, fields["status"][name])):
            if len(statuses) != len(seeds) or not set(statuses) <= Status.__members__.keys():
                raise ResultsError(
                    f"`status` of {name!r} must have {len(seeds)} entries, names of `Status`."
                )
        for metric, values in fields["history"][name].items():
            if values.shape != shape:
                raise ResultsError(f"{metric!r} of {name!r}: {values.shape=}, not {shape}.")
    for rule, table in fields["settings"].get("references", {}).items():
        for metric, values in table.items():
            if len(values) != len(seeds):
                raise ResultsError(f"{metric!r} of {rule!r} must have {len(seeds)} values.")
    _check_why(fields["settings"].get("why"), names)
    return {part: {name: fields[part][name] for name in names} for part in PARTS}


def _check_why(why: Any, names: list[str]) -> None:
    """Raise a `ResultsError` unless the tables of `explain` are of these strategies, and whole."""
    if why is None:
        return
    if why["steps"].keys() != why["values"].keys() or not set(why["values"]) <= set(names):
        raise ResultsError(f"`why` must be of strategies among {names}.")
    for name, tables in why["values"].items():
        rows, runs = len(why["steps"][name]), len(why["seeds"])
        for key, table in tables.items():
            if not rows or not runs or [len(row) for row in table] != [runs] * rows:
                raise ResultsError(f"{key!r} of `why` of {name!r} is not ({rows}, {runs}).")
