"""Features and targets as seen from where they lie, for heads with a constant feature.

The Gram matrix of features that are far from zero consists of their means but for a part that
rounding may swallow. Where a constant feature takes part in the head, features may be counted from
any origin o and targets from any level l: with the constant feature last, e its unit vector,

    z theta - t = (z - o) theta_c - (t - l),    theta_c = T theta - l e,    T = I + e o'

so that only the bias changes. Near the means, nothing of the spread is lost.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.derivatives.linear_parts import LinearParts
from bilevel.derivatives.oracles import Bias
from bilevel.linear.cholesky import EPS

AT_ONCE = 2**17
"""Numbers of rows in float64 that are multiplied at once on a processor: a megabyte."""
FAR = 1e3
"""Means so many times as large as their spread cost a Gram matrix six digits."""


class Centre(NamedTuple):
    """Where features and targets are counted from.

    Attributes:
        origin: o, (R, m), zero for the constant feature.
        level: l, (R, K).
    """

    origin: Tensor
    level: Tensor

    def inward(self, theta: Tensor) -> Tensor:
        """theta_c of theta (R, m, K)."""
        found = shifted(self.origin, theta)
        found[:, -1] -= self.level
        return found

    def outward(self, theta: Tensor) -> Tensor:
        """theta of theta_c (R, m, K)."""
        found = shifted(-self.origin, theta)
        found[:, -1] += self.level
        return found

    def slope(self, columns: Tensor) -> Tensor:
        """A slope in theta, T'r, from one in theta_c, r (R, m, K)."""
        return pulled(self.origin, columns)

    def stretch(self) -> Tensor:
        """|T|^2 = |T^{-1}|^2, (R,)."""
        square = self.origin.square().sum(1)
        return 1 + square / 2 + (square + square.square() / 4).sqrt()

    def undone(self, matrix: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """T'M T and T'(b + M l e) of M (R, J, m, m) and b (R, m, K), J being 1 or K."""
        raised = moment + matrix[..., -1].mT * self.level.unsqueeze(1)
        # T is the identity but for its last row: two updates of rank one are all of T'M T
        flat, o = matrix.flatten(0, 1), self.origin.repeat_interleave(matrix.shape[1], 0)
        flat = torch.baddbmm(flat, flat[..., -1:], o.unsqueeze(1))
        flat = torch.baddbmm(flat, o.unsqueeze(2), flat[:, -1:])
        return flat.view(matrix.shape), pulled(self.origin, raised)

    def penalty(self, penalty: Tensor) -> Tensor:
        """T'^{-1} diag(p) T^{-1} for p (R, J, m), (R, J, m, m): p_b v v' with v = e - o."""
        # from the centre the bias is another number, so that its penalty couples it with all
        free, v = penalty.clone(), -self.origin
        free[..., -1], v[:, -1] = 0.0, 1.0
        v = v.repeat_interleave(penalty.shape[1], 0).unsqueeze(1)
        held = v.mT * penalty[..., -1].reshape(-1, 1, 1)
        return torch.baddbmm(torch.diag_embed(free).flatten(0, 1), held, v).view(*free.shape, -1)

    def moment(self, moment: Tensor, penalty: Tensor) -> Tensor:
        """The right-hand side in theta_c from A'u/n (R, m, K): less the penalty's slope at l e."""
        v = -self.origin
        v[:, -1] = 1.0
        return torch.baddbmm(
            moment, v.unsqueeze(2), (penalty[..., -1] * self.level).unsqueeze(1), alpha=-1
        )

    def floor(self, gram: Tensor, penalty: Tensor, rows: int) -> Tensor:
        """A lower bound on the smallest eigenvalue of H that needs no eigenvalues, (R,).

        With x the weighted mean of the features and s that of the weights, H is at least
        T'diag(p, s)T where o = x, and |T^{-1}|^2 is at most 2 + |x|^2.

        Args:
            gram: A'A/n from this origin, (R, m, m), or (R, K, m, m) where weights differ by output.
            penalty: p, (R, J, m).
            rows: n.
        """
        if gram.ndim == 4:
            each = penalty.expand(-1, gram.shape[1], -1).unsqueeze(2).unbind(1)
            pairs = zip(gram.unbind(1), each, strict=True)
            return torch.stack([self.floor(*pair, rows) for pair in pairs]).amin(0)
        least, total = penalty[..., :-1].amin((1, 2)), gram[:, -1, -1]
        mean = self.origin[:, :-1] + gram[:, -1, :-1] / total.unsqueeze(1)
        rounding = EPS * (rows + 8)
        spread = (gram.diagonal(dim1=1, dim2=2).sum(1) / total).sqrt()
        length = torch.linalg.vector_norm(mean, dim=1) + rounding * spread
        found = torch.minimum(least, total) * (1 - 2 * rounding) / (2 + length.square())
        return torch.maximum(found.nan_to_num(0.0, 0.0), penalty.flatten(1).amin(1))


def shifted(origin: Tensor, columns: Tensor) -> Tensor:
    """T x for (R, m, K); its inverse is that of -o."""
    found = columns.clone()
    found[:, -1:].baddbmm_(origin.unsqueeze(1), columns)
    return found


def pulled(origin: Tensor, columns: Tensor) -> Tensor:
    """T' r for (R, m, K); its inverse is that of -o."""
    return torch.baddbmm(columns, origin.unsqueeze(2), columns[:, -1:])


def centre_of(parts: LinearParts, bias: Bias) -> Centre:
    """The weighted means of features and targets, a part of them where the bias is penalised.

    With s the mean of the weights and p the largest penalty of the bias, it is s / (s + p) of them:
    from there, the bias and the features do not interact. Weights that differ by output are those
    of their means here, so that all outputs are counted from one place.

    Args:
        parts: the last feature is the constant one.
        bias: whether it is penalised.
    """
    design, targets, weights, penalty = parts[:4]
    weights = weights.mean(2) if weights is not None and parts.by_output else weights
    total: float | Tensor = 1.0
    # rounding in the means is harmless: any centre near them gives the same head
    if weights is None:
        means = [x.mean(1).double() for x in (design, targets)]
    else:
        tiny = torch.finfo(torch.float64).tiny
        sums = weights.double().sum(1).clamp(min=tiny).unsqueeze(1)
        row, total = weights.unsqueeze(1) / sums.unsqueeze(2), sums / design.shape[1]
        means = [(row.to(x.dtype) @ x).squeeze(1).double() for x in (design, targets)]
    origin, level = means
    if bias == "penalised":
        held = penalty[:, -1].double().reshape(len(penalty), -1).amax(1, keepdim=True)
        origin, level = (x * (total / (total + held)) for x in means)
    if parts.bare:
        origin = torch.cat([origin, torch.zeros_like(origin[:, :1])], 1)
    else:
        origin[:, -1] = 0.0
    return Centre(origin, level)


class Joined(NamedTuple):
    """[A u] = sqrt(s) [Z t] of all rows, (R, n, m + K), as it is made of its parts.

    Attributes:
        parts: targets (R, n, K); weights (R, n), see `outputs`.
        centre: from where features and targets are counted; None: from zero.
    """

    parts: LinearParts
    centre: Centre | None

    @classmethod
    def of(cls, parts: LinearParts, bias: Bias | None = None) -> "Joined":
        """With a bias beside other features, counted from the third value, else from zero."""
        if parts.targets.ndim == 2:
            parts = parts._replace(targets=parts.targets.unsqueeze(2).double())
        centred = bias is not None and parts.penalty.shape[1] > 1
        return cls(parts, centre_of(parts, bias) if centred and bias is not None else None)

    def outputs(self) -> "list[Joined]":
        """Each output alone, where weights differ by output."""
        parts, weights, found = self.parts, self.parts.weights, []
        assert weights is not None
        for k in range(weights.shape[2]):
            one = slice(k, k + 1)
            kept = parts._replace(targets=parts.targets[..., one], weights=weights[..., k])
            centre = self.centre and Centre(self.centre.origin, self.centre.level[:, one])
            found.append(Joined(kept, centre))
        return found

    @property
    def width(self) -> int:
        """m + K."""
        return self.parts.penalty.shape[1] + self.parts.targets.shape[2]

    @property
    def penalty(self) -> Tensor:
        """(R, J, m), float64."""
        return by_output(self.parts.penalty.double())

    @property
    def prior(self) -> Tensor | None:
        """(R, m, K), float64."""
        found = self.parts.prior
        return None if found is None else found.double().reshape(*found.shape[:2], -1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """A'A/n and A'u/n, (R, m, m) and (R, m, K); (R, K, m, m) for weights of outputs."""
        if self.parts.by_output:
            each = [one.moments() for one in self.outputs()]
            return torch.stack([x for x, _ in each], 1), torch.cat([x for _, x in each], 2)
        design, targets, weights, penalty = self.parts[:4]
        m, exact = penalty.shape[1], design.dtype == targets.dtype == torch.float64
        if not exact or weights is not None or self.centre is not None or self.parts.bare:
            product = self.products()
            return product[:, :m, :m], product[:, :m, m:]
        # nothing to cast, shift or weigh: to write them beside each other takes longer than this
        n = design.shape[1]
        gram, moment = (torch.bmm(x.mT, design).div_(n) for x in (design, targets))
        return gram, moment.mT

    def rows(self) -> Tensor:
        """All of them, float64."""
        if torch.compiler.is_compiling():
            return self._beside()
        runs, n = self.parts.design.shape[:2]
        made = self.parts.design.new_empty(runs, n, self.width, dtype=torch.float64)
        return self._written(made, slice(None), slice(None))

    def products(self) -> Tensor:
        """[A u]'[A u] / n, (R, m + K, m + K).

        On a processor a few rows after the other: they are cast and moved where they stay in its
        cache, and memory for all would be mapped anew in each step.
        """
        design, width = self.parts.design, self.width
        runs, n = design.shape[:2]
        quick = torch.compiler.is_compiling() or design.device.type != "cpu"
        if quick or runs * n * width <= AT_ONCE:
            joined = self.rows()
            return joined.mT @ joined / n
        together = max(1, AT_ONCE // (n * width))
        count = -(-n // -(-n * width // AT_ONCE))  # rows of about equal chunks
        found = design.new_empty(runs, width, width, dtype=torch.float64)
        buffer = found.new_empty(together, count, width)
        for first in range(0, runs, together):
            some = slice(first, first + together)
            product = found[some]
            for row in range(0, n, count):
                made = buffer[: len(product), : min(count, n - row)]
                joined = self._written(made, some, slice(row, row + count))
                product.baddbmm_(joined.mT, joined, beta=1 if row else 0)
        return found.div_(n)

    def _beside(self) -> Tensor:
        """The same for the compiler, which makes one loop of what it writes into slices."""
        design, targets, weights = self.parts[:3]
        columns = [design.double(), targets.double()]
        if self.parts.bare:
            columns.insert(1, torch.ones_like(columns[0][..., :1]))
        if self.centre is not None:
            sizes = [x.shape[2] for x in columns]
            origins = torch.split(torch.cat(self.centre, 1).unsqueeze(1), sizes, 2)
            columns = [x - origin for x, origin in zip(columns, origins, strict=True)]
        if weights is not None:
            root = weights.double().sqrt().unsqueeze(2)
            columns = [x * root for x in columns]
        return torch.cat(columns, 2)

    def _written(self, made: Tensor, runs: slice, rows: slice) -> Tensor:
        """Some rows of some runs, written into `made`."""
        design, targets, weights, penalty = self.parts[:4]
        m = penalty.shape[1]
        made[..., : design.shape[2]] = design[runs, rows]
        if self.parts.bare:
            made[..., m - 1] = 1.0
        made[..., m:] = targets[runs, rows]
        if self.centre is not None:
            made -= torch.cat([x[runs] for x in self.centre], 1).unsqueeze(1)
        if weights is not None:
            made *= weights[runs, rows].double().sqrt().unsqueeze(2)
        return made


def by_output(penalty: Tensor) -> Tensor:
    """(R, m) to (R, 1, m), (R, m, K) to (R, K, m)."""
    return penalty.unsqueeze(1) if penalty.ndim == 2 else penalty.mT
