"""What a step costs."""

from typing import NamedTuple


class Cost(NamedTuple):
    """Work of one step of one run; how budgets are compared.

    Attributes:
        gradients: of g or F on a batch (a joint gradient is one).
        products: Hessian-vector and cross products.
        solves: exact head solves.
        passes: passes through all training rows, over and above those on batches.

    Examples:
        >>> from bilevel import Cost
        >>> Cost(gradients=2, products=1).evaluations(batches=4)    # a product counts twice
        4
        >>> Cost(solves=1, passes=1).evaluations(batches=4)    # all rows are four batches
        4
    """

    gradients: float = 0
    products: float = 0
    solves: float = 0
    passes: float = 0

    def evaluations(self, batches: float) -> float:
        """The cost in gradients on a batch.

        A product counts as two gradients, and a pass through all rows as one for every batch that
        they make. The algebra of an exact solve, which is of another kind, is left out.

        Args:
            batches: rows of the training group per row of a batch, n / B.
        """
        return self.gradients + 2 * self.products + self.passes * batches

    def plus(self, other: "Cost") -> "Cost":
        """The sum of two costs."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))
