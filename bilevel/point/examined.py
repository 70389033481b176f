"""Whether a problem keeps its contract: examined once, and again where something went wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bilevel import trees
from bilevel.core.progress import RowCallback
from bilevel.data.known import Known
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import (
    check_contract,
    check_derivatives,
    check_hooks,
    check_mapping,
)
from bilevel.errors import BilevelError, ShapeError
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree

SETTINGS = ("criterion", "outputs", "ridge", "fit_bias", "penalize_bias", "body_free_features",
            "tasks", "chunk_rows", "redraws_data", "body_set", "head_set")  # fmt: skip


class Examined:
    """A problem at one body, which is known to fit it.

    What was examined in an earlier call is not again: the same problem, as far as its attributes
    tell, and rows and bodies of the same shapes. Left are numbers that depend on the body.

    Args:
        data: of one run.
        body: without a run axis.
        known: of the problem.
        report: see `Oracles`.
        head_only: whether nobody will ask for F.

    Attributes:
        made: the run, at this body.

    Raises:
        ShapeError: the body is not like those of the problem.
    """

    def __init__(
        self,
        data: TrainingData,
        body: Tree,
        known: Known,
        report: RowCallback | None,
        *,
        head_only: bool,
    ) -> None:
        problem, one = data.problem, trees.single(trees.detach(body))
        self.head_only = head_only
        groups = trees.structure(data.groups), trees.structure(body)
        name = ("kept", head_only, data.given, data.device, *groups)
        known = known.within(name, told_by(problem))
        self.trusted = known.has("contract")
        at = one if self.trusted else None
        made = Assembly.of(data, report=report, mapped=False, known=known, body=at)
        if self.trusted:
            self.made = made
            if isinstance(problem, LinearHeadProblem):
                check_hooks(made.oracles, body, made.sampler.full.first(one).alone)
            return
        expected = trees.take(made.body, 0)
        if not trees.same_structure(expected, body):
            raise ShapeError(
                f"`body` has the leaves {_shapes(body)}, but `init_body` of "
                f"{type(problem).__name__} returns {_shapes(expected)}."
            )
        self.made = made.moved(one)
        self.examine()
        known.once("contract", bool)

    def examine(self) -> None:
        """All of the contract, at this body."""
        check_contract(self.made, head_only=self.head_only, derivatives=False)
        check_mapping(self.made, head_only=self.head_only)

    def doubt(self, *found: Tree) -> None:
        """Examine a trusted problem where numbers that were found are not finite."""
        if self.trusted and not all(trees.all_finite(tree) for tree in found):
            self.examine()

    @contextmanager
    def told(self) -> Iterator[None]:
        """What torch finds wrong with derivatives is said with its cause.

        Raises:
            ProblemError: an objective cannot be differentiated.
        """
        try:
            yield
        except Exception as error:
            if self.trusted:  # it may have been changed since
                self.examine()
            if isinstance(error, RuntimeError) and not isinstance(error, BilevelError):
                check_derivatives(self.made, head_only=self.head_only)
            raise


def told_by(problem: StackelbergProblem) -> Any:
    """What a problem is made of, as far as its attributes tell."""
    return getattr(problem, "__dict__", {}), [getattr(problem, name, None) for name in SETTINGS]


def _shapes(tree: Tree) -> str:
    return ", ".join(f"{path or 'tensor'} {tuple(x.shape)}" for path, x in trees.named_leaves(tree))
