"""Problems whose levels follow directions of their own, with a third variable beside the levels."""

import abc
from typing import NamedTuple

import torch

from bilevel.errors import IncompatibleError
from bilevel.problem.base import Groups, StackelbergProblem
from bilevel.problem.sets import ConvexSet, Everywhere
from bilevel.trees import Tree


class Pullback(NamedTuple):
    r"""The body's direction as a vector-Jacobian product.

    $$d_w = (\partial\,\text{values} / \partial w)^\top \text{along}$$

    `along` counts as constant, whatever it was computed from.

    Attributes:
        values: what depends on the body, such as features: a tensor or a tree.
        along: of the same structure and shapes.

    Examples:
        >>> import torch, bilevel
        >>> class Scalar(bilevel.AuxiliaryProblem):
        ...     def data(self, seed=None): return {}
        ...     def init_body(self, generator): return 1 + torch.rand((), generator=generator)
        ...     def init_head(self, generator): return torch.zeros(())
        ...     def init_auxiliary(self, generator): return torch.zeros(())
        ...     def head_objective(self, w, theta, batch): return (w**2 * theta - 1) ** 2 / 2
        ...     def directions(self, w, theta, residual, batch):
        ...         body = bilevel.Pullback(values=w**2, along=theta * residual)
        ...         return body, w**2 * residual, residual - (w**2 * theta - 1)
        >>> strategy = bilevel.SingleLoop(0.01, 0.1, 0.5)
        >>> solution = bilevel.solve(Scalar(), strategy, steps=200, seeds=2)
        >>> bool(solution.history["objective"][-1].max() < 1e-4)
        True
    """

    values: Tree
    along: Tree


class AuxiliaryProblem(StackelbergProblem):
    r"""A problem that also states how its levels move on a batch: what `SingleLoop` follows.

    TDC and its like: an auxiliary variable tracks what the gradients need and one batch cannot give
    without bias, such as the solution of a linear system of expectations. `SingleLoop` moves body,
    head and auxiliary at once, $x \leftarrow \mathrm{Proj}[x - \text{lr} \cdot d]$ with their
    directions $d$, each with its own step size.

    All other strategies use the objectives, as on any problem.

    Examples:
        >>> import torch, bilevel
        >>> class Scalar(bilevel.AuxiliaryProblem):    # g = (w theta - 1)^2 / 2
        ...     def data(self, seed=None): return {}
        ...     def init_body(self, generator): return 1 + torch.rand((), generator=generator)
        ...     def init_head(self, generator): return torch.zeros(())
        ...     def init_auxiliary(self, generator): return torch.zeros(())
        ...     def head_objective(self, w, theta, batch): return (w * theta - 1) ** 2 / 2
        ...     def directions(self, w, theta, residual, batch):
        ...         return theta * residual, w * residual, residual - (w * theta - 1)
        >>> strategy = bilevel.SingleLoop(0.01, 0.1, 0.5)
        >>> solution = bilevel.solve(Scalar(), strategy, steps=500, seeds=2)
        >>> bool(solution.history["objective"][-1].max() < 1e-6)
        True
    """

    auxiliary_set: ConvexSet = Everywhere()
    """Convex; the auxiliary variable is projected onto it after each step."""

    @classmethod
    def knows_runs(cls) -> bool:
        """Whether `directions_of_runs` is overridden, no earlier than `directions`."""
        names = {"directions_of_runs", "directions"}
        last = next(made for made in cls.__mro__ if names & vars(made).keys())
        ours = cls.directions_of_runs is not AuxiliaryProblem.directions_of_runs
        return ours and "directions_of_runs" in vars(last)

    @abc.abstractmethod
    def init_auxiliary(self, generator: torch.Generator) -> Tree:
        """The initial auxiliary variable: a floating tree, drawn with `generator` only."""

    @abc.abstractmethod
    def directions(
        self, body: Tree, head: Tree, auxiliary: Tree, batch: Groups
    ) -> tuple[Tree, Tree, Tree]:
        """The directions of one run on one batch; they take the place of gradients.

        A derivative in the body, such as that of features with a vector u, is returned as
        `bilevel.Pullback(values, along)`: the library differentiates once for all runs.
        (`torch.func.vjp` inside of this function gives the same numbers, more slowly.)

        Args:
            body: one run's body.
            head: one run's head.
            auxiliary: one run's auxiliary variable.
            batch: the groups of `data` without "test"; "noise" too if `noise` is defined.

        Returns:
            Directions of body (or a `Pullback`), head and auxiliary, of their structures and
            shapes. The step is x - lr * direction: minus the direction is a direction of descent.
        """

    def directions_of_runs(
        self, body: Tree, head: Tree, auxiliary: Tree, batch: Groups
    ) -> tuple[Tree, Tree, Tree]:
        """`directions` for R runs at once (a hook, for speed only): all leaves have a leading R.

        Not overridden, the library maps `directions` over the runs, which costs several times as
        much for small problems. Rows that runs share come expanded. Where a subclass overrides
        `directions` alone, that is what counts.
        """
        raise IncompatibleError(
            f"{type(self).__name__} has no `directions_of_runs`: map `directions` over the runs."
        )
