"""The documentation says true things: its examples run, its commands exist, its site is whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel
from bilevel.commands import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PYTHON_BLOCKS, PROMPTS = 115, 780
"""Of the pages, and in docstrings: as many as run at least, so that none is lost unseen."""
MUST_HAVE_EXAMPLES = [
    "README.md",
    "docs/index.md",
    "docs/how-to/strategy.md",
    "docs/start/your-loop.md",
    "docs/start/your-problem.md",
    "docs/concepts/implicit-term.md",
    "docs/extend/problem.md",
    "docs/extend/module.md",
    "docs/extend/head-solver.md",
    "docs/extend/optimizer.md",
    "docs/extend/loop.md",
    "docs/problems/classification.md",
    "docs/problems/regression.md",
    "docs/problems/table.md",
    "docs/problems/toy.md",
]


def blocks(page, *languages):
    return [body for language, body in FENCE.findall(page.read_text()) if language in languages]


def collected(*where):
    """How many items pytest finds in each file, counted by pytest itself in a fresh process."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    output = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True)
    assert output.returncode == 0, output.stdout + output.stderr
    items = [line.split("::")[0] for line in output.stdout.splitlines() if "::" in line]
    return {path: items.count(path) for path in items}


def test_every_python_block_of_the_pages_is_collected():
    written = {str(page.relative_to(ROOT)): len(blocks(page, "python", "py")) for page in PAGES}
    assert all(written[path] > 0 for path in MUST_HAVE_EXAMPLES), written
    expected = {path: count for path, count in written.items() if count}
    assert [page for page in PAGES if "<!-- skip" in page.read_text()] == []
    assert collected("README.md", "docs") == expected
    assert sum(expected.values()) >= PYTHON_BLOCKS


def test_docstring_examples_are_collected():
    found = collected("bilevel", "problems")
    for path in [*(ROOT / "bilevel").rglob("*.py"), *(ROOT / "problems").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        prompts = len(re.findall(r"^ *>>> ", path.read_text(), re.MULTILINE))
        assert found.get(name, 0) == prompts, f"{name}: {prompts} prompts, {found.get(name, 0)} run"
    assert sum(found.values()) >= PROMPTS


def test_docstring_examples_stand_in_the_section_that_is_rendered():
    """Google's section is "Examples:"; under any other name the reference shows running text."""
    sources = [*(ROOT / "bilevel").rglob("*.py"), *(ROOT / "problems").rglob("*.py")]
    other = [path for path in sources if re.search(r"^ *Example:$", path.read_text(), re.MULTILINE)]
    assert [str(path.relative_to(ROOT)) for path in other] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_are_labelled(page):
    """A block without a language would be neither highlighted nor run."""
    known = {
        "python",
        "sh",
        "text",
        "toml",
        "json",
        "python3",
    }  # the last: not run, for what is not installed here
    labels = {language for language, _ in FENCE.findall(page.read_text())}
    assert labels <= known, f"Label the blocks with one of {sorted(known)}, found {labels}"


def named_commands(program):
    """Each word that follows `program` in a shell block or an inline code span."""
    found = set()
    for page in PAGES:
        spans = re.findall(r"`([^`\n]+)`", re.sub(FENCE, "", page.read_text()))
        lines = "\n".join(blocks(page, "sh")).splitlines()
        for line in [*lines, *spans]:
            if match := re.match(rf"(?:\.venv/bin/)?{program} ([a-z][a-z-]*)\b", line.strip()):
                found.add(match[1])
    return found


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    named = set(re.findall(r"^::: bilevel\.(\w+)$", pages, re.MULTILINE))
    assert named - {"trees"} == set(bilevel.__all__)  # `bilevel.trees` is for those who extend


def reference():
    """The pages of the reference: for each its objects, with the options that are said of it."""
    for page in sorted((ROOT / "docs/api").glob("*.md")):
        for name, options in re.findall(
            r"^::: (\S+)\n((?:    .*\n)*)", page.read_text(), re.MULTILINE
        ):
            yield page.stem, name, options


def test_contracts_are_shown_to_those_who_extend_only():
    """Users' pages say what a part does; its methods are called by trainings."""
    assert "members: false" in (ROOT / "mkdocs.yml").read_text()
    public = {name: getattr(bilevel, name) for name in bilevel.__all__}
    parts = tuple(public[name] for name in public if re.match("Abstract|ConvexSet", name))
    assert len(parts) == 9
    for page, name, options in reference():
        value = public.get(name.removeprefix("bilevel."))
        if isinstance(value, type) and issubclass(value, parts):
            extends = value in parts
            assert (page == "extending") == extends, f"{name} on the page {page}"
            assert ("members: null" in options) == extends or "members: [scaled]" in options, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"compare", "test"} <= named_commands("make") <= targets


def test_bilevel_commands_exist():
    commands = named_commands("bilevel")
    assert {"compare", "reproduce"} <= commands
    for command in sorted(commands):
        with pytest.raises(SystemExit) as ended:
            main.main([command, "--help"])
        assert ended.value.code == 0, command


def test_the_site_asks_nobody_for_files():
    """Fonts and formulas come with the site."""
    config = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in config
    # without it the theme's offline plugin takes this script from a foreign host
    assert "    - assets/iframe-worker/shim.js\n" in config
    assert not re.search(r"https?://\S+\.(js|css|woff2?)", config)
    fonts = re.findall(
        r"fonts/[\w-]+\.woff2", (ROOT / "docs/assets/katex/katex.min.css").read_text()
    )
    assert len(fonts) >= 20
    assert all((ROOT / "docs/assets/katex" / font).is_file() for font in fonts)


@pytest.mark.parametrize(
    ("folder", "file", "version"),
    [("katex", "katex.min.js", "0.19.1"), ("iframe-worker", "shim.js", "1.0.4")],
)
def test_what_comes_with_the_site_has_its_licence(folder, file, version):
    assert (ROOT / "docs/assets" / folder / file).is_file()
    assert "Permission is hereby granted" in (ROOT / "docs/assets" / folder / "LICENSE").read_text()
    name = {"katex": "KaTeX"}.get(folder, folder)
    assert f"{name} {version}" in (ROOT / "mkdocs.yml").read_text()
