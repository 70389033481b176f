"""Curvatures of the objectives in the body, at the iterates of a training."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from bilevel import trees
from bilevel.analysis.medians import table
from bilevel.analysis.points import Iterates, answered, failed, point_of
from bilevel.analysis.spectra import Product, ends_of, trace_of
from bilevel.core.checks import (
    check_instance,
    check_names,
    check_positive_integer,
    check_seed,
    single,
)
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.derivatives.body_products import BodyProducts
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ArgumentError, IncompatibleError
from bilevel.hypergradients.condition import Condition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = Literal["joint", "best", "phi", "full"]
BODY: tuple[Matrix, ...] = ("joint", "best", "phi")
MOST_PROBES = 10_000
COLUMNS = {
    "joint_largest": "joint",
    "best_largest": "joint at theta*",
    "phi_largest": "reduced",
    "full_largest": "body and head",
    "scale": "|theta*|^2 / |theta|^2",
}
"""Of the table -> their headings."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curvatures:
    r"""What `curvature` found at T steps of R runs.

    Attributes:
        seeds: of the runs.
        steps: of the iterates.
        values: name -> (T, R), float64, on the CPU; NaN where a run diverged or has no best
            response. For each of the matrices "joint", "best" and "phi" (and "full") `_largest` and
            `_smallest` are eigenvalues, `_residual` a bound on how far they are from one, `_trace`
            is an estimate and `_trace_error` its standard error. `body_norm`, `head_norm` and
            `best_norm` are $\lVert w\rVert$, $\lVert\theta\rVert$ and $\lVert\theta^*\rVert$,
            `head_gap` is $\lVert\theta - \theta^*\rVert$; `body_gradient_norm` and
            `head_gradient_norm` are those of g, `phi_gradient_norm` that of $\Phi$; `scale` is
            $\lVert\theta^*\rVert^2 / \lVert\theta\rVert^2$.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.toy import ScalarProduct
        >>> strategy = bilevel.TwoTimescale(0.01, 0.1)
        >>> points = analysis.iterates(ScalarProduct(), strategy, at=(0, 5), seeds=2)
        >>> found = analysis.curvature(points, probes=2)
        >>> found.values["phi_largest"].shape, found.steps    # steps, runs
        (torch.Size([2, 2]), (0, 5))
    """

    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    values: dict[str, Tensor]

    def table(self) -> str:
        r"""Medians over runs of the largest eigenvalues and of the squared norms' ratio.

        The ratio is $\lVert\theta^*\rVert^2 / \lVert\theta\rVert^2$.

        In brackets: 95 % intervals, from six runs on.
        """
        columns = {
            heading: self.values[name].numpy()
            for name, heading in COLUMNS.items()
            if name in self.values
        }
        return table(self.steps, columns)

    def figure(self) -> "Figure":
        """Largest eigenvalues, traces, norms and gradients along the training, with matplotlib."""
        from bilevel.report.curvatures import along

        return along(self.steps, {name: found.numpy() for name, found in self.values.items()})

    def rows(self) -> Iterator[tuple[str | float, ...]]:
        """Rows of a file: name, step, seed and value."""
        for name, found in self.values.items():
            for step, of_runs in zip(self.steps, found.tolist(), strict=True):
                for seed, value in zip(self.seeds, of_runs, strict=True):
                    yield name, step, seed, value


