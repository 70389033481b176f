"""Files of a data set from the web, checked before they are kept."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.core.optional import extra
from bilevel.errors import DataError, MissingDataError
from problems.images.contents import check_digest, decompressed, members
from problems.images.places import cache
from problems.images.sources import Source


def fetch(source: Source) -> Path:
    """The folder in the user's cache that holds the files of `source`, downloaded now.

    Every file is written next to its place and renamed when it is complete and checked, so that
    an interrupted download leaves nothing behind that could be mistaken for data.

    Raises:
        MissingPackageError: an extra is not installed.
        MissingDataError: nothing could be downloaded, or what came is not the data set; the message
            says why, for every address.
    """
    for package in ("platformdirs", "pooch"):
        pooch = extra(package, "data", "A download")
    root = cache()
    assert root is not None  # platformdirs is there
    folder = root / source.name
    troubles = []
    for address in source.addresses:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix="download-") as scratch, quiet(pooch):
                for path in downloaded(pooch, source, address, Path(scratch)):
                    os.replace(path, folder / path.name)
            return folder
        except DataError as error:
            troubles.append(str(error).rstrip("."))
        except OSError as error:  # requests' errors are among them
            troubles.append(f"{address}: {type(error).__name__}: {error}")
    raise MissingDataError(f"Downloading failed: {'; '.join(troubles)}.")


def downloaded(pooch: Any, source: Source, address: str, scratch: Path) -> Iterator[Path]:
    """The files of a data set, one after the other, checked, in the folder `scratch`."""
    if source.archive:
        path = retrieve(pooch, address + source.archive, scratch)
        for name, content in members(path, source).items():
            check_digest(content, name, source, address + source.archive)
            (scratch / name).write_bytes(content)
            yield scratch / name
        return
    for name in source.digests:
        path = retrieve(pooch, f"{address}{name}.gz", scratch)
        try:
            content = decompressed(path)
        except DataError as error:
            raise DataError(f"{address}{name}.gz: {error}") from error
        check_digest(content, name, source, f"{address}{name}.gz")
        yield path


def retrieve(pooch: Any, address: str, scratch: Path) -> Path:
    """Download one file, with a bar on a terminal and a line elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    name = address.rpartition("/")[2]
    with Progress(console=Console(stderr=True)) as shown:
        bar = Bar(shown, f"downloading {name}")
        # the hash of what is sent is not that of the data: copies are compressed differently
        pooch.retrieve(
            address,
            known_hash=None,
            fname=name,
            path=scratch,
            downloader=pooch.HTTPDownloader(progressbar=bar),
        )
    return scratch / name


class Bar:
    """What pooch asks of a progress bar, shown by rich.

    Args:
        shown: the display.
        what: is being downloaded.
    """

    def __init__(self, shown: Any, what: str) -> None:
        self.shown, self.task = shown, shown.add_task(what, total=None)

    @property
    def total(self) -> int:
        """Bytes to come; 0 where the server does not say."""
        return 0

    @total.setter
    def total(self, size: int) -> None:
        self.shown.update(self.task, total=size or None)

    def update(self, size: int) -> None:
        """Some bytes more."""
        self.shown.advance(self.task, size)

    def reset(self) -> None:
        """From the start: pooch then adds all bytes at once."""
        self.shown.update(self.task, completed=0)

    def close(self) -> None:
        """Nothing to do."""


@contextlib.contextmanager
def quiet(pooch: Any) -> Iterator[None]:
    """Without pooch's advice on a hash that it was not given."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
