"""What became of a run."""

import enum


class Status(enum.IntEnum):
    """The outcome of one run, head solve or linear solve; `message` names cause and remedy.

    Higher codes are worse, but for NOT_STATIONARY and those after it, ends of runs that did not
    come as far as was asked for, and whose numbers can be used.

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
    INEXACT_HEAD = 6
    ADJOINT_NOT_CONVERGED = 7
    NOT_CONTRACTING = 8
    DIVERGED = 9
    SINGULAR = 10
    INDEFINITE = 11
    NO_MINIMISER = 12
    INFEASIBLE = 13
    UNBOUNDED = 14
    SOLVER_FAILED = 15
    NOT_QUADRATIC = 16
    NOT_STATIONARY = 17
    STALLED = 18
    OUT_OF_ITERATIONS = 19

    @property
    def message(self) -> str:
        """What happened, and what to change."""
        return _MESSAGES[self]

    @property
    def failed(self) -> bool:
        """Whether the numbers of such a run must not be used."""
        return Status.DIVERGED <= self < Status.NOT_STATIONARY


_MESSAGES = {
    Status.COMPLETED: "All steps were made.",
    Status.CONVERGED: "The stopping rule was met.",
    Status.INTERRUPTED: "Stopped by the user; everything recorded until then was kept.",
    Status.NOT_STATIONARY: (
        "All steps were made, and |grad Phi| has not fallen to `tolerance` times its first value. "
        "`phi_gradient_norm` of the history says how far it fell (NaN where no best response was "
        "found): where it goes up and down, lower `body_lr` or let it decay, such as Polynomial; "
        "where it still falls, make more `steps` or raise `body_lr`; where it only grew, either "
        "may help."
    ),
    Status.STALLED: (
        "No lower value of F was found, and the projected gradient has not fallen to `tolerance` "
        "times its first value; the result says how far it fell. Where that is far, what is left "
        "is below the rounding of F, or the start was as good: use float64, or a larger "
        "`tolerance`. Where it is not, Phi may have a kink there, or the heads are not exact."
    ),
    Status.OUT_OF_ITERATIONS: (
        "All iterations were made, and the projected gradient has not fallen to `tolerance` times "
        "its first value. Raise `max_iterations`, or the `tolerance`."
    ),
    Status.NOT_CONVERGED: (
        "The head solver used all its steps without reaching its tolerance. Give it more steps, a "
        "larger step size below 2 / L, or a looser tolerance; give Cvxpy other `options` or "
        "another `solver`."
    ),
    Status.JITTERED: (
        "The Hessian of the head became numerically singular and was solved with a small part of "
        "its diagonal added. Use a larger ridge, or fewer features."
    ),
    Status.OUTSIDE_SET: (
        "The closed-form head lies outside `head_set` and was projected, which is not the "
        "constrained minimiser. Leave out `solver`, which then is one that is exact for the set, "
        "or name it: ProjectedNewton for a Box or Nonnegative, Cvxpy for other sets; or use "
        "FastSGD, which projects step by step."
    ),
    Status.INEXACT_HEAD: (
        "The head is not solved well enough for implicit differentiation, which assumes that the "
        "gradient of g in the head is zero. Use an exact head solver, or give an iterative one "
        "more steps or a smaller `tolerance`."
    ),
    Status.ADJOINT_NOT_CONVERGED: (
        "The linear solver stopped before its residual reached its tolerance: the Hessian of the "
        "head is ill-conditioned, or there were too few steps. Use a larger ridge, more "
        "`max_steps`, `dtype=torch.float64`, or Dense()."
    ),
    Status.NOT_CONTRACTING: (
        "The Neumann series does not contract: its step size exceeds 2 / L, or the Hessian of the "
        "head has a negative eigenvalue. Leave out `step_size`, or use CG(), which tells the two "
        "apart."
    ),
    Status.SINGULAR: (
        "The Hessian of the head is numerically singular, so the head that answers to the body is "
        "not unique and has no derivative. Use a larger ridge, or fewer features."
    ),
    Status.INDEFINITE: (
        "The Hessian of the head has a negative eigenvalue, so the head is not at a minimum of g. "
        "Check that g is strongly convex in the head, use a larger ridge, or solve the head more "
        "accurately."
    ),
    Status.INFEASIBLE: (
        "The convex solver found that no head satisfies the constraints. Look for constraints that "
        "contradict each other or `head_set`."
    ),
    Status.UNBOUNDED: (
        "The convex solver found that g has no minimum over the heads that are allowed. Use a "
        "penalty (`ridge`), or a bounded `head_set`."
    ),
    Status.SOLVER_FAILED: (
        "The convex solver gave no head; the `words` of `best_response` at this body are its own. "
        "Standardise the inputs, use a larger ridge, looser tolerances in `options`, or another "
        "`solver`."
    ),
    Status.NOT_QUADRATIC: (
        "The gradient of g does not vanish at the closed-form head: g is not quadratic between it "
        "and the head before, so this is not the best response. Use Newton(), or "
        "FastSGD(lr, steps)."
    ),
    Status.NO_MINIMISER: (
        "The head grows without end: its features separate the classes of the training rows, or a "
        "class has no row there, and nothing penalises the coefficients that do it. Set `ridge` "
        "(or `penalty`) to a positive number, however small; an unpenalised bias needs rows of "
        "every class, or `penalize_bias = True`."
    ),
    Status.DIVERGED: (
        "Values became infinite or NaN. Use a smaller step size (below 2 / L for plain SGD), "
        "standardise the inputs and the targets, or bound the levels with `body_set`, `head_set`."
    ),
}

FAILED = frozenset(status.name for status in Status if status.failed)  # as results spell them
