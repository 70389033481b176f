"""Whom figures and sentences are about, where there are more strategies than can be told apart."""

from bilevel.report import palette, tuning
from bilevel.report.words import MANY, Content


def of(content: Content) -> Content:
    """The same with "shown", names of strategies, and with the paired results of these.

    All of them, as long as each has a line of its own; else those with the best means (and most
    runs) and the baselines, `MANY` of either, as given and tuned.
    """
    tuned, sign = tuning.pairs(content), -1 if content["higher"] else 1
    given = [name for name in content["strategies"] if name not in tuned.values()]
    if "shown" in content or len(given) <= len(palette.LINES):
        return {"shown": list(content["strategies"]), **content}
    means, counts = content["intervals"], content["counts"]
    best = {name: tuned.get(name, name) for name in given}  # tuned rates come first in all
    rank = {name: (-counts.get(each, 0), sign * means[each]["value"] if each in means else 0.0)
            for name, each in best.items()}  # fmt: skip
    first = [*sorted(given, key=rank.__getitem__)[:MANY], *content["baselines"][:MANY]]
    names = {*first, *(best.get(name, name) for name in first)}
    families = [
        {**family, "paired": [each for each in family["paired"] if each["strategy"] in names]}
        for family in content["families"]
    ]
    shown = [name for name in content["strategies"] if name in names]
    return {**content, "shown": shown, "families": families}


def note(content: Content) -> str:
    """Whom they leave out, or ""."""
    if (known := len(content["strategies"])) == len(content["shown"]):
        return ""
    best = f"of the {MANY} strategies with the best values and of baselines"
    return f"Figures, and sentences on pairs, are {best}; the tables have all {known}."
