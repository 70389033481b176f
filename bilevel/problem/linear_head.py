"""Problems whose head is linear in features."""

import abc
import inspect
from typing import Any, final

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import FinalMethodError, ProblemError, ShapeError
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.criteria import AbstractCriterion, SquaredError
from bilevel.trees import Tree


class LinearHeadProblem(StackelbergProblem):
    r"""A problem whose head is linear in features of the body.

    $$
    g = \frac1n \sum_i s_i\, c(z_i\theta, t_i)
        + \tfrac12 (\theta - q)^\top \operatorname{diag}(p)\, (\theta - q) + h(w)
    $$

    over the n rows of `batch["train"]`, a `bilevel.Batch(inputs, targets)`; $z$ = `features(body,
    inputs)` has M columns, plus a constant one with `fit_bias`.

    Hooks: `features` (required), `row_weights` $s$, `penalty` $p$, `prior` $q$, `body_penalty` $h$.
    `head_objective` is final: the library relies on this form to solve the head exactly.

    Shapes: `outputs=None` means targets (n,) and a head (M,); `outputs=K` means targets (n, K) and
    a head (M, K). With `fit_bias` the head has M + 1 rows, the last one for the bias.

    Examples:
        >>> import torch, bilevel
        >>> class Ridge(bilevel.LinearHeadProblem):
        ...     ridge = 0.5
        ...     def data(self, seed=None):
        ...         x = torch.tensor([[1.0], [2.0]])
        ...         return {"train": bilevel.Batch(x, x[:, 0])}
        ...     def init_body(self, generator): return torch.ones(1, 1)
        ...     def init_head(self, generator): return torch.zeros(1)
        ...     def features(self, body, inputs): return inputs @ body
        >>> bilevel.best_response(Ridge(), torch.ones(1, 1)).head    # 2.5 / (2.5 + 0.5)
        tensor([0.8333])
    """

    criterion: AbstractCriterion = SquaredError()
    """The loss c of a row."""
    outputs: int | None = None
    """K, or None for one output without an axis."""
    ridge: float = 0.0
    """The default penalty: p = ridge for every feature."""
    fit_bias: bool = False
    """Whether a constant feature is appended to the features."""
    penalize_bias: bool = False
    """Whether the penalty covers the constant feature."""
    body_free_features: bool = False
    """True: the features do not depend on the body; `features(inputs)` takes no body then."""
    tasks: bool = False
    """True: T tasks share the body, each with a head of its own. All methods are written for one
    task, whose batch and head have no task axis; `data` alone returns leaves (T, n, ...). g and F
    are averages over tasks, `init_head` is called for each, and heads have a leading T. Tasks of
    fewer rows are padded: weigh their m rows n / m, and padding zero."""
    chunk_rows: int | None = None
    """How many training rows are evaluated at once where all are looked at: for data that do not
    fit in memory. The features of a row must not depend on other rows. None: all."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse subclasses that override what the exact head solvers rely on."""
        super().__init_subclass__(**kwargs)
        for name in ("head_objective", "predict", "design"):
            if getattr(cls, name) is not getattr(LinearHeadProblem, name):
                raise FinalMethodError(
                    f"{cls.__name__}.{name} overrides a final method of LinearHeadProblem. Use the "
                    "hooks `features`, `criterion`, `row_weights`, `penalty`, `prior` and "
                    "`body_penalty`, or subclass StackelbergProblem for an objective of another "
                    "form."
                )
        features = cls.__dict__.get("features")
        if cls.body_free_features and inspect.isfunction(features):
            given = inspect.signature(features).parameters.values()
            if sum(one.default is one.empty and one.kind < one.VAR_POSITIONAL for one in given) > 2:
                raise ProblemError(
                    f"{cls.__name__} has `body_free_features = True`: its features take no body. "
                    "Write `def features(self, inputs)`."
                )

    @abc.abstractmethod
    def features(self, body: Tree, inputs: Tensor) -> Tensor:
        """The features z, shape (n, M), of `inputs` (n, ...)."""

    def noisy_features(self, body: Tree, inputs: Tensor, noise: Tree) -> Tensor:
        """The features of a step's training rows under its noise (a hook), shape (n, M).

        It is called where `noise` is defined, with the entry of the step, such as the key of the
        masks of `split`. Evaluations on all rows, among them heads that are solved on all rows,
        give it zeros, with which it must return `features(body, inputs)`.
        """
        return self.checked_features(body, inputs)

    def row_weights(self, body: Tree, batch: Groups) -> Tensor | None:
        r"""Weights $s \ge 0$ of the training rows, shape (n,) (a hook); None means 1.

        Numbers of the body that belong to rows are `numbers[batch["train"].row_numbers]`, in any
        batch: see `NumberedBatch`. Or (n, K), a weight for each row and output, with a criterion
        whose losses are sums over outputs (`by_output`). The sum is divided by n all the same.
        """
        return None

    def penalty(self, body: Tree) -> float | Tensor:
        r"""The penalty $p \ge 0$ (a hook): a scalar, or a tensor (M,) or (M, K).

        It covers the bias only with `penalize_bias`; a tensor then has a row for it (M + 1).
        """
        return self.ridge

    def prior(self, body: Tree, batch: Groups) -> Tensor | None:
        """The head $q$ that the penalty draws to (a hook), shaped like the head; None means 0.

        It may depend on the body, which is differentiated through it then. What no penalty covers,
        such as a free bias, is drawn nowhere.
        """
        return None

    def body_penalty(self, body: Tree) -> float | Tensor:
        """A term h(body) of both levels, 0-dim (a hook)."""
        return 0.0

    @final
    def design(self, body: Tree, inputs: Tensor) -> Tensor:
        """The features with the constant column, if any: shape (n, M) or (n, M + 1)."""
        z = self.checked_features(body, inputs)
        return torch.cat([z, torch.ones_like(z[:, :1])], dim=1) if self.fit_bias else z

    @final
    def predict(self, body: Tree, head: Tensor, inputs: Tensor) -> Tensor:
        r"""Predictions $z\theta$: (n,) or (n, K)."""
        if self.chunk_rows is None:
            return self.predictions_of(self.checked_features(body, inputs), head)
        # cast chunk by chunk: inputs may be a file, of another type than the head
        split = torch.split(inputs, self.chunk_rows)
        chunks = (trees.cast(some, head.dtype, head.device) for some in split)
        features = (self.checked_features(body, some) for some in chunks)
        return torch.cat([self.predictions_of(z, head) for z in features])

    def predictions_of(self, z: Tensor, head: Tensor) -> Tensor:
        """Predictions from features: (n,) or (n, K)."""
        rows = z.shape[1] + self.fit_bias
        if head.shape[0] != rows:
            bias = " and a bias" if self.fit_bias else ""
            raise ShapeError(
                f"The head has shape {tuple(head.shape)}, but there are {z.shape[1]} "
                f"features{bias}: `init_head` must return {self.head_shape(rows)}."
            )
        return z @ head[:-1] + head[-1] if self.fit_bias else z @ head

    @final
    def head_objective(self, body: Tree, head: Tensor, batch: Groups) -> Tensor:
        """The objective g of the class docstring (final)."""
        if "noise" in batch:
            predictions = self.predictions_of(self.features_of(body, batch), head)
        else:
            predictions = self.predict(body, head, batch["train"].inputs)
        return self.objective_of(predictions, body, head, batch)

    def objective_of(self, predictions: Tensor, body: Tree, head: Tensor, batch: Groups) -> Tensor:
        """g, from the predictions of the training rows."""
        weights = self.row_weights(body, batch)
        fit = _mean_loss(self.criterion, predictions, batch["train"].targets, weights)
        p, prior = self.penalty(body), self.prior(body, batch)
        away = head if prior is None else head - checked_prior(prior, head)
        squares = (away if self.penalises_all else away[:-1]).square()
        if isinstance(p, Tensor) and p.ndim > 0:
            p = self.full_penalty(body, head.shape[0], fit)[: len(squares)]
            p = p.unsqueeze(1) if p.ndim < head.ndim else p
        return fit + 0.5 * (p * squares).sum() + self.body_penalty(body)

    def metrics(self, body: Tree, head: Tensor, data: Groups) -> dict[str, Tensor]:
        """The criterion's metrics for every group (a hook)."""
        found: dict[str, Tensor] = {}
        for name in ("train", "validation", "test"):
            if name in data:
                predictions = self.predict(body, head, data[name].inputs)
                of_group = self.criterion.metrics(predictions, data[name].targets)
                found |= {f"{name}_{metric}": value for metric, value in of_group.items()}
        return found

    def head_shape(self, rows: int) -> tuple[int, ...]:
        """The shape of the head for `rows` rows of coefficients (the bias included)."""
        return (rows,) if self.outputs is None else (rows, self.outputs)

    def full_penalty(self, body: Tree, rows: int, like: Tensor) -> Tensor:
        """The penalty of every row of the head, the bias included: shape (rows,) or (rows, K)."""
        p = torch.as_tensor(self.penalty(body), dtype=like.dtype, device=like.device)
        unpenalised = not self.penalises_all
        if p.ndim == 0:
            p = p.expand(rows - unpenalised)
        allowed = [(rows - unpenalised,), (rows - unpenalised, self.outputs)]
        if tuple(p.shape) not in allowed:
            raise ShapeError(
                f"`penalty` must return a scalar or one of the shapes {allowed}, got "
                f"{tuple(p.shape)}. With `penalize_bias` it has a row for the bias, else not."
            )
        return torch.cat([p, torch.zeros_like(p[:1])]) if unpenalised else p

    def overrides(self, hook: str) -> bool:
        """Whether the subclass, or this instance, overrides a method of LinearHeadProblem."""
        method = getattr(getattr(self, hook), "__func__", None)
        return method is not getattr(LinearHeadProblem, hook)

    def checked_features(self, body: Tree, inputs: Tensor) -> Tensor:
        """`features`, called without a body if they do not depend on it, its shape checked."""
        if self.body_free_features:
            z: Tensor = self.features(inputs)  # type: ignore[call-arg]
        else:
            z = self.features(body, inputs)
        return self._checked(z, inputs)

    def features_of(self, body: Tree, groups: Groups) -> Tensor:
        """The features of the training rows of a batch, under its noise if it has any."""
        inputs = groups["train"].inputs
        if "noise" not in groups:
            return self.checked_features(body, inputs)
        return self._checked(self.noisy_features(body, inputs, groups["noise"]), inputs)

    @staticmethod
    def _checked(z: Tensor, inputs: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[0] != inputs.shape[0]:
            raise ShapeError(
                f"`features` must return (n, M) for n rows of inputs, got {tuple(z.shape)} for "
                f"inputs of shape {tuple(inputs.shape)}."
            )
        return z

    @property
    def penalises_all(self) -> bool:
        """Whether the penalty covers every coefficient (an unpenalised bias is the exception)."""
        return self.penalize_bias or not self.fit_bias


def checked_prior(prior: Any, like: Tensor) -> Tensor:
    """A prior in the type of heads `like`, (M,) or (M, K), its shape checked."""
    if not isinstance(prior, Tensor) or prior.shape != like.shape:
        got = tuple(prior.shape) if isinstance(prior, Tensor) else type(prior).__name__
        raise ShapeError(
            f"`prior` must return a tensor of the shape of the head, {tuple(like.shape)}, a row "
            f"for the bias with it, or None, got {got}."
        )
    return prior.to(like)


def _mean_loss(
    criterion: AbstractCriterion, predictions: Tensor, targets: Tensor, weights: Tensor | None
) -> Tensor:
    """The mean over rows of the losses with their weights."""
    if weights is not None and weights.ndim == predictions.ndim == 2:
        entries = criterion.entries(predictions, targets)
        return (_checked_weights(weights, entries, predictions) * entries).sum(1).mean()
    losses = criterion.rows(predictions, targets)
    if weights is None:
        return losses.mean()
    # (n, 1) against (n,) would broadcast to (n, n)
    return (_checked_weights(weights, losses, predictions) * losses).mean()


def _checked_weights(weights: Tensor, losses: Tensor, predictions: Tensor) -> Tensor:
    if weights.shape != losses.shape:
        each = f", or {tuple(predictions.shape)}, one for each row and output"
        raise ShapeError(
            f"`row_weights` must return shape ({len(losses)},), one weight for each training row "
            f"of the batch{each if predictions.ndim == 2 else ''}, got {tuple(weights.shape)}. "
            'Which of all rows these are is in `batch["train"].row_numbers`.'
        )
    return weights
