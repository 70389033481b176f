"""Markov reward processes with known transitions: what policy evaluation is tested on."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilevel.core.arrays import array_of
from bilevel.core.checks import single
from bilevel.errors import ArgumentError, DataError, ShapeError, spell
from problems.mspbe import chains

ROUNDING = 1e-10
"""What rows of probabilities may be off by."""
UNITS = 4
"""Rows in single or half precision may be off by so many units in the last place of 1."""


class Model(NamedTuple):
    r"""A process as rows, one for each of its S states: all that exact objectives need.

    Attributes:
        inputs: (S, D), what features are computed from.
        transitions: (S, S), P of the target policy.
        rewards: (S,), the expected reward of the next step under the target policy.
        weights: (S,), d, how much each state counts.
        values: (S,), $V^\pi$.
    """

    inputs: Tensor
    transitions: Tensor
    rewards: Tensor
    weights: Tensor
    values: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovRewardProcess:
    r"""A finite chain with rewards, whose values are to be learned, perhaps off-policy.

    $$V^\pi = r + \gamma P V^\pi, \qquad \rho(s, s') = P(s, s') / P_b(s, s')$$

    Tensors are copied as float64. Probabilities in single precision, converted or not, whose sum is
    1 but for their rounding are divided by that sum. An episode ends with the probability that a
    row of P lacks to 1; the end has value 0 and is no state. After it the chain starts anew.

    Args:
        inputs: (S, D), what features are computed from; for linear methods the features.
        transitions: (S, S), P of the target policy.
        rewards: (S, S), r(s, s').
        discount: gamma, in [0, 1]; 1 only where every episode ends.
        end_rewards: (S,), the reward of ending at s; None: 0.
        behaviour: (S, S), P_b, what transitions are drawn from; None: P (on-policy). Where an
            action decides on the next state, rho is the ratio of the actions' probabilities.
        start: (S,), where episodes start; None: `weights`, or uniform without them.
        weights: (S,), d, positive or 0, with sum 1; None: how often the states are visited under
            P_b, starts anew included (for a chain without end its stationary distribution).
        initial_head: (D,), where linear methods start; None: 0.
        name: of the process.

    Raises:
        ShapeError: arrays do not fit each other.
        DataError: an entry is not finite; P is no matrix of probabilities; a transition of the
            target policy never happens under the behaviour; no weights are given and the chain has
            several stationary distributions.
        ArgumentError: the discount is outside of [0, 1], or 1 where an episode may not end.

    Examples:
        >>> import torch
        >>> from problems.mspbe.process import MarkovRewardProcess
        >>> step = torch.tensor([[0.0, 1.0], [0.0, 0.0]])    # then the episode ends
        >>> process = MarkovRewardProcess(torch.eye(2), step, -step, discount=1.0)
        >>> process.values
        tensor([-1.,  0.], dtype=torch.float64)
        >>> process.state_weights
        tensor([0.3333, 0.6667], dtype=torch.float64)
    """

    inputs: Tensor
    transitions: Tensor
    rewards: Tensor
    discount: float
    end_rewards: Tensor | None = None
    behaviour: Tensor | None = None
    start: Tensor | None = None
    weights: Tensor | None = None
    initial_head: Tensor | None = None
    name: str = "process"

    def __post_init__(self) -> None:
        states = _check_square("transitions", self.transitions)
        shapes = {
            "inputs": (states, -1),
            "transitions": (states, states),
            "rewards": (states, states),
            "end_rewards": (states,),
            "behaviour": (states, states),
            "start": (states,),
            "weights": (states,),
        }
        for field, shape in shapes.items():
            given = getattr(self, field)
            if given is not None or field in ("inputs", "rewards"):
                array = _checked(field, given, shape)
                if field in ("transitions", "behaviour", "start", "weights"):
                    array = _normalised(array, given)
                object.__setattr__(self, field, array)
        if self.initial_head is not None:
            head = _checked("initial_head", self.initial_head, (self.inputs.shape[1],))
            object.__setattr__(self, "initial_head", head)
        for field in ("transitions", "behaviour"):
            if getattr(self, field) is not None:
                _check_rows(field, getattr(self, field))
        for field in ("start", "weights"):
            if getattr(self, field) is not None:
                _check_distribution(field, getattr(self, field))
        self._check_coverage()
        self._check_discount()
        object.__setattr__(self, "_model", self._make_model())

    # what follows from the arguments

    @property
    def states(self) -> int:
        """S."""
        return len(self.transitions)

    @property
    def ends(self) -> Tensor:
        """The probability that the episode ends at each state under the target policy, (S,)."""
        return chains.ends(self.transitions)

    @property
    def walked(self) -> Tensor:
        """P_b, (S, S); P where the process is on-policy."""
        return self.transitions if self.behaviour is None else self.behaviour

    @property
    def start_weights(self) -> Tensor:
        """Where episodes start, (S,)."""
        if self.start is not None:
            return self.start
        if self.weights is not None:
            return self.weights
        return torch.full((self.states,), 1 / self.states, dtype=torch.float64)

    @property
    def state_weights(self) -> Tensor:
        """The weights d, (S,)."""
        return self.model.weights

    @property
    def expected_rewards(self) -> Tensor:
        """The expected reward of the next step under the target policy, (S,)."""
        return self.model.rewards

    @property
    def values(self) -> Tensor:
        r"""$V^\pi$, (S,)."""
        return self.model.values

    @property
    def model(self) -> Model:
        """The process as rows of states."""
        model: Model = self._model  # type: ignore[attr-defined]
        return model

    # checks and derived quantities

    def _make_model(self) -> Model:
        p, states = self.transitions, self.states
        rewards = (p * self.rewards).sum(1)
        if self.end_rewards is not None:
            rewards = rewards + self.ends * self.end_rewards
        values = torch.linalg.solve(torch.eye(states, dtype=p.dtype) - self.discount * p, rewards)
        weights = self.weights
        if weights is None:
            weights = chains.stationary(chains.restarted(self.walked, self.start_weights))
        return Model(self.inputs, p, rewards, weights, values)

    def _check_coverage(self) -> None:
        if self.behaviour is None:
            return
        missing = (self.transitions > 0) & (self.behaviour <= 0)
        if bool(missing.any()):
            s, to = missing.nonzero()[0].tolist()
            raise DataError(
                f"`behaviour` never goes from state {s} to {to}, but `transitions` (the target "
                f"policy) does with probability {float(self.transitions[s, to]):g}: no ratio can "
                "correct for that. Give every transition of the target a positive probability."
            )
        missing_end = (self.ends > 0) & (chains.ends(self.behaviour) <= 0)
        if bool(missing_end.any()):
            raise DataError(
                f"`behaviour` never ends an episode at state {int(missing_end.nonzero()[0])}, but "
                "`transitions` (the target policy) does: let its row sum to less than 1 too."
            )

    def _check_discount(self) -> None:
        discount = check_discount(self.discount)
        object.__setattr__(self, "discount", discount)
        if discount < 1:
            return
        endless = chains.endless(self.transitions)
        if endless:
            raise ArgumentError(
                "`discount` = 1 needs episodes that end: from the states "
                f"{', '.join(map(str, endless[:5]))}{', ...' if len(endless) > 5 else ''} no end "
                "can be reached. Let rows of `transitions` sum to less than 1, or use a discount "
                "below 1."
            )


def check_discount(discount: float) -> float:
    """The discount as a float, or an error unless it is in [0, 1]."""
    value = single(discount, "`discount` (gamma), in [0, 1],", zero_allowed=True)
    if value > 1:
        raise ArgumentError(f"`discount` (gamma) must be in [0, 1], got {spell(discount)}.")
    return value


def _check_square(name: str, given: object) -> int:
    array = array_of(given, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not len(array):
        raise ShapeError(
            f"`{name}` must be (S, S), a row of probabilities for each of S states, got "
            f"{array.shape}."
        )
    return len(array)


def _checked(name: str, given: object, shape: tuple[int, ...]) -> Tensor:
    """A float64 copy of an argument of a shape (-1: any size), all of it finite."""
    array = torch.from_numpy(array_of(given, name).astype(np.float64))
    fits = array.ndim == len(shape) and all(
        n in (-1, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits or not array.numel():
        wanted = ", ".join("D" if n == -1 else str(n) for n in shape)
        raise ShapeError(
            f"`{name}` must have shape ({wanted}{',' * (len(shape) == 1)}), got "
            f"{tuple(array.shape)}: there are {shape[0]} of them by the other arguments."
        )
    if not bool(array.isfinite().all()):
        place = (~array.isfinite()).nonzero()[0].tolist()
        raise DataError(f"`{name}` is not finite at {place}: {float(array[tuple(place)])}.")
    return array


def _normalised(probabilities: Tensor, given: object) -> Tensor:
    """Rows (or one) that sum to 1 but for the rounding of what was given, divided by their sum."""
    half = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    dtype = half.get(str(getattr(given, "dtype", "")).removeprefix("torch."), torch.float32)
    # numbers that float32 holds have been float32 once, or are sums of powers of 2
    rounded = (probabilities == probabilities.to(dtype).double()).all(-1, keepdim=True)
    sums = probabilities.sum(-1, keepdim=True)
    near = rounded & ((sums - 1).abs() <= UNITS * torch.finfo(dtype).eps)
    return torch.where(near, probabilities / sums, probabilities)


def _check_rows(name: str, matrix: Tensor) -> None:
    if bool((matrix < 0).any()):
        s, to = (matrix < 0).nonzero()[0].tolist()
        raise DataError(f"`{name}` holds a negative probability at ({s}, {to}).")
    sums = matrix.sum(1)
    if bool((sums > 1 + ROUNDING).any()):
        s = int(sums.argmax())
        raise DataError(
            f"Row {s} of `{name}` sums to {float(sums[s]):.10g}. Rows of probabilities sum to 1, "
            "or to less where an episode ends."
        )


def _check_distribution(name: str, vector: Tensor) -> None:
    total = float(vector.sum())
    if bool((vector < 0).any()) or abs(total - 1) > ROUNDING:
        raise DataError(
            f"`{name}` must be probabilities: at least 0 with sum 1, got a sum of {total:.10g} and "
            f"a least entry of {float(vector.min()):g}."
        )
