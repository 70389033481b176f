"""A training loop of the user's own as a strategy, one run after another."""

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import is_real
from bilevel.core.cost import Cost
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, ShapeError, counted, spell
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.strategies.base import AbstractStrategy
from bilevel.trees import Tree

CONTRACT = (
    "It must be a generator function `loop(problem, body, head, batches)` of one run that writes "
    "`yield body, head` after each step: `for batch in batches: ...; yield body, head`."
)


class Batches(Iterator[Groups]):
    """The batches of one run, each of them once: what an own loop goes through.

    Attributes:
        seed: of the run, for `torch.Generator().manual_seed(batches.seed)`.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed, self._name = seed, name
        self._pending: Groups | None = None

    def __next__(self) -> Groups:
        """The batch of the step to make."""
        batch = self._pending
        if batch is None:
            raise ArgumentError(
                f"The own loop {self._name} asks for a second batch in one step. {CONTRACT}"
            )
        self._pending = None
        return batch

    def give(self, batch: Groups | None) -> bool:
        """Have `batch` taken next; whether the one before was taken."""
        before, self._pending = self._pending, batch
        return before is None


@dataclasses.dataclass(order=True)  # by seeds: `trees.join` takes the least of what is no tensor
class Loops:
    """The loops of all runs, each of them at its last `yield`; copies are left without them."""

    seeds: tuple[int, ...]
    running: tuple[tuple[Iterator[Any], Batches], ...] = dataclasses.field(compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Python cannot copy generators; what else a solution holds can be copied and pickled."""
        return Loops, (self.seeds, ())


