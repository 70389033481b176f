"""Where files of data are looked for on this machine, in this order."""

import dataclasses
import os
from pathlib import Path

from bilevel.storage.folder import located
from problems.images.sources import Source

VARIABLE = "BILEVEL_DATA"
SHARED = Path("/usr/share/datasets")  # Debian's packages put them there


@dataclasses.dataclass(frozen=True)
class Place:
    """A place to look at.

    Attributes:
        what: in words.
        path: the folder; None where there is none, and `why` says why.
        why: see `path`.
        itself: whether the files may lie in the folder itself, not only in one of their own.
    """

    what: str
    path: Path | None
    why: str = ""
    itself: bool = False

    def folders(self, source: Source) -> list[Path]:
        """The folders to look in for a data set."""
        if self.path is None:
            return []
        named = [self.path / name for name in (source.name, *source.folders)]
        return [*named, self.path] if self.itself else named


def places(data_dir: str | Path | None) -> list[Place]:
    """All places, the one that the user names first."""
    given, variable = str(data_dir or ""), os.environ.get(VARIABLE, "")
    asked = located(given) if given else None
    named = located(variable) if variable else None
    return [
        Place("the folder of --data-dir (data_dir in Python)", asked, "not given", itself=True),
        Place(f"the folder of the variable {VARIABLE}", named, "not set", itself=True),
        Place("the user's cache folder", cache(), "not known without the package platformdirs"),
        Place("the system's folder of data sets", SHARED),
    ]


def cache() -> Path | None:
    """The folder for downloads; None without platformdirs, which knows where it belongs."""
    try:
        import platformdirs
    except ImportError:
        return None
    return platformdirs.user_cache_path("bilevel", appauthor=False)


def find(folder: Path, source: Source) -> dict[str, Path]:
    """The files of a data set in a folder: all, some or none; plain ones before compressed ones."""
    found = {}
    for name in source.digests:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                found[name] = path
                break
    return found
