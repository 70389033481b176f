"""Shows lines with the address of the repository where there is one: `repo_url` in mkdocs.yml.

In a page, what stands between

    <!-- with the repository's address -->       and   <!-- end -->
    <!-- without the repository's address -->    and   <!-- end -->

is shown where `repo_url` is set, or empty; the word REPOSITORY becomes the address.
"""

import re
from typing import Any

PART = re.compile(
    r"^<!-- (with|without) the repository's address -->\n(.*?)^<!-- end -->\n",
    re.MULTILINE | re.DOTALL,
)


def chosen(markdown: str, address: str) -> str:
    """A page with the parts for this address, which may be empty."""
    wanted = "with" if address else "without"
    text = PART.sub(lambda part: part[2] if part[1] == wanted else "", markdown)
    return text.replace("REPOSITORY", address) if address else text


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return chosen(markdown, config["repo_url"] or "")
