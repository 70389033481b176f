"""`bilevel report`."""

import dataclasses
from pathlib import Path

import tyro

from bilevel.commands.exit_codes import OK


@dataclasses.dataclass(frozen=True)
class Report:
    """Print the result in a folder that `compare` wrote; with --output, write its report anew."""

    folder: tyro.conf.Positional[Path]
    """A results folder."""
    output: Path | None = None
    """A new folder for the report; by default nothing is written."""

    def run(self) -> int:
        """Load, print, write."""
        from bilevel.comparison.result import Comparison

        comparison = Comparison.load(self.folder)
        page = self.folder / "report.html"
        if self.output is not None:  # first: what is printed may be lost
            page = comparison.report(self.output)
        print(comparison.table())
        print(f"\nReport: {page}")
        return OK
