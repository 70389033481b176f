"""What became of a run."""

import enum


class Status(enum.IntEnum):
    """The outcome of one run, or of one head solve; `message` names the cause and the remedy.

    Higher codes are worse.

    Examples:
        >>> from bilevel import Status
        >>> Status.DIVERGED.failed
        True
    """

    COMPLETED = 0
    CONVERGED = 1
    INTERRUPTED = 2
    NOT_CONVERGED = 3
    JITTERED = 4
    OUTSIDE_SET = 5
    DIVERGED = 6

    @property
    def message(self) -> str:
        """What happened, and what to change."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """Whether the numbers of such a run must not be used."""
        return self is Status.DIVERGED


_MESSAGES = {
    Status.COMPLETED: "All steps were made.",
    Status.CONVERGED: "The stopping rule was met.",
    Status.INTERRUPTED: "Stopped by the user; everything recorded until then was kept.",
    Status.NOT_CONVERGED: (
        "The head solver used all its steps without reaching its tolerance. Give it more steps, a "
        "larger step size below 2 / L, or a looser tolerance."
    ),
    Status.JITTERED: (
        "The Hessian of the head became numerically singular and was solved with a small multiple "
        "of the identity added. Use a larger ridge, or fewer features."
    ),
    Status.OUTSIDE_SET: (
        "The closed-form head lies outside `head_set` and was projected, which is not the "
        "constrained minimiser. Use a solver that handles the set, such as FastSGD."
    ),
    Status.DIVERGED: (
        "Values became infinite or NaN. Use a smaller step size (below 2 / L for plain SGD), "
        "standardise the inputs and the targets, or bound the levels with `body_set`, `head_set`."
    ),
}

FAILED = frozenset(status.name for status in Status if status.failed)  # as results spell them
