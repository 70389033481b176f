"""Values and derivatives of a problem for R runs at once: the only place that differentiates.

The user's single-run functions are vmapped over the run axis. Runs do not interact, so the gradient
of the sum over runs is the gradient of every run: one backward pass outside of vmap, which costs
less than a vmapped gradient. Results carry no graph.

With tasks there are more heads than bodies, T for each run, one run after the other: H = R T. What
belongs to heads is that of each task's own g or F, as if it were a run of its own; what belongs to
bodies is the average over their tasks. So all that is written for R heads holds for H of them.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from bilevel import trees
from bilevel.core.graph import gradients, variable
from bilevel.core.progress import RowCallback
from bilevel.data.known import Known
from bilevel.data.rows import Rows
from bilevel.derivatives import linear_products
from bilevel.derivatives.chunked import in_chunks, of_body
from bilevel.derivatives.features import Features
from bilevel.derivatives.kept import Kept
from bilevel.derivatives.linear_parts import LinearParts, PulledParts
from bilevel.derivatives.over_heads import averaged, over_heads, runs_of
from bilevel.derivatives.reverse import pullback
from bilevel.errors import IncompatibleError
from bilevel.problem.auxiliary import AuxiliaryProblem, Pullback
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree

Objective = Callable[[Tree, Tree, Groups], Tensor]
Bias = Literal["free", "penalised"]
OF_ROWS = frozenset({"row_weights", "prior"})
"""Hooks of a linear head that see the rows of the batch."""
HOOKS = (*OF_ROWS, "penalty", "body_penalty", "metrics")
"""Of a linear head: which of them a problem overrides decides how it is computed."""


class Oracles:
    """Oracles of one problem. Bodies have a leading axis R, heads and values one of H.

    Args:
        problem: the problem, whose functions are called for single runs.
        report: told how far each pass over chunks of rows got.
        mapped: whether functions are mapped over runs where there is one run only, too.

    Attributes:
        is_stackelberg: whether F is g.
        tasks: whether there are heads of tasks.
        overridden: those of `HOOKS` that a linear head problem overrides.
        bias: how the constant feature of a linear head is treated; None: there is none.
        features: of a linear head of the plain form; None: g is of another one.
        parts: of a linear head of any form.
    """

    def __init__(
        self, problem: StackelbergProblem, report: RowCallback | None = None, *, mapped: bool = True
    ) -> None:
        self.problem, self.report, self.mapped = problem, report, mapped
        # asked once: the compiler does not answer questions about bound methods rightly
        self.is_stackelberg = problem.is_stackelberg
        self._knows_runs = isinstance(problem, AuxiliaryProblem) and problem.knows_runs()
        self.tasks = isinstance(problem, LinearHeadProblem) and problem.tasks
        self.overridden: set[str] = set()
        self.bias: Bias | None = None
        self.features: Features | None = None
        self.parts: PulledParts | None = None
        if isinstance(problem, LinearHeadProblem):
            self.overridden = {hook for hook in HOOKS if problem.overrides(hook)}
            self.parts = PulledParts(problem, hooked=self.overridden & OF_ROWS, mapped=mapped)
            if problem.fit_bias:
                self.bias = "penalised" if problem.penalize_bias else "free"
            formed = self.overridden.isdisjoint(OF_ROWS | {"penalty"})
            plain = self.is_stackelberg and formed and not self.tasks
            if plain and torch.as_tensor(problem.ridge).ndim == 0:
                self.features = Features(self.parts, penalised="body_penalty" in self.overridden)
        self.last_sums: Any = None  # over rows in chunks, of `bilevel.linear.gram`
        self.kept = Kept()
        self.known: Known | None = None  # from earlier calls at a point

    def apart(self) -> "Oracles":
        """The same where each task is a run of its own."""
        made = copy.copy(self)
        made.tasks = False
        return made

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """See `Features.sharing`; heads that are not linear have nothing to share."""
        with ExitStack() as shared:
            for some in (self.kept, self.features, self.parts):
                if some is not None:
                    shared.enter_context(some.sharing())
            yield

    # values

    @of_body
    def body_value(self, body: Tree, head: Tree, rows: Rows) -> Tensor:
        """F, shape (H,)."""
        with torch.no_grad():
            return self._values(self.problem.body_objective, body, head, rows)

    @in_chunks
    def head_value(self, body: Tree, head: Tree, rows: Rows) -> Tensor:
        """g, shape (H,)."""
        with torch.no_grad():
            return self._values(self.problem.head_objective, body, head, rows)

    def metrics(self, body: Tree, head: Tree, rows: Rows) -> dict[str, Tensor]:
        """The problem's metrics, each (H,); `rows` holds all groups."""
        rows = rows.whole(body) if "metrics" in self.overridden else rows.with_targets(body)
        with torch.no_grad():
            if self.features is not None and "metrics" not in self.overridden:
                return self.features.metrics(body, head, rows)
            return dict(over_heads(self.problem.metrics, body, head, rows))

    def predictions(self, body: Tree, head: Tree, inputs: Tensor) -> Tensor:
        """Predictions of a linear head problem for `inputs` (n, ...), which all runs share."""
        problem = self.problem
        if not isinstance(problem, LinearHeadProblem):
            raise IncompatibleError(f"{type(problem).__name__} has no `predict`.")
        with torch.no_grad():
            return vmap(problem.predict, in_dims=(0, 0, None))(body, head, inputs)

    # first derivatives

    @in_chunks
    def head_gradient(self, body: Tree, head: Tree, rows: Rows) -> Tree:
        r"""$\partial_\theta g$."""
        if self.features is None and self.parts is not None and self.parts.structured:
            criterion = self.parts.problem.criterion

            def by_rows() -> Tensor:
                return linear_products.rows_gradient(self.linear_parts(body, rows), head, criterion)

            found = self.parts.of_rows("slope", rows, by_rows, head)
            if "prior" in self.overridden:
                return linear_products.drawn(self.linear_parts(body, rows), found, head)
            return linear_products.penalised(self.parts.penalty(body, head), found, head)
        return self._gradients(self.problem.head_objective, body, head, rows, "head")[1]

    @of_body
    def direct_gradient(self, body: Tree, head: Tree, rows: Rows) -> Tree:
        r"""$\partial_w F$: what is left of the body's gradient when the head is held fixed."""
        return self._gradients(self.problem.body_objective, body, head, rows, "body")[0]

    @of_body
    def outer_gradient(self, body: Tree, head: Tree, rows: Rows) -> Tree:
        """d_theta F."""
        return self._gradients(self.problem.body_objective, body, head, rows, "head")[1]

    @of_body
    def body_gradients(self, body: Tree, head: Tree, rows: Rows) -> tuple[Tree, Tree]:
        r"""$\partial_w F$ and $\partial_\theta F$."""
        return self.body_slopes(body, head, rows)[:2]

    @of_body
    def body_slopes(self, body: Tree, head: Tree, rows: Rows) -> tuple[Tree, Tree, Tensor | None]:
        """The same, and F, (H,); None where it is not on the way."""
        if self.features is not None:
            return *self.features.gradients(body, head, rows, "both"), None
        return self._valued(self.problem.body_objective, body, head, rows, "both")

    @in_chunks
    def joint_gradient(self, body: Tree, head: Tree, rows: Rows) -> tuple[Tree, Tree]:
        r"""$\partial_w g$ and $\partial_\theta g$ in one backward pass."""
        return self._gradients(self.problem.head_objective, body, head, rows, "both")

    def directions(
        self, body: Tree, head: Tree, auxiliary: Tree, rows: Rows
    ) -> tuple[Tree, Tree, Tree]:
        """The directions of an `AuxiliaryProblem`, with pull-backs carried out."""
        problem = self.problem
        assert isinstance(problem, AuxiliaryProblem)
        if self._knows_runs:
            mapped, groups = problem.directions_of_runs, rows.of_runs(runs_of(head))
        else:
            mapped = vmap(problem.directions, in_dims=(0, 0, 0, rows.in_dims))
            groups = rows.groups

        def values(levels: Tree) -> tuple[Tree, Tree]:
            found = mapped(levels, head, auxiliary, groups)
            return (found[0].values if isinstance(found[0], Pullback) else levels), found

        (first, *others), pull = pullback(values, body, has_aux=True)
        first = pull(first.along) if isinstance(first, Pullback) else first
        return first, others[0], others[1]

    def head_start(self, body: Tree, head: Tree) -> Tree | None:
        """`head_start` of the problem, in the shapes of heads (H, ...); None: it has none."""
        if self.problem.head_start(trees.take(body, 0)) is None:
            return None
        with torch.no_grad():
            return self._starts(body, head)

    def start_vjp(self, body: Tree, vector: Tree) -> Tree:
        """(d theta_0 / d w)' v, v shaped like the heads, for `head_start`; else zero."""
        if self.problem.head_start(trees.take(body, 0)) is None:
            return trees.tree_map(torch.zeros_like, body)
        _, pull = pullback(lambda at: self._starts(at, vector), body)
        return averaged(pull(vector), vector)

    # second derivatives of g

    @in_chunks
    def head_hvp(self, body: Tree, head: Tree, vector: Tree, rows: Rows) -> Tree:
        r"""$g_{\theta\theta}\,v$; of heads that are not linear, reverse over reverse."""
        if self.parts is not None:
            criterion = self.parts.problem.criterion
            return linear_products.product(self.linear_parts(body, rows), head, vector, criterion)
        return self._second(body, head, vector, rows, "head")

    @in_chunks
    def cross_vjp(self, body: Tree, head: Tree, vector: Tree, rows: Rows) -> Tree:
        r"""$g_{w\theta}\,v$ for v shaped like the head; the result is shaped like the body."""
        if self.parts is not None:
            return self.parts.cross_vjp(body, head, vector, rows)
        return self._second(body, head, vector, rows, "body")

    @in_chunks
    def head_products(self, body: Tree, head: Tree, vector: Tree, rows: Rows) -> tuple[Tree, ...]:
        """d_theta g, (d2_{theta theta} g) v and (d2_{w theta} g) v from one graph."""

        def product(levels: Tree) -> tuple[Tensor, Tree]:
            def total(at: Tree) -> Tensor:
                return self._values(self.problem.head_objective, levels[0], at, rows).sum()

            gradient = torch.func.grad(total)(levels[1])
            return trees.dot(gradient, vector).sum(), gradient

        (cross, along), gradient = torch.func.grad(product, has_aux=True)((body, head))
        return gradient, along, averaged(cross, head)

    @in_chunks
    def head_hessian(self, body: Tree, head: Tree, rows: Rows) -> Tensor:
        r"""$g_{\theta\theta}$ as a matrix, (R, P, P) for a head of P numbers."""

        def hessian(one_body: Tree, vector: Tensor, groups: Groups) -> Tensor:
            def value(v: Tensor) -> Tensor:
                one_head = trees.take(trees.unflatten(v.unsqueeze(0), head), 0)
                return self.problem.head_objective(one_body, one_head, groups)

            found: Tensor = jacrev(jacrev(value))(vector)
            return found

        flat = trees.flatten(head)
        found: Tensor = over_heads(hessian, body, flat, rows, mapped=self.mapped)
        return found.detach()

    # structure

    @property
    def sampled_groups(self) -> tuple[str, ...]:
        """The groups a batch holds: a linear head with F = g looks at "train" only."""
        linear = isinstance(self.problem, LinearHeadProblem)
        alone = linear and self.is_stackelberg and self.overridden.isdisjoint(OF_ROWS)
        return ("train",) if alone else ("train", "validation")

    @property
    def quadratic_linear_head(self) -> bool:
        """Whether the head is linear in features and its criterion quadratic."""
        return isinstance(self.problem, LinearHeadProblem) and self.problem.criterion.quadratic

    def linear_parts(self, body: Tree, rows: Rows) -> LinearParts:
        """The parts of a linear head's objective, from the features on `rows`, all at once."""
        found = self.kept.once(body, rows, "parts", lambda: self.bare_parts(body, rows).whole)
        assert isinstance(found, LinearParts)
        return found

    def bare_parts(self, body: Tree, rows: Rows) -> LinearParts:
        """The same, the constant feature left out where that saves a copy."""
        if rows.chunks is not None:
            raise IncompatibleError(
                f"{type(self.problem).__name__} sets `chunk_rows`, but this needs the features of "
                "all rows at once. ClosedForm and FastSGD work in chunks; or set `chunk_rows` to "
                "None."
            )
        if self.features is not None and self.features.shared:
            return self.features.linear_parts(body, rows)
        return self._parts().at(body, rows)

    def linear_penalty(self, body: Tree, like: Tensor) -> Tensor:
        """The penalty of `m` coefficients alone, (R, m) or (R, m, K), for `like` (R, m, ...)."""
        return self._parts().penalty(body, like)

    def _parts(self) -> PulledParts:
        if self.parts is None:
            raise IncompatibleError(f"{type(self.problem).__name__} is not a LinearHeadProblem.")
        return self.parts

    # how it is done

    def _values(self, function: Objective, body: Tree, head: Tree, rows: Rows) -> Tensor:
        if self.features is not None and self.features.shared:
            return self.features.values(body, head, rows)  # F is g then
        values: Tensor = over_heads(function, body, head, rows, mapped=self.mapped)
        return values

    def _starts(self, body: Tree, like: Tree) -> Tree:
        """`head_start` of all bodies, once for each of their heads, in the type of these."""
        share, first = runs_of(like) // runs_of(body), trees.leaves(like)[0]
        found = trees.cast(vmap(self.problem.head_start)(body), first.dtype, first.device)
        return trees.tree_map(lambda leaf: leaf.repeat_interleave(share, 0), found)

    def _gradients(
        self, function: Objective, body: Tree, head: Tree, rows: Rows, level: str
    ) -> tuple[Tree, Tree]:
        if self.features is not None:
            return self.features.gradients(body, head, rows, level)
        return self._valued(function, body, head, rows, level)[:2]

    def _valued(
        self, function: Objective, body: Tree, head: Tree, rows: Rows, level: str
    ) -> tuple[Tree, Tree, Tensor]:
        both = {"body": body, "head": head}
        chosen = both if level == "both" else {level: both[level]}

        def all_values(levels: Tree) -> Tensor:
            at = {**both, **levels}
            return self._values(function, at["body"], at["head"], rows)

        values, pull = pullback(all_values, chosen)
        found = pull(torch.ones_like(values))
        in_body = averaged(found["body"], head) if "body" in found else None
        return in_body, found.get("head"), values

    def _second(self, body: Tree, head: Tree, vector: Tree, rows: Rows, level: str) -> Tree:
        # d/dx <d_theta g, v> = (d_x d_theta g) v: one more backward pass, and no matrix. Reverse
        # over reverse needs no forward rules, which several operations of torch lack.
        if torch.compiler.is_compiling():  # which knows `torch.func` alone
            _, along, cross = self.head_products(body, head, vector, rows)
            return along if level == "head" else cross
        with torch.enable_grad():
            body, head = variable(body), variable(head)
            value = self._values(self.problem.head_objective, body, head, rows).sum()
            gradient = gradients([value], trees.leaves(head), create_graph=True)
            products = [
                (g * v.detach()).sum() for g, v in zip(gradient, trees.leaves(vector), strict=True)
            ]
            target = head if level == "head" else body
            return trees.rebuild(target, gradients(products, trees.leaves(target)))
