"""The report: one self-contained page, and the figures that go with it."""

import itertools
import re
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from bilevel.core.status import FAILED, Status
from bilevel.report import (
    figures,
    first_page,
    palette,
    processors,
    sentences,
    shown,
    stationarity,
    tuning,
    verdicts,
    why,
    words,
)
from bilevel.report.missing import ended, listed
from bilevel.report.svg import inline_svg, to_svg, without_legend
from bilevel.report.words import Content

AGAINST = {
    "steps": "step",
    "gradients": "gradient evaluations",
    "seconds": "seconds per run",
}
MEANINGS = {
    "uniform slow": "Body and head share the small step size that two-timescale gives its body.",
    "uniform fast": "Body and head share the large step size that two-timescale gives its head.",
    "two-timescale": "The body moves slowly and the head fast, so that the head can keep up with "
    "the body.",
    "swapped": "A control: the fast body and the slow head. If it does as well, what helped was "
    "not which of the two is faster.",
    "uniform sqrt": "A control: one rate in between for both, the geometric mean √(αβ) of the "
    "two. If it does as well, what helped was the size of the rates, not their difference.",
    "best response": "The head is solved exactly before every step of the body: the limit of an "
    "ever faster head.",
}
KINDS = {
    r"body_lr=Frozen\(\)": "A control: the body stays where it starts.",
    r"SingleLoop\(": "One step each of the head, of the adjoint, which gives the implicit term, "
    "and of the body.",
    r"gradient=Unrolled\(": "Some steps of the head before every step of the body, whose gradient "
    "is taken through them.",
    r"Refit\(": "Both move together; now and then the head is solved exactly, on some of the rows.",
    r"BestResponse\(.*FastSGD\(": "Some steps of the head before every step of the body.",
    r"BestResponse\(.*BatchData\(": "The head is solved exactly on the rows of every step.",
    r"BestResponse\(.*RunningData\(": "The head is solved on running averages over the batches.",
    r"BestResponse\(": "The head is solved before every step of the body.",
    r"head_steps=(?!1\b)": "Several steps of the head for each one of the body.",
}
"""What strategies of other names do, by how they are written; the first pattern that is there."""