class OwnLoopState(NamedTuple):
    """Copies of both levels, and the loops that made them."""

    body: Tree
    head: Tree
    loops: Loops


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OwnLoop(AbstractStrategy):
    """A training loop of your own: a baseline with the starts, rows and records of all others.

    `function(problem, body, head, batches)` is a generator function that trains one run. It is
    called once per seed with the initial point of the seed, tensors without a run axis that are its
    own to change in place. It takes one batch a step, a dict of row groups as `head_objective` gets
    it, which it must not change, and yields the point after each step. Its steps run eagerly, one
    run after another. A run whose numbers are no longer finite is not gone on with.

    A training cannot go on from its state: Python cannot copy a generator.

    Args:
        function: the loop; or a callable of these arguments that returns an iterator.
        gradients: how many gradients of g or F on a batch a step of it takes, for budgets.

    Raises:
        ArgumentError: `function` cannot be called so; in training: it takes no batch, or several,
            for a point, ends, or leaves a set of the problem.
        ShapeError: in training: it yields something else than a body and a head.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> def exact(problem, body, head, batches):
        ...     for batch in batches:
        ...         head = body / (body**2 + 1)
        ...         body = body - 0.2 * (head * (body * head - 1) + 0.1 * body)
        ...         yield body, head
        >>> solution = bilevel.solve(ScalarProduct(), bilevel.OwnLoop(exact), steps=400, seeds=2)
        >>> [round(body, 3) for body in solution.body.tolist()]
        [1.47, 1.47]
    """

    function: Callable[..., Iterator[tuple[Tree, Tree]]]
    gradients: float | Fraction = 1.0
    resumable = False

    def __post_init__(self) -> None:
        _check_function(self.function)
        if dataclasses.is_dataclass(self.function):  # whose numbers must not be stacked over runs
            object.__setattr__(self, "function", self.function.__call__)
        count = self.gradients
        if not is_real(count) or not 0 < count <= sys.float_info.max:
            raise ArgumentError(f"`gradients` must be a positive number, got {spell(count)}.")
        # static, unlike a float: strategies that are trained as one cost the same
        object.__setattr__(self, "gradients", Fraction(float(count)))

    def check(self, problem: StackelbergProblem) -> None:
        """Any problem: what the loop follows is its author's business."""

    def init(self, oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> OwnLoopState:
        """Call the function for every run, with copies of the initial points."""
        assert rows.source is not None  # rows of a training have one
        seeds, running = tuple(rows.source.seeds), []
        for i, seed in enumerate(seeds):
            batches = Batches(seed, _spell(self.function))
            point = trees.tree_map(lambda leaf, i=i: leaf[i].detach().clone(), (body, head))
            with torch.enable_grad():
                loop = self.function(oracles.problem, *point, batches)
            if not isinstance(loop, Iterator):
                raise ArgumentError(
                    f"The own loop {_spell(self.function)} returned {type(loop).__name__}, not an "
                    f"iterator. {CONTRACT}"
                )
            running.append((loop, batches))
        return OwnLoopState(body, head, Loops(seeds, tuple(running)))

    def step(self, oracles: Oracles, state: OwnLoopState, rows: Rows, k: int) -> OwnLoopState:
        """Let the loop of every run make a step, and copy where it got to."""
        point = (state.body, state.head)
        versions = [leaf._version for leaf in trees.leaves(rows.groups)]
        going = trees.finite(point).tolist()
        made = []
        for i, batch in enumerate(_of_each_run(rows, len(going))):
            if going[i]:
                made.append(self._advance(*state.loops.running[i], batch, point, k))
            else:
                made.append([leaf[i] for leaf in trees.leaves(point)])
        if versions != [leaf._version for leaf in trees.leaves(rows.groups)]:
            raise ArgumentError(
                f"The own loop {_spell(self.function)} changes its batch in place, which may be "
                "the data that every strategy sees. Change a copy (`.clone()`)."
            )
        stacked = [torch.stack(runs) for runs in zip(*made, strict=True)]
        body, head = trees.rebuild(point, stacked)
        for name, tree in (("body", body), ("head", head)):
            self._check_inside(oracles.problem, name, tree)
        return OwnLoopState(body, head, state.loops)

    def _advance(
        self,
        loop: Iterator[Any],
        batches: Batches,
        batch: Groups,
        point: tuple[Tree, Tree],
        k: int,
    ) -> list[Tensor]:
        """The leaves of one run's body and head after a step from `point`, leaves (R, ...)."""
        name = _spell(self.function)
        batches.give(batch)
        try:
            with torch.enable_grad():
                made = next(loop)
        except StopIteration:
            raise ArgumentError(
                f"The own loop {name} stopped after {counted(k, 'step')}; it must yield once per "
                "batch until it is closed: go through `batches` without a limit, `solve` and "
                "`compare` decide how many there are (`compare` makes further steps to measure "
                "their time)."
            ) from None
        if not batches.give(None):
            raise ArgumentError(
                f"The own loop {name} yields a point without having taken a batch. {CONTRACT}"
            )
        leaves = _leaves(made, point)
        if leaves is None:
            expected = _describe(trees.take(point, 0))
            raise ShapeError(
                f"The own loop {name} must yield `body, head`, tensors like the initial ones: "
                f"{expected}; it yields {_describe(made)}."
            )
        return leaves

    def _check_inside(self, problem: StackelbergProblem, name: str, tree: Tree) -> None:
        """Points outside of a set would win a comparison that they must not take part in."""
        nearest = getattr(problem, f"{name}_set").project(tree)
        if nearest is tree:
            return
        distance = trees.norm(trees.tree_map(torch.sub, tree, nearest))
        allowed = math.sqrt(torch.finfo(distance.dtype).eps) * (1 + trees.norm(nearest))
        if bool(((distance > allowed) & trees.finite(tree)).any()):
            raise ArgumentError(
                f"The own loop {_spell(self.function)} yields a {name} outside of the problem's "
                f"`{name}_set`, in which other strategies stay. Project it after each step: "
                f"`trees.take(problem.{name}_set.project(trees.single({name})), 0)` with "
                "`from bilevel import trees`."
            )

    @property
    @override
    def cost(self) -> Cost:
        return Cost(gradients=float(self.gradients))

    def __repr__(self) -> str:
        """The name of the function, without its address."""
        return f"OwnLoop({_spell(self.function)}, gradients={float(self.gradients):g})"


def _check_function(function: Any) -> None:
    """Raise unless `function` can be called with the four arguments of an own loop."""
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if not callable(function) or asynchronous:
        raise ArgumentError(f"`function` cannot be an own loop: {function!r}. {CONTRACT}")
    try:
        inspect.signature(function).bind(None, None, None, None)
    except TypeError as error:
        raise ArgumentError(
            f"`function` {_spell(function)} does not take four arguments ({error}). {CONTRACT}"
        ) from error
    except ValueError:  # callables of compiled code need not tell what they take
        return


def _of_each_run(rows: Rows, runs: int) -> list[Groups]:
    """The batch of every run, without a run axis; groups that all runs share as they are."""
    batches: list[Groups] = [dict(rows.groups) for _ in range(runs)]
    for name, group in rows.groups.items():
        if rows.axes[name] is not None:
            columns = [leaf.unbind() for leaf in trees.leaves(group)]
            for batch, leaves in zip(batches, zip(*columns, strict=True), strict=True):
                batch[name] = trees.rebuild(group, leaves)
    return batches


def _leaves(made: Any, point: tuple[Tree, Tree]) -> list[Tensor] | None:
    """The leaves of what one run yielded, in the order of `point`; None unless they fit it."""
    if not isinstance(made, tuple | list):
        return None
    leaves: list[Tensor] = []

    def keep(like: Tensor, leaf: Any) -> None:
        kind = (like.shape[1:], like.dtype, like.device)
        if isinstance(leaf, Tensor) and (leaf.shape, leaf.dtype, leaf.device) == kind:
            leaves.append(leaf.detach())

    try:
        for like, tree in zip(point, made, strict=True):
            trees.tree_map(keep, like, tree)
    except (KeyError, TypeError, ValueError):  # the trees differ
        return None
    yielded, expected = (sum(len(trees.leaves(t)) for t in pair) for pair in (made, point))
    return leaves if len(leaves) == yielded == expected else None


def _describe(made: Any) -> str:
    """Names, shapes and types of the leaves of a body and a head, for messages."""
    if not isinstance(made, tuple | list) or len(made) != 2:
        return f"one {type(made).__name__}"
    levels = {"[0]": "body", "[1]": "head"}

    def kind(leaf: Any) -> str:
        if isinstance(leaf, Tensor):
            return f"{tuple(leaf.shape)} {leaf.dtype} {leaf.device}"
        return f"a {type(leaf).__name__}"

    named = trees.named_leaves((made[0], made[1]))
    return ", ".join(f"{levels[place[:3]]}{place[3:]} {kind(leaf)}" for place, leaf in named)


def _spell(function: Any) -> str:
    """The name of a function with its settings, without its address."""
    if isinstance(function, functools.partial):
        settings = [*map(repr, function.args)]
        settings += [f"{name}={value!r}" for name, value in function.keywords.items()]
        return f"partial({', '.join([_spell(function.func), *settings])})"
    owner = getattr(function, "__self__", None)
    if dataclasses.is_dataclass(owner):
        return repr(owner)
    return getattr(function, "__name__", None) or repr(function)
