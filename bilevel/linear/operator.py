"""The symmetric matrix of a linear system, by its products."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import ShapeError
from bilevel.trees import Tree


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """Symmetric matrices H of R runs, on trees shaped like the head.

    Args:
        product: v to $Hv$, both with leaves (R, ...). Linear in each run; runs do not interact.
        matrix: the explicit matrices (R, P, P), for heads of P numbers in the order of
            `trees.flatten`. Called only by solvers that need them.

    Examples:
        >>> import torch
        >>> from bilevel.linear import Operator
        >>> operator = Operator.from_matrix(2 * torch.eye(3).unsqueeze(0), torch.zeros(1, 3))
        >>> operator.product(torch.ones(1, 3))
        tensor([[2., 2., 2.]])
    """

    product: Callable[[Tree], Tree]
    matrix: Callable[[], Tensor]

    @classmethod
    def from_matrix(cls, matrix: Tensor, like: Tree) -> "Operator":
        """The operator of matrices (R, P, P) on trees such as `like`, leaves (R, ...)."""

        def product(tree: Tree) -> Tree:
            columns = trees.flatten(tree).to(matrix.dtype).unsqueeze(2)
            return trees.unflatten((matrix @ columns).squeeze(2), like)

        return cls(product, lambda: matrix)

    def on_vectors(self, like: Tree) -> Callable[[Tensor], Tensor]:
        """The product on vectors (R, P), each run's numbers in the order of `trees.flatten`.

        Raises:
            ShapeError: from the function, when `product` does not return trees such as `like`.
        """

        def product(vectors: Tensor) -> Tensor:
            made = trees.flatten(self.product(to_tree(vectors, like))).to(vectors.dtype)
            if made.shape != vectors.shape:
                raise ShapeError(
                    f"`product` of an Operator must return a tree like its argument, got "
                    f"{tuple(made.shape)} numbers (runs, numbers) from {tuple(vectors.shape)}."
                )
            return made

        return product


def to_tree(vectors: Tensor, like: Tree) -> Tree:
    """Vectors (R, P) as trees with the shapes and the types of `like`."""
    return trees.tree_map(
        lambda made, leaf: made.to(leaf.dtype), trees.unflatten(vectors, like), like
    )


def to_vectors(tree: Tree, like: Tensor) -> Tensor:
    """A start of an iteration as vectors without a graph, or a clear error.

    Args:
        tree: leaves (R, ...).
        like: the right-hand sides as vectors, (R, P).
    """
    made = trees.flatten(tree).detach().to(like.dtype)
    if made.shape != like.shape:
        raise ShapeError(
            f"`start` must be like `right`: it has {tuple(made.shape)} numbers (runs, numbers), "
            f"`right` has {tuple(like.shape)}."
        )
    return torch.where(made.isfinite().all(1, keepdim=True), made, torch.zeros_like(made))


def normalised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (R, P) of lengths in [1, 2), and the powers of two they were divided by, (R, 1).

    Dividing by a power of two is exact, and the squares of what is left neither overflow nor
    vanish. Runs that are zero or not finite are left alone.
    """
    scale = trees.norm(vectors).log2().floor().exp2()
    usable = scale.isfinite() & (scale > 0)
    scale = torch.where(usable, scale, torch.ones_like(scale)).unsqueeze(1)
    return vectors / scale, scale