def page(content: Content, drawn: Mapping[str, tuple[str, str]]) -> str:
    """Render the report.

    Args:
        content: Everything that it tells of.
        drawn: What `draw` gave.

    Returns:
        HTML with its style sheet and figures inside: it needs no other file and no network.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, lstrip_blocks=True)
    environment.filters.update(
        number=words.number,
        whole=lambda value: f"{value:,.0f}",
        metric=words.metric_name,
        setting=words.setting,
        tied=_tied,
        paired_file=paired_file,
    )
    files = resources.files("bilevel.report")
    template = environment.from_string(files.joinpath("template.html").read_text("utf-8"))
    names, content = list(content["strategies"]), shown.of(content)
    curve_metrics, more_metrics = _metrics(content)
    best = verdicts.ranked(content, "intervals", "counts", names)
    return template.render(
        **content,
        content=content,
        words=words,
        sentences=sentences,
        verdicts=verdicts,
        search=tuning,
        css=files.joinpath("style.css").read_text("utf-8"),
        lines=_lines(content),
        meanings=_meanings(content),
        legend=_legend(content),
        fall=stationarity.fall(content),
        overfits=first_page.overfits(content),
        scale=first_page.scale(content),
        why=why,
        why_rows=why.rows(content),
        why_names=[name for name in drawn if name in why.PANELS],
        one_run=len(content["same_runs"]) == len(names),
        # here the strategies are named once for all curves
        drawn={name: inline_svg(without_legend(svg, figures.CURVES), title)
               for name, (title, svg) in drawn.items()},
        gap_names=[name for name in drawn if name.startswith("head-gap-")],
        has_bound=any("head_bound" in table for table in content["history"].values()),
        version=content["environment"].get("packages", {}).get("bilevel"),
        curve_files=[[_curve_file(content, metric, against) for against in content["positions"]]
                     for metric in curve_metrics],
        more_metrics=more_metrics,
        more_files=[_curve_file(content, metric, content["unit"].budget)
                    for metric in more_metrics],
        best=best if len(best) < len(content["counts"]) else [],  # where all are equal, none is
        alone=len(names) == 1,
        spread=any(np.isfinite(mean["low"]) for mean in content["intervals"].values()),
        worded=any(name in _meanings(content) for name in names),
        lost=listed(content),
        all_failed=ended(content, *content["final"]) == "failed",
        few=shown.note(content),
        failures=_first_failures(content),
        status_messages=_messages(content),
        processors=processors.kinds(content),
        untimed="seconds" not in content["positions"],
    )  # fmt: skip


def draw(content: Content) -> dict[str, tuple[str, str]]:
    """Draw every figure of the report.

    Returns:
        Name of a file without ending -> (what the figure shows, a complete SVG document).
    """
    name, content = words.metric_name(content["headline"]), shown.of(content)
    lines, found = _lines(content), {}
    if content["final"]:
        short = sentences.final(content)
        what = "of every run, with mean and 95 % interval" if content["runs"] > 1 else "of the run"
        title = f"{short[:1].upper()}{short[1:]} {what}"
        values = {key: content["final"][key] for _, entry in _legend(content) for key in entry
                  if key in content["final"] and key in content["shown"]}  # fmt: skip
        figure = figures.strip(values, lines, intervals=content["intervals"], title=short,
                               levels=first_page.levels(content, content["headline"]))  # fmt: skip
        found["final"] = (title, figure)
    for family in content["families"]:
        if not family["paired"]:
            continue
        title = f"{family['paired'][0]['kind']} of {name}{verdicts.WITH[family['kind']]}"
        figure = figures.forest(verdicts.labelled(family), lines, title=title)
        key = paired_file(family["kind"])
        ends = " with 95 % intervals" if content["runs"] > 1 else ""
        found[key] = (f"Paired comparison: {title}{ends}", figure)
    found |= _curves(content) | _gap_figures(content) | why.draw(content, lines)
    return {name: (title, to_svg(figure)) for name, (title, figure) in found.items()}


def paired_file(kind: str) -> str:
    """Name of the figure of a family's paired results, without ending."""
    return f"paired-{kind}" if kind else "paired"


def curve_figure(content: Content, metric: str, *, against: str) -> Figure:
    """Draw one metric of all strategies that have it.

    Args:
        content: As for `page`.
        metric: Which metric.
        against: What the horizontal positions are: a key of `AGAINST`.
    """
    content, positions = shown.of(content), content["positions"][against]
    series = {
        name: (positions[name], table[metric])
        for name, table in content["history"].items()
        if metric in table and name in positions
    }
    return figures.curves(series, _lines(content), xlabel=AGAINST[against],
                          title=words.metric_name(metric),
                          levels=first_page.levels(content, metric))  # fmt: skip


def _metrics(content: Content) -> tuple[list[str], list[str]]:
    """What is trained and the headline, against every axis; the others against the budget only.

    What is trained is F: where F is g, the headline's metric of the training rows if there is one.
    """
    known = list(dict.fromkeys(key for table in content["history"].values() for key in table))
    headline = content["headline"]
    trained, rows = content["body_objective"], headline.partition("_")
    twin = f"train_{rows[2]}"
    if trained == "objective" and rows[0] in ("test", "validation") and twin in known:
        trained = twin
    main = [metric for metric in dict.fromkeys((trained, headline)) if metric in known]
    own = {"head_gap", "head_bound"}  # these have their own section
    return main, [metric for metric in known if metric not in own.union(main)]


def _legend(content: Content) -> list[tuple[str, list[str]]]:
    """Words and strategies of each entry: a tuned one shares the entry of the one as given."""
    pairs = tuning.pairs(content)
    others = [name for name in content["strategies"] if name not in content["shown"]]
    entries = [
        (name, [name, pairs[name]] if name in pairs else [name])
        for name in content["shown"]
        if name not in pairs.values()
    ]
    return [*entries, *((palette.OTHERS, [name]) for name in others[:1])]


