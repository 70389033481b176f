"""`bilevel doctor --engine`: one tiny job, and what came back."""

import time
from typing import Any

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.errors import ArgumentError, counted

ENGINE = ("python", "dask", "distributed", "cloudpickle", "msgpack")
"""What a scheduler of Dask must have as its clients have it."""
GRADIENT = -2 / 25 + 0.2
"""Phi'(w) = -lambda w / (w^2 + lambda)^2 + mu w at w = 2, lambda = 1, mu = 0.1."""


def check_engine(text: str, timeout: float) -> int:
    """Send one tiny job to an engine and print what came back; 1 if something is wrong.

    Args:
        text: the engine, as `compare --engine` takes it.
        timeout: seconds to wait for the job.
    """
    from bilevel.comparison.engines.named import engine_of
    from bilevel.comparison.engines.within import within
    from bilevel.comparison.engines.worker import introduced

    if not 0 < timeout < float("inf"):
        raise ArgumentError(f"--timeout must be a number of seconds above 0, got {timeout}.")
    engine = engine_of(text)
    try:
        line("engine", engine.name)
        begun = time.monotonic()
        future = engine.submit(introduced)
        try:
            there = within(timeout, future.result)
        except Exception as error:
            where = engine.last_words(error, None)
            engine.stop(future, None)
            if isinstance(error, TimeoutError):
                where = (
                    f"nothing came back within {timeout:g} seconds ({where}): give --timeout more"
                )
            line("job", f"failed: {where}")
            print("Something is wrong: see above.")
            return FAILED
        line("job", f"came back after {time.monotonic() - begun:.1f} seconds")
        healthy = said(there, introduced(), engine.versions([*there["versions"], *ENGINE]))
    finally:
        engine.close()
    print("All is well." if healthy else "Something is wrong: see above.")
    return OK if healthy else FAILED


def said(there: dict[str, Any], here: dict[str, Any], places: dict[str, Any]) -> bool:
    """Print what a worker says of itself; whether it is as it should be."""
    line("host", f"{there['host']}, process {there['process']}")
    cores = counted(there["processors"], "processor")
    line("processor", f"{there['processor']['kind']}, {cores}")
    if there["processor"]["bits"] != here["processor"]["bits"]:
        line("", f"rounds otherwise than the one here ({here['processor']['kind']})")
    line("threads", f"{there['threads']} of torch")
    off = abs(there["gradient"] - GRADIENT)
    line("gradient", f"off by {off:.1e} from the closed form of Lemma 4.1")
    different = [
        f"{name} {there['versions'][name]} there, {version} here"
        for name, version in here["versions"].items()
        if there["versions"].get(name) != version
    ]
    different += elsewhere(here["versions"], places)
    line("versions", different[0] if different else "all as here")
    for one in different[1:]:
        line("", one)
    return off < 1e-12 and not different


def elsewhere(here: dict[str, Any], places: dict[str, Any]) -> list[str]:
    """Versions of the engine's other places that differ from those here."""
    if not places:
        return []
    from bilevel.storage.environment import version

    ours = {name: version(name) for name in ENGINE if name != "python"} | here
    found = []
    for place, versions in places.items():
        wanted = ENGINE if place == "scheduler" else (*ENGINE, *here)
        for name in dict.fromkeys(wanted):
            known = versions.get(name)
            if name == "python" and known is not None:  # 3.11.7.final.0
                known = known.removesuffix(".final.0")
            if name != "commit" and known != ours[name]:
                found.append(f"{name} {known} on {place}, {ours[name]} here")
    return found


def line(key: str, value: str) -> None:
    """Print a finding."""
    print(f"{key:16} {value}")
