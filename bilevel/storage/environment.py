"""What a result depends on besides its settings: versions, commit, platform, threads."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("bilevel", "torch", "numpy", "scipy", "scikit-learn")


def environment(
    *, dtype: str | None = None, device: str | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Where numbers were computed; the content of `environment.json`.

    Versions (None for what is not installed), commit of the checkout, platform, processors, and
    what the training used. No host name, no path, no user name.

    Examples:
        >>> environment(dtype="float32")["dtype"]
        'float32'
    """
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "threads": threads,
        "dtype": dtype,
        "device": device,
    }


def version(package: str) -> str | None:
    """The version of an installed package; None for what is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """Commit of the checkout at `root`, marked when files differ from it; None without one."""
    # An installed package may lie inside somebody else's checkout: that commit is not ours.
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit} with local changes" if commit and changed else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
