"""How R runs act, remember, and make rows to learn from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import AbstractExperience, Batch, trees
from bilevel.problem.base import Groups
from bilevel.trees import Tree
from problems.deep_q.environment import MakesEnvironment
from problems.deep_q.episodes import Episodes
from problems.deep_q.network import QNetwork, values
from problems.deep_q.replay import MakesReplay, Transitions
from problems.deep_q.settings import Settings
from problems.deep_q.streams import Streams

GIVEN = "given"
"""The group that holds what is constant in g: the weights of the rows, and the prior."""


class Learner(AbstractExperience):
    """The experience of R deep Q-learners, one update after the other.

    Before an update the runs act: `start` steps at first, then `every` steps, epsilon-greedily by
    their bodies and heads. The rows of the update are transitions (s, a, r, s') from the replay
    memory with the targets

        t = r + gamma (1 - cut) max_a' Q(s', a'; target)

    `target` is a copy of body and head, taken after the updates at multiples of `target_every`
    steps. Weights are 1 for the action that was chosen and 0 for the others, the prior is the head.

    Exploration and draws are functions of the seed and the step, so that a run is the same alone
    and among others, and two runs of one seed differ by what they learned.

    Args:
        environment: how it is made.
        network: body and head.
        replay: how its memory is made.
        settings: the numbers.
        seeds: of the R runs.
        body: the initial bodies, leaves (R, ...).
        head: the initial heads, (R, M + 1, A).
        note: what is to be told of the environment and its options.
    """

    def __init__(
        self,
        environment: MakesEnvironment,
        network: QNetwork,
        replay: MakesReplay,
        settings: Settings,
        seeds: Sequence[int],
        body: Tree,
        head: Tensor,
        *,
        note: str = "",
    ) -> None:
        self.network, self.settings, self.note = network, settings, note
        self.environment = environment(seeds, head.dtype)
        self.observations = self.environment.reset()
        self.replay = replay(self.environment, self.observations, settings.capacity)
        self.streams, self.episodes = Streams(seeds), Episodes(len(seeds))
        self.target = trees.tree_map(torch.clone, (body, head))
        self._updates, self._at = 0, (body, head)
        self._chosen = torch.eye(head.shape[2], dtype=head.dtype, device=head.device)

    @property
    @override
    def description(self) -> str:
        return f"{self.note} {self.network}, {self.settings}".strip()

    @property
    def steps(self) -> int:
        """How many agent steps were made."""
        return self.episodes.steps

    @override
    def rows(self, k: int, body: Tree, head: Tree) -> Groups:
        settings = self.settings
        if self.steps and self.steps % settings.target_every == 0:
            self.target = trees.tree_map(torch.clone, (body, head))
        for _ in range(settings.every if self.steps else settings.start):
            self._act(body, head)
        self._at = body, head
        numbers = self.streams.draws(self._updates, settings.batch)
        self._updates += 1
        return self._batch(self.replay.draw(numbers), head)

    @override
    def more(self, size: int, j: int) -> Groups:
        if bool((self.replay.filled == 0).any()):
            return self._nothing(self._at[1], size)
        numbers = self.streams.others("more", j, size)
        return self._batch(self.replay.draw(numbers), self._at[1])

    @override
    def evaluated(self, body: Tree, head: Tree) -> Groups:
        if bool((self.replay.filled == 0).any()):
            return self._nothing(head, self.settings.evaluated)
        numbers = self.streams.others("evaluated", 0, self.settings.evaluated)
        return self._batch(self.replay.draw(numbers), head)

    @override
    def recorded(self) -> dict[str, Tensor]:
        runs = len(self.observations)
        made = {"agent_steps": self.steps, "frames": self.steps * self.settings.frames}
        counts = {name: torch.full((runs,), float(value)) for name, value in made.items()}
        return {**self.episodes.recorded(), **counts}

    @override
    def snapshot(self) -> dict[str, Tensor]:
        parts = {
            "environment": self.environment.snapshot(),
            "replay": self.replay.snapshot(),
            "episodes": self.episodes.snapshot(),
            "target": {place: leaf.clone() for place, leaf in trees.named_leaves(self.target)},
        }
        found = {f"{part}.{name}": x for part, named in parts.items() for name, x in named.items()}
        updates = torch.full((len(self.observations),), self._updates)
        return {**found, "updates": updates}

    @override
    def go_on_from(self, snapshot: dict[str, Tensor]) -> None:
        def of(part: str) -> dict[str, Tensor]:
            start = part + "."
            return {k[len(start) :]: x for k, x in snapshot.items() if k.startswith(start)}

        self.observations = self.environment.go_on_from(of("environment"))
        self.replay.go_on_from(of("replay"))
        self.episodes.go_on_from(of("episodes"))
        kept = of("target")
        leaves = [kept[place].clone() for place, _ in trees.named_leaves(self.target)]
        self.target = trees.rebuild(self.target, leaves)
        self._updates = int(snapshot["updates"][0])

    def _act(self, body: Tree, head: Tensor) -> None:
        """One step of all runs."""
        z = self.network.features_of_runs(body, self.observations.unsqueeze(1).to(head.device))
        greedy = values(z, head)[:, 0].argmax(1).cpu()
        chance, which = self.streams.exploration(self.steps)
        random = (which * self.environment.actions).long()
        epsilon = self.settings.exploring(self.steps)
        moved = self.environment.step(torch.where(chance < epsilon, random, greedy))
        rewards = moved.rewards.sign() if self.settings.clip_rewards else moved.rewards
        self.replay.push(moved, rewards)
        self.episodes.add(moved)
        self.observations = moved.now

    def _batch(self, drawn: Transitions, head: Tensor) -> Groups:
        """The rows of transitions, at these heads."""
        drawn = trees.tree_map(lambda leaf: leaf.to(head.device), drawn)
        body, of_target = self.target
        best = values(self.network.features_of_runs(body, drawn.reached), of_target).amax(2)
        targets = drawn.rewards + self.settings.gamma * drawn.continues * best
        targets = targets.to(head).unsqueeze(2).expand(*targets.shape, head.shape[2])
        weights = self._chosen[drawn.actions]
        given = {"weights": weights, "prior": head}
        return {"train": Batch(drawn.observations, targets), GIVEN: given}

    def _nothing(self, head: Tensor, count: int) -> Groups:
        """Rows of weight zero, while there are none."""
        runs, _, actions = head.shape
        shape = self.observations.shape[1:]
        observations = self.observations.new_zeros(runs, count, *shape).to(head.device)
        zeros = head.new_zeros(runs, count, actions)
        return {"train": Batch(observations, zeros), GIVEN: {"weights": zeros, "prior": head}}
