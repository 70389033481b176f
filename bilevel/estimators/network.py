"""What the estimators of networks have in common: rows, scaling, training, and their model."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from bilevel.core.arrays import array_of
from bilevel.core.checks import check_flag, check_instance, check_positive_integer, single
from bilevel.errors import ArgumentError
from bilevel.estimators.early_stopping import Stopped, train
from bilevel.optimizers import Adam
from bilevel.problem.base import Batch
from bilevel.problem.criteria import LogisticLoss, SoftmaxLoss
from bilevel.problem.network.hidden_layers import Network, NetworkProblem, Width
from bilevel.strategies import AbstractStrategy, BestResponse, TwoTimescale
from bilevel.strategies.presets import preset_strategies
from bilevel.tables.columns import Column
from bilevel.tables.model import Model, spans_of
from bilevel.tables.model_file import Label
from bilevel.tables.scaling import Scaling

Array = NDArray[Any]
FEWEST, LEAST = 20, 5
"""Fewer rows are not divided into training and validation rows; so many at least are held out."""
EXACT_RIDGE, RIDGE = 0.1, 1e-2
"""Of targets with deviation one, with exact heads and with others."""
HEAD_FASTER = 5.0
"""How much faster heads learn that are not solved."""


class Rows(NetworkProblem):
    """A network on rows that are there: squared error, or the loss of classes.

    Args:
        network: the body.
        groups: "train" and, where the training is to be stopped, "validation" rows, standardised.
        ridge: lambda, at least 0.
        classes: how many; 0: numbers are predicted.
    """

    def __init__(
        self, network: Network, groups: dict[str, Batch], ridge: float, classes: int
    ) -> None:
        inputs, targets = groups["train"]
        super().__init__(network, inputs.shape[1], ridge, "", 0.0)
        self.groups = groups
        if not classes:
            self.outputs = targets.shape[1]
            return
        self.penalize_bias = True  # otherwise the softmax head is not unique
        self.outputs = None if classes == 2 else classes
        self.criterion = LogisticLoss() if classes == 2 else SoftmaxLoss()

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The same rows for every seed."""
        return dict(self.groups)


