"""The truncated Neumann series of the inverse."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import trees
from bilevel.core.checks import Number, check_positive_integer, positive
from bilevel.core.cost import Cost
from bilevel.core.status import Status
from bilevel.linear.base import AbstractLinearSolver, LinearSolution
from bilevel.linear.cholesky import replace_bad
from bilevel.linear.operator import Operator, normalised, to_tree, to_vectors
from bilevel.trees import Tree

LANCZOS_STEPS = 10
SAFETY = 1.1


@dataclasses.dataclass(frozen=True, eq=False)
class Neumann(AbstractLinearSolver):
    r"""The first terms of a Neumann series.

    $$v_K = \eta \sum_{j<K} (I - \eta H)^j\, b \;\to\; H^{-1} b \quad\text{if}\quad 0 < \eta < 2/L$$

    It is K steps $v \leftarrow v + \eta (b - Hv)$ from zeros, or from a start. So $v_K - v^*$ is
    $(I - \eta H)^K (v_0 - v^*)$, and with the eigenvalues of $H$ in $[\mu, L]$ and
    $\eta \le 2/(L + \mu)$

    $$\lVert v_K - v^*\rVert \le (1 - \eta\mu)^K \lVert v_0 - v^*\rVert,$$

    since then $|1 - \eta\lambda| \le 1 - \eta\mu$ for every eigenvalue $\lambda$.

    The default of $\eta$ is $1/(1.1\,l)$, $l$ the largest eigenvalue in size of $H$ on the Krylov
    space of 10 products, from one fixed random vector. $l$ never exceeds $L$; the factor makes up
    for what it falls short. The rate needs $l \ge (L + \mu)/2.2$. For $\mu \ll L$, this is missed
    with a probability below $2 \cdot 10^{-6} \sqrt P$ over such vectors, $P$ the numbers of the
    head.

    Statuses: `COMPLETED` when all steps were made, however large the residual is, which is the
    reader's to judge; `NOT_CONTRACTING` when $\eta l > 2$ or the residual grew in a step, neither
    of which happens for $\eta$ in $(0, 2/L)$ and positive $H$ (the value is what the steps gave,
    NaN if that overflowed); `SINGULAR` when H is zero and b is not; `DIVERGED`.

    It computes in the type of b.

    Args:
        steps: K, at least 1.
        step_size: $\eta$, a number or (R,) numbers; None: as above. It has nothing to do
            with the step size of a head or a body.

    Raises:
        ArgumentError: `steps` is not a positive integer, or `step_size` not positive.

    Source: Lorraine, Vicol and Duvenaud, Optimizing millions of hyperparameters by implicit
    differentiation (AISTATS 2020), algorithm 3. For l: Kuczynski and Wozniakowski, Estimating the
    largest eigenvalue by the power and Lanczos algorithms with a random start (1992), section 4.
    Differs from the source in: 1. $\eta$ is not the step size of the head. 2. The series may start
    anywhere. 3. A series that does not contract is reported.

    Examples:
        >>> import torch
        >>> from bilevel import Neumann
        >>> from bilevel.linear import Operator
        >>> operator = Operator(lambda v: 2 * v, lambda: 2 * torch.eye(1).unsqueeze(0))
        >>> float(Neumann(60).solve(operator, torch.ones(1)).value)
        0.5
    """

    steps: int
    step_size: Number | None = None

    def __post_init__(self) -> None:
        check_positive_integer(self.steps, "`steps`")
        if self.step_size is not None:
            object.__setattr__(self, "step_size", positive(self.step_size, "`step_size`"))

    @torch.no_grad()
    @override
    def solve(self, operator: Operator, right: Tree, start: Tree | None = None) -> LinearSolution:
        b, scale = normalised(trees.flatten(right).detach())
        product = operator.on_vectors(right)
        largest = largest_seen(product, b)
        rate, beyond = self._rate(largest)
        if start is None:
            v, residual = torch.zeros_like(b), b
        else:
            v = to_vectors(start, b) / scale
            residual = b - product(v)
        size, norm, grew = b.norm(dim=1), residual.norm(dim=1), torch.zeros_like(beyond)
        # of a product: 10 eps (|b| + |H| |v|), with |H| <= 2 / eta if the series contracts
        margin = 10 * torch.finfo(b.dtype).eps
        for _ in range(self.steps):
            v = v + rate * residual
            residual = b - product(v)
            before, norm = norm, residual.norm(dim=1)
            grew |= norm > before + margin * (size + 2 / rate[:, 0] * v.norm(dim=1))
        status = torch.full_like(norm, int(Status.COMPLETED), dtype=torch.int64)
        status = status.masked_fill((largest == 0) & (size > 0), int(Status.SINGULAR))
        v, norm = v * scale, norm * scale[:, 0]
        lost = ~(v.isfinite().all(1) & norm.isfinite())
        status = status.masked_fill(lost, int(Status.DIVERGED))
        known = largest.isfinite() & size.isfinite()  # so whatever overflowed, the steps did it
        status = status.masked_fill((grew | beyond) & known, int(Status.NOT_CONTRACTING))
        v, norm = v.masked_fill(lost.unsqueeze(1), torch.nan), norm.masked_fill(lost, torch.nan)
        return LinearSolution(to_tree(v, right), norm, status)

    def _rate(self, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Eta, (R, 1), and whether it is proven to be too large, (R,)."""
        if self.step_size is None:
            rate = 1 / (SAFETY * torch.where(largest > 0, largest, torch.ones_like(largest)))
            return rate.unsqueeze(1), torch.zeros_like(rate, dtype=torch.bool)
        rate = torch.as_tensor(self.step_size, dtype=largest.dtype, device=largest.device)
        rate = torch.as_tensor(trees.per_run(rate, largest)).expand_as(largest)
        slack = 1 + 100 * torch.finfo(rate.dtype).eps
        return rate.unsqueeze(1), rate * largest > 2 * slack

    @property
    def cost(self) -> Cost:
        """A product per step, 10 for l, and one for a start."""
        return Cost(products=self.steps + LANCZOS_STEPS + 1)


def largest_seen(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """A lower bound on |H|, seldom far below it, by the Lanczos method, (R,).

    The start is the same for every run and every call. Vectors are not orthogonalised again, which
    takes their memory and would only make eigenvalues that are found already appear once.

    Args:
        product: of H with vectors (R, P).
        like: vectors of the same shape, type and device.
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(like.shape[1], generator=generator, dtype=torch.float64)
    q = (first / first.norm()).to(like).expand_as(like)
    before, above = torch.zeros_like(q), torch.zeros_like(like[:, :1])
    matrix = like.new_zeros(len(like), LANCZOS_STEPS, LANCZOS_STEPS)  # H in the basis, tridiagonal
    for j in range(LANCZOS_STEPS):
        image = product(q)
        ahead = image - above * before
        matrix[:, j, j] = trees.dot(q, ahead)
        ahead = ahead - matrix[:, j, j].unsqueeze(1) * q
        size = trees.norm(ahead)
        # what is left when the space is complete is rounding
        size = size.masked_fill(size <= 10 * torch.finfo(q.dtype).eps * trees.norm(image), 0.0)
        if j + 1 < LANCZOS_STEPS:
            matrix[:, j, j + 1] = matrix[:, j + 1, j] = size
        above, before = size.unsqueeze(1), q
        q = torch.where(above == 0, torch.zeros_like(q), ahead / above)
    safe, bad = replace_bad(matrix.unsqueeze(1))
    largest: Tensor = torch.linalg.eigvalsh(safe[:, 0]).abs().amax(1)
    return largest.masked_fill(bad, torch.nan)
