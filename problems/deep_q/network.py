"""What a Q network is: a body, and a linear head with a column for each action."""

from typing import Protocol

import torch
from torch import Tensor

from bilevel.trees import Tree


class QNetwork(Protocol):
    """Features z(s) of the body; Q(s, .) = z(s) Theta with a bias in the last row of Theta."""

    def init_body(self, generator: torch.Generator) -> Tree:
        """The body of one run, drawn with `generator` only."""

    def init_head(self, actions: int, generator: torch.Generator) -> Tensor:
        """Its head, (M + 1, actions), likewise; the last row is the bias."""

    def features(self, body: Tree, observations: Tensor) -> Tensor:
        """The features (n, M) of `observations` (n, ...) for one run.

        It is mapped over runs and differentiated: operations of tensors only, none in place.
        Observations come as the environment gives them, uint8 too.
        """

    def features_of_runs(self, body: Tree, observations: Tensor) -> Tensor:
        """The same for R runs: bodies with leaves (R, ...), (R, n, ...) to (R, n, M), no graph.

        Called at every step to act and for the targets, so it is to be quick; a run's features
        must not depend on the others.
        """
