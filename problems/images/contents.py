"""The decompressed bytes of a file of a data set, checked against what was published."""

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path

from bilevel.errors import DataError
from problems.images.sources import SOURCES, Source


def decompressed(path: Path) -> bytes:
    """What is in a file; one whose name ends in .gz is unpacked.

    Raises:
        DataError: it cannot be read or unpacked.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise DataError(
            f"{path} is truncated: it ends within its compressed data. {again(path)}"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is no undamaged gzip file ({error}). {again(path)} If it is not compressed, "
            "leave .gz out of its name."
        ) from error


def members(path: Path, source: Source) -> dict[str, bytes]:
    """The files of a data set from its tar archive: their bytes only, nothing is unpacked to disk.

    Raises:
        DataError: the archive is damaged, or lacks a file.
    """
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in source.digests and member.isfile():
                    file = archive.extractfile(member)
                    assert file is not None  # it is a regular file
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} is truncated or damaged and cannot be unpacked ({error}). {again(path)}"
        ) from error
    if lacking := [name for name in source.digests if name not in found]:
        raise DataError(f"{path} lacks {', '.join(lacking)}: it is not {source.archive}.")
    return found


def check_digest(content: bytes, name: str, source: Source, path: Path | str) -> None:
    """Raise unless the bytes are those that were published.

    Args:
        content: decompressed.
        name: of the file in the data set.
        source: the data set.
        path: where they come from, for the error.
    """
    expected = source.digests[name]
    kind = "sha256" if len(expected) == 64 else "md5"
    found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if found == expected:
        return
    for other in SOURCES.values():
        for its, digest in other.digests.items():
            if digest == found:
                remedy = (
                    "Files were renamed: get them anew."
                    if other is source
                    else f"Keep each data set in a folder of its name: {source.name}, {other.name}."
                )
                raise DataError(
                    f"{path} is {its} of {other.title}, not {name} of {source.title}. {remedy}"
                )
    raise DataError(
        f"{path} was changed, or is not {name} of {source.title}: the {kind.upper()} of its "
        f"decompressed content is {found}, not {expected}. {again(path)}"
    )


def again(path: Path | str) -> str:
    """What to do about a damaged file."""
    return "Get it anew." if isinstance(path, str) else "Delete it and get it anew."
