"""The address of the repository is one constant, and no line is shown that cannot work without."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = """before
<!-- with the repository's address -->
git clone REPOSITORY
<!-- end -->
<!-- without the repository's address -->
a copy
<!-- end -->
after
"""


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("repository", DOCS / "hooks/repository.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_an_address(hook):
    assert hook.on_page_markdown(PAGE, config={"repo_url": None}, page=None) == (
        "before\na copy\nafter\n"
    )


def test_with_an_address(hook):
    address = "https://example.org/bilevel"
    assert hook.on_page_markdown(PAGE, config={"repo_url": address}, page=None) == (
        f"before\ngit clone {address}\nafter\n"
    )


def test_no_page_shows_what_cannot_work(hook):
    """Nor a wheel from an index that does not have it."""
    address = re.search(r'^repo_url: "(.*)"$', (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[1]
    for path in DOCS.rglob("*.md"):
        text = path.read_text()
        shown = hook.chosen(text, address)
        assert "REPOSITORY" not in shown, path
        assert "the repository's address -->" not in shown, path
        if not address:
            assert "git clone" not in shown, path
        assert not re.search(r"pip install (-U |--upgrade )?bilevel\b", shown), path


def test_the_citation_names_no_address():
    assert not re.search(
        r"^(url|repository|doi)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE
    )
