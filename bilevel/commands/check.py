"""`bilevel check`."""

import dataclasses
import sys

import tyro

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.commands.options import parse_option
from bilevel.errors import CheckError
from bilevel.problem import registry


@dataclasses.dataclass(frozen=True)
class Check:
    """Check that a problem keeps its contract: derivatives, convexity, initial points and more."""

    problem: tyro.conf.Positional[str]
    """A name from `bilevel problems`."""
    set: tuple[str, ...] = ()
    """Options of the problem as key=value, such as width=128 ridge=1e-3."""

    def run(self) -> int:
        """Print what was looked at; 1 if something is wrong."""
        problem = registry.load_problem(
            self.problem, **dict(parse_option(option) for option in self.set)
        )

        from bilevel.testing import check_problem

        try:
            for what, found in check_problem(problem):
                print(f"{what:26} {found}")
        except CheckError as error:
            print(f"{self.problem}: {error}", file=sys.stderr)
            return FAILED
        print(f"{self.problem} keeps the contract of a problem, as far as this can see.")
        return OK
