"""Step sizes as functions of the step number."""

import abc
import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from bilevel.core.checks import (
    Number,
    check_instance,
    check_positive_integer,
    is_real,
    positive,
    single,
)
from bilevel.errors import ArgumentError, spell


class AbstractSchedule(abc.ABC):
    """A step size for step k = 0, 1, 2, ...: positive, or 0 (`Frozen`, a `Cosine` at its end).

    Examples:
        >>> import bilevel
        >>> class Halving(bilevel.AbstractSchedule):
        ...     def __call__(self, k): return 0.5 ** (k // 100)
        >>> [Halving().scaled(0.1)(k) for k in (0, 99, 100)]
        [0.1, 0.1, 0.05]
    """

    @abc.abstractmethod
    def __call__(self, k: int) -> Number:
        """The step size of step `k`: a number, or (R,) numbers."""

    def scaled(self, factor: float) -> "AbstractSchedule":
        """The schedule times a positive factor."""
        return Scaled(self, factor)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant(AbstractSchedule):
    r"""The same step size at every step, $\alpha_k = c$.

    A float where a schedule is expected means this.

    Args:
        value: the step size $c$, positive; a float or (R,) numbers.

    Raises:
        ArgumentError: the value is not positive and finite.

    Examples:
        >>> from bilevel import Constant, TwoTimescale
        >>> Constant(0.1)(7), TwoTimescale(0.1, 0.5).body_lr
        (0.1, Constant(0.1))
    """

    value: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", positive(self.value, "step size"))

    def __call__(self, k: int) -> Number:
        """The value, whatever `k` is."""
        return self.value

    @override
    def scaled(self, factor: float) -> "Constant":
        return Constant(self.value * positive(factor, "`factor`"))

    def __repr__(self) -> str:
        return f"Constant({self.value!r})"


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen(AbstractSchedule):
    """The step size 0: what it moves stays where it is."""

    def __call__(self, k: int) -> Number:
        """Zero."""
        return 0.0

    @override
    def scaled(self, factor: float) -> "Frozen":
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Polynomial(AbstractSchedule):
    r"""A power of the step, the schedule of two-timescale theory.

    $$\alpha_k = \text{initial} \cdot (k + \text{offset})^{-\text{exponent}}$$

    Theorem 3.6 of the paper uses the exponents 3/5 (body) and 2/5 (head), theorem 3.7 uses 1 and
    2/3.

    Args:
        initial: the step size at $k + \text{offset} = 1$, positive.
        exponent: how fast it falls, at least 0.
        offset: shifts the start, positive.

    Raises:
        ArgumentError: a number is not as said above.

    Source: arXiv 2605.15530, theorems 3.6 and 3.7. Differs from the source in: None.

    Examples:
        >>> from bilevel import Polynomial
        >>> Polynomial(1.0, 0.5)(3)
        0.5
    """

    initial: Number
    exponent: Number
    offset: Number = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", positive(self.initial, "`initial`"))
        object.__setattr__(self, "offset", positive(self.offset, "`offset`"))
        exponent = positive(self.exponent, "`exponent`", zero_allowed=True)
        object.__setattr__(self, "exponent", exponent)

    def __call__(self, k: int) -> Number:
        """The step size of step `k`."""
        return self.initial * (k + self.offset) ** (-self.exponent)

    def scaled(self, factor: float) -> "Polynomial":
        """The same fall from another start."""
        return dataclasses.replace(self, initial=self.initial * positive(factor, "`factor`"))


