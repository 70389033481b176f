"""Factors of the Hessian of a head, kept to solve for adjoints too.

They are NamedTuples of tensors with the run axis first, so that a state can hold them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.linear.centre import pulled, shifted


class PrimalFactor(NamedTuple):
    """H = L L', factored as it is.

    Attributes:
        cholesky: L, (R, J, m, m): J = 1, or one matrix for each output.
        hessian: H, the matrix that was factored.
    """

    cholesky: Tensor
    hessian: Tensor

    def product(self, columns: Tensor) -> Tensor:
        """H x for (R, m, K)."""
        count = self.hessian.shape[1]
        return merge_outputs(self.hessian @ split_outputs(columns, count))

    def solve(self, columns: Tensor) -> Tensor:
        """H^{-1} b for (R, m, K), with one step of iterative refinement."""
        right = split_outputs(columns, self.hessian.shape[1])
        found = by_cholesky(right, self.cholesky)
        return merge_outputs(found + by_cholesky(right - self.hessian @ found, self.cholesky))


class CentredFactor(NamedTuple):
    """H = T'L L'T, factored in theta_c = T theta, see `bilevel.linear.centre`.

    Attributes:
        inner: L L'.
        origin: o, (R, m), zero for the constant feature, which is the last one.
    """

    inner: PrimalFactor
    origin: Tensor

    def product(self, columns: Tensor) -> Tensor:
        """H x for (R, m, K)."""
        return pulled(self.origin, self.inner.product(shifted(self.origin, columns)))

    def solve(self, columns: Tensor) -> Tensor:
        """H^{-1} b for (R, m, K), with one step of iterative refinement."""
        return shifted(-self.origin, self.inner.solve(pulled(-self.origin, columns)))


class DualFactor(NamedTuple):
    """H = A'A/n + P through n I + A P^{-1} A' = L L', for fewer rows than features.

    H^{-1} b = P^{-1} b - P^{-1} A' (n I + A P^{-1} A')^{-1} A P^{-1} b.

    Attributes:
        cholesky: L, (R, J, n, n).
        design: A, (R, n, m), or (R, K, n, m) where weights of rows differ by output.
        penalty: the diagonal of P, (R, J, m); J is 1 or K.
    """

    cholesky: Tensor
    design: Tensor
    penalty: Tensor

    def product(self, columns: Tensor) -> Tensor:
        """H x for (R, m, K)."""
        each = blocks_of(self.design)
        found = fitted(each.mT, fitted(each, columns)) / each.shape[2]
        return found + self.penalty.mT * columns

    def solve(self, columns: Tensor) -> Tensor:
        """H^{-1} b for (R, m, K), with one step of iterative refinement."""
        found = self._once(columns)
        return found + self._once(columns - self.product(found))

    def _once(self, columns: Tensor) -> Tensor:
        design = blocks_of(self.design)
        count = self.cholesky.shape[1]
        scaled = split_outputs(columns, count) / self.penalty.unsqueeze(3)
        inner = by_cholesky(design @ scaled, self.cholesky)
        return merge_outputs(scaled - (design.mT @ inner) / self.penalty.unsqueeze(3))


class BlockFactor(NamedTuple):
    """L L', close to a Hessian that changes with the head: a matrix for each block of numbers.

    On vectors (R, P), P = J q. A linear head of K outputs is written output by output: K blocks of
    M numbers where the outputs do not interact, else one of M K, or K of their combinations where
    that is too large; P blocks of one number are a diagonal.

    Attributes:
        cholesky: L, (R, J, q, q), float64; the identity where there is none.
        usable: which runs have a factor, (R,).
        mix: orthogonal, (R, J, J): the blocks are those of the matrix with the outputs turned by
            it; None: as they are.
    """

    cholesky: Tensor
    usable: Tensor
    mix: Tensor | None = None

    @classmethod
    def none(cls, like: Tensor, blocks: int) -> "BlockFactor":
        """No factor yet, for vectors like `like` (R, P)."""
        runs, size = like.shape
        each = size // blocks
        identity = torch.eye(each, dtype=torch.float64, device=like.device)
        usable = torch.zeros(runs, dtype=torch.bool, device=like.device)
        return cls(identity.expand(runs, blocks, each, each).clone(), usable)

    def solve(self, vectors: Tensor) -> Tensor:
        """(L L')^{-1} b."""
        return self.unwhiten(self.whiten(vectors))

    def whiten(self, vectors: Tensor) -> Tensor:
        """L^{-1} b."""
        columns = self._columns(vectors)
        if self.mix is not None:
            columns = (self.mix.mT @ columns.squeeze(3)).unsqueeze(3)
        found: Tensor = torch.linalg.solve_triangular(self.cholesky, columns, upper=False)
        return found.flatten(1)

    def unwhiten(self, vectors: Tensor) -> Tensor:
        """L'^{-1} b."""
        columns = self._columns(vectors)
        found: Tensor = torch.linalg.solve_triangular(self.cholesky.mT, columns, upper=True)
        if self.mix is not None:
            found = self.mix @ found.squeeze(3)
        return found.flatten(1)

    def replaced(
        self, which: Tensor, cholesky: Tensor, mix: Tensor | None = None, *, in_place: bool = False
    ) -> "BlockFactor":
        """With other matrices in the runs `which` (R,), given one after the other."""
        if bool(which.all()):  # contiguous, so that one that was stored gives the same numbers
            return BlockFactor(cholesky.double().contiguous(), which, mix)
        changed = self.cholesky if in_place else self.cholesky.clone()
        changed[which] = cholesky.double()
        turned = self.mix
        if mix is not None:
            turned = torch.eye(mix.shape[1]).to(mix).repeat(len(which), 1, 1)
            turned = (turned if self.mix is None else self.mix).index_put((which,), mix)
        return BlockFactor(changed, self.usable | which, turned)

    def _columns(self, vectors: Tensor) -> Tensor:
        runs, blocks, each = self.cholesky.shape[:3]
        return vectors.reshape(runs, blocks, each, 1)


Factor = PrimalFactor | CentredFactor | DualFactor


def by_cholesky(columns: Tensor, cholesky: Tensor) -> Tensor:
    """(L L')^{-1} b: quicker than `torch.cholesky_solve`, which copies L."""
    # column by column, as it is made: in another order, the last digits would be others
    upper = cholesky.mT.contiguous()
    inner = torch.linalg.solve_triangular(upper.mT, columns, upper=False)
    found: Tensor = torch.linalg.solve_triangular(upper, inner, upper=True)
    return found


def blocks_of(design: Tensor) -> Tensor:
    """Weighted features (R, n, m) or (R, K, n, m) as (R, 1, n, m) or (R, K, n, m)."""
    return design if design.ndim == 4 else design.unsqueeze(1)


def fitted(blocks: Tensor, columns: Tensor) -> Tensor:
    """A x for (R, m, K), with one A for all outputs or one for each, (R, 1 or K, n, m)."""
    return merge_outputs(blocks @ split_outputs(columns, blocks.shape[1]))


def split_outputs(columns: Tensor, count: int) -> Tensor:
    """(R, m, K) to (R, 1, m, K), or to (R, K, m, 1) if every output has its own matrix."""
    return columns.unsqueeze(1) if count == 1 else columns.mT.unsqueeze(3)


def merge_outputs(columns: Tensor) -> Tensor:
    """The inverse of `split_outputs`."""
    return columns[:, 0] if columns.shape[1] == 1 else columns.squeeze(3).mT
