"""What g of a linear head is made of, for R runs, and how that depends on the body."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import pad

from bilevel import trees
from bilevel.core.generators import normal
from bilevel.data.rows import Rows, same_rows
from bilevel.derivatives.over_heads import averaged, over_heads, runs_of
from bilevel.derivatives.reverse import loss_products, pullback
from bilevel.problem.base import Groups
from bilevel.problem.criteria import AbstractCriterion
from bilevel.problem.linear_head import LinearHeadProblem, checked_prior
from bilevel.trees import Tree


class LinearParts(NamedTuple):
    """What g of a linear head is made of, h(body) apart, for R runs.

    Attributes:
        design: features, (R, n, M); (R, n, M - 1) where the constant one, the last, is left out.
        targets: (R, n) or (R, n, K).
        weights: of the rows, (R, n), or of each output of a row, (R, n, K); None means 1.
        penalty: (R, M) or (R, M, K).
        prior: where the penalty vanishes, like the heads; None means 0.
    """

    design: Tensor
    targets: Tensor
    weights: Tensor | None
    penalty: Tensor
    prior: Tensor | None = None

    @property
    def columns(self) -> Tensor | None:
        """The weights of the rows' outputs, (R, n, 1) or (R, n, K)."""
        weights = self.weights
        return weights if weights is None or weights.ndim == 3 else weights.unsqueeze(2)

    @property
    def by_output(self) -> bool:
        """Whether each output of a row has a weight of its own."""
        return self.weights is not None and self.weights.ndim == 3

    @property
    def bare(self) -> bool:
        """Whether the constant feature is left out."""
        return self.design.shape[2] < self.penalty.shape[1]

    @property
    def whole(self) -> "LinearParts":
        """With the constant feature in `design`."""
        if not self.bare:
            return self
        design = torch.cat([self.design, torch.ones_like(self.design[..., :1])], 2)
        return self._replace(design=design)

    def cross(
        self, head: Tensor, vector: Tensor, criterion: AbstractCriterion
    ) -> dict[str, Tensor]:
        """The derivatives of d_theta g . v in features, penalty, weights and prior.

        With u = Z theta and a = Z v that product is s c'(u) a / n + (p o (theta - q)) v, summed up,
        so they are s (c' v' + c'' a theta') / n, (theta - q) o v, c' a / n and - p o v.
        """
        theta, v = (x.unsqueeze(2) if x.ndim == 2 else x for x in (head, vector))
        both, m = torch.cat([theta, v], 2), self.design.shape[2]
        products = self.design @ both[:, :m]
        if self.bare:
            products += both[:, m:]
        u, a = products.tensor_split(2, 2)
        flat = u if head.ndim == 3 else u.squeeze(2)
        slope, curved = loss_products(criterion, flat, self.targets, a.reshape(flat.shape))
        slope, share = slope.reshape(a.shape), 1 / self.design.shape[1]
        along = torch.cat([slope, curved.reshape(a.shape)], 2) * share
        columns = self.columns
        if columns is not None:  # of slopes and curvatures, side by side
            along = along * (torch.cat([columns] * 2, 2) if self.by_output else columns)
        away = theta if self.prior is None else theta - self.prior.reshape(theta.shape)
        in_penalty = away * v if self.penalty.ndim == 3 else (away * v).sum(2)
        found = {"design": along @ torch.cat([v, theta], 2)[:, :m].mT, "penalty": in_penalty}
        if self.weights is not None:
            in_weights = slope * a
            found["weights"] = (in_weights if self.by_output else in_weights.sum(2)) * share
        if self.prior is not None:
            penalty = self.penalty if self.penalty.ndim == 3 else self.penalty.unsqueeze(2)
            found["prior"] = -(penalty * v).reshape(self.prior.shape)
        return found


class Pulled(NamedTuple):
    """Parts with the pull-back of cotangents of their features, penalty, weights and prior."""

    parts: LinearParts
    pull: Callable[[Tree], Tree]


NOTHING = (None, None, None)
ROUNDING = 1e-14
"""What two products with the same derivative may differ by, relative to it."""


