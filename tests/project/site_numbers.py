"""Which numbers of the site a command repeats, and which are older than the code they measure.

    python tests/project/site_numbers.py          every table of numbers and every figure
    python tests/project/site_numbers.py --old    those alone whose code changed since
    python tests/project/site_numbers.py docs/performance.md ...

The command of a table or figure is one that its section names, or one around it, or the page's
beginning. The code it measures: the script or sub-command, the problem, and what of `bilevel` and
`problems` these import or name themselves. A number is as old as its line, wherever it stood before
(git blame); code as its last change of more than docstrings and comments. In a line before a table
one may say what the page does not show, or why there is no command:

    <!-- numbers: python docs/figures/report.py -->
    <!-- numbers: closed forms -->
"""

import argparse
import ast
import functools
import itertools
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bilevel

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(
    r"(?:\.venv/bin/)?"
    r"((?:python (?:-m pytest |benchmarks/|docs/|tests/|problems/)|bilevel |make )[^`\n]+)"
)
SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
FIGURE = re.compile(r"^!\[[^\]]*\]\(([^)\s]+)\)", re.MULTILINE)
MEASURED = re.compile(r"(?<![\w.])(?:\d*\.\d+|\d+e-\d+)(?!\w*\()")
HEADING = re.compile(r"^(#{2,4}) ", re.MULTILINE)
TUTORIAL = re.compile(r"assets/tutorials/([\w-]+)\.svg$")
"""A tutorial's figure is made by the code of its page, which a script runs."""
SAID = re.compile(r"<!-- numbers: ([^>]+) -->\s*\Z")
NOT_A_MEASUREMENT = {"make", "make bench-peers", "make docs", "make test", "make lint", "bilevel"}
NO_NUMBERS = (
    "bilevel/errors.py",
    "bilevel/core/checks.py",
    "bilevel/problem/registry.py",
    "bilevel/storage/",
    "bilevel/report/",
    "bilevel/commands/",
)
"""Code that says, writes and shows numbers, and makes none."""
DECIMALS = 4
"""A table with so many numbers after a point was measured, as a rule."""


class Item(NamedTuple):
    """A table or figure.

    Attributes:
        page: where it is.
        lines: the first and the last, from 1.
        what: its first words, or the file of a figure.
        commands: that repeat it, those of its section before those of the page's beginning.
        said: why it needs none; empty.
    """

    page: Path
    lines: tuple[int, int]
    what: str
    commands: tuple[str, ...]
    said: str


def sections(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each section starts, its level and its text; headings in blocks of code are none."""
    heads = [(found.start(), len(found[1])) for found in HEADING.finditer(_blank(text))]
    starts = [(0, 1), *heads, (len(text), 1)]
    for (start, level), (end, _) in itertools.pairwise(starts):
        yield start, level, text[start:end]


def commands(text: str) -> list[tuple[int, str]]:
    """The commands in blocks for the shell and in spans of code, and where they are."""
    spans = [(found.start(1), found[1]) for found in SPAN.finditer(_blank(text))]
    for block in FENCE.finditer(text):
        if block[1] == "sh":
            ends = itertools.accumulate(map(len, block[2].splitlines(True)), initial=block.start(2))
            lines = [line.partition("  #")[0] for line in block[2].splitlines()]
            spans += zip(ends, lines, strict=False)
    found = [(at, match[1].strip()) for at, line in spans if (match := COMMAND.match(line.strip()))]
    return [(at, one) for at, one in found if one not in NOT_A_MEASUREMENT]


def _blank(text: str) -> str:
    """A text without its blocks of code, each place where it was."""
    return FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)


def items(page: Path) -> Iterator[Item]:
    """The tables of numbers and the figures of a page."""
    text = page.read_text(encoding="utf-8")
    around: dict[int, list[tuple[int, str]]] = {}
    for start, level, part in sections(text):
        around = {above: found for above, found in around.items() if above < level}
        around[level] = [(start + at, one) for at, one in commands(part)]
        shown = _blank(part)
        tables = [one for one in TABLE.finditer(shown) if len(MEASURED.findall(one[0])) >= DECIMALS]
        for found in sorted([*tables, *FIGURE.finditer(shown)], key=lambda one: one.start()):
            at = start + found.start()
            first = text.count("\n", 0, at) + 1
            last = first + found[0].rstrip("\n").count("\n")
            what = found[1] if found.re is FIGURE else found[0].splitlines()[0][:60]
            said = (SAID.search(part[: found.start()]) or ["", ""])[1].strip()
            told = [f"python docs/figures/tutorials.py {one}" for one in TUTORIAL.findall(what)]
            told += [said] if COMMAND.match(said) else []
            for above in sorted(around)[::-1]:  # the section itself, then those around it
                told += [one for _, one in sorted(around[above], key=lambda c: abs(c[0] - at))]
            yield Item(page, (first, last), what, tuple(dict.fromkeys(told)), said)


@functools.cache
def entry_points() -> dict[str, str]:
    """The module of each problem and of each sub-command, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]
    found = points["bilevel.problems"] | points["bilevel.commands"]
    return {name: where.partition(":")[0] for name, where in found.items()}


