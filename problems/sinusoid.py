"""Sine waves of any amplitude and phase, each known at a few points."""

import math

import torch
from torch import Tensor

import bilevel
from bilevel.core.checks import check_positive_integer
from bilevel.core.generators import generator
from bilevel.problem.network.hidden_layers import Network, Width
from problems.few_shot import FewShot


class Sinusoid(FewShot):
    """Tasks y = A sin(x + b) with A in [.1, 5], b in [0, pi] and x in [-5, 5], all uniform.

    Args:
        shots: n, support rows of a task.
        queries: q, its query rows.
        train: tasks that the body is trained on, drawn for each seed.
        test: new tasks, which judge it.
        test_points: rows of each of these.
        network: see `FewShot`.
        ridge: likewise.
        inner_lr: likewise.

    Raises:
        ArgumentError: a size is no positive integer; see `FewShot`.

    Source: Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.1; heads alone that adapt: Raghu
    et al. 2020 (arXiv 1909.09157); exact ones: Bertinetto et al. 2019 (arXiv 1805.08136). Differs
    from the source in: 1. a finite number of tasks, not fresh ones at every step.
    """

    def __init__(
        self,
        shots: int,
        queries: int,
        train: int,
        test: int,
        test_points: int,
        network: Network,
        ridge: float,
        inner_lr: float,
    ) -> None:
        sizes = {"shots": shots, "queries": queries, "train": train, "test": test}
        for name, size in {**sizes, "test_points": test_points}.items():
            check_positive_integer(size, f"`{name}`")
        self.queries, self.train, self.test, self.points = queries, train, test, test_points
        note = (
            f"Sine waves, amplitude .1 to 5, phase 0 to pi, {shots} support and {queries} query "
            f"rows; {train:,} tasks drawn for each seed, {test:,} new ones for testing."
        )
        super().__init__(network, 1, shots, ridge, inner_lr, note)

    def data(self, seed: int | None = None) -> dict[str, object]:
        """Tasks of a seed (0 where none is given), and new ones."""
        source = generator(seed or 0, "sinusoid")
        train, query = waves(self.train, (self.support, self.queries), source)
        support, judged = waves(self.test, (self.support, self.points), source)
        return {"train": train, "validation": query, "test": {"train": support, "test": judged}}


def waves(tasks: int, rows: tuple[int, ...], source: torch.Generator) -> list[bilevel.Batch]:
    """Groups of rows of the same waves: inputs (T, n, 1) and targets (T, n)."""

    def draw(low: float, high: float, n: int) -> Tensor:
        return low + (high - low) * torch.rand(tasks, n, generator=source, dtype=torch.float64)

    amplitude, phase = draw(0.1, 5, 1), draw(0, math.pi, 1)
    inputs = [draw(-5, 5, n) for n in rows]
    return [bilevel.Batch(x.unsqueeze(2), amplitude * (x + phase).sin()) for x in inputs]


def sinusoid(
    shots: int = 10,
    queries: int = 15,
    train: int = 2000,
    test: int = 500,
    test_points: int = 100,
    width: Width = (40, 40),
    activation: str = "relu",
    ridge: float = 0.1,
    inner_lr: float = 0.1,
) -> Sinusoid:
    """Sine waves known at a few points: a head for each, one network for all (few-shot).

    Args:
        shots: points that a head is found on.
        queries: further ones, which the body is trained on.
        train: tasks drawn for each seed.
        test: new tasks, which judge the body.
        test_points: of each of these.
        width: units per hidden layer, one number or one for each.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda at the start, at least 0.
        inner_lr: of heads that are found by steps.

    Raises:
        ArgumentError: a size is no positive integer, or a number is out of its range.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("sinusoid", width=4, train=6, test=2)
        >>> problem.data(0)["train"].inputs.shape    # tasks, points, inputs
        torch.Size([6, 10, 1])
    """
    network = Network(width, activation=activation)
    return Sinusoid(shots, queries, train, test, test_points, network, ridge, inner_lr)
