"""Packages that only some parts need: imported when these are used."""

import importlib
from types import ModuleType

from bilevel.errors import MissingPackageError


def extra(package: str, name: str, purpose: str) -> ModuleType:
    """The module `package`, which `pip install "bilevel[name]"` installs; `purpose` needs it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and misses something itself
            raise
        raise MissingPackageError(
            f"{purpose} needs the package {package}, which is not installed. Run "
            f'`pip install "bilevel[{name}]"`.'
        ) from error
