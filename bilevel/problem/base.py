"""The problems: what users subclass. Written for one run, without a run axis."""

import abc
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bilevel.errors import ProblemError
from bilevel.problem.constants import Curvature, Lipschitz
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree, register


class Batch(NamedTuple):
    """Rows of supervised data.

    Attributes:
        inputs: (n, ...), one row per example.
        targets: (n,), or (n, K) for K outputs.

    Examples:
        >>> import torch, bilevel
        >>> rows = bilevel.Batch(torch.ones(5, 3), torch.zeros(5))
        >>> inputs, targets = rows
        >>> inputs.shape, rows.targets.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    inputs: Tensor
    targets: Tensor

    @property
    def row_numbers(self) -> Tensor:
        """There are none; `NumberedBatch` has them.

        Raises:
            ProblemError: always, with what to do.
        """
        raise ProblemError(
            "This batch does not know the numbers of its rows. Rows of `data` do if a method of "
            "the problem names `row_numbers`, or with `numbers_rows = True` in its class (for a "
            "function outside of it that asks); rows that are given as `batch=` do if they are a "
            "`bilevel.NumberedBatch(inputs, targets, row_numbers)`. Those of new tasks have none."
        )


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class NumberedBatch:
    """A `Batch` that knows which rows of its group it holds.

    It takes the place of a `Batch` where a problem asks for `row_numbers`, so that what belongs to
    a row, such as its weight, is found in any batch. It unpacks like one, into inputs and targets.

    Attributes:
        inputs: (n, ...), one row per example.
        targets: (n,), or (n, K) for K outputs.
        row_numbers: int64 (n,), from 0: the places in the group that `data` returned. With `tasks`
            they count on from task to task.

    Examples:
        >>> import torch, bilevel
        >>> rows = bilevel.NumberedBatch(torch.ones(2, 3), torch.zeros(2), torch.tensor([4, 0]))
        >>> weights = torch.arange(5.0)    # one for each row of the group
        >>> weights[rows.row_numbers]
        tensor([4., 0.])
    """

    inputs: Tensor
    targets: Tensor
    row_numbers: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.inputs, self.targets))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (self.inputs, self.targets)[index]

    def _replace(self, **fields: Tensor) -> "NumberedBatch":
        """The same with other fields, as of a `Batch`."""
        return dataclasses.replace(self, **fields)


register(NumberedBatch, ("inputs", "targets", "row_numbers"))

Groups = dict[str, Any]
"""Row groups by name; the leaves of a group share their first dimension."""


class StackelbergProblem(abc.ABC):
    r"""A bilevel problem.

    $$
    \min_{w \in W} F(w, \theta^*(w)),
    \qquad \theta^*(w) = \arg\min_{\theta \in \Theta} g(w, \theta)
    $$

    Subclasses define the data, the initial points and g. Without `body_objective`, F is g: the
    Stackelberg reformulation. All methods are written for one run; the library adds the run axis,
    so the objectives must be made of operations that `torch.func.vmap` knows (no `.item()`, no
    branching on values). Everything they compute with comes from `data`: only that is moved and
    cast.

    Examples:
        >>> import torch, bilevel
        >>> class Scalar(bilevel.StackelbergProblem):
        ...     def data(self, seed=None): return {}
        ...     def init_body(self, generator): return torch.rand((), generator=generator)
        ...     def init_head(self, generator): return torch.zeros(())
        ...     def head_objective(self, w, theta, batch): return (w * theta - 1) ** 2 + theta**2
        >>> bilevel.best_response(Scalar(), torch.tensor(1.0)).head
        tensor(0.5000)
    """

    body_set: ConvexSet = Everywhere()
    """W, convex; the body is projected onto it after each step."""
    head_set: ConvexSet = Everywhere()
    """Theta, convex."""
    redraws_data: bool = False
    """True: `data(seed)` is called for every seed; the shapes must not depend on the seed."""
    numbers_rows: bool | None = None
    """Whether batches know the numbers of their rows, see `NumberedBatch`. None: if a method of the
    problem names `row_numbers`."""
    note: str = ""
    """One sentence on the data and its source, shown in reports."""
    headline: str | None = None
    """The metric that comparisons judge by; None: see `compare`."""
    judged: tuple[str, ...] = ()
    """Further metrics that strategies are compared by, each with a correction of its own."""
    pairwise: bool = False
    """Whether comparisons are of every pair of strategies, not with baselines alone."""
    usual: ClassVar[Mapping[str, float]] = {}
    """What `bilevel compare` asks for unless told: "body_lr", "head_lr", "seeds", "steps"."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse data that would hide a method: `penalty = 0.1`."""
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            _refuse_hiding(cls, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse data that would hide a method: `self.data = x`."""
        _refuse_hiding(type(self), name, value)
        super().__setattr__(name, value)

    @abc.abstractmethod
    def data(self, seed: int | None = None) -> Groups:
        """The rows, by group.

        Args:
            seed: the run's seed if `redraws_data`, else None.

        Returns:
            A dict with the groups "train" (what g averages over), optionally "validation" (for F
            and for choosing among records) and "test" (metrics only, never in a batch). A group is
            a tree of tensors that share their first dimension. `{}` for problems without data.
        """

    @abc.abstractmethod
    def init_body(self, generator: torch.Generator) -> Tree:
        """The initial body: a tree of floating tensors, drawn with `generator` only."""

    @abc.abstractmethod
    def init_head(self, generator: torch.Generator) -> Tree:
        """The initial head: a tree of floating tensors, drawn with `generator` only."""

    @abc.abstractmethod
    def head_objective(self, body: Tree, head: Tree, batch: Groups) -> Tensor:
        """The head's objective g, strongly convex in the head.

        Args:
            body: one run's body.
            head: one run's head.
            batch: the groups of `data` without "test"; "noise" too if `noise` is defined.

        Returns:
            A 0-dim tensor: the average over the rows of the batch.
        """

    def body_objective(self, body: Tree, head: Tree, batch: Groups) -> Tensor:
        """The body's objective F (a hook). Not overridden, F is g."""
        return self.head_objective(body, head, batch)

    def head_start(self, body: Tree) -> Tree | None:
        """Where `FastSGD(restart=True)` starts at each body step (a hook); None: at `init_head`.

        `Unrolled` counts its derivative in; heads that are exact depend on no start.
        """
        return None

    def metrics(self, body: Tree, head: Tree, data: Groups) -> dict[str, Tensor]:
        """Metrics in users' units (a hook): a dict of 0-dim tensors computed from all groups.

        A name starts with its group: "test_mse", "validation_accuracy". Names that end in
        "accuracy", "r2", "f1", "auc" or "return" are better when higher, all others when lower.
        """
        return {}

    def strategies(self, body_lr: float, head_lr: float) -> Mapping[str, Any] | None:
        """Strategies that fit the problem (a hook); None: the presets.

        `bilevel compare` trains these in the place of `preset_strategies`.

        Args:
            body_lr: the slow rate that was asked for.
            head_lr: the fast one.
        """
        return None

    def experience(self, seeds: Sequence[int], body: Tree, head: Tree) -> Any:
        """What gives the rows of every step, where they depend on what was learned (a hook).

        None, the default: they are drawn from `data`. An `AbstractExperience` takes the place of
        `data`, which returns `{}` then, of `noise`, and of the arguments `batch_size` and
        `sampling`.

        Args:
            seeds: of the R runs that are computed together; they may repeat, for strategies that
                are trained together.
            body: the initial bodies, leaves (R, ...), whose type and device are those of the rows.
            head: the initial heads, likewise.
        """
        return None

    def room(self, runs: int) -> str:
        """What the `experience` of so many runs holds to the end, such as replay memories (a hook).

        A sentence that the command shows before; "", the default: nothing to speak of.

        Raises:
            NotEnoughMemoryError: it does not fit in memory; the message says what does.
        """
        return ""

    def noise(self, generator: torch.Generator, steps: int) -> Tree | None:
        """Noise for `steps` steps (a hook): a tree with leading `steps`, or None for none.

        Step k sees its entry as `batch["noise"]`. Evaluations on all rows see zeros instead, so
        the noise must have mean zero and enter the objective so that zeros switch it off.
        """
        return None

    def known_curvature(self, body: Tree) -> Curvature | None:
        r"""The eigenvalues of $g_{\theta\theta}$ over all heads (a hook); None: not known.

        What a problem states is taken as proven. It is asked for all rows of `data` only.

        Args:
            body: one run's body, float64.
        """
        return None

    def known_lipschitz(self, body: Tree, head: Tree, radius: float) -> Lipschitz | None:
        r"""Lipschitz constants in the head (a hook); None: not known.

        They must hold for all heads between `head` and $\theta^*(w)$, which are at most `radius`
        apart. What a problem states is taken as proven. It is asked for all rows of `data` only.

        Args:
            body: one run's body, float64.
            head: one run's head, float64.
            radius: a bound on $\lVert\theta - \theta^*(w)\rVert$.
        """
        return None

    @property
    def is_stackelberg(self) -> bool:
        """Whether F is g, so that Danskin's gradient (`Envelope`) is exact."""
        return getattr(self.body_objective, "__func__", None) is StackelbergProblem.body_objective


def _refuse_hiding(problem: type, name: str, value: object) -> None:
    """Raise if `value`, data, would take the place of a method that the library calls.

    Functions and descriptors may: they are how methods are overridden.
    """
    if callable(value) or hasattr(type(value), "__get__"):
        return
    for base in problem.__mro__:
        if base.__module__.startswith("bilevel.") and inspect.isfunction(vars(base).get(name)):
            raise ProblemError(
                f"`{name}` of {problem.__name__} is {type(value).__name__}, which would hide the "
                f"method of {base.__name__} of that name. Define the method, or choose another "
                "name for the data."
            )
