"""The built site in a browser, opened from disk: `make docs-browser` builds it and runs these."""

import shutil
from pathlib import Path
from urllib.request import url2pathname

import pytest

import bilevel

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
PAGES = [path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*.md"))]
PHONE = {"width": 390, "height": 844}
SEARCHES = [
    ("index.html", "Danskin", "api/hypergradients.html"),
    ("index.html", "rate grid", "how-to/many-runs.html"),
    ("how-to/strategy.html", "timescale", "api/strategies.html"),
    ("api/extending.html", "ClosedForm", "api/heads.html"),
    ("extend/loop.html", "csv", "problems/table.html"),
    ("problems/policy-evaluation.html", "Neumann", "api/linear.html"),
    ("problems/toy.html", "ridge", "api/problem.html"),
    ("faq.html", "BilevelError", "api/errors.html"),
    ("design.html", "resume", "how-to/resume.html"),
    ("api/errors.html", "hypergradient", "extend/hypergradient.html"),
]
"""Where one looks, for what, and a page that is to be among the first results."""
FIRST = 5
LEFT_OVER = r"""() => {
  const article = document.querySelector("article").cloneNode(true);
  article.querySelectorAll("code, pre, .katex-mathml").forEach((element) => element.remove());
  return article.textContent.match(/.{0,20}\\[a-z([].{0,20}|.{0,20}\$\$.{0,20}/gi) || [];
}"""
"""TeX that is seen: outside of formulas, or in one, where KaTeX does not know a command."""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if not (SITE / "index.html").is_file():
        pytest.skip("needs the built site: make docs-browser")
    with playwright.sync_playwright() as started:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), started.chromium.executable_path)
        if not Path(found).is_file():
            pytest.skip(
                "needs Chromium: Debian's package chromium, or `playwright install chromium`"
            )
        chromium = started.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, with what it asked for and what it complained of."""

    def __init__(self, browser):
        self.page = browser.new_page()
        self.page.set_default_timeout(20_000)  # a browser that two cores share
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.heard)

    def heard(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def outside(self):
        inside = (SITE.as_uri() + "/", "data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(inside)]


@pytest.fixture
def visit(browser):
    visit = Visit(browser)
    yield visit
    visit.page.close()
    assert visit.requests
    assert visit.outside() == []
    assert visit.complaints == []


def opened(visit, path):
    visit.page.goto((SITE / path).as_uri())
    return visit.page


@pytest.mark.parametrize("source", PAGES, ids=str)
def test_a_page_is_whole(visit, source):
    page = opened(visit, source.with_suffix(".html"))
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
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_formulas_are_there():
    """So that a page without a single one cannot pass for one whose formulas are all rendered."""
    assert (SITE / "notation.html").read_text().count('class="arithmatex"') >= 20


@pytest.mark.parametrize(("start", "word", "wanted"), SEARCHES)
def test_search_finds(visit, start, word, wanted):
    page = opened(visit, start)
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially(word)  # key by key: `fill` presses none
    target = (SITE / wanted).as_uri()
    results = ".md-search-result__item > a.md-search-result__link"
    # a page is listed above those of its sections that have the word: these mark it
    marking = f'{results}[href^="{target}?h="]:not([href$="?h="]):not([href*="?h=#"])'
    page.locator(marking).first.wait_for()
    links = page.locator(results).evaluate_all("links => links.map(a => a.href.split('?')[0])")
    assert target in list(dict.fromkeys(links))[:FIRST]
    page.locator(marking).first.click()
    page.wait_for_url(f"{target}?*")
    page.locator("article mark").first.wait_for()


def test_signatures_are_formatted():
    """With ruff beside mkdocstrings an argument has a line; without it all are in one."""
    solve = (SITE / "api/solve.html").read_text().split('id="bilevel.solve"')[1].split("</pre>")[0]
    assert solve.count("\n    <span") >= 15


def test_every_public_name_has_an_anchor():
    pages = "".join(path.read_text() for path in (SITE / "api").glob("*.html"))
    missing = [name for name in bilevel.__all__ if pages.count(f'id="bilevel.{name}"') != 1]
    assert missing == []
