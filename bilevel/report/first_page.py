"""What a reader asks first of a training: does it overfit, and is it better than a simple rule?"""

from collections.abc import Mapping
from typing import Any

from bilevel.report.words import Content, joined, metric_name, number


def overfits(content: Content) -> str:
    """Which strategies overfit, from where on and how much; "" where none is known to.

    The rule is in `comparison/statistics/overfitting.py`.
    """
    told = content["overfitting"]
    found = {name: told["found"][name] for name in content["strategies"] if name in told["found"]}
    if not found:
        return ""
    starts: dict[str, list[str]] = {}
    for name, one in found.items():
        rise = f"{name} (+{number(100 * one['rise'], 2)} %)"
        starts.setdefault(_since(content, one), []).append(rise)
    parts = [f"{joined(names)} {start}" for start, names in starts.items()]
    their = "its" if len(found) == 1 else "their"
    return (
        f"Overfits: {'; '.join(parts)}. In brackets, the rise of {their} "
        f"{metric_name(told['validation'])} from there to the end, while {their} "
        f"{metric_name(told['train'])} falls. Fewer steps, a larger ridge, more weight decay, or "
        "stopping where the validation score is best would help."
    )


def _since(content: Content, one: Mapping[str, Any]) -> str:
    """Such as "from step 240 on (90 % range 180 to 330)", or "from step 30 or earlier"."""
    place, step, high = content["unit"].by(one["step"]), one["step"], one["high"]
    if one["earlier"]:
        start = f"from {place} or earlier" if step else "from the start"
        return f"{start} (90 % range up to {high:,})" if high > step else start
    return f"from {place} on (90 % range {one['low']:,} to {high:,})"


def scale(content: Content) -> str:
    """What rules without training reach, and who is not better; "" where none was measured."""
    told, headline = content["references"], content["headline"]
    known = {rule: told["values"][rule][headline] for rule in told["sides"]}
    if not known:
        return ""
    values = joined([f"{rule} {number(value)}" for rule, value in known.items()])
    found = [f"For scale, the {metric_name(headline)} of rules that need no training: {values}."]
    sides = {side for of_strategy in told["sides"].values() for side in of_strategy.values()}
    if sides == {"better"} and len(known) > 1 and len(content["strategies"]) > 1:
        return f"{found[0]} All strategies are better than both."
    return " ".join([*found, *(_sides(rule, told["sides"][rule]) for rule in known)])


def _sides(rule: str, of_strategy: Mapping[str, str]) -> str:
    """Who is better than a rule, who is not, and who is worse."""
    groups: dict[str, list[str]] = {"better": [], "level": [], "worse": []}
    for name, side in of_strategy.items():
        groups[side].append(name)
    words = {"better": "better than", "level": "no different from", "worse": "worse than"}
    parts = [f"{joined(names)} {'is' if len(names) == 1 else 'are'} {words[side]}"
             for side, names in groups.items() if names]  # fmt: skip
    if len(of_strategy) > 1 and len(parts) == 1:
        (side,) = set(of_strategy.values())
        return f"All strategies are {words[side]} {rule}."
    others = "".join(f", {part} it" for part in parts[1:])
    return f"{parts[0]} {rule}{others}."


def levels(content: Content, metric: str) -> dict[str, float]:
    """Rule -> its value of a metric: lines in the figures of that metric."""
    return {
        rule: table[metric]
        for rule, table in content["references"]["values"].items()
        if metric in table and table[metric] == table[metric]
    }
