"""The files of a shard, in its folder: who computes it, how far that is, and what came of it."""

import contextlib
import json
import os
from pathlib import Path

from bilevel.comparison.engines.answers import Result, read_result, write_result
from bilevel.comparison.engines.base import Beat
from bilevel.comparison.kept import ATTEMPT, BEAT, RESULT, SHARDS, STOP, trainings
from bilevel.errors import ResultsError
from bilevel.storage.folder import writing


class ShardFiles:
    """The files of one shard.

    Who computes it is whoever was asked last: an attempt before that, on a node that did not answer
    for a while, say, finds so before it writes again, and ends.

    Args:
        folder: of the comparison.
        name: of the shard.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.shards, self.folder = folder / SHARDS, folder / SHARDS / name

    def claim(self, attempt: str) -> None:
        """Say that this attempt is the last one; whoever else computes the shard ends."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            # in its place: network file systems are late to see that a name has another file
            (self.folder / ATTEMPT).write_text(attempt)

    def claimed_by(self, attempt: str) -> bool:
        """Whether there is none after this attempt; if nobody can tell, there is not."""
        try:
            return (self.folder / ATTEMPT).read_text() in (attempt, "")
        except (OSError, ValueError):
            return not (self.folder / RESULT).exists()

    @property
    def gone(self) -> bool:
        """Whether the folder of the whole comparison is there no more: nobody waits for it."""
        return not self.shards.parent.is_dir()

    def ask_to_stop(self, session: str) -> None:
        """Ask all shards of a session to end at their next record."""
        with contextlib.suppress(OSError):
            (self.shards / STOP).write_text(session)

    def told_to_stop(self, session: str) -> bool:
        """Whether who asked for the shard wants it no more."""
        try:
            return (self.shards / STOP).read_text() == session
        except (OSError, ValueError):
            return False

    def say(self, beat: Beat, attempt: str, count: int) -> None:
        """Give a sign of life, the one with that number; nothing is lost if it gets lost."""
        with contextlib.suppress(OSError):
            new = self.folder / f".{BEAT}"
            new.write_text(json.dumps([attempt, count, *beat]))
            os.replace(new, self.folder / BEAT)

    def heard(self, attempt: str) -> tuple[int, Beat] | None:
        """The number of the last sign of life of an attempt, and what it says."""
        try:
            of, count, host, process, step = json.loads((self.folder / BEAT).read_text())
            said = int(count), Beat(str(host), int(process), int(step))
        except (OSError, ValueError, TypeError):
            return None
        return said if of == attempt else None

    def result(self, digest: str) -> Result | None:
        """What was kept of the shard with that digest.

        None where it is not there, is damaged, or belongs to something else: it is made again.
        """
        with contextlib.suppress(ResultsError):
            return read_result(self.folder / RESULT, digest)
        return None

    def keep(self, result: Result, digest: str) -> None:
        """Keep a result; what it was made from is needed no more.

        Raises:
            UnwritableError: it cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_result(self.folder / RESULT, result, digest)
        for name in (BEAT, f".{BEAT}", ATTEMPT):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        for path in trainings(self.folder):
            with contextlib.suppress(OSError):
                path.unlink()
