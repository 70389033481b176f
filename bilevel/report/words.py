"""Names and numbers as readers write them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Content = Mapping[str, Any]
"""Everything that is told of a comparison, as `Comparison.content` gives it."""
NAMES = {
    "objective": "training objective g",
    "body_objective": "objective F of the body",
    "phi": "objective Φ of the body at the best response",
    "phi_gradient_norm": "size of the gradient of Φ",
    "head_gap": "distance of the head from its best response",
    "head_residual": "size of the head's gradient",
    "head_bound": "certified bound on that distance",
    "gradient_gap": "distance of the body's gradient from that of Φ",
    "gradient_bound": "bound on the distance of the body's gradient",
    "last_return": "return of the last fifth",
    "area_return": "return averaged over all steps",
    "latest_return": "return of the latest episode",
    "mean_max_q": "mean of max Q",
    "feature_rank": "rank of the features",
}
ABBREVIATIONS = {"r2": "R²"} | {
    name: name.upper() for name in ("mse", "mae", "rmse", "msve", "mspbe", "rmspbe", "msbe", "lstd")
}
UNKNOWN = "n/a"
MANY = 12
TUNED = ", tuned"
"""What `compare` puts behind the name of a strategy whose rates were searched."""
STATUSES = {
    "COMPLETED": "completed",
    "CONVERGED": "converged",
    "INTERRUPTED": "interrupted",
    "NOT_STATIONARY": "tolerance not reached",
    "STALLED": "no lower value found",
    "OUT_OF_ITERATIONS": "iterations used up",
    "NOT_CONVERGED": "head solver stopped early",
    "JITTERED": "singular head, solved with jitter",
    "OUTSIDE_SET": "head projected, not solved",
    "INEXACT_HEAD": "head too rough for its derivative",
    "ADJOINT_NOT_CONVERGED": "adjoint not converged",
    "NOT_CONTRACTING": "Neumann series not contracting",
    "SINGULAR": "singular head",
    "INDEFINITE": "head not at a minimum",
    "DIVERGED": "diverged",
    "NO_MINIMISER": "head without end",
    "INFEASIBLE": "no head allowed",
    "UNBOUNDED": "head without minimum",
    "SOLVER_FAILED": "convex solver failed",
    "NOT_QUADRATIC": "no closed form where the head went",
}


def metric_name(metric: str) -> str:
    """Name of a metric of the history for readers.

    Examples:
        >>> metric_name("test_mse"), metric_name("test_cross_entropy")
        ('test MSE', 'test cross-entropy')
    """
    if metric in NAMES:
        return NAMES[metric]
    words = " ".join(ABBREVIATIONS.get(part, part) for part in metric.split("_"))
    return words.replace("cross entropy", "cross-entropy")


def stopped_at(score: str | None) -> str:
    """What values are called that runs have where their score was best.

    Examples:
        >>> stopped_at("validation_mse"), stopped_at("body_objective")
        ('validation-best', 'F-best')
    """
    return "F-best" if score == "body_objective" else "validation-best"


def score_name(score: str | None) -> str:
    """The score itself, in a sentence."""
    return "objective F" if score == "body_objective" else "validation score"


def number(value: float, digits: int = 3) -> str:
    """Three significant digits; "n/a" for what is not known.

    Examples:
        >>> number(0.096512), number(1500.0), number(float("nan"))
        ('0.0965', '1,500', 'n/a')
    """
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{places}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def span(low: float, high: float) -> str:
    """The ends of an interval, with as many digits as tell them apart; "n/a" if not known.

    Examples:
        >>> span(0.89, 1.01), span(2.9996, 3.0004)
        ('0.890 to 1.01', '2.9996 to 3.0004')
    """
    if math.isnan(low) or math.isnan(high):
        return UNKNOWN
    digits = next((n for n in range(3, 17) if f"{low:.{n}g}" != f"{high:.{n}g}"), 3)
    return f"{number(low, digits)} to {number(high, digits)}"


def reached(steps: float | None) -> str:
    """How many steps it took to get somewhere; None where that is not known, infinite for never."""
    if steps is None:
        return UNKNOWN
    return "never" if math.isinf(steps) else f"{steps:,.0f}"


def few(parts: Sequence[str]) -> list[str]:
    """The first of many: a sentence of more than `MANY` parts says how many are left."""
    left = len(parts) - MANY + 1
    return [*parts[: MANY - 1], f"{left:,} more"] if left > 1 else [*parts]


def joined(parts: Sequence[str], last: str = "and") -> str:
    """Join words with commas and a last "and"; many are not all said.

    Examples:
        >>> joined(["a", "b", "c"])
        'a, b and c'
    """
    parts = few(parts)
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def counted(count: int, noun: str) -> str:
    """A number with its noun in the right form.

    Examples:
        >>> counted(1, "seed"), counted(12, "seed")
        ('1 seed', '12 seeds')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def probability(p_value: float) -> str:
    """A p-value as people write it.

    Examples:
        >>> probability(0.00002), probability(0.387)
        ('p < 0.001', 'p = 0.39')
    """
    if math.isnan(p_value):
        return "no p-value"
    if p_value < 0.001:
        return "p < 0.001"
    if p_value >= 0.995:
        return "p = 1"
    # Never so few digits that 0.0496 reads as 0.05 and the verdict seems wrong.
    digits = 3 if 0.045 <= p_value < 0.055 else 2
    return f"p = {p_value:.{digits}g}"


def status_words(statuses: Sequence[str]) -> str:
    """Count what became of the runs, the usual outcome first.

    Examples:
        >>> status_words(["COMPLETED", "COMPLETED", "DIVERGED"])
        '2 completed, 1 diverged'
    """
    counts = Counter(statuses)
    order = sorted(counts, key=lambda status: (status != "COMPLETED", -counts[status]))
    return ", ".join(
        f"{counts[status]} {STATUSES.get(status, status.lower().replace('_', ' '))}"
        for status in order
    )


def setting(value: Any) -> str:
    """A setting as one reads it: lists without brackets, ranges of seeds short.

    Examples:
        >>> setting([0, 1, 2, 3]), setting({"width": 1000}), setting(None)
        ('0 to 3', 'width 1,000', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        parts = [f"{key} {setting(item)}" for key, item in sorted(value.items())]
        return ", ".join(parts) or UNKNOWN
    if isinstance(value, (list, tuple)):
        whole = all(isinstance(item, int) for item in value)
        if len(value) > 2 and whole and list(value) == [*range(value[0], value[-1] + 1)]:
            return f"{value[0]} to {value[-1]}"
        return ", ".join(setting(item) for item in value) or UNKNOWN
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