def _meanings(content: Content) -> dict[str, str]:
    """Strategies in words."""
    tuned = {
        row["tuned"]: f"{row['strategy']} with the rates that did best in the search: "
        f"{tuning.factors(row)}."
        for row in tuning.rows(content)
    }
    kinds = {
        name: next((said for kind, said in KINDS.items() if re.search(kind, code)), "")
        for name, code in content["strategies"].items()
    }
    return {**{name: said for name, said in kinds.items() if said}, **MEANINGS, **tuned}


def _lines(content: Content) -> dict[str, palette.Line]:
    tuned = {name: best for name, best in tuning.pairs(content).items() if best in content["shown"]}
    faint = dict.fromkeys(content["strategies"], palette.FAINT)
    return faint | palette.lines(content["shown"], tuned)


def _first_failures(content: Content) -> dict[str, str]:
    """For each strategy, which seeds failed and from which record on they were not finite."""
    found = {}
    for name, statuses in content["status"].items():
        table = content["history"][name]
        values = table.get("objective", table.get(content["headline"]))
        parts = []
        for run, status in enumerate(statuses):
            if status not in FAILED:
                continue
            part = f"seed {content['settings']['seeds'][run]}"
            if values is not None and not np.isfinite(values[:, run]).all():
                record = int((~np.isfinite(values[:, run])).argmax())
                part += f" by {content['unit'].by(int(content['steps'][record]))}"
            parts.append(part)
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        found[name] = ", ".join(parts[:3]) + more
    return found


def _messages(content: Content) -> dict[str, str]:
    """What the unusual outcomes mean and what to do about them."""
    seen = {status for statuses in content["status"].values() for status in statuses}
    usual = (Status.COMPLETED, Status.CONVERGED)
    return {words.STATUSES[status.name]: status.message for status in Status
            if status.name in seen and status not in usual}  # fmt: skip


def _curves(content: Content) -> dict[str, tuple[str, Figure]]:
    """The main metrics against every axis, the others against the budget."""
    main, more = _metrics(content)
    drawn = [(metric, against) for metric in main for against in content["positions"]]
    drawn += [(metric, content["unit"].budget) for metric in more]
    return {
        _curve_file(content, metric, against): (
            f"{words.metric_name(metric)} against {AGAINST[against]}",
            curve_figure(content, metric, against=against),
        )
        for metric, against in drawn
    }


def _gap_figures(content: Content) -> dict[str, tuple[str, Figure]]:
    """One panel per strategy, all with the same axis."""
    history = {name: content["history"][name] for name in content["shown"]
               if "head_gap" in content["history"][name]}  # fmt: skip
    tracks = [(table["head_gap"], table.get("head_bound")) for table in history.values()]
    limits = figures.gap_limits(tracks)
    if limits is None:
        return {}
    slugs, lines, budget = _slugs(list(history)), _lines(content), content["unit"].budget
    places = content["positions"][budget]
    return {
        f"head-gap-{slugs[name]}": (
            f"{name}: distance of the head from its best response, and the bound on it",
            figures.gaps(name, lines[name], places=places[name], gap=table["head_gap"],
                         bound=table.get("head_bound"), limits=limits, xlabel=AGAINST[budget]),
        )
        for name, table in history.items()
    }  # fmt: skip


def _curve_file(content: Content, metric: str, against: str) -> str:
    """Name of the figure of a metric, without ending."""
    known = [name for names in _metrics(content) for name in names]
    return f"{_slugs(known, '_')[metric]}-{against}"


def _slugs(names: Sequence[str], between: str = "-") -> dict[str, str]:
    """Names for files: all different, also where a file system ignores capitals; 150 bytes long."""
    found: dict[str, str] = {}
    for name in names:
        plain = "".join(letter if letter.isalnum() else between for letter in name)
        plain = plain.encode()[:150].decode(errors="ignore") or between
        numbered = (f"{plain}{between}{number}" for number in itertools.count(2))
        taken = {slug.casefold() for slug in found.values()}
        found[name] = next(slug for slug in itertools.chain([plain], numbered)
                           if slug.casefold() not in taken)  # fmt: skip
    return found


def _tied(text: str) -> str:
    """Keep a number and its percent sign on one line, and an equation."""
    return re.sub(r" (?=[%=<])|(?<=[=<]) ", "\N{NO-BREAK SPACE}", text)
