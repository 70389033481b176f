"""What a problem offers whose rows depend on what was learned so far."""

import abc
from typing import NoReturn

from torch import Tensor

from bilevel.errors import IncompatibleError
from bilevel.problem.base import Groups
from bilevel.trees import Tree


class AbstractExperience(abc.ABC):
    """The rows of R runs that depend on their bodies and heads: online data.

    A problem that has no data of its own returns one from `experience`, and the training asks it
    for the rows of every step: it may act, remember and draw. It changes in place, so that a
    training holds one for all runs that are computed together.

    What the rows of a run are may depend on its own seed, body and head, and on how often it was
    asked; never on which other runs there are. Then a run is the same alone and among others.

    Groups are those of a batch with a run axis on all leaves, (R, n, ...). "train" is a
    `bilevel.Batch`; other groups, such as what `prior` and `row_weights` return, may have any name.
    Shapes and types must not change. Bodies and heads are not to be written into.

    Examples:
        >>> import torch, bilevel
        >>> class Walk(bilevel.AbstractExperience):  # inputs that drift with the body
        ...     def __init__(self, seeds): self.at = torch.zeros(len(seeds), 4, 1)
        ...     def rows(self, k, body, head):
        ...         self.at = 0.5 * self.at + body.unsqueeze(1) + 0.1
        ...         return self.evaluated(body, head)
        ...     def evaluated(self, body, head):
        ...         return {"train": bilevel.Batch(self.at, self.at[:, :, 0] + 1)}
        ...     def snapshot(self): return {"at": self.at.clone()}
        ...     def go_on_from(self, snapshot): self.at = snapshot["at"].clone()
    """

    @abc.abstractmethod
    def rows(self, k: int, body: Tree, head: Tree) -> Groups:
        """The batch of step `k` for all runs.

        Called once for each step, in their order.

        Args:
            k: the step.
            body: before it, leaves (R, ...).
            head: likewise.
        """

    @abc.abstractmethod
    def evaluated(self, body: Tree, head: Tree) -> Groups:
        """The rows that a record is evaluated on, and that functions are tried on before step 0.

        It must change nothing: records are not part of a training. Before the first step there may
        be nothing yet; rows of weight zero say so.
        """

    @abc.abstractmethod
    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all that evolves, by name, leaves (R, ...): what a checkpoint keeps."""

    @abc.abstractmethod
    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        """Stand where a snapshot was taken, of an experience of the same seeds."""

    @property
    def description(self) -> str:
        """Its settings in a line (a hook): a checkpoint is of experiences of one description."""
        return type(self).__name__

    def recorded(self) -> dict[str, Tensor]:
        """What a record tells of the runs, name -> (R,) (a hook): returns, say."""
        return {}

    def more(self, size: int, j: int) -> Groups:
        """`size` rows per run, drawn with the number `j`, for parts that ask for some (a hook).

        They are of the bodies and heads that the last rows were for.

        Raises:
            IncompatibleError: unless the hook is there.
        """
        self.refuse("more rows than those of a step")

    def refuse(self, what: str) -> NoReturn:
        """Raise `IncompatibleError`: this experience has no such thing."""
        raise IncompatibleError(
            f"{type(self).__name__} has no {what}. Use parts that need the rows of a step alone, "
            "such as ClosedForm(BatchData()), or define its hook `more`."
        )
