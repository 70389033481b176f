"""What the budget of a comparison is counted in: steps, or gradient evaluations."""

from dataclasses import dataclass

from bilevel.report.words import counted


@dataclass(frozen=True)
class Unit:
    """One of the two, with its words.

    Attributes:
        budget: As `compare` calls it, and the horizontal axis that belongs to it.
        noun: Its name, of one of them.
        column: Its name in CSV files.
    """

    budget: str
    noun: str
    column: str

    @property
    def heading(self) -> str:
        """Its plural, as the head of a column."""
        return f"{self.noun[:1].upper()}{self.noun[1:]}s"

    def counted(self, count: int) -> str:
        """A number of them: "1,500 steps"."""
        return counted(count, self.noun)

    def by(self, count: int) -> str:
        """A place: "step 1,500", or "1,500 gradient evaluations"."""
        return f"step {count:,}" if self.budget == "steps" else self.counted(count)

    def at(self, count: int, total: int | None = None) -> str:
        """Where: "at step 10 of 20", or "after 10 of 20 gradient evaluations"."""
        of = "" if total is None else f" of {total:,}"
        if self.budget == "steps":
            return f"at step {count:,}{of}"
        return f"after {count:,}{of} {self.noun}s" if of else f"after {self.counted(count)}"


UNITS = {
    "steps": Unit("steps", "step", "step"),
    "gradients": Unit("gradients", "gradient evaluation", "gradients"),
}
