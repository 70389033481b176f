"""What people look for is found: the search of the built site in a browser, `make docs-browser`."""

import pytest
from built_site import SITE, chromium, reading

pytestmark = pytest.mark.browser

SEARCHES = [
    ("index.html", "Danskin", "api/hypergradients.html"),
    ("index.html", "rate grid", "scale.html"),
    ("how-to-choose.html", "timescale", "api/strategies.html"),
    ("api/extending.html", "ClosedForm", "api/heads.html"),
    ("extend/loop.html", "csv", "problems/table.html"),
    ("problems/policy-evaluation.html", "Neumann", "api/linear.html"),
    ("problems/toy.html", "ridge", "api/problem.html"),
    ("faq.html", "BilevelError", "api/errors.html"),
    ("design.html", "resume", "scale.html"),
    ("api/errors.html", "hypergradient", "extend/hypergradient.html"),
]
"""Where one looks, for what, and a page that is to be among the first results."""
FIRST = 5
RESULTS = ".md-search-result__item > a.md-search-result__link"


@pytest.fixture(scope="module")
def reader():
    with chromium() as browser, reading(browser, SITE.as_uri(), search=True) as opened:
        yield opened


@pytest.mark.parametrize(("start", "word", "wanted"), SEARCHES)
def test_search_finds(reader, start, word, wanted):
    page = reader.open(start)
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially(word)  # key by key: `fill` presses none
    target = (SITE / wanted).as_uri()
    # a page is listed above those of its sections that have the word: these mark it
    marking = f'{RESULTS}[href^="{target}?h="]:not([href$="?h="]):not([href*="?h=#"])'
    page.locator(marking).first.wait_for()
    links = page.locator(RESULTS).evaluate_all("links => links.map(a => a.href.split('?')[0])")
    assert target in list(dict.fromkeys(links))[:FIRST]
    page.locator(marking).first.click()
    page.wait_for_url(f"{target}?*")
    page.locator("article mark").first.wait_for()
    assert reader.outside() == []
    assert reader.complaints == []
