"""Packages that only some parts need: imported when these are used."""

import importlib
from types import ModuleType

from bilevel.errors import MissingPackageError


def extra(package: str, name: str, purpose: str) -> ModuleType:
    """The module `package`, which `pip install "bilevel[name]"` installs; `purpose` needs it.

    Without a name it is installed with bilevel, as a rule, and on its own where it is not.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        whole = package.partition(".")[0]
        if error.name not in (package, whole):  # it is there, and misses something itself
            raise
        install = f'"bilevel[{name}]"' if name else whole
        raise MissingPackageError(
            f"{purpose} needs the package {whole}, which is not installed. Run "
            f"`pip install {install}`."
        ) from error
