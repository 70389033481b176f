"""Deep linear networks as a body and a head: W_1 ... W_{L-1}, and W_L."""

from typing import Any, get_args

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.core.checks import single
from bilevel.core.generators import generator as stream
from bilevel.errors import ArgumentError, check_name
from problems.linear_networks.deep_linear import DeepLinearProblem
from problems.linear_networks.ensembles import Design, rows, target
from problems.linear_networks.initial import (
    checked_size,
    gaussian,
    haar,
    orthonormal_columns,
    whitened_design,
)


class LinearNetwork(bilevel.LinearHeadProblem):
    r"""A deep linear network whose last layer is the head.

    $$
    g = \tfrac{1}{2n} \lVert \kappa X W_1 \dots W_L - Y\rVert^2
    + \tfrac12 \text{ridge}\, \lVert W_L\rVert^2
    $$

    The body is a dict of the (d, h) and (h, h) matrices "weight1", ..., the head $W_L$: (h,) for
    one output, (h, K) for K. Everything is drawn anew for every seed: rows, a target $\beta$ and
    noise in `data`, orthonormal layers at the start.

    With depth 2 this is the paper's three-layer network for one output (its $W_2$ and fixed $a$ act
    as the head $W_2 a$) and its two-layer network for `outputs` = `width` = `inputs`. The test rows
    are whitened and noiseless, so that `test_mse` is the exact population loss
    $\lVert \kappa W - \beta\rVert^2$.

    Args:
        depth: L, at least 2.
        width: h, at most `inputs`.
        inputs: d; None: h.
        outputs: K, from 2 to `width`; None: one output.
        rows: n; None: 4 d.
        design: "whitened" (X'X = n I) or "gaussian" rows.
        noise: variance of the noise of the training targets.
        ridge: at least 0; with 0 the head is unique as long as the features have full rank.

    Raises:
        ArgumentError: sizes that do not go together, a negative `noise` or `ridge`.

    Source: arXiv 2606.00340, a Stackelberg reading of its networks. Differs from the source in: 1.
    the last layer is trained at every depth; 2. the default number of rows.
    """

    redraws_data = True

    def __init__(
        self,
        depth: int = 2,
        width: int = 16,
        inputs: int | None = None,
        outputs: int | None = None,
        rows: int | None = None,
        design: Design = "whitened",
        noise: float = 0.0,
        ridge: float = 0.0,
    ) -> None:
        self.depth = checked_size("depth", depth, least=2)
        self.width = checked_size("width", width, least=2)
        self.inputs = width if inputs is None else checked_size("inputs", inputs)
        self.outputs = None if outputs is None else checked_size("outputs", outputs, least=2)
        self.rows = 4 * self.inputs if rows is None else checked_size("rows", rows)
        if not (self.outputs or 1) <= self.width <= self.inputs:
            raise ArgumentError(
                f"Orthonormal layers need outputs <= width <= inputs, got {outputs = }, {width = } "
                f"and inputs = {self.inputs}."
            )
        check_name(design, get_args(Design), "design")
        if design == "whitened" and self.rows < self.inputs:
            raise ArgumentError(f"A whitened design needs rows >= inputs = {self.inputs}.")
        for name, value in (("noise", noise), ("ridge", ridge)):
            single(value, f"`{name}`", zero_allowed=True)
        self.row_design, self.noise_variance, self.ridge = design, float(noise), float(ridge)
        self.kappa = self.width**-0.5 if self.outputs is None else 1 / self.width
        self.note = (
            f"A linear network of {self.depth} layers of width {self.width} on {self.rows} "
            f"{design} rows of {self.inputs} inputs, targets of a random linear map with noise of "
            f"variance {self.noise_variance:g}; all drawn anew for every seed."
        )

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """Training rows, and noiseless test rows whose covariance is the identity."""
        source = stream(seed or 0, "linear network")
        beta = self._beta(source)
        x, y = rows(self.rows, beta, source, self.row_design, self.noise_variance)
        fresh = whitened_design(2 * self.inputs, self.inputs, source)
        return {
            "train": bilevel.Batch(x, self._shaped(y)),
            "test": bilevel.Batch(fresh, self._shaped(fresh @ beta)),
        }

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Orthonormal columns, then Haar rotations."""
        body = {"weight1": orthonormal_columns(self.inputs, self.width, generator)}
        for layer in range(2, self.depth):
            body[f"weight{layer}"] = haar(self.width, generator)
        return body

    def init_head(self, generator: torch.Generator) -> Tensor:
        """N(0, I_h / h) for one output, orthonormal columns for more."""
        if self.outputs is None:
            head: Tensor = gaussian(self.width, 1, generator)[:, 0] / self.width**0.5
            return head
        return orthonormal_columns(self.width, self.outputs, generator)

    @override
    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        hidden = self.kappa * inputs
        for layer in range(1, self.depth):
            hidden = hidden @ body[f"weight{layer}"]
        return hidden

    def at(
        self, body: dict[str, Tensor], head: Tensor, seed: int | None = None
    ) -> DeepLinearProblem:
        """The same network and rows for exact dynamics; the ridge is not part of it.

        Args:
            body: of one run.
            head: of one run.
            seed: whose rows.
        """
        train = self.data(seed)["train"]
        layers = [body[f"weight{layer}"] for layer in range(1, self.depth)]
        layers.append(head if head.ndim == 2 else head[:, None])
        targets = train.targets if train.targets.ndim == 2 else train.targets[:, None]
        beta = self._beta(stream(seed or 0, "linear network"))
        return DeepLinearProblem.from_data(train.inputs, targets, layers, beta, self.kappa)

    def _beta(self, source: torch.Generator) -> Tensor:
        return target(self.inputs, self.width, self.outputs or 1, source)

    def _shaped(self, targets: Tensor) -> Tensor:
        return targets if self.outputs else targets[:, 0]


def linear_network(
    depth: int = 2,
    width: int = 16,
    inputs: int | None = None,
    outputs: int | None = None,
    rows: int | None = None,
    design: Design = "whitened",
    noise: float = 0.0,
    ridge: float = 0.0,
) -> LinearNetwork:
    """A deep linear network; the last layer is the head (arXiv 2606.00340).

    Args:
        depth: L, at least 2.
        width: h, at most `inputs`.
        inputs: d; None: h.
        outputs: K, from 2 to `width`; None: one output.
        rows: n; None: 4 d.
        design: "whitened" or "gaussian" rows.
        noise: variance of the noise of the training targets.
        ridge: at least 0.

    Raises:
        ArgumentError: a size or a number is out of its range.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("linear-network", depth=3, width=4)
        >>> problem.data(0)["train"].inputs.shape
        torch.Size([16, 4])
    """
    return LinearNetwork(depth, width, inputs, outputs, rows, design, noise, ridge)
