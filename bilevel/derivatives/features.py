"""The features of a linear head for R runs, with their pull-back: serves `oracles.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from bilevel.data.rows import Rows
from bilevel.derivatives.reverse import pullback
from bilevel.problem.base import Groups
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree


class LinearParts(NamedTuple):
    """What g of a linear head is made of, h(body) apart, for R runs.

    Attributes:
        design: features, the constant one included, (R, n, M).
        targets: (R, n) or (R, n, K).
        weights: of the rows, (R, n); None means 1.
        penalty: (R, M) or (R, M, K).
    """

    design: Tensor
    targets: Tensor
    weights: Tensor | None
    penalty: Tensor


class Pulled(NamedTuple):
    """Features with their pull-back.

    Attributes:
        parts: the features (R, n, M), and h of all runs if there is one.
        pull: the map of cotangents of `parts` to that of the bodies.
    """

    parts: tuple[Tensor, ...]
    pull: Callable[[Tree], Tree]


class Features:
    """The features of one problem.

    Args:
        problem: with a linear head.
    """

    def __init__(self, problem: LinearHeadProblem) -> None:
        self.problem = problem
        self._shared: tuple[Any, Any, Pulled | None] | None = None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Evaluate features once for all that is asked at one body and rows, in the block.

        The numbers are the same. Bodies and rows are told apart by identity; a graph is kept.
        """
        self._shared = (None, None, None)
        try:
            yield
        finally:
            self._shared = None

    @property
    def shared(self) -> bool:
        """Whether features are shared now."""
        return self._shared is not None

    def features(self, body: Tree, rows: Rows) -> Tensor:
        """The features of the training rows, (R, n, M)."""
        axis = 0 if rows.axes["train"] == 0 else (0, None)
        mapped = vmap(self.problem.checked_features, in_dims=axis)
        design: Tensor = mapped(body, rows.groups["train"].inputs)
        return design

    def pulled(self, body: Tree, rows: Rows) -> Pulled:
        """Features, and h of all runs if there is one, with their pull-back."""
        train = rows.groups["train"]
        if self._shared is not None:
            at, on, found = self._shared
            if found is not None and at is body and on is train:
                return found
        penalised = self.problem.overrides("body_penalty")

        def parts(w: Tree) -> tuple[Tensor, ...]:
            design = self.features(w, rows)
            return (design, self._body_penalties(w, design)) if penalised else (design,)

        made = Pulled(*pullback(parts, body, keep=self.shared))
        if self.shared:
            self._shared = (body, train, made)
        return made

    def values(self, body: Tree, head: Tree, rows: Rows) -> Tensor:
        """g, shape (R,)."""
        problem = self.problem

        def value(one_body: Tree, one_head: Tensor, z: Tensor, groups: Groups) -> Tensor:
            predictions = problem.predictions_of(z, one_head)
            return problem.objective_of(predictions, one_body, one_head, groups)

        mapped = vmap(value, in_dims=(0, 0, 0, rows.in_dims))
        found: Tensor = mapped(body, head, self.pulled(body, rows).parts[0], rows.groups)
        return found

    def plain_parts(self, body: Tree, rows: Rows, penalty: Callable[..., Tensor]) -> LinearParts:
        """The parts of g without row weights.

        Args:
            body: leaves (R, ...).
            rows: of the step.
            penalty: `Oracles.linear_penalty`.
        """
        design = self.pulled(body, rows).parts[0]
        if self.problem.fit_bias:
            design = torch.cat([design, torch.ones_like(design[..., :1])], 2)
        return LinearParts(design, targets_of(rows, len(design)), None, penalty(body, design[:, 0]))

    def _body_penalties(self, body: Tree, like: Tensor) -> Tensor:
        """h, summed over runs."""

        def penalty(one_body: Tree) -> Tensor:
            found = self.problem.body_penalty(one_body)
            return torch.as_tensor(found, dtype=like.dtype, device=like.device)

        total: Tensor = vmap(penalty)(body).sum()
        return total


def targets_of(rows: Rows, runs: int) -> Tensor:
    """The targets of the training rows, for each run."""
    targets: Tensor = rows.groups["train"].targets
    return targets if rows.axes["train"] == 0 else targets.expand(runs, *targets.shape)