def file_of(module: str) -> Path | None:
    """The file of a module of ours; None: of somebody else."""
    place = ROOT / module.replace(".", "/")
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found[0] if found else None


@functools.cache
def home(name: str) -> Path | None:
    """The file of a module or of a name that a package of ours hands on."""
    package, _, own = name.rpartition(".")
    if (file := file_of(name)) or not package or not (init := file_of(package)):
        return file
    for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and own in {alias.name for alias in node.names}:
            return file_of(str(node.module))
    return None


@functools.cache
def named(path: Path) -> frozenset[Path]:
    """The files of ours that a file imports, and the homes of names it takes from `bilevel`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "bilevel":
            found.add(f"bilevel.{node.attr}")
    homes = {f"bilevel.{name}": f"bilevel.{home}" for name, home in bilevel._HOME.items()}
    beside = {name: file for name in found if (file := path.parent / f"{name}.py").is_file()}
    files = {beside.get(name) or home(homes.get(name, name)) for name in found}
    return frozenset(file for file in files if file and file.name != "__init__.py")


def measured(command: str) -> set[Path]:
    """The files that a command measures."""
    words = re.sub(r"[\"']", " ", command.replace("ARGS=", " ")).split()
    files = {ROOT / word for word in words if word.endswith(".py") and (ROOT / word).is_file()}
    if words[:2] == ["make", "bench"]:
        every = re.search(r"^BENCH \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        parts = re.findall(r"BENCH=(\S+)", command) or (every[1].split() if every else [])
        files |= {ROOT / f"benchmarks/{part}.py" for part in parts}
    if words[0] == "bilevel" or words[:2] == ["make", "compare"]:
        files |= {path for word in words[1:2] if (path := file_of(f"bilevel.commands.{word}"))}
    modules = [entry_points()[word] for word in words[1:] if word in entry_points()]
    files |= {path for module in modules if (path := file_of(module))}
    files = {path for path in files if path.is_file()}
    for path in tuple(files):
        files |= named(path)
    return {path for path in files if not str(path.relative_to(ROOT)).startswith(NO_NUMBERS)}


def git(*arguments: str) -> str:
    output = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return output.stdout


def _code(source: str) -> str:
    """A module without docstrings and comments."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                line
                for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.dump(tree)


@functools.cache
def changed(path: Path) -> int:
    """When the code of a file last changed, in seconds; 0: git does not know it."""
    name = str(path.relative_to(ROOT))
    log = [line.split() for line in git("log", "--format=%H %ct", "--", name).splitlines()]
    for commit, seconds in log:
        if _code(git("show", f"{commit}:{name}")) != _code(git("show", f"{commit}^:{name}")):
            return int(seconds)
    return int(log[-1][1]) if log else 0


def written(item: Item) -> int:
    """When the newest line of an item was written; that of a figure's file."""
    if item.what.endswith((".svg", ".png")):
        figure = (item.page.parent / item.what).resolve()
        return int(git("log", "-1", "--format=%ct", "--", str(figure)) or 0)
    first, last = item.lines
    blame = ["blame", "-w", "-M", "-C", "-C", "--porcelain", f"-L{first},{last}"]
    times = re.findall(r"^committer-time (\d+)", git(*blame, "--", str(item.page)), re.MULTILINE)
    return max(map(int, times), default=0)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def without_command() -> list[Item]:
    """The tables and figures that no command repeats, and that do not say why."""
    listed = [item for page in pages() if page.name != "changelog.md" for item in items(page)]
    return [item for item in listed if not item.commands and not item.said]


def newer(item: Item) -> list[str]:
    """The files whose code changed after an item was written."""
    files = {path for command in item.commands[:1] for path in measured(command)}
    since = written(item)
    return sorted(str(path.relative_to(ROOT)) for path in files if changed(path) > since)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--old", action="store_true", help="those whose code changed since")
    given = parser.parse_args()
    chosen = [page.resolve() for page in given.pages] or pages()
    lines = []
    for item in (item for page in chosen for item in items(page)):
        since, files = written(item), newer(item)
        day = time.strftime("%Y-%m-%d", time.gmtime(since)) if since else "not committed"
        mark = "older than its code" if files else item.said if not item.commands else ""
        place = f"{item.page.relative_to(ROOT)}:{item.lines[0]}"
        command = item.commands[0] if item.commands else "no command"
        told = [f"{place}  {day}  {mark}", f"    {item.what}", f"    {command}"]
        told += [f"    changed since: {', '.join(files)}"] if files else []
        if files or not given.old:
            lines.append((since if given.old else 0, "\n".join(told)))
    print("\n".join(text for _, text in sorted(lines, key=lambda line: line[0])))


if __name__ == "__main__":
    main()
