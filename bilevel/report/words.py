"""Sentences that say what the numbers say: direction, size, certainty, and what was left out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

NAMES = {
    "objective": "training objective g",
    "phi": "training objective at the best response",
    "phi_gradient_norm": "size of the gradient of Φ",
    "head_gap": "distance of the head from its best response",
    "head_residual": "size of the head's gradient",
    "head_bound": "certified bound on that distance",
}
ABBREVIATIONS = {"mse": "MSE", "r2": "R²", "mae": "MAE", "rmse": "RMSE"}
UNKNOWN = "n/a"
STATUSES = {
    "COMPLETED": "completed",
    "CONVERGED": "converged",
    "INTERRUPTED": "interrupted",
    "NOT_CONVERGED": "head solver stopped early",
    "JITTERED": "singular head, solved with jitter",
    "OUTSIDE_SET": "head projected, not solved",
    "DIVERGED": "diverged",
}


def metric_name(metric: str) -> str:
    """Name of a metric for readers.

    Args:
        metric: Its name in the history.

    Returns:
        Words.

    Examples:
        >>> metric_name("test_mse")
        'test MSE'
    """
    if metric in NAMES:
        return NAMES[metric]
    return " ".join(ABBREVIATIONS.get(part, part) for part in metric.split("_"))


def number(value: float) -> str:
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
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{digits}f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def joined(parts: Sequence[str], last: str = "and") -> str:
    """Join words with commas and a last "and".

    Examples:
        >>> joined(["a", "b", "c"])
        'a, b and c'
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun in the right form.

    Examples:
        >>> counted(1, "seed"), counted(12, "seed")
        ('1 seed', '12 seeds')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def change(result: Result) -> str:
    """Size and direction of an effect, without the name of the baseline.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        Such as "5 % below", "2.4 times", "0.012 above" or "equal to".

    Examples:
        >>> change({"kind": "ratio", "effect": 0.95})
        '5 % below'
    """
    effect = result["effect"]
    if not math.isfinite(effect):
        return "not comparable with"
    centre = 1.0 if result["kind"] == "ratio" else 0.0
    if effect == centre:
        return "equal to"
    side = "below" if effect < centre else "above"
    if result["kind"] == "difference":
        return f"{number(abs(effect))} {side}"
    if effect >= 2:
        return f"{number(effect)} times"
    if effect < 0.1:
        return f"a factor of {number(1 / effect)} below"
    percent = abs(effect - 1) * 100
    if percent < 0.05:
        return f"less than 0.1 % {side}"
    return f"{percent:.0f} % {side}" if percent >= 0.95 else f"{percent:.1f} % {side}"


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


def verdict(result: Result) -> str:
    """Whether the sign test found a difference, and in whose favour.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        "significantly better", "significantly worse", "not significant", or "not comparable"
        without pairs.
    """
    if result["pairs"] == 0:
        return "not comparable"
    if not result["significant"]:
        return "not significant"
    return f"significantly {'better' if result['wins'] > result['losses'] else 'worse'}"


def pair_sentence(result: Result) -> str:
    """One comparison in words.

    Args:
        result: Fields of `PairedResult`.

    Returns:
        Such as "two-timescale is 5 % below uniform slow on test MSE, interval 0.89 to 1.01,
        better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    """
    strategy, baseline = result["strategy"], result["baseline"]
    name = metric_name(result["metric"])
    if result["pairs"] == 0:
        return (
            f"{strategy} cannot be compared with {baseline} on {name}: on none of "
            f"{counted(result['lost'], 'seed')} did both runs end with a number."
        )
    parts = [f"{strategy} is {change(result)} {baseline} on {name}"]
    if math.isfinite(result["low"]) and math.isfinite(result["high"]):
        of = "" if result["kind"] == "ratio" else " of the difference"
        parts.append(f"interval{of} {number(result['low'])} to {number(result['high'])}")
    elif result["pairs"] == 1:
        parts.append("without an interval, which needs more than one seed")
    ties = f" (equal on {result['ties']})" if result["ties"] else ""
    parts.append(f"better on {result['wins']} of {counted(result['pairs'], 'seed')}{ties}")
    text = f"{', '.join(parts)}: {verdict(result)} "
    text += f"({probability(result['p_adjusted'])} after correction)."
    if result["lost"]:
        verb = "is" if result["lost"] == 1 else "are"
        text += f" {counted(result['lost'], 'further seed')} {verb} left out: a run failed there."
    return text


