"""Where a policy-evaluation problem gets its rows from: a known process, or logged transitions."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from typing_extensions import override

import bilevel
from bilevel.core.checks import check_function, check_instance, check_positive_integer
from bilevel.data.groups import check_groups
from bilevel.errors import ArgumentError, check_name
from problems.mspbe import experience
from problems.mspbe.endings import check_endings
from problems.mspbe.process import MarkovRewardProcess, check_discount
from problems.mspbe.transitions import Transitions, check_ratios


class AbstractSource(abc.ABC):
    """Row groups, the discount, and whether every seed has rows of its own."""

    discount: float

    @property
    def redraws(self) -> bool:
        """Whether `groups` depends on the seed (a hook)."""
        return False

    @abc.abstractmethod
    def groups(self, seed: int | None) -> dict[str, Any]:
        """The groups: "train" (`Transitions`, or a `Model` of all states), "test" (a `Model`)."""

    @property
    @abc.abstractmethod
    def columns(self) -> int:
        """D, of the inputs."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """Half a sentence for reports."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known(AbstractSource):
    """A known process: its expectations, independent draws from d, or a trajectory per seed.

    Args:
        process: the process.
        kind: "expected": all states with their probabilities, so that updates have no noise (take
            `batch_size=None`). "iid": s from d and s' from P_b (the rows of a seed are independent
            as long as `sampling="sequential"` has not used them up). "markovian": one trajectory
            per seed (take `sampling="sequential"`).
        length: how many transitions a seed has; of no account for "expected".

    Examples:
        >>> from problems.mspbe import boyan
        >>> from problems.mspbe.sources import Known
        >>> rows = Known(boyan(), "markovian", length=500).groups(seed=3)["train"]
        >>> rows.inputs.shape, rows.inputs[0]    # every episode begins in the first state
        (torch.Size([500, 4]), tensor([1., 0., 0., 0.], dtype=torch.float64))
    """

    process: MarkovRewardProcess
    kind: Literal["expected", "iid", "markovian"] = "expected"
    length: int = 20_000

    def __post_init__(self) -> None:
        check_instance(self.process, MarkovRewardProcess, "process", "random_walk()")
        check_name(self.kind, ("expected", "iid", "markovian"), "kind of experience")
        check_positive_integer(self.length, "`length`")

    @property
    def discount(self) -> float:  # type: ignore[override]
        """Of the process."""
        return self.process.discount

    @property
    @override
    def redraws(self) -> bool:
        return self.kind != "expected"

    def groups(self, seed: int | None) -> dict[str, Any]:
        """The rows of a seed, and the model for metrics."""
        model = self.process.model
        if self.kind == "expected":
            return {"train": model, "test": model}
        drawn = experience.draw(self.process, self.kind, self.length, seed or 0)
        return {"train": drawn, "test": model}

    @property
    @override
    def columns(self) -> int:
        return self.process.inputs.shape[1]

    @property
    def description(self) -> str:
        """The process and how it is seen."""
        seen = {
            "expected": "expected updates",
            "iid": f"{self.length} independent transitions per seed",
            "markovian": f"a trajectory of {self.length} transitions per seed",
        }
        return f"{self.process.name}, {seen[self.kind]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Redrawn(AbstractSource):
    """A known process for each seed, such as random ones.

    Args:
        make_process: makes the process of a seed; its discount and shapes must not depend on it.
        kind: as in `Known`.
        length: as in `Known`.

    Examples:
        >>> from problems.mspbe import random_process
        >>> from problems.mspbe.sources import Redrawn
        >>> source = Redrawn(lambda seed: random_process(seed=seed))
        >>> bool((source.groups(1)["test"].values == source.groups(2)["test"].values).any())
        False
    """

    make_process: Callable[[int], MarkovRewardProcess]
    kind: Literal["expected", "iid", "markovian"] = "expected"
    length: int = 20_000

    def __post_init__(self) -> None:
        check_function(self.make_process, "make_process", "of a seed", 1)
        Known(self.make_process(0), self.kind, self.length)

    @property
    def discount(self) -> float:  # type: ignore[override]
        """Of the process of seed 0, as of all others."""
        return self.make_process(0).discount

    @property
    @override
    def redraws(self) -> bool:
        return True

    def groups(self, seed: int | None) -> dict[str, Any]:
        """Those of the seed's process."""
        return Known(self.make_process(seed or 0), self.kind, self.length).groups(seed)

    @property
    @override
    def columns(self) -> int:
        return self.make_process(0).inputs.shape[1]

    @property
    def description(self) -> str:
        """What the process of seed 0 is, and that there are others."""
        known = Known(self.make_process(0), self.kind, self.length)
        return f"{known.description}, another process for each seed"


@dataclasses.dataclass(frozen=True, eq=False)
class Logged(AbstractSource):
    """Logged transitions, the same for all seeds.

    Args:
        train: the transitions.
        discount: gamma.
        validation: a `bilevel.Batch(inputs, returns)` of Monte-Carlo returns; None: none.
        name: of the data.

    Raises:
        DataError: all ratios are 0.
        ArgumentError: the discount is outside of [0, 1], or 1 where there are no values for it, as
            without an end (`problems.mspbe.endings.check_endings`).
    """

    train: Transitions
    discount: float
    validation: Any = None
    name: str = "logged transitions"

    def __post_init__(self) -> None:
        object.__setattr__(self, "discount", check_discount(self.discount))
        if not isinstance(self.train, Transitions):
            raise ArgumentError(f"`train` must be `Transitions`, got {type(self.train).__name__}.")
        object.__setattr__(self, "train", check_groups({"train": self.train})["train"])
        check_instance(
            self.validation, bilevel.Batch | None, "validation", "Batch(inputs, returns)"
        )
        check_instance(self.name, str, "name", '"my log"')
        check_ratios(self.train.ratios)
        if self.discount == 1:
            check_endings(self.train)

    def groups(self, seed: int | None) -> dict[str, Any]:
        """The transitions, and the returns where there are any."""
        found: dict[str, Any] = {"train": self.train}
        return found if self.validation is None else found | {"validation": self.validation}

    @property
    @override
    def columns(self) -> int:
        return self.train.inputs.shape[1]

    @property
    def description(self) -> str:
        """The name and the number of rows."""
        return f"{self.name}, {len(self.train.rewards)} rows"