@says_memory
@ordinary()
def curvature(
    points: Iterates,
    *,
    of: Sequence[Matrix] = BODY,
    probes: int = 64,
    tolerance: float = 1e-7,
    products: int = 300,
    seed: int = 0,
) -> Curvatures:
    r"""How the objectives curve in the body, before and after the head has answered.

    $$
    \begin{aligned}
    \text{joint} &: g_{ww}(w, \theta) \\
    \text{best} &: g_{ww}(w, \theta^*(w)) \\
    \text{phi} &: \Phi''(w) = g_{ww} - g_{w\theta}\, g_{\theta\theta}^{-1}\, g_{\theta w}
        \text{ at } \theta^*(w) \\
    \text{full} &: \text{the Hessian of } g \text{ in } (w, \theta)
    \end{aligned}
    $$

    On all training rows, in float64. Eigenvalues are found by Lanczos' method and traces by
    Hutchinson's, from products of the matrices with vectors alone. Since $g_{\theta\theta}$ is
    positive definite, $\Phi''$ is never above $g_{ww}$ at $\theta^*$:
    $v^\top \Phi'' v \le v^\top g_{ww}(w, \theta^*)\, v$ for every $v$.

    Args:
        points: of `iterates`.
        of: which matrices.
        probes: vectors for each trace.
        tolerance: of the eigenvalues, relative to the larger of the two in size.
        products: the most that Lanczos' method makes for a matrix.
        seed: of start and probes, which are the same for all runs and steps.

    Returns:
        The `Curvatures`.

    Raises:
        IncompatibleError: F is not g, or the problem has heads of tasks.
        SingularHeadError: a head has no unique minimiser.
        ArgumentError: bad arguments.

    Source: Lanczos 1950; Hutchinson 1990. Differs from the source in: 1. products with the
    curvature of Phi solve for the answer of the head.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.toy import scalar_product
        >>> strategy = bilevel.TwoTimescale(0.05, 0.2, bilevel.SGD())
        >>> points = analysis.iterates(scalar_product(), strategy, at=(0, 1000), seeds=2)
        >>> found = analysis.curvature(points, probes=4)
        >>> found.values["phi_largest"][1]  # 3 w^2 > 1: Phi is convex there
        tensor([0.2735, 0.2735], dtype=torch.float64)
    """
    check_instance(points, Iterates, "points", "what `iterates` returns")
    check_names(of, get_args(Matrix), "matrix", "of")
    if not of:
        raise ArgumentError("`of` names no matrix.")
    check_positive_integer(probes, "`probes`")
    if probes > MOST_PROBES:
        raise ArgumentError(f"`probes` must be at most {MOST_PROBES:,}, got {probes}.")
    check_positive_integer(products, "`products`")
    check_seed(seed, "`seed`")
    tolerance = single(tolerance, "`tolerance`")
    if not points.problem.is_stackelberg:
        raise IncompatibleError(
            f"{type(points.problem).__name__} overrides `body_objective`: F is not g. Curvatures "
            "are those of g and of Phi(w) = min g(w, .)."
        )

    def measured(product: Product, like: Tensor) -> dict[str, Tensor]:
        found = ends_of(product, like, tolerance=tolerance, most=products, seed=seed)
        trace = trace_of(product, like, probes=probes, seed=seed)
        return {
            "largest": found.high,
            "smallest": found.low,
            "residual": found.residual,
            "trace": trace.value,
            "trace_error": trace.error,
        }

    records = [_at(points, number, of, measured) for number in range(len(points.steps))]
    values = {name: torch.stack([one[name] for one in records]).cpu() for name in records[0]}
    return Curvatures(points.seeds, points.steps, values)


class Block:
    """Matrices of R points, by their products with vectors (R, P).

    Args:
        point: with the heads of the iterates.
    """

    def __init__(self, point: HeadPoint) -> None:
        self.point, self.joint = point, BodyProducts(point)
        self.solution = answered(point)
        self.answer = point.at(self.solution.head)
        self.best = BodyProducts(self.answer)
        self.condition = Condition(self.answer)
        self.like = trees.flatten(point.body)

    def product(self, name: Matrix) -> tuple[Product, Tensor]:
        """The product of a matrix, and vectors of its size."""
        made: dict[Matrix, Product] = {
            "joint": lambda v: self._of_body(self.joint, v),
            "best": lambda v: self._of_body(self.best, v),
            "phi": self._reduced,
            "full": self._whole,
        }
        if name != "full":
            return made[name], self.like
        return made[name], torch.cat([self.like, trees.flatten(self.point.head)], 1)

    def _of_body(self, products: BodyProducts, vectors: Tensor) -> Tensor:
        along = trees.unflatten(vectors, self.point.body)
        return trees.flatten(products.along_body(along)[0])

    def _reduced(self, vectors: Tensor) -> Tensor:
        along = trees.unflatten(vectors, self.point.body)
        direct, mixed = self.best.along_body(along)
        adjoint = self.condition.solve(mixed, factor=self.solution.factor).value
        through = self.best.along_head(adjoint)[0]
        return trees.flatten(direct) - trees.flatten(through)

    def _whole(self, vectors: Tensor) -> Tensor:
        count = self.like.shape[1]
        along_body = trees.unflatten(vectors[:, :count], self.point.body)
        along_head = trees.unflatten(vectors[:, count:], self.point.head)
        one, other = self.joint.along_body(along_body), self.joint.along_head(along_head)
        return torch.cat(
            [trees.flatten(a) + trees.flatten(b) for a, b in zip(one, other, strict=True)], 1
        )


def _at(
    points: Iterates,
    number: int,
    of: Sequence[Matrix],
    measured: Callable[[Product, Tensor], dict[str, Tensor]],
) -> dict[str, Tensor]:
    point, usable = point_of(points, number)
    block = Block(point)
    best = block.answer.head
    sizes = {
        "body_norm": trees.norm(point.body),
        "head_norm": trees.norm(point.head),
        "best_norm": trees.norm(best),
        "head_gap": trees.norm(trees.tree_map(torch.sub, point.head, best)),
        "body_gradient_norm": trees.norm(block.joint.body_gradient),
        "head_gradient_norm": trees.norm(block.joint.head_gradient),
        "phi_gradient_norm": trees.norm(block.best.body_gradient),
    }
    sizes["scale"] = (sizes["best_norm"] / sizes["head_norm"]).square()
    for name in of:
        found = measured(*block.product(name))
        sizes |= {f"{name}_{kind}": value for kind, value in found.items()}
    lost = failed(block.solution) | ~usable
    return {name: value.masked_fill(lost, torch.nan) for name, value in sizes.items()}
