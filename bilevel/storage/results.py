"""What a results folder holds of a comparison besides tables and figures, and reading it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import ResultsError
from bilevel.storage.folder import write_json
from bilevel.storage.history import read_history, write_history
from bilevel.storage.reading import REMEDY, read_json
from bilevel.storage.schema import NATURAL, Schema, check

FORMAT = 1
# Fields that config.json holds as they are.
PLAIN = ("problem", "settings", "status", "gradients_per_step", "seconds_per_step", "baselines",
         "headline", "bound_kind")  # fmt: skip

EXPLAINED = ("joint_largest", "best_largest", "phi_largest", "head_gap", "best_norm", "scale")
"""What the section "Why" is made of."""
TRIED: Schema = {"trials": NATURAL, "failed": NATURAL, "factors": {"*": float}, "edge": bool,
                 "score": (float, None), "doubts?": {"*": NATURAL}}  # fmt: skip
# What the library reads; callers of `compare` may add more.
SETTINGS: Schema = {
    "seeds": [NATURAL], "seeds_asked?": [NATURAL], "steps?": NATURAL, "every?": NATURAL,
    "batch_size?": (NATURAL, None, {"*": (NATURAL, None)}), "budget?": ("steps", "gradients"),
    "sampling?": str, "dtype?": str, "device?": str, "threads?": NATURAL, "data_note?": (str, None),
    "number_of_tasks?": NATURAL, "experience?": str, "also_judged?": [str],
    "bound_note?": str, "same_runs?": [str], "not_trained?": [str],
    "interrupted_heads?": {"*": [str]}, "references?": {"*": {"*": [(float, None)]}},
    "why?": {"seeds": [NATURAL], "steps": {"*": [NATURAL]},
             "values": {"*": {key: [[(float, None)]] for key in EXPLAINED}}},
    "tuning?": {"metric": str, "seeds": [NATURAL], "factors": [float], "strategies": {"*": TRIED}},
    "*": object,
}  # fmt: skip
OWN_SETTINGS = {key.removesuffix("?") for key in SETTINGS} - {"*"}
"""What a comparison says of itself; further settings have other names."""
CONFIG: Schema = {
    "format": int, "problem": str, "settings": SETTINGS, "status": {"*": [str]},
    "gradients_per_step": {"*": float}, "seconds_per_step": {"*": (float, None)},
    "baselines": [str], "headline": str, "bound_kind": ("proven", "estimated", "unknown"),
    "strategies": [{"name": str, "code": str}],
}  # fmt: skip
ENVIRONMENT: Schema = {
    "packages?": {"*": (str, None)}, "commit?": (str, None), "python?": str, "platform?": str,
    "processors?": (int, None), "threads?": (int, None), "dtype?": (str, None),
    "device?": (str, None),
    "shards?": [{"stage": str, "strategies": [str], "seeds": [NATURAL], "kind": str, "bits": str}],
    "*": object,
}  # fmt: skip


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
    if config.get("format") != FORMAT or config["format"] is True:
        raise ResultsError(
            f"{path} has format {config.get('format')!r:.40}, expected {FORMAT}: "
            "another version of bilevel wrote it, or something else."
        )
    check(config, CONFIG, path, REMEDY)
    strategies = {row["name"]: row["code"] for row in config["strategies"]}
    plain = {key: config[key] for key in PLAIN}
    seconds = plain["seconds_per_step"].items()  # null where not measured
    plain["seconds_per_step"] = {k: np.nan if v is None else v for k, v in seconds}
    plain["baselines"] = tuple(plain["baselines"])
    seeds, column = plain["settings"]["seeds"], _column(plain["settings"])
    if len(strategies) < len(config["strategies"]) or len(set(seeds)) < len(seeds):
        raise ResultsError(f"{path} names a strategy or a seed twice. {REMEDY}")
    steps, history = read_history(folder / "history.csv", list(strategies), seeds, column)
    environment = read_json(folder / "environment.json", ENVIRONMENT)
    return {**plain, "strategies": strategies, "steps": steps, "history": history,
            "environment": environment}  # fmt: skip


def _column(settings: Mapping[str, Any]) -> str:
    """What recorded steps are called: by what the budget counts."""
    return "gradients" if settings.get("budget") == "gradients" else "step"
