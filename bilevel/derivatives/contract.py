"""Does a problem keep its contract? Checked once, before a training starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.checks import check_instance
from bilevel.core.generators import generator
from bilevel.data.rows import Rows
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import BilevelError, ProblemError, ShapeError
from bilevel.problem.auxiliary import AuxiliaryProblem
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.sets import ConvexSet
from bilevel.trees import Tree


def check_contract(made: Assembly, *, head_only: bool = False, derivatives: bool = True) -> None:
    """Check once, on the rows of step 0, that the problem keeps its contract.

    Args:
        made: any runs of the problem; the objectives are looked at in the first one.
        head_only: whether nobody will ask for F.
        derivatives: whether to see if objectives can be differentiated; see `check_derivatives`.

    Raises:
        ShapeError: an objective is not 0-dim; the head or the features do not fit.
        ProblemError: an objective is not finite, or cannot be vmapped.
    """
    oracles, body, head = made.oracles, made.body, made.heads
    problem, name = oracles.problem, type(oracles.problem).__name__
    if made.sampler.full.chunks is not None and isinstance(problem, LinearHeadProblem):
        _check_chunks(problem, body, made.sampler.full)
    rows = _looked_at(made)
    one_body, one_head = trees.take(body, 0), trees.take(head, 0)
    groups = trees.tree_map(torch.clone, rows.alone)
    if isinstance(problem, LinearHeadProblem):
        _check_linear_head(oracles, one_body, one_head, groups)
        _check_whose_weights(made, one_body, groups)
    if getattr(problem.head_start, "__func__", None) is not StackelbergProblem.head_start:
        _check_head_start(problem, one_body, one_head, groups)
    objectives = {"head_objective": problem.head_objective}
    if not (oracles.is_stackelberg or head_only):
        objectives["body_objective"] = problem.body_objective
    for function, objective in objectives.items():
        called = f"`{function}` of {name}"
        value = _evaluate(objective, called, groups, one_body, one_head, groups)
        wrong = trees.unusable(value) if isinstance(value, Tensor) else type(value).__name__
        if wrong or value.ndim != 0 or not value.is_floating_point():
            got = wrong or f"{tuple(value.shape)} of {value.dtype}"
            raise ShapeError(
                f"{called} must return a 0-dim tensor, got {got}. Average over the batch inside "
                "it; runs are added by `solve(seeds=...)`."
            )
        if not value.isfinite():
            raise ProblemError(
                f"{called} is {float(value)} at the first initial point. Check "
                "the scale of the inputs and of `init_body`, `init_head`."
            )
        if any(leaf._version for leaf in trees.leaves(groups)):
            raise ProblemError(
                f"{called} changes its data in place (`x *= ...` or the like), so "
                "that every evaluation would see other data. Write `x = x * ...`."
            )
        shifted = trees.tree_map(lambda leaf: leaf + 1, one_head)  # a zero head would hide much
        at = (one_body, shifted, groups)
        once, again = (_evaluate(objective, called, groups, *at) for _ in range(2))
        if not torch.allclose(once, again, rtol=1e-5, equal_nan=True):
            raise ProblemError(
                f"{called} gives two values at one point, {float(once)} and "
                f"{float(again)}: it draws random numbers. Let `noise` draw them."
            )
    if derivatives:
        check_derivatives(made, head_only=head_only)
    if isinstance(problem, AuxiliaryProblem):
        _check_directions(oracles, problem, (body, head), rows)


def check_derivatives(made: Assembly, *, head_only: bool = False) -> None:
    """Raise `ProblemError` if an objective cannot be differentiated for all runs at once.

    Where derivatives are asked for at once they tell themselves, and this says why.
    """
    at = _mapped(made)
    with _told(made):
        at.oracles.joint_gradient(at.body, at.head, at.rows)
        if not (at.oracles.is_stackelberg or head_only):
            at.body_gradients()


def check_mapping(made: Assembly, *, head_only: bool = False) -> None:
    """Raise `ProblemError` if an objective cannot be mapped over runs.

    For who calls them as they are: a training would fail.
    """
    at = _mapped(made)
    with _told(made):
        at.gradient()
        if not (at.oracles.is_stackelberg or head_only):
            at.body_value()


def _mapped(made: Assembly) -> HeadPoint:
    """The initial heads on the rows that are looked at, mapped over runs."""
    oracles = made.oracles if made.oracles.mapped else Oracles(made.oracles.problem)
    return HeadPoint(oracles, made.body, made.heads, _looked_at(made))


@contextmanager
def _told(made: Assembly) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProblemError(
            f"An objective of {type(made.oracles.problem).__name__} cannot be differentiated under "
            "`torch.func.vmap`, which trains all runs at once. Avoid `.item()`, branching on "
            "values, in-place changes of captured tensors and random numbers inside it. torch "
            f"says: {error}"
        ) from error


def _looked_at(made: Assembly) -> Rows:
    """The rows of step 0, or all of tasks."""
    sampler = made.sampler
    return sampler.full if made.oracles.tasks else sampler.first.first(made.body)


def _check_chunks(problem: LinearHeadProblem, body: Tree, rows: Rows) -> None:
    """The features of a row must be the same in a chunk of any size."""
    # a clone: features that change their inputs in place are found out later
    inputs = rows.first(body).groups["train"].inputs.clone()
    one_body = trees.take(body, 0)
    whole = problem.checked_features(one_body, inputs.clone())
    part = problem.checked_features(one_body, inputs[: len(inputs) // 2 + 1])
    apart = (whole[: len(part)] - part).abs().max()
    if not bool(apart <= 1e-3 * whole.abs().max()):
        raise ProblemError(
            f"The features of {type(problem).__name__} for a row depend on which rows are "
            "evaluated with it, so they cannot be evaluated in chunks. Set `chunk_rows = None`."
        )


def _check_directions(
    oracles: Oracles, problem: AuxiliaryProblem, levels: tuple[Tree, Tree], rows: Rows
) -> None:
    """The auxiliary variable of an `AuxiliaryProblem`, and directions that fit what they move."""
    name, like = type(problem).__name__, trees.leaves(levels[0])[0]
    check_instance(problem.auxiliary_set, ConvexSet, "auxiliary_set", "Box(0, 1)")
    one = problem.init_auxiliary(generator(0, "auxiliary"))
    trees.check(one, "init_auxiliary()", ProblemError)
    problem.auxiliary_set.check(one)
    cast = trees.cast(one, like.dtype, like.device)
    auxiliary = trees.tree_map(lambda leaf: leaf.expand(len(like), *leaf.shape), cast)
    try:
        found = oracles.directions(*levels, auxiliary, rows)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ProblemError(
            f"`directions` of {name} fails at the initial points. It must return the directions of "
            "body, head and auxiliary variable, made by operations that `torch.func.vmap` knows "
            f"from tensors of `data` and of its arguments. torch says: {error}"
        ) from error
    parts = ("body", "head", "auxiliary")
    for part, at, direction in zip(parts, (*levels, auxiliary), found, strict=True):
        if not trees.same_structure(at, direction):
            raise ShapeError(
                f"`directions` of {name} must return a direction of the {part} like the {part}: "
                f"{_shapes(at)}; it returns {_shapes(direction)}. A derivative in the body may be "
                "a `bilevel.Pullback`."
            )
        if not bool(trees.finite(direction).all()):
            raise ProblemError(
                f"`directions` of {name} gives a direction of the {part} that is not finite at the "
                "initial points. Check divisions, and the scale of the inputs."
            )


def _check_head_start(problem: StackelbergProblem, body: Tree, head: Tree, groups: Groups) -> None:
    """Where heads start must be a head."""
    called = f"`head_start` of {type(problem).__name__}"
    start = _evaluate(problem.head_start, called, groups, body)
    if start is not None and not _is_head(start, head):
        raise ShapeError(
            f"{called} must return floating numbers in the form of a head, "
            f"{_shapes(head, runs=False)}; got {_shapes(start, runs=False)}."
        )


def _is_head(tree: Tree, head: Tree) -> bool:
    """Whether a tree has the leaves of a head, in floating numbers."""
    leaves = [leaf for _, leaf in trees.named_leaves(tree)]
    if not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        return False
    return trees.same_structure(tree, head)


def _shapes(tree: Tree, *, runs: bool = True) -> str:
    """The shapes of one run's leaves, for messages."""
    found = [
        f"{place or 'a tensor'} {tuple(leaf.shape[runs:])}"
        if isinstance(leaf, Tensor)
        else f"a {type(leaf).__name__}"
        for place, leaf in trees.named_leaves(tree)
    ]
    return ", ".join(found) or "nothing"


