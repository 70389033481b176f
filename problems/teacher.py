"""A network that learns what another one computes: the instance of a paper's landscapes."""

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.core.checks import check_one_of, check_positive_integer, single
from bilevel.core.generators import generator
from bilevel.problem.network.hidden_layers import uniform

Start = Literal["default", "unit"]


class Teacher(bilevel.LinearHeadProblem):
    """g = 1/(2n) |relu(X W) theta - y|^2 + lambda/2 |theta|^2 with y = relu(X W*) theta*.

    No biases, no noise. X, W* and theta* are standard normal and drawn anew for every seed, as are
    `test` further rows of the same teacher.

    Args:
        rows: n, training rows.
        inputs: D, columns of X.
        width: hidden units, of teacher and student.
        ridge: lambda, at least 0.
        start: "default", torch's default of linear layers: W uniform in +-1/sqrt(D), theta uniform
            in +-1/sqrt(width); "unit": both standard normal, as the teacher's are.
        test: further rows.

    Raises:
        ArgumentError: a size is no positive integer, `ridge` is negative, or `start` is unknown.

    Source: arXiv 2605.15530, figure 1. Differs from the source in: 1. the mean over rows where the
    paper's normalisation could not be read; 2. `start`, which the paper does not state.
    """

    redraws_data = True

    def __init__(
        self, rows: int, inputs: int, width: int, ridge: float, start: Start, test: int
    ) -> None:
        for name, size in {"rows": rows, "inputs": inputs, "width": width, "test": test}.items():
            check_positive_integer(size, f"`{name}`")
        check_one_of(start, Start, "start")
        self.rows, self.inputs, self.width = int(rows), int(inputs), int(width)
        self.ridge = single(ridge, "`ridge`", zero_allowed=True)
        self.start, self.test = start, int(test)
        self.note = (
            f"A network of {width} hidden units computes the targets of standard normal inputs, "
            f"{rows} training and {test} test rows, drawn anew for every seed."
        )

    @override
    def data(self, seed: int | None = None) -> dict[str, Any]:
        source = generator(seed or 0, "teacher")
        body = normal((self.inputs, self.width), source)
        head = normal((self.width,), source)
        found = {}
        for name, count in (("train", self.rows), ("test", self.test)):
            x = normal((count, self.inputs), source)
            found[name] = bilevel.Batch(x, self.features(body, x) @ head)
        return found

    @override
    def init_body(self, generator: torch.Generator) -> Tensor:
        shape = (self.inputs, self.width)
        if self.start == "unit":
            return normal(shape, generator)
        return uniform(shape, self.inputs, generator)

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        if self.start == "unit":
            return normal((self.width,), generator)
        return uniform((self.width,), self.width, generator)

    @override
    def features(self, body: Tensor, inputs: Tensor) -> Tensor:
        return torch.relu(inputs @ body)


def normal(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=source, dtype=torch.float64)


def teacher(
    rows: int = 200,
    inputs: int = 10,
    width: int = 20,
    ridge: float = 1e-4,
    start: Start = "default",
    test: int = 1000,
) -> Teacher:
    """What another network computes, without noise: whose landscapes a paper draws.

    Args:
        rows: n, training rows.
        inputs: columns of X.
        width: hidden units, of teacher and student.
        ridge: lambda, at least 0.
        start: "default" or "unit", see `Teacher`.
        test: further rows.

    Raises:
        ArgumentError: a size is no positive integer, `ridge` is negative, or `start` is unknown.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("teacher", rows=20, width=3, test=5)
        >>> {group: tuple(rows.inputs.shape) for group, rows in problem.data(0).items()}
        {'train': (20, 10), 'test': (5, 10)}
    """
    return Teacher(rows, inputs, width, ridge, start, test)
