"""What is drawn for the runs: functions of a seed and a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel.core.generators import generator

BLOCK = 256
"""Steps whose numbers are drawn together."""


class Streams:
    """Uniform numbers for every step of R runs, by their seeds.

    Args:
        seeds: of the runs; those of one seed get the same numbers.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._distinct = sorted(set(seeds))
        places = {seed: i for i, seed in enumerate(self._distinct)}
        self._place = torch.tensor([places[seed] for seed in seeds])
        self._blocks: dict[str, tuple[int, Tensor]] = {}

    def exploration(self, step: int) -> tuple[Tensor, Tensor]:
        """Two uniform numbers of [0, 1) for each run, (R,): whether to explore, and which way."""
        both = self._at("exploration", step, (2,), whole=True)
        return both[:, 0], both[:, 1]

    def draws(self, update: int, size: int) -> Tensor:
        """Uniform numbers of [0, 1) for the transitions of an update, (R, size)."""
        return self._at("replay", update, (size,)).index_select(0, self._place)

    def others(self, stream: str, number: int, size: int) -> Tensor:
        """The same by other names, drawn each time."""
        found = [
            torch.rand(
                size, generator=generator(seed, "deep q", stream, number), dtype=torch.float64
            )
            for seed in self._distinct
        ]
        return torch.stack(found).index_select(0, self._place)

    def _at(self, stream: str, step: int, shape: tuple[int, ...], *, whole: bool = False) -> Tensor:
        """The numbers of a step, of all runs if `whole`, else of all seeds."""
        number, place = divmod(step, BLOCK)
        kept, block = self._blocks.get(stream, (-1, torch.empty(0)))
        if kept != number:
            block = self._drawn(stream, number, shape)
            block = block.index_select(1, self._place) if whole else block
            self._blocks[stream] = number, block
        return block[place]

    def _drawn(self, stream: str, number: int, shape: tuple[int, ...]) -> Tensor:
        """A block, (BLOCK, S, ...)."""
        return torch.stack(
            [
                torch.rand(
                    BLOCK,
                    *shape,
                    generator=generator(seed, "deep q", stream, number),
                    dtype=torch.float64,
                )
                for seed in self._distinct
            ],
            1,
        )
