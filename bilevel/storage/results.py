"""What a results folder holds of a comparison besides tables and figures, and reading it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import ResultsError
from bilevel.storage.folder import read_json, write_json
from bilevel.storage.history import read_history, write_history

FORMAT = 1
# Fields that config.json holds as they are.
PLAIN = ("problem", "settings", "status", "gradients_per_step", "seconds_per_step", "baselines",
         "headline", "bound_kind")  # fmt: skip


def write_results(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a `Comparison`: config.json, environment.json and history.csv."""
    # JSON objects have no order, the strategies do.
    strategies = [{"name": name, "code": code} for name, code in fields["strategies"].items()]
    plain = {key: fields[key] for key in PLAIN}
    write_json(folder / "config.json", {"format": FORMAT, **plain, "strategies": strategies})
    write_json(folder / "environment.json", fields["environment"])
    seeds = fields["settings"]["seeds"]
    column = _column(fields["settings"])
    write_history(folder / "history.csv", fields["history"], seeds, fields["steps"], column)


def read_results(folder: Path) -> dict[str, Any]:
    """The fields of a `Comparison` that `write_results` wrote.

    Raises:
        ResultsError: If a file is missing or malformed; names it.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise ResultsError(
            f"{path} has format {config.get('format')}, expected {FORMAT}: "
            "another version of bilevel wrote it, or something else."
        )
    try:
        plain = {key: config[key] for key in PLAIN}
        strategies = {row["name"]: row["code"] for row in config["strategies"]}
        seeds = plain["settings"]["seeds"]
        column = _column(plain["settings"])
        steps, history = read_history(folder / "history.csv", list(strategies), seeds, column)
        seconds = plain["seconds_per_step"].items()  # null where not measured
        plain["seconds_per_step"] = {k: np.nan if v is None else v for k, v in seconds}
        plain["baselines"] = tuple(plain["baselines"])
    except (KeyError, TypeError, AttributeError) as error:
        raise malformed(folder, error) from error
    environment = read_json(folder / "environment.json")
    return {**plain, "strategies": strategies, "steps": steps, "history": history,
            "environment": environment}  # fmt: skip


def _column(settings: Mapping[str, Any]) -> str:
    """What recorded steps are called: by what the budget counts."""
    return "gradients" if settings.get("budget") == "gradients" else "step"


def malformed(folder: Path, error: Exception) -> ResultsError:
    """The error for a config.json whose parts are not what they must be."""
    return ResultsError(
        f"{folder / 'config.json'} is malformed, near {error}: it is not what "
        "`Comparison.report` writes."
    )
