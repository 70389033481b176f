"""The warning about penalties that want to leave their box."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from bilevel.estimators.penalty_search import SPAN


class PenaltyBoundWarning(ConvergenceWarning):
    """Penalties ended at a bound of their box; `at_bound_` says which.

    Examples:
        >>> import warnings
        >>> from bilevel.estimators import PenaltyBoundWarning
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", PenaltyBoundWarning)    # and fit: they are meant to
    """


def warn_at_bound(low: Any, high: Any) -> None:
    """Warn if any did."""
    ends = [
        (high, f"upper bound, {SPAN[1]:g}", "as good as left out"),
        (low, f"lower bound, {SPAN[0]:g}", "hardly penalised"),
    ]
    said = [
        f"{np.sum(those)} of {np.size(those)} penalties ended at the {bound} times the mean square "
        f"of a column: what they cover is {meaning}."
        for those, bound, meaning in ends
        if np.any(those)
    ]
    if said:
        advice = "`at_bound_` says which. A larger `shrink`, or fewer groups, keep them away."
        warnings.warn(" ".join([*said, advice]), PenaltyBoundWarning, stacklevel=3)