def power_note(pairs: int, seeds: int) -> str:
    """Say so when no result of the sign test could be significant.

    Args:
        pairs: How many pairs are compared together.
        seeds: Seeds per pair.

    Returns:
        A sentence, or "" when there are seeds enough.
    """
    if not pairs or pairs * 2.0 ** (1 - seeds) < 0.05:
        return ""
    needed = next(n for n in range(1, 99) if pairs * 2.0 ** (1 - n) < 0.05)
    return (
        f"With {counted(seeds, 'seed')} and {counted(pairs, 'comparison')} even a win on every "
        f"seed would not be significant; that needs at least {needed} seeds."
    )


def headline(
    best: str | None, mean: Mapping[str, float], metric: str, higher: bool, steps: int
) -> str:
    """Which strategy has the best mean final value.

    Args:
        best: Name of that strategy; None if no strategy has a finite value.
        mean: Its value, low and high.
        metric: Name of the metric.
        higher: Whether higher is better.
        steps: Number of steps.

    Returns:
        A sentence.
    """
    name = metric_name(metric)
    if best is None:
        return f"No strategy ended with a finite {name}."
    extreme = "highest" if higher else "lowest"
    return f"After {counted(steps, 'step')}, {best} has the {extreme} mean {name}: {_value(mean)}."


def early(best: str | None, mean: Mapping[str, float], higher: bool) -> str:
    """Which strategy is best when each run stops at its best validation score.

    Args:
        best: Name of that strategy; None if there are no such values.
        mean: Its value, low and high.
        higher: Whether higher is better.

    Returns:
        A sentence, or "".
    """
    if best is None:
        return ""
    extreme = "highest" if higher else "lowest"
    return (
        f"With every run stopped where its validation score was best, {best} has the "
        f"{extreme}: {_value(mean)}."
    )


def answers(
    results: Sequence[Result], strategies: Sequence[str], baselines: Sequence[str]
) -> list[list[tuple[str, str, str]]]:
    """Questions with a short answer and its reasons, for each strategy that is not a baseline.

    Args:
        results: Fields of `PairedResult` for each pair.
        strategies: All names, in order.
        baselines: The names of the baselines.

    Returns:
        Per strategy, (question, answer, reasons) against the uniform rates among the baselines (or
        against all baselines, if there are none) and against the others.
    """
    uniform = [name for name in baselines if name.startswith("uniform")]
    first = uniform or list(baselines)
    group = "uniform rates" if uniform else joined(first, "or")
    found = []
    for name in strategies:
        own = [result for result in results if result["strategy"] == name]
        against = [result for result in own if result["baseline"] in first]
        others = [result for result in own if result["baseline"] not in first]
        card = []
        if against:
            card.append((f"Does {name} beat {group}?", _short(against), _reasons(against)))
        if others:
            rivals = joined([result["baseline"] for result in others], "or")
            card.append((f"Is {name} better than {rivals}?", _short(others), _reasons(others)))
        if card:
            found.append(card)
    return found


def _short(results: Sequence[Result]) -> str:
    verdicts = [verdict(result) for result in results]
    better, worse = "significantly better" in verdicts, "significantly worse" in verdicts
    if better and worse:
        return "It depends on which."
    if better:
        return "Yes." if set(verdicts) == {"significantly better"} else "In part."
    if worse:
        return "No."
    return "Cannot be said." if set(verdicts) == {"not comparable"} else "Not shown."


def _reasons(results: Sequence[Result]) -> str:
    """Group baselines by verdict: "Significantly better than a (5 % below); no ... b (...)."."""
    parts = []
    for word, start in (
        ("significantly better", "significantly better than"),
        ("significantly worse", "significantly worse than"),
        ("not significant", "no significant difference from"),
        ("not comparable", "not comparable with"),
    ):
        group = [_brief(result) for result in results if verdict(result) == word]
        if group:
            parts.append(f"{start} {joined(group)}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _brief(result: Result) -> str:
    if result["pairs"] == 0:
        return f"{result['baseline']} (no seed on which both runs ended with a number)"
    words = change(result)
    return f"{result['baseline']} ({'equal' if words == 'equal to' else words})"


def status_words(statuses: Sequence[str]) -> str:
    """Count what became of the runs, the usual outcome first.

    Examples:
        >>> status_words(["COMPLETED", "COMPLETED", "DIVERGED"])
        '2 completed, 1 diverged'
    """
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1
    order = sorted(counts, key=lambda status: (status != "COMPLETED", -counts[status]))
    return ", ".join(
        f"{counts[status]} {STATUSES.get(status, status.lower().replace('_', ' '))}"
        for status in order
    )


def _value(mean: Mapping[str, float]) -> str:
    if not math.isfinite(mean["low"]):
        return number(mean["value"])
    return f"{number(mean['value'])}, 95 % interval {number(mean['low'])} to {number(mean['high'])}"
