"""Step sizes as functions of the step number."""

import abc
import dataclasses
from typing import Any

from bilevel.core.checks import Number, positive


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

    def scaled(self, factor: float) -> "Constant":
        """A constant again."""
        return Constant(self.value * factor)

    def __repr__(self) -> str:
        return f"Constant({self.value!r})"


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen(AbstractSchedule):
    """The step size 0: what it moves stays where it is."""

    def __call__(self, k: int) -> Number:
        """Zero."""
        return 0.0

    def scaled(self, factor: float) -> "Frozen":
        """Zero again."""
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
        return dataclasses.replace(self, initial=self.initial * factor)


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


class Rate:
    """A field of a frozen dataclass that is a schedule; a number given to it becomes `Constant`.

    It has no default, although it is written with an equals sign: `body_lr: Rate = Rate()`.

    Args:
        zero_allowed: whether the number 0 may be given, which becomes `Frozen`.
    """

    def __init__(self, *, zero_allowed: bool = False) -> None:
        self.zero_allowed = zero_allowed

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> AbstractSchedule:
        if instance is None:  # dataclasses ask the class for a default
            raise AttributeError(self.name)
        schedule: AbstractSchedule = instance.__dict__[self.name]
        return schedule

    def __set__(self, instance: Any, value: Number | AbstractSchedule) -> None:
        zero = isinstance(value, int | float) and value == 0
        frozen = zero and self.zero_allowed
        instance.__dict__[self.name] = Frozen() if frozen else as_schedule(value, self.name)


def as_schedule(value: Number | AbstractSchedule, name: str) -> AbstractSchedule:
    """A schedule as it is, a number as `Constant`; `name` is the argument's, for the message."""
    if isinstance(value, AbstractSchedule):
        return value
    return Constant(positive(value, f"`{name}`"))
