"""Small legal arguments for advice on rates."""

import functools

import bilevel
from problems.planted_scales import Pretrained


class Fewest(Pretrained):
    """Few features."""

    columns, units = 3, 4


@functools.cache
def advice():
    """An advice of hardly any steps."""
    return bilevel.advise(Fewest(rows=20), steps=2, seeds=2, held_out_seeds=2, batch_size=8)


LEGAL = {
    "bilevel.advise": lambda: {
        "problem": Fewest(rows=20), "steps": 2, "batch_size": 8, "seeds": 2, "held_out_seeds": 2
    },
}  # fmt: skip
