"""`bilevel doctor --engine`: one tiny job, and what came back."""

import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.errors import ArgumentError, EngineError, counted
from bilevel.storage.environment import PACKAGES, environment, version

if TYPE_CHECKING:
    from bilevel.comparison.engines.base import AbstractEngine

ENGINE = ("python", "dask", "distributed", "cloudpickle", "msgpack")
"""What a scheduler of Dask must have as its clients have it."""


def check_engine(text: str, timeout: float) -> int:
    """Send one tiny job to an engine and print what came back; 1 if something is wrong.

    Args:
        text: the engine, as `compare --engine` takes it.
        timeout: seconds to wait for the job.
    """
    if not 0 < timeout < float("inf"):
        raise ArgumentError(f"--timeout must be a number of seconds above 0, got {timeout}.")
    from bilevel.comparison.engines.named import engine_of

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Dask, about what is said here
            engine = engine_of(text)
    except EngineError as error:
        line("engine", str(error))
        return ended(False)
    try:
        line("engine", engine.name)
        there = asked(engine, timeout)
        healthy = there is not None and said(there)
        different = elsewhere(engine)
        if there is not None:
            known = ("commit",) if different else here()
            ours = {name: here()[name] for name in known}
            different += compared(there["versions"], ours, "there")
        line("versions", different[0] if different else "all as here")
        for one in different[1:]:
            line("", one)
    finally:
        engine.close()
    return ended(healthy and not different)


def asked(engine: "AbstractEngine", timeout: float) -> dict[str, Any] | None:
    """What a worker says of itself; None where nothing came back, which is printed then."""
    from bilevel.comparison.engines.within import within
    from bilevel.comparison.engines.worker import introduced

    begun = time.monotonic()
    try:
        future = engine.submit(introduced)
        try:
            there: dict[str, Any] = within(timeout, future.result)
        except Exception as error:
            why = engine.last_words(error, None)
            engine.stop(future, None)
            if isinstance(error, TimeoutError):
                why = f"nothing came back within {timeout:g} seconds (--timeout): {why}"
            line("job", f"failed: {why}")
            return None
    except EngineError as error:
        line("job", f"failed: {error}")
        return None
    line("job", f"came back after {time.monotonic() - begun:.1f} seconds")
    return there


def said(there: Mapping[str, Any]) -> bool:
    """Print what a worker says of itself; whether it computes rightly."""
    from bilevel.comparison.engines.processor import processor

    line("host", f"{there['host']}, process {there['process']}")
    kind = there["processor"]["kind"]
    line("processor", f"{kind}, {counted(there['processors'], 'processor')}")
    if there["processor"]["bits"] != (ours := processor("cpu"))["bits"]:
        line("", f"rounds otherwise than the one here: {ours['kind']}")
    line("threads", f"{there['threads']} of torch")
    line("gradient", f"off by {there['off']:.1e} from its closed form")
    return bool(there["off"] < 1e-12)


def here() -> dict[str, str | None]:
    """Versions in this process."""
    known = environment()
    return {**known["packages"], "python": known["python"], "commit": known["commit"]}


def elsewhere(engine: "AbstractEngine") -> list[str]:
    """What differs at the engine's places, as far as it tells without a job."""
    ours = here() | {name: version(name) for name in ENGINE if name != "python"}
    found: list[str] = []
    for place, versions in engine.versions([*PACKAGES, *ENGINE[1:]]).items():
        names = ENGINE if place == "scheduler" else (*ENGINE, *PACKAGES)
        python = (versions.get("python") or "").removesuffix(".final.0")  # such as 3.11.7.final.0
        at = {**versions, "python": python}
        found += compared(at, {name: ours[name] for name in dict.fromkeys(names)}, f"on {place}")
    return found


def compared(
    there: Mapping[str, str | None], ours: Mapping[str, str | None], where: str
) -> list[str]:
    """What differs, each in a few words."""
    return [
        f"{name} {there.get(name) or 'is missing'} {where}, {version or 'missing'} here"
        for name, version in ours.items()
        if there.get(name) != version
    ]


def line(key: str, value: str) -> None:
    """Print a finding."""
    print(f"{key:16} {value}")


def ended(healthy: bool) -> int:
    """Print the verdict; the exit code."""
    print("All is well." if healthy else "Something is wrong: see above.")
    return OK if healthy else FAILED
