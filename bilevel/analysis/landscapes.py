"""The objectives around the iterates of a training, on a plane through each of them."""

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bilevel import trees
from bilevel.analysis.points import Iterates, answered, failed, point_of
from bilevel.core.checks import (
    check_instance,
    check_one_of,
    check_positive_integer,
    check_seed,
    single,
)
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.memory import says_memory
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.sizes import graph_bytes, hessian_bytes
from bilevel.errors import ArgumentError, spell
from bilevel.training.recorder import turns
from bilevel.training.training import STEP_BYTES
from bilevel.trees import Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Normalise = Literal["filter", "norm"]
LARGEST_GRID = 1001
ROUNDING = 1e-12
"""How far, relative to its length, a body in its set may be moved by a projection."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Landscape:
    r"""What `landscape` found around T iterates of one run.

    Attributes:
        seed: of the run.
        steps: of the iterates.
        places: the coordinates along both directions, (A,).
        joint: $F(w_k + a d_1 + b d_2, \theta_k)$, (T, A, A), float64, on the CPU; the first axis of
            a plane is a. NaN outside of the set of bodies.
        phi: $F(w_k + a d_1 + b d_2, \theta^*)$, likewise; NaN too where there is no best response.
        directions: for each iterate the two of them, leaves (2, ...).

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.teacher import teacher
        >>> strategy = bilevel.TwoTimescale(5e-4, 5e-3)
        >>> points = analysis.iterates(teacher(rows=20, width=3), strategy, at=(0,), seeds=1)
        >>> found = analysis.landscape(points, size=3)
        >>> found.joint.shape, bool((found.phi <= found.joint).all())    # the best head is below
        (torch.Size([1, 3, 3]), True)
    """

    seed: int
    steps: tuple[int, ...]
    places: Tensor
    joint: Tensor
    phi: Tensor
    directions: tuple[Tree, ...]

    def figure(self, title: str = "") -> "Figure":
        """Both objectives around all iterates, as surfaces and as contours, with matplotlib.

        Args:
            title: what is shown, for a line below.
        """
        from bilevel.report.landscapes import surfaces

        if not isinstance(title, str):
            raise ArgumentError(f"`title` must be a text, got {spell(title)}.")
        at = self.places.numpy(), self.joint.numpy(), self.phi.numpy()
        return surfaces(self.steps, *at, title=title)


@says_memory
@ordinary()
def landscape(
    points: Iterates,
    *,
    run: int = 0,
    size: int = 51,
    span: float = 1.0,
    normalise: Normalise = "filter",
    unit_axis: int = -1,
    seed: int = 0,
) -> Landscape:
    r"""The joint and the reduced objective on planes through iterates $(w_k, \theta_k)$ of a run.

    $$
    \text{joint}: F(w_k + a d_1 + b d_2, \theta_k), \qquad
    \text{phi}: \Phi(w_k + a d_1 + b d_2),
    $$

    the second with a head that is solved anew at every point.

    On all training rows, in float64; F is g unless the problem says otherwise. The grid is a batch
    of runs. The directions $d_1$ and $d_2$ are random: the same normal numbers for all iterates,
    scaled by each of them.

    Args:
        points: of `iterates`.
        run: the number of the run among its seeds.
        size: A, of the A x A grid.
        span: a and b go from -span to span.
        normalise: "filter": the weights of each unit are scaled to the length that they have in
            $w_k$, and leaves with one axis or none as a whole; "norm": d as a whole to
            $\lVert w_k\rVert$.
        unit_axis: of the leaves, along which the units of a layer lie: -1 for `inputs @ weight`, 0
            for the weights of torch's modules.
        seed: of the directions.

    Returns:
        The `Landscape`.

    Raises:
        IncompatibleError: the problem has heads of tasks.
        SingularHeadError: a head has no unique minimiser.
        ArgumentError: bad arguments; the run diverged.

    Source: Li et al., Visualizing the loss landscape of neural nets (2018), section 4. Differs from
    the source in: 1. leaves with one axis are scaled as a whole; 2. the head is held or solved, not
    moved along.

    Examples:
        >>> import bilevel
        >>> from bilevel import analysis
        >>> from problems.teacher import teacher
        >>> strategy = bilevel.TwoTimescale(5e-4, 5e-3)
        >>> points = analysis.iterates(teacher(rows=30), strategy, at=(0, 20), seeds=1)
        >>> found = analysis.landscape(points, size=5)
        >>> bool((found.phi <= found.joint).all())  # the head has answered
        True
    """
    check_instance(points, Iterates, "points", "what `iterates` returns")
    check_positive_integer(run, "`run`", zero_allowed=True)
    if run >= len(points.seeds):
        raise ArgumentError(f"`run` must be below {len(points.seeds)}, the number of runs: {run}.")
    check_positive_integer(size, "`size`")
    if not 1 < size <= LARGEST_GRID:
        raise ArgumentError(f"`size` must be 2 to {LARGEST_GRID}, got {size}.")
    span = single(span, "`span`")
    check_one_of(normalise, Normalise, "normalise")
    if type(unit_axis) is not int or unit_axis not in (0, -1):
        raise ArgumentError(f"`unit_axis` must be 0 or -1, got {spell(unit_axis)}.")
    check_seed(seed, "`seed`")
    places = torch.linspace(-span, span, int(size), dtype=torch.float64)
    planes = []
    for number, step in enumerate(points.steps):
        point, usable = point_of(points, number, [int(run)])
        if not bool(usable):
            raise ArgumentError(
                f"Run {run} (seed {points.seeds[run]}) had diverged by step {step}: choose another "
                "`run`, or fewer steps."
            )
        ways = directions(point.body, normalise, unit_axis, seed)
        planes.append((*_plane(point, ways, places), ways))
    joint, phi, ways_of_all = zip(*planes, strict=True)
    at = places, torch.stack(joint), torch.stack(phi)
    return Landscape(points.seeds[run], points.steps, *at, tuple(ways_of_all))


def directions(body: Tree, normalise: Normalise, unit_axis: int, seed: int) -> Tree:
    """Two random directions for one body, leaves (1, ...) to (2, ...), scaled by it."""
    source = generator(seed, "landscape")

    def draw(leaf: Tensor) -> Tensor:
        shape = (2, *leaf.shape[1:])
        return torch.randn(shape, generator=source, dtype=torch.float64).to(leaf)

    drawn = trees.tree_map(draw, body)
    if normalise == "norm":
        numbers, length = trees.flatten(drawn), float(trees.norm(body))
        length = length if length > 0 else 1.0
        scaled = length * numbers / trees.norm(drawn).unsqueeze(1)
        two = trees.tree_map(lambda leaf: leaf.expand(2, *leaf.shape[1:]), body)
        return trees.unflatten(scaled, two)

    def scale(way: Tensor, leaf: Tensor) -> Tensor:
        axes = list(range(1, leaf.ndim))
        if len(axes) > 1:  # all but the one of the units
            axes.remove(axes[unit_axis])
        if not axes:
            return way / way.abs() * leaf.abs()
        length: Tensor = leaf.norm(dim=axes, keepdim=True) / way.norm(dim=axes, keepdim=True)
        return way * length

    return trees.tree_map(scale, drawn, body)


def _plane(point: HeadPoint, ways: Tree, places: Tensor) -> tuple[Tensor, Tensor]:
    """F at the head of the point and at the best responses, (A, A) each."""
    size, oracles = len(places), point.oracles
    grid = torch.cartesian_prod(places, places).to(trees.leaves(point.head)[0])
    groups = point.rows.of_run(0)
    rows = Rows(groups, dict.fromkeys(groups, None))
    start = answered(point).head
    at = point.body, point.head, rows
    needed = max(graph_bytes(oracles, *at), hessian_bytes(oracles, *at) // 2, 1)
    joint, phi = [], []
    for part in turns(size**2, STEP_BYTES // needed):
        body = _along(point.body, ways, grid[part])
        inside = point.problem.body_set.project(body)
        moved = trees.norm(trees.tree_map(torch.sub, inside, body))
        outside = moved > ROUNDING * trees.norm(body)
        held, first = (_repeated(head, len(grid[part])) for head in (point.head, start))
        found = answered(HeadPoint(oracles, inside, first, rows))
        lost = outside | failed(found)
        joint.append(oracles.body_value(inside, held, rows).masked_fill(outside, torch.nan))
        phi.append(oracles.body_value(inside, found.head, rows).masked_fill(lost, torch.nan))
    one, other = (torch.cat(found).reshape(size, size).cpu() for found in (joint, phi))
    return one, other


def _along(body: Tree, ways: Tree, grid: Tensor) -> Tree:
    """w + a d1 + b d2 for the rows (a, b) of the grid, leaves (G, ...)."""

    def moved(leaf: Tensor, way: Tensor) -> Tensor:
        found: Tensor = leaf + torch.tensordot(grid, way, 1)
        return found

    return trees.tree_map(moved, body, ways)


def _repeated(head: Tree, count: int) -> Tree:
    """One head for all points of a grid."""
    return trees.tree_map(lambda leaf: leaf.expand(count, *leaf.shape[1:]), head)
