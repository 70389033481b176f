"""Step sizes as functions of the step number."""

import abc
import dataclasses

from torch import Tensor
from typing_extensions import override

from bilevel.core.checks import Number, check_instance, is_real, positive


class AbstractSchedule(abc.ABC):
    """A step size for each step k = 0, 1, 2, ..., positive (`Frozen` alone is zero)."""

    @abc.abstractmethod
    def __call__(self, k: int) -> Number:
        """The step size of step `k`: a number, or (R,) numbers."""

    def scaled(self, factor: float) -> "AbstractSchedule":
        """The schedule times a positive factor."""
        return Scaled(self, factor)


@dataclasses.dataclass(frozen=True, eq=False)
class Constant(AbstractSchedule):
    """The same step size at every step. A float where a schedule is expected means this.

    Args:
        value: the step size, positive; a float or (R,) numbers.

    Raises:
        ArgumentError: the value is not positive and finite.
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
    """initial * (k + offset)^(-exponent), the schedule of two-timescale theory.

    Theorem 3.6 of the paper uses the exponents 3/5 (body) and 2/5 (head), theorem 3.7 uses 1 and
    2/3.

    Args:
        initial: the step size at k + offset = 1, positive.
        exponent: how fast it falls, at least 0.
        offset: shifts the start, positive.

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
