"""The built site in a browser: `make docs-browser` builds it and runs these.

Each page is read twice, by one tab that goes through all of them: here from disk in the light
scheme, in `test_site_served.py` from a server in the dark one. What is measured:
`tests/support/site_measures.js`.
"""

import re
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from built_site import DESK, PAGES, PHONE, ROOT, SITE, chromium, reading

import bilevel

pytestmark = pytest.mark.browser

FIGURES = sorted((ROOT / "docs").rglob("*.svg"))
GROUNDS = {"-light": [[255, 255, 255]], "-dark": [[30, 33, 41]]}
"""Of the two schemes: what lies behind a figure that has no ground of its own; one that has no such
ending in its name is shown in both."""
LARGEST = 1_000_000
"""Bytes of a page, of its pictures, and of the scripts and styles that all pages share."""
LEFT_OVER = r"""() => {
  const article = document.querySelector("article").cloneNode(true);
  article.querySelectorAll("code, pre, .katex-mathml").forEach((element) => element.remove());
  const text = article.textContent;
  return text.match(/.{0,20}\\[a-z([].{0,20}|.{0,20}\$[^$]+[\\^_][^$]*\$.{0,20}/gi) || [];
}"""
"""TeX that is seen: outside of formulas, or in one, where KaTeX does not know a command."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def disk(browser):
    with reading(browser, SITE.as_uri(), scheme="light", viewport=DESK) as reader:
        yield reader


@pytest.mark.parametrize("source", PAGES, ids=str)
def test_a_page_is_whole_from_disk(disk, source):
    page = disk.turn_to(source, DESK)
    formulas = page.locator(".arithmatex")
    assert formulas.count() == page.locator(".arithmatex:has(.katex)").count()
    assert page.locator(".katex-error").all_text_contents() == []
    assert page.evaluate(LEFT_OVER) == []
    broken = "images => images.filter(i => !i.naturalWidth).map(i => i.src)"
    assert page.locator("article img").evaluate_all(broken) == []
    links = page.locator("a[href]").evaluate_all("links => links.map(a => a.href.split('#')[0])")
    own = {link for link in links if link.startswith("file:")}
    assert [
        link for link in own if not Path(url2pathname(link.removeprefix("file://"))).is_file()
    ] == []
    disk.assert_readable()
    page.set_viewport_size(PHONE)
    assert disk.measure("wide") == []
    disk.assert_quiet()


@pytest.mark.parametrize("source", PAGES, ids=str)
def test_a_page_is_small(source):
    """Without fonts and the index of the search, which is fetched once, beside the first page."""
    page = SITE / source.with_suffix(".html")
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"<(?:img|script|link)\b[^>]*?(?:src|href)=\"?([^\"\s>]+)", text)
    files = {(page.parent / urlparse(name).path).resolve() for name in named}
    shared = {path for path in files if path.suffix in {".js", ".css"}}
    pictures = {path for path in files if path.suffix in {".svg", ".png", ".jpg", ".webp"}}
    sizes = {path.name: path.stat().st_size for path in shared if "search" not in path.parts}
    assert len(sizes) >= 5
    assert sum(sizes.values()) < LARGEST, sizes
    own = {path.name: path.stat().st_size for path in {page, *pictures}}
    assert sum(own.values()) < LARGEST, own


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.stem)
def test_a_figure_is_readable(browser, figure):
    """Text, lines and points have the contrast of WCAG AA, on the ground of both schemes."""
    room = {"width": 1600, "height": 2400}
    with reading(browser, figure.parent.as_uri(), viewport=room) as reader:
        reader.open(figure.name)
        both = [color for colors in GROUNDS.values() for color in colors]
        ending = next((name for name in GROUNDS if figure.stem.endswith(name)), "")
        found = reader.measure("faintInFigure", GROUNDS.get(ending, both))
    assert found["seen"] > 3
    assert found["faint"] == []


def test_what_is_measured_is_seen(disk):
    """Faint text, a box that is cut and an element beyond the edge are put in: each is found."""
    page = disk.turn_to(Path("notation.md"), PHONE)
    page.evaluate("""() => document.querySelector("article").insertAdjacentHTML("beforeend",
      '<p style="color: #999; background: #fff">faint</p>' +
      '<div style="overflow-x: auto; width: 100px"><p style="width: 900px">cut</p></div>' +
      '<p style="width: 900px">wide</p>')""")
    assert [line.split(":")[0] for line in disk.measure("faint")["faint"]] == [
        "2.85 #999999 on #ffffff"
    ]
    kinds = [line.partition(":")[0] for line in disk.measure("wide")]
    assert {"cut or unmarked", "beyond the edge", "the page"} == set(kinds)


def test_formulas_are_there():
    """So that a page without a single one cannot pass for one whose formulas are all rendered."""
    assert (SITE / "notation.html").read_text().count('class="arithmatex"') >= 20


def test_signatures_are_formatted():
    """With ruff beside mkdocstrings an argument has a line; without it all are in one."""
    solve = (SITE / "api/solve.html").read_text().split('id="bilevel.solve"')[1].split("</pre>")[0]
    assert solve.count("\n    <span") >= 15


def test_every_public_name_has_an_anchor():
    pages = "".join(path.read_text() for path in (SITE / "api").glob("*.html"))
    missing = [name for name in bilevel.__all__ if pages.count(f'id="bilevel.{name}"') != 1]
    assert missing == []
