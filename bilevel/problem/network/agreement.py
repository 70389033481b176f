"""Does a network that was split compute what the module computes? Asked of its first rows.

Much that a module does cannot be seen in its layers: hooks on what surrounds the head, tensors that
are no parameters, statistics of the batch taken by a function. Two calls show it.
"""

import contextlib
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from bilevel import trees
from bilevel.core.graph import gradients, variable
from bilevel.errors import BilevelError, ProblemError
from bilevel.problem.network.layers import head_layer
from bilevel.problem.network.rounding import apart, copies_apart, doubled, nudged, same
from bilevel.problem.network.tap import Heard
from bilevel.problem.network.transforms import ordinary, outside_transforms
from bilevel.trees import Tree

ROWS = 3
"""Rows that are looked at, of those that come first."""
POINTS = 2
"""Random points of the parameters at which the two are compared."""
TREMBLING = 1e3
"""A difference counts beyond so many times what a change of all last digits makes."""

OTHER = (
    "The network without its head {head!r} is not the module: the {} of the module differ by "
    "{:.2g} from those of a linear layer on what {head!r} is given, at random numbers. Look for "
    "hooks (of modules, of tensors, global ones), for tensors that are kept beside parameters and "
    "buffers or differ from one module to the next, for `torch.utils.checkpoint`, and for code "
    "that reaches the head in another way than by calling it."
)
_HOOKS = (
    torch_modules._global_forward_hooks,
    torch_modules._global_forward_pre_hooks,
    torch_modules._global_backward_hooks,
    torch_modules._global_backward_pre_hooks,
)
"""Those that all modules of the process have: they may change what a network computes."""

Values = dict[str, Tensor]


class Called(NamedTuple):
    """One call of the network without its head.

    Attributes:
        returned: what the network returned.
        heard: what its head would have been given, and the stand-in for the head's outputs.
        values: the parameters and buffers after the call.
    """

    returned: Any
    heard: Heard
    values: Values


Split = Callable[[Values, Tree, int], Called]
"""The network without its head, called with parameters and buffers, rows, and a turn of the tap."""
Many = Callable[[Values, Tree], Tensor]
"""The features of rows for bodies with a run axis, (R, n, M)."""
Whole = Callable[[nn.Module, Values, Tree], Any]
"""A module called with parameters and buffers, and rows."""


class Verdict(NamedTuple):
    """What a comparison at one point found.

    Attributes:
        finite: whether the module's outputs are.
        gap: how far the two are apart; 0 if they agree.
        text: what is said of it.
    """

    finite: bool
    gap: float = 0.0
    text: str = ""


