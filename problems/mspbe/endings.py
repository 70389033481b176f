"""Whether what was logged comes to an end, without which values with gamma = 1 do not exist."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order

from bilevel.core.checks import check_instance
from bilevel.errors import ArgumentError
from problems.mspbe.transitions import Transitions

Array = NDArray[np.float64]
SPANNED = 1e-8
"""Largest error with which a head of ones counts as one."""
REMEDY = "Mark where episodes end (`terminated`), use a discount below 1, or drop such transitions."


def check_endings(rows: Transitions) -> None:
    """Raise where logged transitions have no values for gamma = 1.

    A transition ends an episode where it is marked so, or where the next state is 0: for linear
    features that is an end with value 0. Transitions with ratio 0 do not happen under the target
    policy and count for nothing. There are no values

    - where a logged state leads to logged states only, none of which reaches an end: the sum of
      rewards goes on for ever;
    - where no transition ends an episode and a constant is linear in the features: then V + 1
      fits the transitions as well as V.

    Where no transition ends an episode, but neither is true, a warning says so: features that are 0
    at an end that was never logged may still have values.

    Raises:
        ArgumentError: there are no values.
    """
    check_instance(rows, Transitions, "rows", "what `from_transitions` returns")
    inputs, next_inputs, _, ratios, continues, _ = (x.detach().cpu().numpy() for x in rows)
    counted = ratios > 0
    states, following = inputs[counted], next_inputs[counted]
    ends = (continues[counted] == 0) | (following == 0).all(1)
    closed = ~reaches_an_end(states, following, ends)
    if closed.any():
        place = int(np.flatnonzero(counted)[closed.argmax()])
        raise ArgumentError(
            f"`discount` = 1 needs episodes that end: from the states of {int(closed.sum())} of "
            f"{len(counted)} logged transitions, the first number {place}, only logged states are "
            f"reached, and no end, so that the sum of rewards does not exist. {REMEDY}"
        )
    if ends.any():
        return
    both = np.concatenate([states, following])
    head = np.linalg.lstsq(both, np.ones(len(both)), rcond=None)[0]
    if np.abs(both @ head - 1).max() <= SPANNED:
        raise ArgumentError(
            f"`discount` = 1 needs episodes that end, but none of the {len(counted)} logged "
            "transitions ends one, so that values are known up to a constant at best. " + REMEDY
        )
    warnings.warn(
        f"None of the {len(counted)} logged transitions ends an episode: with `discount` = 1 there "
        "are values only if the features are 0 where episodes end. " + REMEDY,
        stacklevel=4,
    )


def reaches_an_end(states: Array, following: Array, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """From which transitions (n,) an end, or a state that was never left, can be reached."""
    n = len(states)
    _, numbers = np.unique(np.concatenate([states, following]), axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)
    left, entered = numbers[:n], numbers[n:]
    source = int(numbers.max()) + 1
    free = np.ones(source, dtype=bool)
    free[left] = False  # nothing is known of what follows a state that was never left
    free[left[ends]] = True
    goals = np.flatnonzero(free)
    back = np.concatenate([entered[~ends], np.full(len(goals), source)])
    to = np.concatenate([left[~ends], goals])
    graph = csr_matrix((np.ones(len(back)), (back, to)), shape=(source + 1, source + 1))
    reached = np.zeros(source + 1, dtype=bool)
    reached[breadth_first_order(graph, source, return_predecessors=False)] = True
    found: NDArray[np.bool_] = reached[left]
    return found
