"""Whether replay memories fit in the memory of this machine, before anything is trained."""

import os
from pathlib import Path

GIGABYTE = 1e9
MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """What a process may still take: what is available, within the limit of its container.

    None where the system does not say.
    """
    found = [_available(), _within_limit()]
    known = [one for one in found if one is not None]
    return max(0, min(known)) if known else None


def _available() -> int | None:
    """Of the machine: `MemAvailable` of Linux, elsewhere all that is built in."""
    try:
        for line in MEMINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _within_limit() -> int | None:
    """Of the container: its limit without what is in use, of which a cache is given back."""
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def spelled(count: float) -> str:
    """Bytes in words."""
    return f"{count / GIGABYTE:.1f} GB" if count >= GIGABYTE / 10 else f"{count / 1e6:.1f} MB"
