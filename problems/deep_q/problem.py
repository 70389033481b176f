"""Deep Q-learning as a problem with a body and a linear head."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bilevel import AbstractStrategy, LinearHeadProblem
from bilevel.problem.base import Groups
from bilevel.trees import Tree
from problems.deep_q.configurations import configurations
from problems.deep_q.environment import MakesEnvironment
from problems.deep_q.learner import GIVEN, Learner
from problems.deep_q.network import QNetwork
from problems.deep_q.replay import MakesReplay, whole
from problems.deep_q.settings import Settings


class DeepQ(LinearHeadProblem):
    """Q(s, .) = z(s) Theta, learned from transitions that the runs make themselves.

    g = 1/n sum_i 1/2 (z_i Theta[:, a_i] - t_i)^2 + ridge/2 |Theta - Theta_prior|^2

    over a batch of the replay memory. Its targets t and the prior, the head before the update, are
    constants, see `Learner`; so at the head before it the ridge has no slope, and a simultaneous
    step of `TwoTimescale` is a step of deep Q-learning. What the updates lead to is a fixed point,
    not a minimiser of any g.

    Args:
        environment: how it is made; the first one tells how many actions there are.
        network: body and head.
        actions: how many columns the head has.
        settings: the numbers.
        replay: how the memory is made.
        note: one sentence on the environment and its options, shown in reports; a checkpoint is of
            one note.

    Source: arXiv 2605.15530, section 5.4. Differs from the source in: 1. the ridge, which the exact
    heads need; 2. widths, exploration and frames, which are not published.
    """

    fit_bias = True
    penalize_bias = True
    headline = "last_return"
    judged = ("area_return",)
    pairwise = True
    usual: ClassVar[Mapping[str, float]] = {
        "body_lr": 2.5e-4,
        "head_lr": 1.25e-3,
        "steps": 3626,
    }

    def __init__(
        self,
        environment: MakesEnvironment,
        network: QNetwork,
        actions: int,
        settings: Settings,
        *,
        replay: MakesReplay = whole,
        note: str = "",
    ) -> None:
        self.environment, self.network, self.settings = environment, network, settings
        self.replay, self.outputs, self.note = replay, actions, note
        self.ridge = float(settings.ridge)

    def data(self, seed: int | None = None) -> Groups:
        """None: all rows are experienced."""
        return {}

    def init_body(self, generator: torch.Generator) -> Tree:
        """That of the network."""
        return self.network.init_body(generator)

    def init_head(self, generator: torch.Generator) -> Tensor:
        """That of the network."""
        assert self.outputs is not None
        return self.network.init_head(self.outputs, generator)

    def features(self, body: Tree, inputs: Tensor) -> Tensor:
        """Those of the network."""
        return self.network.features(body, inputs)

    def row_weights(self, body: Tree, batch: Groups) -> Tensor:
        """One where the action was chosen, else zero."""
        weights: Tensor = batch[GIVEN]["weights"]
        return weights

    def prior(self, body: Tree, batch: Groups) -> Tensor:
        """The head before the update, a constant."""
        prior: Tensor = batch[GIVEN]["prior"]
        return prior

    def experience(self, seeds: Sequence[int], body: Tree, head: Tree) -> Learner:
        """The learners, which have done nothing yet."""
        make = self.environment, self.network, self.replay, self.settings
        return Learner(*make, seeds, body, head, note=self.note)

    def metrics(self, body: Tree, head: Tensor, data: Groups) -> dict[str, Tensor]:
        """Of the transitions of a record: the mean of max Q, and the rank of the features."""
        z = self.network.features(body, data["train"].inputs)
        best = self.predictions_of(z, head).amax(1)
        finite = z.isfinite().all()  # else a run that is lost would end all others
        size = torch.linalg.svdvals(torch.where(finite, z, 0.0))
        # of float32, in which they are trained; in float64 all of them would count
        least = size[0] * max(z.shape) * torch.finfo(torch.float32).eps
        rank = (size > least).sum().to(best)
        return {"mean_max_q": best.mean(), "feature_rank": torch.where(finite, rank, torch.nan)}

    def strategies(self, body_lr: float, head_lr: float) -> Mapping[str, AbstractStrategy]:
        """The eight configurations."""
        return configurations(body_lr, head_lr, self.settings)