@dataclasses.dataclass(eq=False, repr=False)
class NetworkEstimator(BaseEstimator, abc.ABC):
    """A network with a linear head; see the estimators for what the fields are.

    A dataclass, so that the parameters of scikit-learn are its fields.
    """

    hidden_layer_sizes: int | Sequence[int] = (64,)
    _: dataclasses.KW_ONLY
    activation: str = "relu"
    strategy: str | AbstractStrategy | None = None
    body_lr: float | None = None
    head_lr: float | None = None
    ridge: float | None = None
    batch_size: int | None = 64
    max_steps: int = 5000
    early_stopping: bool = True
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    random_state: Any = None
    verbose: bool = False

    _metric: ClassVar[str]

    @abc.abstractmethod
    def _usual(self, rows: int) -> AbstractStrategy:
        """The strategy for so many training rows, where none is asked for."""

    def _two_rates(self, body_lr: float = 5e-3) -> AbstractStrategy:
        slow = body_lr if self.body_lr is None else self.body_lr
        fast = HEAD_FASTER * slow if self.head_lr is None else self.head_lr
        return TwoTimescale(slow, fast, Adam())

    def _strategy(self, rows: int) -> AbstractStrategy:
        """How both levels move."""
        if self.strategy is None:
            return self._usual(rows)
        if isinstance(self.strategy, str):
            slow = 5e-3 if self.body_lr is None else self.body_lr
            fast = HEAD_FASTER * slow if self.head_lr is None else self.head_lr
            made = preset_strategies(slow, fast, optimizer=Adam(), names=[self.strategy])
            return made[self.strategy]
        check_instance(self.strategy, AbstractStrategy, "strategy", "TwoTimescale(1e-3, 1e-2)")
        if (self.body_lr, self.head_lr) != (None, None):
            raise ArgumentError(
                "`strategy` has rates of its own: leave out `body_lr` and `head_lr`."
            )
        return self.strategy

    def _fitted(self, inputs: Array, targets: Array, classes: tuple[Label, ...] = ()) -> Model:
        """Train on rows in their own units; targets are (n, K), or labels from 0, (n,)."""
        self._check()
        seed = _seed(self.random_state)
        held = self._held_out(targets, len(classes), seed)
        own = np.setdiff1d(np.arange(len(inputs)), held)
        scale = Scaling.of(inputs[own], getattr(self, "feature_names_in_", ()))
        outputs = None if classes else Scaling.of(targets[own])
        z, aims = scale(inputs), targets if outputs is None else outputs(targets)
        # of targets that are all the same nothing is learned: their mean is 0 here
        moving = None if classes else np.ptp(aims[own], axis=0) > 0
        aims = aims if moving is None else aims[:, moving]
        groups = {
            name: Batch(torch.from_numpy(z[rows]), torch.from_numpy(aims[rows]))
            for name, rows in (("train", own), ("validation", held))
            if len(rows)
        }
        network = Network(_layers(self.hidden_layer_sizes), activation=self.activation)
        strategy = self._strategy(len(own))
        exact = isinstance(strategy, BestResponse)
        ridge = (EXACT_RIDGE if exact else RIDGE) if self.ridge is None else self.ridge
        problem = Rows(network, groups, ridge, len(classes))
        some = moving is None or bool(moving.any())
        found = self._trained(problem, strategy, seed, len(own)) if some else self._mean(problem)
        self.n_iter_, self.history_ = max(1, found.step), {"step": found.steps, **found.history}
        self.loss_curve_ = found.history["objective"].tolist()
        scores = found.history.get(f"validation_{self._metric}")
        self.best_validation_ = None if scores is None else float(np.nanmin(scores[1:]))
        listed = getattr(self, "feature_names_in_", [f"x{k}" for k in range(z.shape[1])])
        count = 1 if classes else targets.shape[1]
        names = ["target"] if count == 1 else [f"target {k}" for k in range(count)]
        return Model(
            columns=tuple(Column(str(name)) for name in listed),
            targets=tuple(map(Column, names)),
            inputs=scale,
            outputs=outputs,
            medians=None,
            spans=spans_of(inputs[own]),
            network=network,
            body=found.body,
            head=_whole(found.head, moving),
            classes=classes or None,
            about={"said": f"{type(self).__name__}, step {found.step}"},
        )

    def _check(self) -> None:
        """Raise unless the parameters can work; parts look at those that are theirs."""
        check_positive_integer(self.max_steps, "`max_steps`")
        check_positive_integer(self.n_iter_no_change, "`n_iter_no_change`", endless=True)
        if self.batch_size is not None:
            check_positive_integer(self.batch_size, "`batch_size`", " or None (all rows)")
        for name, rate in (("body_lr", self.body_lr), ("head_lr", self.head_lr)):
            if rate is not None:
                single(rate, f"`{name}`")
        check_flag(self.early_stopping, "early_stopping")
        check_flag(self.verbose, "verbose")
        if not 0 < single(self.validation_fraction, "`validation_fraction`") < 1:
            raise ArgumentError(
                f"`validation_fraction` must lie between 0 and 1, got {self.validation_fraction!r}."
            )

    def _held_out(self, targets: Array, classes: int, seed: int) -> NDArray[np.int64]:
        """The rows that say when to stop, in each class the same share of them."""
        rows = np.arange(len(targets))
        if not self.early_stopping or len(rows) < FEWEST:
            return rows[:0]
        random = np.random.default_rng(seed)
        groups = [rows[targets == k] for k in range(classes)] or [rows]
        share = max(self.validation_fraction, LEAST / len(rows))
        chosen = [
            random.permutation(some)[: min(round(share * len(some)), len(some) - 1)]
            for some in groups
        ]
        found = np.sort(np.concatenate(chosen))
        if not classes and len(found):
            moving = targets[:, np.ptp(targets, axis=0) > 0]
            if not np.ptp(moving[found], axis=0).all():
                return rows[:0]  # too few to tell predictions from each other
        return found if len(found) > 1 else rows[:0]

    def _trained(self, problem: Rows, strategy: AbstractStrategy, seed: int, rows: int) -> Stopped:
        batch = None if self.batch_size is None or self.batch_size >= rows else self.batch_size
        return train(
            problem,
            strategy,
            steps=self.max_steps,
            every=min(self.max_steps, max(10, -(-rows // (batch or rows)))),
            batch_size=batch,
            seed=seed,
            metric=f"validation_{self._metric}" if "validation" in problem.groups else None,
            patience=self.n_iter_no_change,
            progress=bool(self.verbose),
        )

    def _mean(self, problem: Rows) -> Stopped:
        """What predicts targets that are all the same."""
        body = problem.init_body(torch.Generator().manual_seed(0))
        head = torch.zeros(problem.network.outputs + 1, 0, dtype=torch.float64)
        return Stopped(body, head, 0, np.zeros(1, np.int64), {"objective": np.zeros(1)})


def _layers(sizes: Any) -> Width:
    """Units of the hidden layers, as a network takes them: arrays are lists of numbers, too."""
    if isinstance(sizes, str | int):
        return sizes  # type: ignore[return-value]
    listed = list(sizes) if isinstance(sizes, Iterator) else sizes
    found: Width = array_of(listed, "hidden_layer_sizes").tolist()
    return found


def _seed(random_state: Any) -> int:
    """A seed from what scikit-learn takes for a random state."""
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`random_state`: {error}") from error


def _whole(head: Tensor, moving: Array | None) -> Tensor:
    """The head (M + 1, K) of all outputs, zero where nothing was learned."""
    if moving is None:
        return head if head.ndim == 2 else head[:, None]
    found = head.new_zeros(len(head), len(moving))
    found[:, torch.from_numpy(moving)] = head
    return found
