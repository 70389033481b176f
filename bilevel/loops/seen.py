"""What a head is refitted to: sums over all rows that were seen, or the last rows themselves."""

import collections
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core.status import Status
from bilevel.errors import SingularHeadError
from bilevel.linear.centre import Centre
from bilevel.linear.systems import RowMoments
from bilevel.loops.undisturbed import Precision


class Moments:
    """Z'Z and Z't of all rows, each step's times `decay` for every step after it.

    Beside a bias, features and targets are counted from the means of the first rows.

    Args:
        decay: from 0 to 1.
        fit_bias: whether there is a constant feature.
    """

    def __init__(self, decay: float, *, fit_bias: bool) -> None:
        self.decay, self.fit_bias = decay, fit_bias
        self.weight: float | Tensor = 0.0
        """How many rows there are, by the same weights."""
        self.product: Tensor | None = None
        """[A u]'[A u], (m + K, m + K), float64, the constant feature after the others."""
        self.origin: Tensor | None = None
        """Where A and u are counted from, (m + K,); None without a bias."""

    def add(self, z: Tensor, t: Tensor) -> None:
        """Add rows (n, M) and their targets (n, K), but for those that are not finite."""
        ones = [z.new_ones(len(z), 1)] * self.fit_bias
        joined = torch.cat([exact(part) for part in (z, *ones, t)], 1)
        usable = joined.isfinite().all(1, keepdim=True)
        if self.product is None:
            self.product = joined.new_zeros(joined.shape[1], joined.shape[1])
            if self.fit_bias:
                self.origin = joined.mean(0).nan_to_num(0.0, 0.0, 0.0)
                self.origin[z.shape[1]] = 0.0
        if self.origin is not None:
            joined = joined - self.origin
        joined = torch.where(usable, joined, 0.0)
        self.product.addmm_(joined.mT, joined, beta=self.decay)
        self.weight = self.decay * self.weight + usable.sum().double()

    def head(self, ridge: float, outputs: int) -> Tensor:
        """The ridge head, (m, K), float64.

        Raises:
            SingularHeadError: the rows do not determine it, or are not finite.
        """
        assert self.product is not None
        m, centre = len(self.product) - outputs, None
        penalty = self.product.new_full((1, 1, m), ridge)
        if self.origin is not None:
            penalty[..., -1] = 0.0
            centre = Centre(self.origin[:m].unsqueeze(0), self.origin[m:].unsqueeze(0))
        product = (self.product / self.weight).unsqueeze(0)
        moments = RowMoments.cut(product, penalty, centre, "free" if self.fit_bias else None)
        system = moments.system(max(1, round(float(self.weight))))
        theta, status, _ = system.factorised()
        sure = bool((status == int(Status.CONVERGED)) & trees.finite(theta))
        if not sure or (ridge == 0 and not bool(system.definite())):
            raise SingularHeadError(
                "The head cannot be refitted: the features that it saw do not determine it, or are "
                "not finite. Pass a larger `ridge`, and see whether the loss is finite."
            )
        return theta[0]

    def load(self, state: dict[str, Any], like: Tensor) -> None:
        """Take the numbers of a state, on the device of `like`."""
        self.weight = torch.as_tensor(state["weight"], dtype=torch.float64, device=like.device)
        self.product, self.origin = (
            None if x is None else exact(x.to(like.device)).clone()
            for x in (state["product"], state["origin"])
        )


class Call(NamedTuple):
    """A call of the model in training mode.

    Attributes:
        arguments: of the call.
        keywords: the same.
        targets: of what the head was given, (n,).
        precision: under which it was called.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    targets: Tensor
    precision: Precision


class LastCalls:
    """The calls that the last `rows` rows were given in.

    Args:
        rows: of the head, at least.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.count = rows, 0
        self.calls: collections.deque[Call] = collections.deque()

    def add(self, call: Call) -> None:
        """Copy a call, and forget those that are not needed any more."""
        arguments = trees.tree_map(copied, call.arguments)
        keywords = trees.tree_map(copied, call.keywords)
        kept = Call(arguments, keywords, copied(call.targets), call.precision)
        self.calls.append(kept)
        self.count += len(kept.targets)
        while self.count - len(self.calls[0].targets) >= self.rows:
            self.count -= len(self.calls.popleft().targets)

    def load(self, calls: list[Any], device: torch.device) -> None:
        """Take the calls of a state, on a device."""
        self.calls.clear()
        self.count = 0
        moved = trees.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, calls)
        for arguments, keywords, targets, precision in moved:
            self.add(Call(arguments, keywords, targets, Precision(*precision)))


def copied(leaf: Any) -> Any:
    """A tensor that the loop may not change any more; all else as it is."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def exact(rows: Tensor) -> Tensor:
    """In float64, on the processor where the device has none."""
    return rows.to("cpu" if rows.device.type == "mps" else rows.device, torch.float64)