class Agreement:
    """Compares a split network with the module as it was made, once for each kind of row.

    With z what the head is given, and W, b its numbers, on a few rows at random points:

    - nothing follows the head: the network returns what the head gives, whatever that is;
    - the call writes neither to parameters nor to buffers, keeps nothing of the first rows, and
      gives the same z again;
    - the module's outputs and gradients are those of z W' + b;
    - z of a row is the same in a batch of copies of that row.

    Args:
        module: a module that was made as the one that was split, untouched.
        head: the name of its head.
        split: calls the network without its head.
        many: its features for many bodies.
        whole: calls a module.
    """

    def __init__(
        self, module: nn.Module, head: str, split: Split, many: Many, whole: Whole
    ) -> None:
        self._module, self._head = module, head
        self._split, self._many, self._whole = split, many, whole
        layer = head_layer(module, head)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._names = list(names.values())
        self._weight = names[id(layer.weight)]
        self._bias = None if layer.bias is None else names[id(layer.bias)]
        self._own = {self._weight, self._bias}
        self._first = next(name for name in self._names if name not in self._own)
        self._known: dict[object, bool] = {}
        """The kinds of rows that were looked at, and whether two different rows were."""

    def check(self, body: Values, inputs: Tree) -> None:
        """Compare, if rows of this kind were not seen yet.

        A kind is the shape of a row, its type, and type and device of the body. What is computed
        here changes neither the random state nor the body.

        Args:
            body: gives types and device; its numbers are not looked at.
            inputs: the rows, which may be inside of a transform.

        Raises:
            ProblemError: the two are not the same function.
            ShapeError: the head is not given one vector for each row.
        """
        like, leaves = body[self._first], trees.leaves(inputs)
        shapes = tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
        hooks = tuple(hook for hooks in _HOOKS for hook in hooks)
        kind = (shapes, like.dtype, like.device, hooks)
        known = self._known.get(kind)
        # where only equal rows were seen, two different ones are looked at once more: mixed rows
        # show in none of the comparisons of copies
        count = min(leaf.shape[0] if leaf.ndim else 0 for leaf in leaves)
        if known or like.is_meta or count < (1 if known is None else 2):
            return
        with outside_transforms(), torch.enable_grad():
            rows, differ = _different(trees.tree_map(ordinary, inputs))
            if known is None or differ:
                with torch.random.fork_rng([like.device] if like.is_cuda else []):
                    for point in range(POINTS):
                        self._compare(point, body, rows)
                self._known[kind] = differ

    def _compare(self, point: int, body: Values, rows: Tree) -> None:
        """Raise unless the two agree at one point.

        It lies away from the module's own start, where zeros hide much; where own code raises there
        or nothing is finite (a variance below zero, say), it is the start.
        """
        for spread in (True, False):
            try:
                found = self._judged(self._draw(point, body, spread=spread), rows, point)
            except BilevelError:
                raise
            except Exception:
                if not spread:
                    raise
                continue
            if found.gap and (found.finite or not spread):
                raise ProblemError(found.text)
            if found.finite:
                return

    def _draw(self, point: int, body: Values, *, spread: bool) -> Values:
        """Parameters and buffers, of the body's types and on its device."""
        generator = torch.Generator().manual_seed(point)
        like, values = body[self._first], {}
        for name, parameter in self._module.named_parameters():
            value, to = parameter.detach(), body.get(name, like)
            if spread:
                # far enough that zeros and ones of a start show, near enough to its own scale that
                # a deep network neither dies nor explodes
                size = 0.1 * value.abs().square().mean().sqrt() + 0.05
                noise = torch.randn(
                    value.shape, generator=generator, dtype=value.dtype, device=value.device
                )
                value = value + size * noise
            values[name] = value.to(to.device, to.dtype)
        for name, buffer in self._module.named_buffers():
            kept = like.dtype if buffer.is_floating_point() else buffer.dtype
            values[name] = buffer.to(like.device, kept)
        return values

    def _judged(self, values: Values, rows: Tree, point: int) -> Verdict:
        """What differs, less what rounding makes of it.

        A network may blow rounding up: float64 tells, and what a change of the last digits makes.
        """
        found = self._complaint(values, rows, point)
        if found.gap:
            whole = {**values, **dict(self._module.named_buffers())}  # no digits lost to `values`
            exact = {name: doubled(whole[name]).to(x.device) for name, x in values.items()}
            rows = trees.tree_map(doubled, rows)
            with contextlib.suppress(RuntimeError):  # types that are written into the code
                again = self._complaint(exact, rows, point)
                certain = again.gap > TREMBLING * self._trembling(exact, rows)
                found = again if certain else Verdict(again.finite)
        return found

    def _complaint(self, values: Values, rows: Tree, point: int) -> Verdict:
        """What differs at one point, if anything does."""
        turns = itertools.count(3 * point)
        ours = self._variable(values)
        # code may ask for `nn.Parameter`, which the module has and the split network has not
        theirs = {**values, **{name: nn.Parameter(values[name]) for name in self._names}}
        before = _random_state(values[self._weight])
        z = self._listen(ours, rows, next(turns))
        drawn = not torch.equal(_random_state(values[self._weight]), before)
        if drawn or apart([self._listen(values, rows, next(turns))], [z]):
            text = (
                "The network gives two answers at one point: it draws random numbers, or keeps a "
                "state from call to call. Make it with `.eval()`, or without such layers."
            )
            return Verdict(True, torch.inf, text)
        outputs = self._outputs(z, ours)
        if isinstance(rows, Tensor):  # what is kept of the first rows is kept of others here
            self._whole(self._module, theirs, rows[-1:].expand_as(rows).clone())
        expected = self._whole(self._module, theirs, trees.tree_map(torch.clone, rows)).reshape(
            outputs.shape
        )
        finite = bool(expected.isfinite().all())
        if gap := apart([outputs], [expected]):
            return Verdict(finite, gap, OTHER.format("outputs", gap, head=self._head))
        wanted = self._gradients(expected, theirs)
        for found in (self._gradients(outputs, ours), self._gradients_of_runs(values, rows)):
            if found and (gap := apart(found, wanted)):
                return Verdict(finite, gap, OTHER.format("gradients", gap, head=self._head))
        # another number of copies than of rows, so that a mean over the batch cannot be the same
        for row in range(len(rows) if isinstance(rows, Tensor) else 0):
            copies = rows[row].expand(len(rows) + 1, *rows.shape[1:])
            alone = self._listen(values, copies, next(turns))
            if gap := copies_apart(alone, z, row, len(rows)):
                text = (
                    "The features of a row depend on the rows that are evaluated with it: they "
                    f"differ by {gap:.2g} in a batch of copies of the row. What is computed over "
                    "the batch axis (means, norms, a softmax) makes the objective of a batch "
                    "something else than a mean over rows. Compute it within a row "
                    "(`nn.LayerNorm`, `nn.GroupNorm`), or use trained statistics."
                )
                return Verdict(finite, gap, text)
        return Verdict(finite)

    def _variable(self, values: Values) -> Values:
        """The values, the parameters among them ready to be differentiated by."""
        return {**values, **variable({name: values[name] for name in self._names})}

    def _outputs(self, z: Tensor, values: Values) -> Tensor:
        """z W' + b, (n, K)."""
        outputs = z @ values[self._weight].mT
        return outputs if self._bias is None else outputs + values[self._bias]

    def _gradients(self, outputs: Tensor, at: Values) -> list[Tensor]:
        """The gradients of a fixed combination of the outputs in all parameters."""
        # weights without a pattern: errors that cancel in a sum do not cancel here
        along = torch.arange(outputs.numel()).cos().to(outputs).reshape(outputs.shape)
        found = gradients([outputs], [at[name] for name in self._names], [along])
        return [x.reshape(-1, 1) for x in found if x.numel()]  # each of one size

    def _gradients_of_runs(self, values: Values, rows: Tree) -> list[Tensor] | None:
        """The same as they are computed for many runs, here one; None if the network cannot be.

        Code may ask whether a tensor requires a gradient: in `vmap` none does.
        """
        at = variable({name: values[name] for name in self._names})
        runs = trees.single({name: x for name, x in at.items() if name not in self._own})
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
            warnings.simplefilter("ignore")  # torch warns of what has no rule, when it is used
            return self._gradients(self._outputs(self._many(runs, rows)[0], at), at)
        return None

    def _trembling(self, values: Values, rows: Tree) -> float:
        """How far z and the gradients move with the last digits of all numbers."""
        found = []
        for change in (doubled, nudged):
            at = self._variable({name: change(value) for name, value in values.items()})
            z = self._listen(at, trees.tree_map(change, rows), 0)
            found.append([z, *self._gradients(self._outputs(z, at), at)])
        return max(float((a - b).detach().abs().max()) for a, b in zip(*found, strict=True))

    def _listen(self, values: Values, rows: Tree, turn: int) -> Tensor:
        """z of the rows, (n, M), from a call that does nothing else.

        Raises:
            ProblemError: the network does something after its head, or writes to what it is given.
        """
        given = {name: value.clone() for name, value in values.items() if name not in self._own}
        called = self._split(given, trees.tree_map(torch.clone, rows), turn)
        changed = [
            name
            for name, value in called.values.items()
            if name in given and not (value is given[name] and same(value, values[name]))
        ]
        buffers = dict(self._module.named_buffers())
        if any(name in buffers for name in changed):
            raise ProblemError(
                "The network changes its buffers when it is called (running statistics, say), so "
                "that it is no function of its parameters. Make it with `.eval()`, or use layers "
                "without such a state."
            )
        if changed:
            raise ProblemError(
                f"The network writes to its parameter {changed[0]!r} when it is called, so that "
                "its own code moves the body beside the gradient. Compute the changed numbers "
                "without writing (`weight = normalise(self.weight)`), or project the body by the "
                "problem's `body_set`."
            )
        returned, stand_in = called.returned, called.heard.stand_in
        same_size = isinstance(returned, Tensor) and returned.numel() == stand_in.numel()
        if not same_size or not same(
            returned.detach().reshape(stand_in.shape).to(stand_in.dtype), stand_in
        ):
            raise ProblemError(
                f"The network does something after its head {self._head!r}, or returns more "
                "than the head's outputs. Return them as they are: what follows a linear head (a "
                "softmax, a residual, a bound) belongs to the objective, which gets the raw "
                "outputs."
            )
        return called.heard.z


def _different(rows: Tree) -> tuple[Tree, bool]:
    """A few rows, from the first to the last, that differ from each other, and whether any do.

    There are two at least where there are two: a batch of one row may be a case of its own. Of
    inputs that are no one tensor nothing is known, and all are taken.
    """
    if not isinstance(rows, Tensor):
        return rows, True
    last = len(rows) - 1
    chosen = [rows[0]]
    for place in sorted({round(last * i / 7) for i in range(1, 8)}):
        if len(chosen) < ROWS and not any(torch.equal(rows[place], row) for row in chosen):
            chosen.append(rows[place])
    differ = len(chosen) > 1
    return torch.stack(chosen if differ or not last else [*chosen, rows[last]]), differ


def _random_state(like: Tensor) -> Tensor:
    """The state of the generator that draws where a tensor is."""
    return torch.cuda.get_rng_state(like.device) if like.is_cuda else torch.get_rng_state()
