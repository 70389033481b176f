"""A problem around a module of the user's own, without a class."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from typing_extensions import override

from bilevel.core.checks import check_flag, check_function, check_instance, single
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.data.groups import check_targets
from bilevel.errors import ArgumentError, BilevelError, DataError, ShapeError, check_name
from bilevel.loops.rows import groups_of
from bilevel.problem.base import Batch, Groups
from bilevel.problem.criteria import AbstractCriterion, LogisticLoss, SoftmaxLoss, SquaredError
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.problem.network.split import SplitModule, split

LOSSES: dict[str, Callable[[], AbstractCriterion]] = {
    "mse": SquaredError,
    "cross_entropy": SoftmaxLoss,
    "bce": LogisticLoss,
}
FEW_ROWS = 3
"""Rows on which the split module is compared with the module."""


class ModuleProblem(LinearHeadProblem):
    """A module and rows as a problem; made by `from_module`.

    Attributes:
        parts: the module as functions of body and head.
        groups: the rows.
    """

    def __init__(
        self,
        parts: SplitModule,
        criterion: AbstractCriterion,
        groups: Groups,
        ridge: float,
        penalize_bias: bool,
    ) -> None:
        self.parts, self.criterion, self.groups = parts, criterion, groups
        self.outputs, self.fit_bias = parts.outputs, parts.fit_bias
        self.ridge, self.penalize_bias = ridge, penalize_bias
        counts = ", ".join(f"{len(rows.inputs):,} {name}" for name, rows in groups.items())
        self.note = f"A module of the user's own, {type(criterion).__name__}; rows: {counts}."

    def data(self, seed: int | None = None) -> Groups:
        """The rows that were given, the same for every seed."""
        return dict(self.groups)

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """That of a new module, initialised by its own code."""
        return self.parts.init_body(generator)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """The same."""
        return self.parts.init_head(generator)

    @override
    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return self.parts.features(body, inputs)


@ordinary()
def from_module(
    make_model: Callable[[], nn.Module],
    loss: str | AbstractCriterion,
    data: tuple[Any, Any] | Dataset[Any] | Mapping[str, Any],
    head: str = "fc",
    *,
    ridge: float = 1e-3,
    penalize_bias: bool = False,
    validation: float = 0.0,
    test: float = 0.0,
) -> ModuleProblem:
    r"""A problem for `solve`, `compare` and `best_response` from a module and rows.

    $$g = \frac1n \sum_i c(\text{model}(x_i), t_i) + \frac{\text{ridge}}{2} \lVert\theta\rVert^2$$

    with the last linear layer $\theta$ as the head: a `LinearHeadProblem`, whose head all exact
    solvers know. `split` says what the module must be; it is compared with its split form on three
    training rows, here.

    Args:
        make_model: makes a new module whenever it is called: a class, or `lambda: Net(...)`.
        loss: c, by a name: "mse" (half the squared error, `SquaredError`), "cross_entropy" (labels
            of K classes, `SoftmaxLoss`), "bce" (labels 0 and 1 and one output, `LogisticLoss`); or
            a criterion of the library.
        data: `(inputs, targets)`, tensors or arrays of n rows; a data set of torch whose rows are
            such pairs, which is read once, transforms included; or a dict of these with the groups
            "train", "validation" (which selects) and "test" (which is shown).
        head: the name of the last linear layer, dots included ("classifier.2").
        ridge: at least 0. It makes the head unique, where features and classes do not.
        penalize_bias: whether it covers the bias of the head.
        validation: the share of the rows to hold out, where they are given as a whole; drawn once,
            the same for all seeds.
        test: the same.

    Returns:
        The problem. `parts` of it is the split module; `bilevel.assign(make_model(),
        solution.body, solution.head, run=0)` is the trained one.

    Raises:
        UnknownNameError: there is no such loss, or no such layer.
        ArgumentError: `make_model` is no function that makes a module that can be split; see
            `bilevel.split`. Shares that leave nothing, a negative `ridge`.
        DataError: no pair of inputs and targets, empty or not finite; targets of the wrong type.
        ShapeError: rows or outputs do not fit each other.
        ProblemError: the module does something else than its split form, see `SplitModule`.

    Examples:
        >>> import bilevel, torch
        >>> from bilevel import loops
        >>> x = torch.linspace(-1, 1, 40).unsqueeze(1)
        >>> def net():
        ...     layers = torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        ...     return torch.nn.Sequential(*layers)
        >>> problem = loops.from_module(net, "mse", (x, x.sin()), head="2", validation=0.25)
        >>> len(problem.data()["train"].inputs)
        30
        >>> solution = bilevel.solve(problem, bilevel.BestResponse(1e-2), steps=5, seeds=2)
    """
    check_flag(penalize_bias, "penalize_bias")
    ridge = single(ridge, "`ridge`", zero_allowed=True)
    criterion = _criterion(loss)
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise ArgumentError(
            "`make_model` must be a function that makes a new module, so that every seed has a "
            f"start of its own; got {type(make_model).__name__}. Write "
            '`from_module(lambda: Net(...), loss, data, head="...")`.'
        )
    check_function(make_model, "make_model", "lambda: Net(...)", 0)
    groups = groups_of(data, validation, test)
    parts = split(make_model, head)
    _check_outputs(criterion, parts.outputs, head)
    groups = {name: _fitting(rows, criterion) for name, rows in groups.items()}
    problem = ModuleProblem(parts, criterion, groups, ridge, penalize_bias)
    check_targets(problem, groups, per_seed=False)
    _look_at(parts, groups["train"].inputs[:FEW_ROWS])
    return problem


def _criterion(loss: object) -> AbstractCriterion:
    """The criterion of a name, or as it is."""
    if isinstance(loss, str):
        check_name(loss, LOSSES, "loss")
        return LOSSES[loss]()
    names = ", ".join(f'"{name}"' for name in LOSSES)
    check_instance(loss, AbstractCriterion, "loss", f"SquaredError(), or one of {names}")
    assert isinstance(loss, AbstractCriterion)
    return loss


def _check_outputs(criterion: AbstractCriterion, outputs: int | None, head: str) -> None:
    """Raise if the head has another number of outputs than the loss is made for."""
    if isinstance(criterion, SoftmaxLoss) and outputs is None:
        raise ShapeError(
            f'"cross_entropy" has an output for each class, but the head {head!r} has one output. '
            'For two classes and one output use "bce".'
        )
    if isinstance(criterion, LogisticLoss) and outputs is not None:
        raise ShapeError(
            f'"bce" has one output, but the head {head!r} has {outputs}. For classes of which a '
            'row has one use "cross_entropy".'
        )


def _fitting(rows: Batch, criterion: AbstractCriterion) -> Batch:
    """Targets as the criterion takes them, where torch takes them otherwise.

    Columns of one become vectors, and labels int64.
    """
    targets = rows.targets
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if isinstance(criterion, LogisticLoss | SoftmaxLoss):
        whole = not targets.is_floating_point() and not targets.is_complex()
        zeros_and_ones = isinstance(criterion, LogisticLoss) and bool(
            ((targets == 0) | (targets == 1)).all()
        )
        targets = targets.long() if whole or zeros_and_ones else targets
    return rows._replace(targets=targets)


def _look_at(parts: SplitModule, rows: Tensor) -> None:
    """Compare the split module with the module on a few rows."""
    body = parts.init_body(generator(0, "body"))
    like = next(iter(body.values()))
    rows = rows.to(like.device, like.dtype if rows.is_floating_point() else None)
    try:
        parts.features(body, rows)
    except BilevelError:
        raise
    except Exception as error:
        raise DataError(
            f"The module cannot be called on the inputs of `data`, {tuple(rows.shape[1:])} and "
            f"{rows.dtype} in a row: {error}"
        ) from error
