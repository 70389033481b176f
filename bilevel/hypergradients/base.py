"""What a hypergradient is."""

import abc

from bilevel.oracles import Oracles
from bilevel.problem import StackelbergProblem
from bilevel.sampling import Rows
from bilevel.trees import Tree


class AbstractHypergradient(abc.ABC):
    """The gradient of Phi(w) = F(w, theta*(w)), from a head close to theta*(w).

    Implementations are frozen dataclasses. How the head was solved is not their concern.
    """

    @abc.abstractmethod
    def check(self, problem: StackelbergProblem) -> None:
        """Raise `IncompatibleError` if this gradient would be wrong for `problem`."""

    @abc.abstractmethod
    def gradient(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> Tree:
        """grad Phi, a tree like the body with a leading run axis.

        Args:
            oracles: of the problem.
            body: leaves (R, ...).
            head: near theta*(w), leaves (R, ...).
            rows: the rows of the step.
        """
