"""What a step costs."""

from typing import NamedTuple


class Cost(NamedTuple):
    """Work of one step of one run; how budgets are compared.

    Attributes:
        gradients: backward passes through g or F on a batch (a joint gradient is one).
        products: Hessian-vector and cross products.
        solves: exact head solves.
        passes: passes through all training rows, over and above those on batches.
    """

    gradients: float = 0
    products: float = 0
    solves: float = 0
    passes: float = 0

    def plus(self, other: "Cost") -> "Cost":
        """The sum of two costs."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))
