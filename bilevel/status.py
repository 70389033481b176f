"""What became of a run."""

import enum


class Status(enum.IntEnum):
    """The outcome of one run, or of one head solve; `message` names the cause and the remedy.

    Example:
        >>> from bilevel import Status
        >>> Status.DIVERGED.failed
        True
    """

    message: str

    COMPLETED = 0, "All steps were made."
    CONVERGED = 1, "The stopping rule was met."
    INTERRUPTED = 2, "Stopped by the user; everything recorded until then was kept."
    NOT_CONVERGED = (
        3,
        "The head solver used all its steps without reaching its tolerance. Give it more steps, a "
        "larger step size below 2 / L, or a looser tolerance.",
    )
    JITTERED = (
        4,
        "The Hessian of the head became numerically singular and was solved with a small multiple "
        "of the identity added. Use a larger ridge, or fewer features.",
    )
    OUTSIDE_SET = (
        5,
        "The closed-form head lies outside `head_set` and was projected, which is not the "
        "constrained minimiser. Use a solver that handles the set, such as FastSGD.",
    )
    DIVERGED = (
        6,
        "Values became infinite or NaN. Use a smaller step size (below 2 / L for plain SGD), "
        "standardise the inputs and the targets, or bound the levels with `body_set`, `head_set`.",
    )

    def __new__(cls, value: int, message: str) -> "Status":
        """Attach the message to the integer code."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member

    @property
    def failed(self) -> bool:
        """Whether the numbers of such a run must not be used."""
        return self is Status.DIVERGED