def _evaluate(function: Callable[..., Any], called: str, groups: Groups, *arguments: Any) -> Any:
    """A function of one run; what Python and torch find wrong is said with its cause."""
    try:
        return function(*arguments)
    except BilevelError:
        raise
    except KeyError as error:
        if error.args[0] in groups:
            raise
        raise ProblemError(
            f"{called} asks for {error}, but the batch has {', '.join(groups) or 'no groups'}. "
            "Return that group from `data`, and pass it where you pass a `batch` of your own."
        ) from error
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        kinds = {str(leaf.dtype).removeprefix("torch.") for leaf in trees.leaves(groups)}
        raise ProblemError(
            f"{called} fails at the first initial point. Shapes must fit, and tensors it computes "
            f"with must come from `data` (which is {', '.join(sorted(kinds))} here), the body or "
            f"the head, so that their types fit. torch says: {error}"
        ) from error


def _check_linear_head(oracles: Oracles, body: Tree, head: Any, groups: Groups) -> None:
    """The training rows, the shape of the head, and what weighs rows and coefficients."""
    problem, name = oracles.problem, type(oracles.problem).__name__
    assert isinstance(problem, LinearHeadProblem)
    if "train" not in groups:
        raise ProblemError(f'{name}.data must hold the group "train".')
    if not isinstance(head, Tensor):
        raise ShapeError(
            f"`init_head` of a LinearHeadProblem must return one tensor, got {type(head).__name__}."
        )
    ndim = 1 if problem.outputs is None else 2
    if head.ndim != ndim or (ndim == 2 and head.shape[1] != problem.outputs):
        raise ShapeError(
            f"`init_head` returned shape {tuple(head.shape)}, but `outputs = {problem.outputs}` "
            f"means {'(M,)' if ndim == 1 else f'(M, {problem.outputs})'}."
        )
    check_hooks(oracles, body, groups)


