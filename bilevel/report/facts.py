"""How a comparison was made: what was equal for all, how rows were drawn, every setting."""

from collections.abc import Mapping
from typing import Any

from bilevel.report.words import counted, metric_name, setting

# Settings that the page says in words elsewhere.
ELSEWHERE = ("command", "data_note", "bound_note", "not_trained", "tuning", "same_runs",
             "interrupted_heads")  # fmt: skip


def settings(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every setting.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Pairs in the order of the alphabet.
    """
    unit, found = content["unit"], []
    for key, value in sorted(content["settings"].items()):
        if key in ELSEWHERE:
            continue
        text = setting(value)
        if key == "batch_size" and value is None:
            text = "all rows"
        elif key in ("steps", "every") and unit.budget != "steps":
            text = unit.counted(value)
        found.append((key.replace("_", " "), text))
    return found


def budget(content: Mapping[str, Any]) -> str:
    """What was equal for all strategies.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        A sentence or two.
    """
    total = content["unit"].counted(content["planned"])
    if content["unit"].budget == "steps":
        return (
            f"{total} of the body for every strategy. A step of one may cost more than a step of "
            "another; the table of final values says what they cost."
        )
    return (
        f"{total} for every strategy, so that one whose steps are dearer makes fewer of them. "
        "Each makes as many whole steps as its budget pays for."
    )


def judged(content: Mapping[str, Any]) -> str:
    """By what strategies are judged, and what g has to do with it.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        Sentences.
    """
    headline = content["headline"]
    known = {metric for table in content["history"].values() for metric in table}
    text = f"The {metric_name(headline)}"
    if headline.startswith("test_"):
        text += ", of rows that choose nothing"
    elif not any(metric.startswith("test_") for metric in known):
        text += ", since there is no test metric"
    text += "."
    if content["body_objective"] != "objective":
        text += (
            " The body minimises its own objective F and the head another one, g. A better body "
            "may well have a larger g, which is shown but says nothing about who is better."
        )
    return text


def rows(content: Mapping[str, Any]) -> str:
    """How the rows of a step were drawn.

    Args:
        content: As `Comparison.content` gives it.

    Returns:
        A sentence, or "" where the settings do not say.
    """
    known = content["settings"]
    if "sampling" not in known:
        return ""
    size = known.get("batch_size")
    if size is None:
        return "All of them, at every step."
    start = f"{counted(size, 'row')} at every step" if isinstance(size, int) else "Some"
    if known["sampling"] == "epochs":
        return (
            f"{start}, drawn without replacement: in every epoch each row is used once, in a "
            "random order."
        )
    if known["sampling"] == "sequential":
        return f"{start}, in the order of the data, over and over."
    return f"{start}, drawn with replacement, independently of all other steps (i.i.d.)."
