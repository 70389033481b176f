"""A plain linear head for R runs, by its features and their pull-back: serves `oracles.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from bilevel import trees
from bilevel.data.rows import Rows, same_rows
from bilevel.derivatives.linear_parts import LinearParts, PulledParts, targets_of
from bilevel.derivatives.over_heads import over_heads, runs_of
from bilevel.derivatives.reverse import loss_gradient, pullback
from bilevel.trees import Tree


class Pulled(NamedTuple):
    """Features with their pull-back.

    Attributes:
        parts: the features (R, n, M), and h of all runs if there is one.
        pull: the map of cotangents of `parts` to that of the bodies.
        seen: heads, and what they predict by these features.
    """

    parts: tuple[Tensor, ...]
    pull: Callable[[Tree], Tree]
    seen: list[tuple[Tensor, Tensor]]


class Features:
    """The features of a linear head of the plain form: F is g, without weights of rows.

    Args:
        parts: of a problem whose penalty is its `ridge`, a number.
        penalised: whether there is a `body_penalty`.
    """

    def __init__(self, parts: PulledParts, *, penalised: bool) -> None:
        self.problem, self.parts, self.penalised = parts.problem, parts, penalised
        self._shared: tuple[Any, Any, Pulled | None] | None = None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Evaluate features once for all that is asked at one body and rows, in the block.

        The numbers are the same. Bodies and rows are told apart by identity; a graph is kept.
        """
        before, self._shared = self._shared, (None, None, None)
        try:
            yield
        finally:
            self._shared = before

    def alone(self) -> "Features":
        """The same, sharing nothing."""
        return Features(self.parts, penalised=self.penalised)

    @property
    def shared(self) -> bool:
        """Whether features are shared now."""
        return self._shared is not None

    def features(self, body: Tree, rows: Rows) -> Tensor:
        """The features of the training rows, (R, n, M)."""
        if self._one_run(body):
            one = self.problem.features_of(trees.take(body, 0), rows.of_run(0))
            return one.unsqueeze(0)
        if "noise" in rows.groups:
            noisy: Tensor = vmap(self.problem.features_of, in_dims=(0, rows.in_dims))(
                body, rows.groups
            )
            return noisy
        axis = 0 if rows.axes["train"] == 0 else (0, None)
        mapped = vmap(self.problem.checked_features, in_dims=axis)
        design: Tensor = mapped(body, rows.groups["train"].inputs)
        return design

    def _one_run(self, body: Tree) -> bool:
        """Whether functions are called as they are."""
        return not self.parts.mapped and runs_of(body) == 1

    def pulled(self, body: Tree, rows: Rows) -> Pulled:
        """Features, and h of all runs if there is one, with their pull-back."""
        train = rows.identity
        found = self._found(body, train)
        if found is not None:
            return found

        def parts(w: Tree) -> tuple[Tensor, ...]:
            design = self.features(w, rows)
            return (design, self._body_penalties(w, design)) if self.penalised else (design,)

        made = Pulled(*pullback(parts, body, keep=self.shared), [])
        if self.shared:
            self._shared = (body, train, made)
        return made

    def metrics(self, body: Tree, head: Tree, rows: Rows) -> dict[str, Tensor]:
        """The metrics of every group, each (R,): of training rows from features that are shared."""
        pulled, found = self._found(body, rows.identity), {}
        if pulled is not None:
            of_run = vmap(self.problem.criterion.metrics, in_dims=(0, rows.axes["train"]))
            made = of_run(self._predicted(pulled, head), rows.groups["train"].targets)
            found, rows = {f"train_{n}": x for n, x in made.items()}, rows.without("train")
        if rows.groups:
            found |= over_heads(self.problem.metrics, body, head, rows)
        return found

    def linear_parts(self, body: Tree, rows: Rows) -> LinearParts:
        """What g is made of, from features that are shared, without the constant one."""
        design = self.pulled(body, rows).parts[0]
        like = design.new_empty(len(design), design.shape[2] + self.problem.fit_bias)
        targets = targets_of(rows, len(design))
        return LinearParts(design, targets, None, self.parts.penalty(body, like))

    def _found(self, body: Tree, train: tuple[Any, Any]) -> Pulled | None:
        """What is shared at a body and rows, if that was asked for before."""
        if self._shared is None:
            return None
        at, on, found = self._shared
        return found if found is not None and at is body and same_rows(on, train) else None

    def values(self, body: Tree, head: Tree, rows: Rows) -> Tensor:
        """g, shape (R,)."""
        predictions = self._predicted(self.pulled(body, rows), head)
        if self._one_run(body):
            one = self.problem.objective_of(
                predictions[0], trees.take(body, 0), trees.take(head, 0), rows.of_run(0)
            )
            return one.unsqueeze(0)
        mapped = vmap(self.problem.objective_of, in_dims=(0, 0, 0, rows.in_dims))
        found: Tensor = mapped(predictions, body, head, rows.groups)
        return found

    def gradients(self, body: Tree, head: Tensor, rows: Rows, level: str) -> tuple[Tree, Tree]:
        """d_w g and d_theta g, or one of them, from the structure of g.

        Only the features are differentiated through: with s = dc/d(predictions)/n, d_theta g is
        Z's + lambda theta, and d_w g pulls s theta' back and adds the derivative of h.
        """
        problem = self.problem
        # with the body held fixed no graph is needed, unless the body's gradient will ask for it
        if level == "head" and not self.shared:
            with torch.no_grad():
                design = self.features(body, rows)
            predictions = self._predictions(design, head)
        else:
            pulled = self.pulled(body, rows)
            (design, *penalties), pull, predictions = *pulled[:2], self._predicted(pulled, head)
        runs, n = design.shape[0], design.shape[1]
        columns = head if head.ndim == 3 else head.unsqueeze(2)
        weights = columns[:, :-1] if problem.fit_bias else columns
        targets = targets_of(rows, runs)
        slope = loss_gradient(problem.criterion, predictions, targets).reshape(runs, n, -1)
        in_body = in_head = None
        if level != "body":
            # a row times the design is twice as fast as the design's transpose times a column
            in_head = (slope.mT @ design).mT + problem.ridge * weights
            if problem.fit_bias:
                bias = slope.sum(1, keepdim=True)
                bias = bias + problem.ridge * columns[:, -1:] if problem.penalize_bias else bias
                in_head = torch.cat([in_head, bias], 1)
            in_head = in_head.reshape(head.shape)
        if level != "head":
            in_body = pull((slope @ weights.mT, *map(torch.ones_like, penalties)))
        return in_body, in_head

    def _predicted(self, pulled: Pulled, head: Tensor) -> Tensor:
        """Of the training rows; of a head that was asked for before the same, while sharing."""
        for known, predictions in pulled.seen:
            if known is head:
                return predictions
        made = self._predictions(pulled.parts[0], head)
        if self.shared:
            pulled.seen.append((head, made))
        return made

    def _predictions(self, design: Tensor, head: Tensor) -> Tensor:
        """Of the training rows, (R, n) or (R, n, K)."""
        columns = head if head.ndim == 3 else head.unsqueeze(2)
        bias = self.problem.fit_bias
        found = design @ columns[:, :-1] + columns[:, -1:] if bias else design @ columns
        return found if head.ndim == 3 else found.squeeze(2)

    def _body_penalties(self, body: Tree, like: Tensor) -> Tensor:
        """h, summed over runs."""

        def penalty(one_body: Tree) -> Tensor:
            found = self.problem.body_penalty(one_body)
            return torch.as_tensor(found, dtype=like.dtype, device=like.device)

        total: Tensor = vmap(penalty)(body).sum()
        return total