@dataclasses.dataclass(frozen=True, eq=False)
class Cosine(AbstractSchedule):
    r"""A fall along half a cosine, after a warm-up on a line.

    $$
    \alpha_k = \text{final} + \tfrac12 (\text{initial} - \text{final}) (1 + \cos \pi t),
    \quad t = \frac{k - \text{warmup}}{\text{steps} - \text{warmup}} \in [0, 1]
    $$

    In the first `warmup` steps it rises on a line instead:
    $\text{initial}\,(k + 1) / (\text{warmup} + 1)$. From step `steps` on it is `final`: with 0 a
    training that is longer stands still.

    Args:
        initial: the largest step size, positive.
        steps: where the fall ends; those of the training, as a rule. The warm-up is part of them.
        final: the step size at the end, at least 0.
        warmup: how many steps rise, fewer than `steps`.

    Raises:
        ArgumentError: a number is not as said above.

    Source: Loshchilov and Hutter 2017, equation (5), without restarts, and
    torch.optim.lr_scheduler.CosineAnnealingLR. Differs from torch in: it stays at `final` where
    torch's goes up again; the warm-up.

    Examples:
        >>> from bilevel import Cosine
        >>> [round(Cosine(1.0, 4)(k), 3) for k in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    initial: Number
    steps: int
    final: Number = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", positive(self.initial, "`initial`"))
        object.__setattr__(self, "final", positive(self.final, "`final`", zero_allowed=True))
        check_positive_integer(self.steps, "`steps`")
        check_positive_integer(self.warmup, "`warmup`", zero_allowed=True)
        if self.warmup >= self.steps:
            raise ArgumentError(
                f"`warmup` is part of `steps` and must be smaller, got warmup={self.warmup} and "
                f"steps={self.steps}."
            )

    def __call__(self, k: int) -> Number:
        """The step size of step `k`."""
        t = (k - self.warmup) / (self.steps - self.warmup)
        rise = (k + 1) / (self.warmup + 1)
        if isinstance(k, Tensor):  # in compiled steps
            wave, rise = torch.cos(math.pi * t.clamp(0, 1)), rise.clamp(max=1)
        else:
            wave, rise = math.cos(math.pi * min(max(t, 0.0), 1.0)), min(rise, 1.0)
        return rise * (self.final + (self.initial - self.final) * (0.5 + 0.5 * wave))

    @override
    def scaled(self, factor: float) -> "Cosine":
        """The same wave from another start to another end."""
        factor = single(factor, "`factor`")
        return dataclasses.replace(self, initial=self.initial * factor, final=self.final * factor)


@dataclasses.dataclass(frozen=True, eq=False)
class Piecewise(AbstractSchedule):
    r"""A step size that falls, or rises, at given steps.

    $$\alpha_k = \text{initial} \cdot \text{factors}_i \quad\text{for } k \ge \text{boundaries}_i$$

    Args:
        initial: the step size of the first steps, positive.
        boundaries: steps, each later than the one before.
        factors: a positive number for each of them, of the initial step size.

    Raises:
        ArgumentError: a number is not as said above, or the two are not as many.

    Source: torch.optim.lr_scheduler.MultiStepLR, whose factors are powers of its `gamma`. Differs
    from torch in: None but the free factors.

    Examples:
        >>> from bilevel import Piecewise
        >>> schedule = Piecewise(0.2, boundaries=[500, 800], factors=[0.5, 0.25])
        >>> schedule(499), schedule(500), schedule(10_000)
        (0.2, 0.1, 0.05)
    """

    initial: Number
    boundaries: Sequence[int]
    factors: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", positive(self.initial, "`initial`"))
        for name in ("boundaries", "factors"):
            given = getattr(self, name)
            if not isinstance(given, list | tuple):
                raise ArgumentError(f"`{name}` must be a list of numbers, got {spell(given)}.")
        for boundary in self.boundaries:
            check_positive_integer(boundary, "A boundary")
        if any(a >= b for a, b in itertools.pairwise(self.boundaries)):
            raise ArgumentError(f"`boundaries` must rise, got {spell(self.boundaries)}.")
        if len(self.boundaries) != len(self.factors):
            raise ArgumentError(
                f"`boundaries` and `factors` must be as many, got {len(self.boundaries)} and "
                f"{len(self.factors)}: each factor holds from its boundary on."
            )
        object.__setattr__(self, "boundaries", tuple(map(int, self.boundaries)))
        factors = tuple(single(factor, "A factor") for factor in self.factors)
        object.__setattr__(self, "factors", factors)

    def __call__(self, k: int) -> Number:
        """The step size of step `k`."""
        pieces = zip(self.boundaries, self.factors, strict=True)
        if not isinstance(k, Tensor):
            return self.initial * max([(0, 1.0), *(pair for pair in pieces if pair[0] <= k)])[1]
        found = torch.ones_like(k)  # compiled steps cannot look at k
        for boundary, factor in pieces:
            found = torch.where(k >= boundary, torch.full_like(k, factor), found)
        return self.initial * found

    @override
    def scaled(self, factor: float) -> "Piecewise":
        """The same steps from another start."""
        return dataclasses.replace(self, initial=self.initial * single(factor, "`factor`"))


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled(AbstractSchedule):
    """A schedule of any kind, times a factor.

    Args:
        schedule: what is multiplied.
        factor: positive; a float or (R,) numbers.

    Raises:
        ArgumentError: the factor is not positive and finite.
    """

    schedule: AbstractSchedule
    factor: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", positive(self.factor, "`factor`"))

    def __call__(self, k: int) -> Number:
        """The scaled step size of step `k`."""
        return self.factor * self.schedule(k)


Rate = Number | AbstractSchedule
"""A step size as it may be given: a number is that of every step."""


def as_schedule(value: Rate, name: str) -> AbstractSchedule:
    """A schedule as it is, a number as `Constant`; `name` is the argument's, for the message."""
    if isinstance(value, AbstractSchedule):
        return value
    if not isinstance(value, Tensor) and not is_real(value):
        check_instance(value, AbstractSchedule, name, "0.1 or Polynomial(0.1, 0.5)")
    return Constant(positive(value, f"`{name}`"))


def set_schedules(part: object, *names: str) -> None:
    """Put schedules in the place of the numbers in fields of a frozen dataclass."""
    for name in names:
        object.__setattr__(part, name, as_schedule(getattr(part, name), name))


def step_size(rate: Rate, k: int) -> Number:
    """The step size of step `k`."""
    return rate(k) if isinstance(rate, AbstractSchedule) else rate
