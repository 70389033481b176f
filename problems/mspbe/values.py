"""Objectives with content: value errors over an LSTD head, and least squares on known values."""

from typing import Literal, get_args

from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.errors import IncompatibleError, check_name
from bilevel.problem.base import Groups
from bilevel.trees import Tree
from problems.mspbe import exact
from problems.mspbe.bodies import Body
from problems.mspbe.neural import Evaluation, check_model
from problems.mspbe.process import Model
from problems.mspbe.sources import AbstractSource

Upper = Literal["msve", "msbe", "return error"]


class LSTDValues(Evaluation):
    r"""A true bilevel problem: the head is LSTD's, the body minimises an error of its values.

    $$
    \begin{aligned}
    & \min_w F(w, \theta^*(w)), \qquad (A + \text{ridge} \cdot I)\, \theta^* = b \\
    \text{msve} &: F = \sum_s d_s (V(s) - V^\pi(s))^2 \\
    \text{msbe} &: F = \sum_s d_s (r(s) + \gamma (P V)(s) - V(s))^2 \\
    \text{return error} &: F = \text{the mean of } (V(x) - G)^2 \text{ over Monte-Carlo returns } G
    \end{aligned}
    $$

    F is not g, so `BestResponse` takes `Implicit`. On `SingleLoop` it follows SOBA's directions.

    Args:
        upper: F. The first two need a known process, the last a source with returns.
        source: of the rows.
        network: as in `Evaluation`.
        shift: as in `Evaluation`; it does not move the LSTD head.
        ridge: as in `Evaluation`.

    Raises:
        IncompatibleError: the source has no such rows.
        UnknownNameError: there is no such objective.

    Source: the objectives are standard (Sutton and Barto 2018, chapter 11); as the upper level of a
    bilevel problem they are ours.

    Examples:
        >>> import bilevel, torch
        >>> from problems.mspbe import random_process
        >>> from problems.mspbe.sources import Known
        >>> from problems.mspbe.values import LSTDValues
        >>> problem = LSTDValues("msve", Known(random_process()))
        >>> body = problem.init_body(torch.Generator().manual_seed(0))
        >>> bilevel.hypergradient(problem, body).bound < 1e-6
        True
    """

    def __init__(
        self,
        upper: Upper,
        source: AbstractSource,
        network: Body | None = None,
        shift: float = 0.0,
        ridge: float = 0.0,
    ) -> None:
        super().__init__(source, network, shift, ridge)
        check_name(upper, get_args(Upper), "upper objective")
        group = "validation" if upper == "return error" else "test"
        if group not in source.groups(0 if source.redraws else None):
            needed = "Monte-Carlo returns" if group == "validation" else "a known process"
            raise IncompatibleError(
                f"`upper` = {upper!r} needs {needed}, and {source.description} has none."
            )
        self.upper = upper

    def data(self, seed: int | None = None) -> Groups:
        """The groups of the source; F sees all states in "validation"."""
        groups = super().data(seed)
        return groups if self.upper == "return error" else groups | {"validation": groups["test"]}

    @override
    def body_objective(self, body: Tree, head: Tensor, batch: Groups) -> Tensor:
        rows = batch["validation"]
        if self.upper == "return error":
            return self.return_error(body, head, rows)
        z = self.features(body, check_model(rows).inputs)
        if self.upper == "msve":
            return exact.msve(z, head, rows)
        return exact.msbe(z, head, rows, self.discount)

    def strategies(self, body_lr: float, head_lr: float) -> dict[str, bilevel.AbstractStrategy]:
        """Best response along the implicit gradient, and SOBA with plain steps."""
        return {
            "best response": bilevel.BestResponse(body_lr),
            "SOBA": bilevel.SingleLoop(body_lr, head_lr, head_lr),
        }


class LeastSquaresValues(Evaluation):
    r"""The reference: a least-squares head on the true values, so that F is g.

    $$g = \sum_s d_s (V(s) - V^\pi(s))^2 + \text{ridge}\, \lVert \theta\rVert^2$$

    It needs $V^\pi$ and is no method of learning; it shows which features there are to be found.

    Args:
        source: of known processes, "expected".
        network: as in `Evaluation`.
        ridge: at least 0.

    Examples:
        >>> import bilevel
        >>> from problems.mspbe import random_process
        >>> from problems.mspbe.sources import Known
        >>> from problems.mspbe.values import LeastSquaresValues
        >>> LeastSquaresValues(Known(random_process())).is_stackelberg
        True
    """

    def __init__(
        self, source: AbstractSource, network: Body | None = None, ridge: float = 0.0
    ) -> None:
        super().__init__(source, network, ridge=ridge)
        if not isinstance(source.groups(0 if source.redraws else None)["train"], Model):
            raise IncompatibleError(
                f"Least squares on the true values need expectations, and {source.description} "
                'has none: use `Known(process, "expected")`.'
            )

    @override
    def head_objective(self, body: Tree, head: Tensor, batch: Groups) -> Tensor:
        model = check_model(batch["train"])
        error = exact.msve(self.features(body, model.inputs), head, model)
        return error + self.ridge * head.square().sum()
