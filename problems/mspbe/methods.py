"""Linear methods of policy evaluation: directions for `SingleLoop`, and LSTD.

With delta = r + gamma phi'^T theta - phi^T theta, averages over the rows of a batch:

    TD     theta += alpha rho delta phi
    GTD2   theta += alpha rho (phi - gamma phi') (phi^T h)
    TDC    theta += alpha rho (delta phi - gamma phi' (phi^T h))
    TDRC   as TDC
    h += eta alpha ((rho delta - phi^T h) phi - beta h),   beta = 0 but for TDRC
"""

import abc
import dataclasses

import torch
from torch import Tensor
from typing_extensions import override

from bilevel import Cost, SingleLoop, trees
from bilevel.core.checks import Number, positive
from bilevel.core.schedules import AbstractSchedule, as_schedule
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.problem.base import StackelbergProblem
from bilevel.strategies import AbstractDirections, AbstractStrategy
from bilevel.strategies.single_loop import Levels
from bilevel.trees import Tree
from problems.mspbe.lstd import LSTD
from problems.mspbe.neural import Evaluation
from problems.mspbe.parts import Parts, along, check_linear, parts_of


class LinearDirections(AbstractDirections):
    """Directions of head and auxiliary variable of a linear method; the body stays."""

    @abc.abstractmethod
    def head(self, parts: Parts) -> Tensor:
        """The update of theta without its step size, (R, M)."""

    def check(self, problem: StackelbergProblem) -> None:
        """The features must be fixed."""
        check_linear(self, problem)

    @override
    def init(self, oracles: Oracles, head: Tree, rows: Rows) -> Tensor:
        return torch.zeros_like(head)

    def all(self, oracles: Oracles, at: Levels, rows: Rows) -> Levels:
        """Minus the sums of the module's docstring."""
        problem = oracles.problem
        assert isinstance(problem, Evaluation)
        parts = parts_of(rows.groups["train"], at.head, at.auxiliary, problem.discount)
        body = trees.tree_map(torch.zeros_like, at.body)
        return Levels(body, -self.head(parts), -self.auxiliary(parts, at.auxiliary))

    def auxiliary(self, parts: Parts, auxiliary: Tensor) -> Tensor:
        """The update of h without its step size, (R, M) (a hook)."""
        return along(parts.phi.mT, parts.error - parts.prediction)

    @property
    @override
    def cost(self) -> Cost:
        return Cost(gradients=1)


@dataclasses.dataclass(frozen=True, eq=False)
class TD(LinearDirections):
    """TD(0): E[rho delta phi], which is the gradient of nothing and may diverge off-policy."""

    @override
    def head(self, parts: Parts) -> Tensor:
        return along(parts.phi.mT, parts.error)

    def auxiliary(self, parts: Parts, auxiliary: Tensor) -> Tensor:
        """There is none: it stays at 0."""
        return torch.zeros_like(auxiliary)


@dataclasses.dataclass(frozen=True, eq=False)
class GTD2(LinearDirections):
    r"""GTD2: $A^\top h$."""

    def head(self, parts: Parts) -> Tensor:
        """The features' differences times the predictions of h."""
        return along(parts.phi.mT, parts.corrected) - along(parts.next_phi.mT, parts.ahead)


@dataclasses.dataclass(frozen=True, eq=False)
class TDC(LinearDirections):
    r"""TDC, TD with gradient correction.

    $$\mathbb{E}[\rho\, \delta\, \phi] - \gamma\, \mathbb{E}[\rho\, \phi' \phi^\top]\, h$$
    """

    def head(self, parts: Parts) -> Tensor:
        """The semi-gradient, corrected."""
        return along(parts.phi.mT, parts.error) - along(parts.next_phi.mT, parts.ahead)


@dataclasses.dataclass(frozen=True, eq=False)
class TDRC(TDC):
    """TDRC, TDC whose auxiliary variable is regularised.

    Args:
        beta: how much, at least 0; 0 is TDC.
    """

    beta: Number = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", positive(self.beta, "`beta`", zero_allowed=True))

    def auxiliary(self, parts: Parts, auxiliary: Tensor) -> Tensor:
        """That of TDC, with a pull to 0."""
        pull = trees.per_run(self.beta, auxiliary) * auxiliary
        return super().auxiliary(parts, auxiliary) - pull


def td(lr: Number | AbstractSchedule) -> SingleLoop:
    r"""TD(0), the semi-gradient method: shown as a reference.

    Args:
        lr: $\alpha$, a number or a schedule.

    Source: Sutton (1988). Differs from the source in: batches.
    """
    return _method(lr, 1.0, TD())


def gtd2(lr: Number | AbstractSchedule, eta: float = 1.0) -> SingleLoop:
    r"""GTD2: a gradient method of MSPBE.

    Args:
        lr: $\alpha$, a number or a schedule.
        eta: the step size of $h$ over $\alpha$, positive.

    Source: Sutton et al. (2009), equations 8 and 9. Differs from the source in: batches, ratios.
    """
    return _method(lr, eta, GTD2())


def tdc(lr: Number | AbstractSchedule, eta: float = 1.0) -> SingleLoop:
    r"""TDC: TD with gradient correction, a gradient method of MSPBE.

    Args:
        lr: $\alpha$, a number or a schedule.
        eta: the step size of $h$ over $\alpha$, positive.

    Source: Sutton et al. (2009), equation 10. Differs from the source in: batches, ratios.
    """
    return _method(lr, eta, TDC())


def tdrc(lr: Number | AbstractSchedule, eta: float = 1.0, *, beta: Number = 1.0) -> SingleLoop:
    r"""TDRC: TDC with a regularised correction; h no longer tracks omega*, fixed points stay.

    Args:
        lr: $\alpha$, a number or a schedule.
        eta: the step size of $h$ over $\alpha$, positive.
        beta: the regularisation, at least 0.

    Source: Ghiassian et al. (2020), section 4. Differs from the source in: batches.

    Examples:
        >>> from problems.mspbe import methods
        >>> methods.tdrc(0.1, eta=2.0).auxiliary_lr
        Constant(0.2)
    """
    return _method(lr, eta, TDRC(beta))


def default_methods(head_lr: float, *, ridge: float = 1e-3) -> dict[str, AbstractStrategy]:
    r"""What `bilevel compare` compares on a problem with fixed features.

    Args:
        head_lr: $\alpha$, of all iterative methods, with $\eta = 1$.
        ridge: of the second LSTD head.
    """
    return {
        "TD": td(head_lr),
        "GTD2": gtd2(head_lr),
        "TDC": tdc(head_lr),
        "TDRC": tdrc(head_lr),
        "LSTD": LSTD(),
        "LSTD ridge": LSTD(ridge),
    }


def _method(lr: Number | AbstractSchedule, eta: float, directions: LinearDirections) -> SingleLoop:
    head_lr = as_schedule(lr, "lr")
    return SingleLoop(0.0, head_lr, head_lr.scaled(eta), directions=directions)
