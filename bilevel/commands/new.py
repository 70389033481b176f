"""`bilevel new`."""

import dataclasses
import importlib.util
import keyword
from importlib import resources
from pathlib import Path
from typing import Literal

import tyro

from bilevel.commands.exit_codes import OK
from bilevel.errors import ArgumentError
from bilevel.storage.folder import write_whole, writing

KINDS = {
    "features": "a head that is linear in features that the body learns",
    "validation": "hyper-parameters that validation rows choose: F is not g",
    "general": "an objective of your own, strongly convex in the head",
}


@dataclasses.dataclass(frozen=True)
class New:
    """Write a problem to start from, with comments, and a test of it that passes."""

    file: tyro.conf.Positional[Path]
    """What to write, such as waves.py; its test is written beside it, as test_waves.py."""
    kind: Literal["features", "validation", "general"] = "features"
    """features: a head that is linear in features that the body learns. validation:
    hyper-parameters that validation rows choose, so that F is not g. general: an objective of your
    own."""

    def run(self) -> int:
        """Write both files, neither of them over another one."""
        file, test = self.file, self.file.with_name(f"test_{self.file.name}")
        check(file)
        for path in (file, test):
            if path.exists():
                raise ArgumentError(f"{path} exists and is left alone. Give another name.")
        words = {
            "Name": class_name(file),
            "file": file.name,
            "test": test.name,
            "stem": file.stem,
            "module": module(file),
            "gradient": "Implicit" if self.kind == "validation" else "Envelope",
            "objective": "body_objective" if self.kind == "validation" else "objective",
            "solver": "bilevel.Newton(), " if self.kind == "general" else "",
            "newton": ", bilevel.Newton()" if self.kind == "general" else "",
        }
        for path, template in ((file, self.kind), (test, "test")):
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, filled(template, words).encode())
        print(f"{file}: {KINDS[self.kind]}.")
        print(f"Next:\n    python {test}   # it passes: run it again after each change")
        print(f"    python {file}   # compares strategies and writes a report")
        return OK


def check(file: Path) -> None:
    """Refuse what Python could not import, or would import in the place of something else."""
    name = file.stem
    if file.suffix != ".py" or not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(
            f"FILE must be a module's name with .py, such as waves.py, got {file.name!r}."
        )
    if not name.isascii() or not class_name(file).isidentifier():
        raise ArgumentError(
            f"FILE must be named by letters of a to z, digits after them, got {file.name!r}."
        )
    if keyword.iskeyword(class_name(file)):
        raise ArgumentError(f"{class_name(file)} is no name for a class. Give FILE another name.")
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        raise ArgumentError(
            f"Python has a module {name!r} already, and one of the two would hide the other. "
            "Give FILE another name."
        )


def class_name(file: Path) -> str:
    """The words of a module's name in capitals: of my_waves.py, MyWaves."""
    return "".join(word.capitalize() for word in file.stem.split("_"))


def module(file: Path) -> str:
    """By which name pytest imports a file: with the packages that it is in."""
    names, folder = [file.stem], file.resolve().parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names)


def filled(template: str, words: dict[str, str]) -> str:
    """A file of `templates`, with @word@ replaced."""
    text = (resources.files("bilevel.commands") / "templates" / f"{template}.txt").read_text(
        "utf-8"
    )
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
