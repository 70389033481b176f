"""Every Python block of the README and the docs, and every docstring example, is a test."""

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

pages = Sybil(
    name="pages",
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],  # matched against the end of the path: "docs/**/*.md" would match nothing
)
docstrings = [
    Sybil(
        name=f"docstrings of {package}",
        path=package,
        parsers=[DocTestParser()],
        patterns=["*.py"],
        document_types={".py": PythonDocStringDocument},
    )
    for package in ("bilevel", "problems")
]

pytest_collect_file = SybilCollection([pages, *docstrings]).pytest()
