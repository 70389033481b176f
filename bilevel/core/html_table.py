"""Tables as HTML, for notebooks: plain ones, which take the notebook's own style."""

from collections.abc import Sequence
from html import escape


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: slice) -> str:
    """A table; what the cells hold is text, whatever it looks like.

    Args:
        header: names of the columns.
        rows: cells, as many per row as there are names; the first is the row's name.
        numbers: the columns that are set to the right.

    Examples:
        >>> html_table(["a"], [["<b>"]], slice(1, 1))
        '<table><thead><tr><th>a</th></tr></thead><tbody><tr><th>&lt;b&gt;</th></tr></tbody></table>'
    """
    right = set(range(len(header))[numbers])

    def cell(kind: str, column: int, text: str) -> str:
        side = ' style="text-align:right"' if column in right else ""
        return f"<{kind}{side}>{escape(text)}</{kind}>"

    def line(kinds: Sequence[str], cells: Sequence[str]) -> str:
        made = [cell(kinds[min(i, 1)], i, text) for i, text in enumerate(cells)]
        return f"<tr>{''.join(made)}</tr>"

    head = line(("th", "th"), header)
    body = "".join(line(("th", "td"), row) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def html_lines(lines: Sequence[str]) -> str:
    """Paragraphs of text; empty ones are left out."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)
