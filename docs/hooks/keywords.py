"""Adds the words of docs/keywords.toml to the index of the search, unseen by readers of a page.

The glossary's terms, which are no headings, are words of its page.

The theme's search looks through any field of its index that `fields` of the plugin names; results
show titles and texts only. So a page is found by a word that it does not have, and what is marked
in a result is what the page says.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

FILE = "keywords.toml"
TERM = re.compile(r"^([^\n:]+)\n:   ", re.MULTILINE)
"""Of a list of definitions."""


def words(folder: str) -> dict[str, str]:
    """Page -> its hidden words, as they are written."""
    text = (Path(folder) / FILE).read_text(encoding="utf-8")
    return {page: str(listed) for page, listed in tomllib.loads(text).items()}


def on_files(files: Any, *, config: Any) -> Any:
    """Refuse words of pages that are not there."""
    pages = {file.src_uri for file in files.documentation_pages()}
    if missing := sorted(set(words(config["docs_dir"])) - pages):
        raise PluginError(f"{FILE} has words of pages that are not there: {missing}")
    return files


@event_priority(-100)  # after the search, which makes an entry of each section of a page
def on_page_context(context: Any, *, page: Any, config: Any, **_: Any) -> Any:
    """Give the words of a page to its first entry."""
    listed = words(config["docs_dir"]).get(page.file.src_uri, "")
    if page.file.src_uri == "glossary.md":
        listed = ", ".join([listed, *TERM.findall(page.markdown)])
    entries = config["plugins"]["material/search"].search_index.entries
    if listed:
        first = next(entry for entry in entries if entry["location"] == page.url)
        first["keywords"] = listed
    return context
