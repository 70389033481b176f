"""Many small tasks that share the hidden layers of a network: what all such problems have."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.core.checks import single
from bilevel.problem.base import Groups
from bilevel.problem.network.hidden_layers import Network, NetworkProblem


class FewShot(NetworkProblem):
    """A head for each task, found on its support rows; the body descends the loss of query rows.

        g_t = 1/n sum_i c(z_i theta_t, y_i) + p/2 |theta_t|^2      over the n support rows of a task
        F_t = 1/q sum_j c(z_j theta_t, y_j)                        over its q query rows

    z is the last hidden layer of a network and a constant, p = lambda / n with lambda a number of
    the body, kept as its logarithm; theta_t* of a squared error is (Z'Z + lambda I)^{-1} Z'y. The
    body has a head "start" too, where `FastSGD(restart=True)` begins with every task: exact heads
    do not depend on it.

    Args:
        network: the hidden layers.
        columns: D, of the inputs.
        support: n.
        ridge: lambda at the start; 0: there is no penalty, and none is learned.
        inner_lr: of heads that are found by steps, in `strategies`.
        note: one sentence on the data.

    Raises:
        ArgumentError: `ridge` is negative or `inner_lr` not positive, or no number.
    """

    tasks = True
    redraws_data = True
    penalize_bias = True

    def __init__(
        self,
        network: Network,
        columns: int,
        support: int,
        ridge: float,
        inner_lr: float,
        note: str,
    ) -> None:
        super().__init__(network, columns, ridge, note, weight_decay=0.0)
        self.inner_lr, self.support = single(inner_lr, "`inner_lr`"), support

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Hidden layers, the start of heads, and the logarithm of lambda if there is one."""
        body = super().init_body(generator)
        body["start"] = self.init_head(generator)
        if self.ridge > 0:
            body["log_ridge"] = torch.tensor(math.log(self.ridge), dtype=torch.float64)
        return body

    @override
    def penalty(self, body: dict[str, Tensor]) -> float | Tensor:
        return body["log_ridge"].exp() / self.support if "log_ridge" in body else 0.0

    @override
    def head_start(self, body: dict[str, Tensor]) -> Tensor:
        return body["start"]

    @override
    def body_objective(self, body: dict[str, Tensor], head: Tensor, batch: Groups) -> Tensor:
        query = batch["validation"]
        predictions = self.predict(body, head, query.inputs)
        return self.criterion.rows(predictions, query.targets).mean()

    @override
    def strategies(self, body_lr: float, head_lr: float) -> Mapping[str, bilevel.AbstractStrategy]:
        """Exact heads, ANIL with 5 steps and with 1, and heads that each task keeps.

        The latter make a step when their task is seen; those of new tasks are exact. The steps of
        all heads have the problem's `inner_lr`: `head_lr` is meant for other problems.
        """

        def by_steps(steps: int, *, restart: bool) -> bilevel.BestResponse:
            solver = bilevel.FastSGD(self.inner_lr, steps, restart=restart)
            return bilevel.BestResponse(body_lr, solver, bilevel.Unrolled(steps), bilevel.Adam())

        return {
            "exact head": bilevel.BestResponse(body_lr, optimizer=bilevel.Adam()),
            "ANIL, 5 steps": by_steps(5, restart=True),
            "ANIL, 1 step": by_steps(1, restart=True),
            "heads kept": by_steps(1, restart=False),
        }
