"""What a criterion is."""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from bilevel.errors import IncompatibleError


class RowCurvature(NamedTuple):
    r"""The second derivative of a row in its prediction, $\operatorname{diag}(d) - o o^\top$.

    Attributes:
        diagonal: $d$, (n,), or (n, K) for K predictions a row.
        outer: $o$, (n, K); None: nothing is subtracted.

    Examples:
        >>> import torch, bilevel
        >>> of_rows = bilevel.SoftmaxLoss().curvature(torch.zeros(1, 2), torch.tensor([0]))
        >>> of_rows.diagonal, of_rows.outer    # the second derivative of one row, (K, K), is
        (tensor([[0.5000, 0.5000]]), tensor([[0.5000, 0.5000]]))
        >>> torch.diag(of_rows.diagonal[0]) - torch.outer(of_rows.outer[0], of_rows.outer[0])
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """

    diagonal: Tensor
    outer: Tensor | None = None


class AbstractCriterion(abc.ABC):
    """A loss $c(u, t)$ of prediction and target per row, convex in the prediction.

    `rows`, `metrics` and `check_targets` are required. `slope`, `curvature` and the two constants
    make heads quick to solve and their bounds proven: without them derivatives are taken by
    automatic differentiation and bounds are estimated. `majorant` leads `Newton` where the second
    derivative vanishes, `rising` tells heads without a minimiser, `atom` is what `Cvxpy` needs.

    Examples:
        >>> import torch, bilevel
        >>> class Quartic(bilevel.AbstractCriterion):
        ...     def rows(self, predictions, targets): return (predictions - targets) ** 4
        ...     def metrics(self, predictions, targets):
        ...         return {"error": self.rows(predictions, targets).mean()}
        ...     def check_targets(self, targets, outputs): pass
        >>> Quartic().rows(torch.tensor([2.0, 0.5]), torch.zeros(2))
        tensor([16.0000,  0.0625])
    """

    quadratic: bool = False
    """Whether c is quadratic in the prediction with curvature 1, so that heads have closed
    forms."""
    largest_curvature: float = math.inf
    """An upper bound on the eigenvalues of the second derivative in the prediction."""
    curvature_change: float = math.inf
    """A Lipschitz constant of the second derivative in the prediction, in the spectral norm."""
    largest_weight: float = 1.0
    """What losses are multiplied with at most, as by class weights: rounding grows with it."""
    by_output: bool = False
    """Whether the loss of a row is the sum of the losses of its outputs, each as for one output: if
    so, `row_weights` may weigh each output of a row."""
    shift_invariant: bool = False
    """Whether adding one number to all predictions of a row changes nothing."""

    @abc.abstractmethod
    def rows(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss of every row.

        Args:
            predictions: (n,) or (n, K).
            targets: as the criterion asks.

        Returns:
            (n,) losses.
        """

    def entries(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss of every output of every row, (n, K) for predictions (n, K).

        Raises:
            IncompatibleError: the losses are not `by_output`.
        """
        if not self.by_output:
            raise IncompatibleError(
                f"`row_weights` returned a weight for each row and output, but the loss of a row "
                f"does not split over outputs with {type(self).__name__}. Return one weight for "
                "each row, shape (n,), or use a criterion that does, such as SquaredError() (a "
                "criterion of your own says so by `by_output = True`)."
            )
        return self.rows(predictions.flatten(), targets.flatten()).reshape(predictions.shape)

    @abc.abstractmethod
    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Metrics in users' units: a dict of 0-dim tensors.

        Names that end in "accuracy", "r2", "f1" or "auc" are better when higher, all others when
        lower.
        """

    @abc.abstractmethod
    def check_targets(self, targets: Tensor, outputs: int | None) -> None:
        """Raise unless `targets` of a group fit; `outputs` is None for one output without axis."""

    def check_training(self, targets: Tensor, outputs: int | None) -> None:  # noqa: B027 - a hook
        """Raise unless a head can be fitted to `targets`, those of "train" (a hook)."""

    def slope(self, predictions: Tensor, targets: Tensor) -> Tensor | None:
        """The derivative of `rows` in the predictions, shaped like them (a hook); None: not known.

        Rows do not interact: those of several runs come one after the other.
        """
        return None

    def slope_and_rows(
        self, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor | None, Callable[[], Tensor] | None]:
        """`slope`, and what makes `rows` of what it found, if that is quicker (a hook)."""
        return self.slope(predictions, targets), None

    def curvature(self, predictions: Tensor, targets: Tensor) -> RowCurvature | None:
        """The second derivative of every row in its prediction (a hook); None: not known."""
        return None

    def curvature_of_slope(self, slopes: Tensor, targets: Tensor) -> RowCurvature | None:
        """`curvature` where `slope` is (n, K), if that tells it (a hook); may be made in place."""
        return None

    def rising(self, targets: Tensor, outputs: int | None) -> Tensor | None:
        """Where losses rise in every prediction, True, or fall, (n,) or (n, K) (a hook).

        A free bias whose rows are all on one side has no best value. None: not known, or neither.
        """
        return None

    def majorant(self, predictions: Tensor, targets: Tensor) -> Tensor | None:
        """Curvatures of parabolas above `rows` that touch it, shaped like `predictions` (a hook).

        `Newton` steps by them where the second derivatives are singular. None: not known.
        """
        return None

    def atom(self, predictions: Any, targets: Any) -> Any:
        """`rows` as a convex cvxpy expression of shape (n,) (a hook).

        Args:
            predictions: a cvxpy expression, affine in the head: (n,) or (n, K).
            targets: a NumPy array as the criterion asks; regression targets may be a
                `cvxpy.Parameter` of their shape.

        Raises:
            IncompatibleError: the criterion has none.
            MissingPackageError: cvxpy is not installed.
        """
        raise IncompatibleError(
            f"{type(self).__name__} has no cvxpy atom. Define `atom(predictions, targets)`, which "
            "returns the losses of all rows as a cvxpy expression, or solve the head by Newton()."
        )
