"""Where the images of a data set are found, and how they are read."""

import dataclasses
from pathlib import Path

import numpy as np

from bilevel.errors import BilevelError, DataError, MissingDataError, MissingPackageError
from problems.images.contents import check_digest, decompressed, members
from problems.images.download import fetch
from problems.images.formats import Bytes, parse_idx, parse_records
from problems.images.places import VARIABLE, cache, find, places
from problems.images.sources import Source


@dataclasses.dataclass(frozen=True)
class Images:
    """The two standard groups of a data set.

    Attributes:
        train: images (N, D) of bytes and labels (N,).
        test: the same.
        where: the folder they come from.
    """

    train: tuple[Bytes, Bytes]
    test: tuple[Bytes, Bytes]
    where: Path


def load(source: Source, data_dir: str | Path | None = None, *, download: bool = True) -> Images:
    """The images of a data set.

    Looked for in `data_dir`, in the folder of the variable BILEVEL_DATA, in the user's cache
    folder and in /usr/share/datasets; then downloaded into the cache. The files may be compressed
    by gzip. The hash of their decompressed content is checked wherever they come from.

    Args:
        source: which data set.
        data_dir: a folder that holds the files, or a folder of the data set's name that does.
        download: whether files that are not on this machine may be downloaded.

    Raises:
        MissingDataError: the files are nowhere; the message lists every place and three remedies.
        DataError: a file is truncated, was changed, or is another one; the message names it.
    """
    looked = []
    for place in places(data_dir):
        for folder in place.folders(source):
            paths = find(folder, source)
            archive = folder / source.archive
            if len(paths) == len(source.digests):
                return read({name: (path, None) for name, path in paths.items()}, source, folder)
            if source.archive and archive.is_file():
                inside = members(archive, source)
                return read({n: (archive, inside[n]) for n in source.digests}, source, folder)
            lacking = [name for name in source.digests if name not in paths]
            if paths:
                looked.append(f"{folder} lacks {', '.join(lacking)}")
            else:
                state = "holds none of them" if folder.is_dir() else "does not exist"
                looked.append(f"{folder} {state}")
        if place.path is None:
            looked.append(f"{place.what}: {place.why}")
    if not download:
        looked.append("the web: not asked, since `download` is False")
        raise missing(source, looked)
    try:
        folder = fetch(source)
    except (MissingDataError, MissingPackageError) as error:
        looked.append(f"the web: {str(error).rstrip('.')}")
        raise missing(source, looked) from error
    return read({n: (p, None) for n, p in find(folder, source).items()}, source, folder)


def read(found: dict[str, tuple[Path, bytes | None]], source: Source, folder: Path) -> Images:
    """Check and parse the files; for those out of an archive the content is given."""
    groups: dict[str, list[tuple[Bytes, Bytes]]] = {"train": [], "test": []}
    parts: dict[str, Bytes] = {}
    for name in source.digests:
        path, content = found[name]
        shown = str(path) if content is None else f"{name} in {path}"
        content = decompressed(path) if content is None else content
        group = "test" if name.startswith(("t10k", "test")) else "train"
        if name.endswith(".bin"):
            parsed = parse_records(content, shown)
            check_digest(content, name, source, path)
            groups[group].append(parsed)
            continue
        parts[name] = parse_idx(content, shown)
        check_digest(content, name, source, path)
        if "labels" in name:
            images = parts[name.replace("labels-idx1", "images-idx3")]
            groups[group].append((images.reshape(len(images), -1), parts[name]))
    joined = {
        group: (np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs]))
        if len(pairs) > 1
        else pairs[0]
        for group, pairs in groups.items()
    }
    for group, (images, labels) in joined.items():
        if len(images) != len(labels) or images.shape[1] != source.pixels:
            raise DataError(
                f"The {group} images of {source.title} in {folder} are {images.shape} for "
                f"{len(labels)} labels: each needs {source.pixels} pixels and a label."
            )
    return Images(joined["train"], joined["test"], folder)


def missing(source: Source, looked: list[str]) -> BilevelError:
    """The error for files that are nowhere: every place, and what to do."""
    files = ", ".join(source.digests)
    what = f", or {source.archive}" if source.archive else ", each plain or with .gz"
    where = cache()
    keep = f"{where / source.name}" if where is not None else "a folder"
    install = (
        f"On Debian and Ubuntu `apt-get install {source.package}` brings them"
        if source.package
        else f"Copy them from {source.addresses[0]} on another machine into {keep}"
    )
    return MissingDataError(
        f"The files of {source.title} are not on this machine ({files}{what}). Looked at: "
        f"{'; '.join(looked)}. Remedies: (1) name the folder that holds them: --data-dir FOLDER, "
        f"data_dir=... in Python, or the variable {VARIABLE}. (2) {install}. (3) With a "
        "connection, run it again: they are downloaded once."
    )