class PulledParts:
    """The parts of a problem's linear heads, as they depend on the body.

    Args:
        problem: with linear heads.
        hooked: which of `row_weights` and `prior` it overrides.
        mapped: see `Oracles`.

    Attributes:
        structured: whether slopes in the head, too, are made of the parts: while these are shared.
    """

    def __init__(
        self, problem: LinearHeadProblem, *, hooked: Collection[str], mapped: bool = True
    ) -> None:
        self.problem, self.hooked, self.mapped = problem, hooked, mapped
        self._ridge_alone = not problem.overrides("penalty") and isinstance(problem.ridge, float)
        # with tasks always: the features that heads are solved with pull the adjoint back, one step
        # later; there they are most of the work
        self._kept: tuple[Any, Any, Pulled | None] | None = NOTHING if problem.tasks else None
        self.structured = False
        self._penalty: tuple[Any, ...] | None = None
        self.free = problem.body_free_features and not hooked
        self._of_rows: dict[str, tuple[Any, ...]] | None = None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Evaluate features once for all that is asked at one body and rows, in the block.

        Bodies and rows are told apart by identity; a graph is kept.
        """
        before = self._kept, self.structured, self._penalty, self._of_rows
        self._kept, self.structured, self._penalty = NOTHING, True, NOTHING
        self._of_rows = {} if self.free else None
        try:
            yield
        finally:
            self._kept, self.structured, self._penalty, self._of_rows = before

    def alone(self) -> "PulledParts":
        """The same, sharing nothing but what depends on no body."""
        made = PulledParts(self.problem, hooked=self.hooked, mapped=self.mapped)
        made.structured, made._of_rows = self.structured, self._of_rows
        return made

    def of_rows(self, name: str, rows: Rows, make: Callable[[], Tensor], head: Tree = None) -> Any:
        """What `make` makes of rows and a head, once for all bodies where these have no say in it.

        Not where features depend on the body, and where nothing is shared; told by identity.
        """
        if self._of_rows is None:
            return make()
        on, known = rows.identity, self._of_rows.get(name)
        if known is None or not same_rows(known[0], on) or known[1] is not head:
            known = self._of_rows[name] = on, head, make()
        return known[2]

    def at(self, body: Tree, rows: Rows) -> LinearParts:
        """The parts, without a graph, bare of the constant feature."""
        if self._of_rows is not None and runs_of(body) == 1:
            return self._free_parts(body, rows)
        if self._kept is not None and not torch.compiler.is_compiling():
            return self._pulled(body, rows).parts
        with torch.no_grad():
            return self._named(self._made(body, rows), rows)

    def _free_parts(self, body: Tree, rows: Rows) -> LinearParts:
        """The parts where all that depends on the body is the penalty."""
        with torch.no_grad():
            design = self.of_rows("design", rows, lambda: self._of_train(body, rows)["design"])
        size = design.shape[2] + self.problem.fit_bias
        penalty = self.penalty(body, design.new_empty(len(design), size))
        return LinearParts(design, targets_of(rows, len(design)), None, penalty)

    def cross_vjp(self, body: Tree, head: Tensor, vector: Tensor, rows: Rows) -> Tree:
        """(d2_{w theta} g) v, like the bodies: one backward pass through the features.

        Features that do not depend on the body are not looked at: the penalty is all that does.
        """
        if self.free:
            value, pull = self._pulled_penalty(body, head)
            along = head * vector
            along = along.sum(2) if along.ndim > value.ndim else along
            return averaged(pull(along), head)
        parts, pull = self._pulled(body, rows)
        return averaged(pull(parts.cross(head, vector, self.problem.criterion)), head)

    def penalty(self, body: Tree, like: Tensor) -> Tensor:
        """The penalty of `m` coefficients alone, (R, m) or (R, m, K), for `like` (R, m, ...)."""
        if self._penalty is not None and not self._ridge_alone:
            return self._pulled_penalty(body, like)[0]
        with torch.no_grad():
            return self._penalties(body, like)

    def penalty_jacobian(self, body: Tree, like: Tensor) -> Tensor:
        """The derivatives of the penalties (1, m) of one run, (1, m, numbers of the body)."""
        value, pull = self._pulled_penalty(body, like)
        count = value.shape[1]
        unit = torch.eye(count, dtype=value.dtype, device=value.device).unsqueeze(1)
        found = [leaf.reshape(count, -1) for leaf in trees.leaves(pull(unit, each=True))]
        return torch.cat(found, 1).unsqueeze(0)

    def penalty_slopes(self, body: Tree, like: Tensor) -> Tensor | None:
        """The same where each penalty has a number of the body of its own, in their order: (1, m).

        The last ones, as that of a bias, may have none. None where one depends on another number
        too: products with random numbers tell.
        """
        value, pull = self._pulled_penalty(body, like, keep=True)
        ones = torch.ones_like(value)
        found = trees.flatten(pull(ones))
        numbers, without = found.shape[1], value.shape[1] - found.shape[1]
        if without < 0:
            return None
        drawn = normal("slopes", *value.shape).to(value)
        own, pulled = found * drawn[:, :numbers], trees.flatten(pull(drawn))
        if not bool(((pulled - own).abs() <= ROUNDING * own.abs()).all()):
            return None
        return pad(found, (0, without)) if without else found

    def _pulled_penalty(
        self, body: Tree, like: Tensor, *, keep: bool = False
    ) -> tuple[Tensor, Callable[..., Tree]]:
        """The penalty with its pull-back, made once while parts are shared.

        Outside of that it is for one cotangent, unless the graph is to be kept.
        """

        def made(w: Tree) -> Tensor:
            return self._penalties(w, like)

        if self._penalty is None or torch.compiler.is_compiling():
            return pullback(made, body, keep=keep)
        at, kind, found = self._penalty
        if at is not body or kind != (like.shape, like.dtype):
            found = pullback(made, body, keep=True)
            self._penalty = body, (like.shape, like.dtype), found
        return found  # type: ignore[no-any-return]

    def _penalties(self, body: Tree, like: Tensor) -> Tensor:
        if self._ridge_alone:  # nothing to map
            found = torch.full_like(like[:, :, 0] if like.ndim == 3 else like, self.problem.ridge)
            if not self.problem.penalises_all:
                found[:, -1] = 0.0
            return found

        def penalty(one_body: Tree, one_like: Tensor) -> Tensor:
            return self.problem.full_penalty(one_body, len(one_like), one_like)

        runs = runs_of(body)
        if len(like) == runs == 1 and not self.mapped:
            return penalty(trees.take(body, 0), like[0]).unsqueeze(0)
        if len(like) == runs:
            return vmap(penalty)(body, like)
        of_body = vmap(penalty, in_dims=(None, 0))
        mapped: Tensor = trees.fold(vmap(of_body)(body, trees.unfold(like, runs)))
        return mapped

    def _pulled(self, body: Tree, rows: Rows) -> Pulled:
        train, keep = rows.identity, False
        if self._kept is not None and not torch.compiler.is_compiling():
            (at, on, found), keep = self._kept, True
            if found is not None and at is body and same_rows(on, train):
                return found
        values, pull = pullback(lambda w: self._made(w, rows), body, keep=keep)
        made = Pulled(self._named(values, rows), pull)
        if keep:
            self._kept = (body, train, made)
        return made

    def _made(self, body: Tree, rows: Rows) -> dict[str, Tensor]:
        """What of the parts depends on the body: those of the rows, and the penalty."""
        found = self._of_train(body, rows)
        design = found.pop("design")
        size = design.shape[2] + self.problem.fit_bias
        penalty = self._penalties(body, design.new_empty(len(design), size))
        return {"design": design, "penalty": penalty, **found}

    def _of_train(self, body: Tree, rows: Rows) -> dict[str, Tensor]:
        """The features, and weights of rows and a prior, if there are."""
        problem = self.problem

        def mapped(one_body: Tree, _: Tree, groups: Groups) -> dict[str, Tensor]:
            design = problem.features_of(one_body, groups)
            found: dict[str, Tensor | None] = {"design": design}
            if "row_weights" in self.hooked:
                found["weights"] = problem.row_weights(one_body, groups)
            if "prior" in self.hooked:
                shape = problem.head_shape(design.shape[1] + problem.fit_bias)
                like = design.new_empty(()).expand(shape)
                prior = problem.prior(one_body, groups)
                found["prior"] = None if prior is None else checked_prior(prior, like)
            return {name: one for name, one in found.items() if one is not None}

        found: dict[str, Tensor] = over_heads(mapped, body, (), rows, mapped=False)
        return found

    @staticmethod
    def _named(values: dict[str, Tensor], rows: Rows) -> LinearParts:
        """The parts, from what depends on the body."""
        design, weights = values["design"], values.get("weights")
        targets = targets_of(rows, len(design))
        return LinearParts(design, targets, weights, values["penalty"], values.get("prior"))


def targets_of(rows: Rows, heads: int) -> Tensor:
    """The targets of the training rows, for each head."""
    targets: Tensor = rows.groups["train"].targets
    share = len(targets) if rows.of_tasks else 1
    if rows.axes["train"] is None:
        targets = targets.expand(heads // share, *targets.shape)
    return targets.flatten(0, 1) if rows.of_tasks else targets
