"""The figures of the tutorials, and the output that they show: both made by the code of the page.

    python docs/figures/tutorials.py [NAME ...]

runs the Python blocks of docs/tutorials/NAME.md (of all tutorials, if none is named) one after
another in one namespace, as a reader would. It writes what a block prints into the text block that
follows it, and the figure that the page calls `figure` to docs/assets/tutorials/NAME.svg. The SVG
holds a digest of code and output, by which tests/project/test_tutorials.py tells whether both are
still those of the page.
"""

import contextlib
import hashlib
import io
import re
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from look import ASSETS, LOOK, svg
from matplotlib import pyplot

PAGES = {
    page.stem: page
    for page in sorted((Path(__file__).parents[1] / "tutorials").glob("*.md"))
    if page.stem != "index"
}
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    start: int
    """Of its text, in characters of the page."""


def blocks(page: str) -> list[Block]:
    """The Python and text blocks of a page, in order."""
    return [Block(m[1], m[2], m.start(2)) for m in BLOCK.finditer(page)]


def code_lines(page: str) -> int:
    """How many lines of code a reader writes: without empty ones and comments."""
    code = "".join(block.text for block in blocks(page) if block.language == "python")
    lines = [line.strip() for line in code.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def digest(page: str) -> str:
    """Of the code of a page and the output that it shows."""
    found = "\0".join(f"{block.language}\n{block.text}" for block in blocks(page))
    return hashlib.sha256(found.encode()).hexdigest()


def said(text: str) -> str:
    """The digest in SVG text."""
    found = re.search(r"<desc>code (\w+)</desc>", text)
    return found[1] if found else "none"


def target(name: str) -> Path:
    """Where the figure of a page lies."""
    return ASSETS / "tutorials" / f"{name}.svg"


def ran(page: str, name: str) -> tuple[str, str]:
    """Run the blocks of a page.

    Returns:
        The page with the output that its blocks print, and the SVG text of its figure.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    parts, end, printed = [], 0, ""
    # figures of the library's reports have a layout of their own; pages ask for one
    look = {**LOOK, "figure.constrained_layout.use": False}
    with mpl.rc_context(look), warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks(page):
            parts.append(page[end : block.start])
            end = block.start + len(block.text)
            if block.language == "text":  # without output above it: of a command, left alone
                parts.append(printed or block.text)
                printed = ""
                continue
            assert not printed, f"{name}: this output is not shown:\n{printed}"
            above = page[: block.start].count("\n")  # for the line numbers of errors
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * above + block.text, f"{name}.md", "exec"), names)
            printed = "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
            parts.append(block.text)
        assert not printed, f"{name}: this output is not shown:\n{printed}"
        page = "".join([*parts, page[end:]])
        figure = names["figure"]
        assert isinstance(figure, mpl.figure.Figure), f"{name} makes no `figure`"
        text = svg(figure, f"code {digest(page)}")
        pyplot.close("all")
    return page, text


def main(names: list[str]) -> None:
    """Run pages; write their outputs and figures."""
    mpl.use("svg")
    for name in names or PAGES:
        begun = time.process_time()
        page, text = ran(PAGES[name].read_text(), name)
        seconds = time.process_time() - begun
        PAGES[name].write_text(page)
        target(name).write_text(text)
        sys.stdout.write(
            f"{name}: {code_lines(page)} lines, {seconds:.1f} s, figure of {len(text):,} B\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