def check_hooks(
    oracles: Oracles, body: Tree, groups: Groups, where: str = "the first initial point"
) -> None:
    """Penalties and weights of rows of a linear head must not be negative at a body."""
    problem, name = oracles.problem, type(oracles.problem).__name__
    assert isinstance(problem, LinearHeadProblem)
    if "prior" in oracles.overridden:  # its shape is checked where g is evaluated
        _evaluate(problem.prior, f"`prior` of {name}", groups, body, groups)
    hooks: dict[str, tuple[Any, ...]] = {"penalty": (problem.penalty, body)}
    if "row_weights" in oracles.overridden:
        hooks["row_weights"] = (problem.row_weights, body, groups)
    for hook, (function, *arguments) in hooks.items():
        called = f"`{hook}` of {name}"
        given = _evaluate(function, called, groups, *arguments)
        if given is None and hook == "row_weights":
            continue
        wrong = trees.unusable(given) if isinstance(given, Tensor) else type(given).__name__
        if wrong and not isinstance(given, Real):
            raise ProblemError(f"{called} must return a tensor, got {wrong}.")
        if bool(torch.as_tensor(given < 0).any()):
            least = float(given.min() if isinstance(given, Tensor) else given)
            raise ProblemError(
                f"{called} gives {least} at {where}; it must be at least 0, or the "
                "head has no minimiser."
            )


def _check_whose_weights(made: Assembly, body: Tree, groups: Groups) -> None:
    """Weights that go by places in a batch would be those of other rows at every step."""
    drawn = made.sampler.batch_sizes.get("train") is not None and not made.data.tasks
    weighted = "row_weights" in made.oracles.overridden and "noise" not in groups
    if not (drawn and weighted) or made.data.numbered:
        return
    problem = made.oracles.problem
    assert isinstance(problem, LinearHeadProblem)

    def uneven(leaf: Tensor) -> Tensor:  # weights may all be the same at first
        ramp = torch.linspace(0, 1, leaf.numel(), dtype=leaf.dtype, device=leaf.device)
        return leaf + ramp.reshape(leaf.shape)

    moved, flipped = trees.tree_map(uneven, body), dict(groups)
    flipped["train"] = trees.tree_map(lambda leaf: leaf.flip(0), groups["train"])
    weights, again = (problem.row_weights(moved, some) for some in (groups, flipped))
    if weights is None or again is None or not torch.equal(weights, again):
        return
    if bool((weights != weights.flip(0)).any()):
        raise ProblemError(
            f"`row_weights` of {type(problem).__name__} goes by the place of a row in the batch, "
            "where another row stands at every step. Ask whose weights they are: "
            '`numbers_of_the_body[batch["train"].row_numbers]`; or train with `batch_size=None`.'
        )
