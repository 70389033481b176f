"""Which parameter of a model moves at which rate, and which does not as it was meant."""

import html
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bilevel.errors import ArgumentError, counted, spell
from bilevel.loops.modules import check_model, head_of, owners, wrappers

HEADER = ("parameter", "numbers", "group", "rate", "")


class RateProblem(NamedTuple):
    """Something that keeps a parameter from moving as it was meant.

    Attributes:
        parameter: its name; "" for one that is not the model's, or for a group.
        kind: "in no group", "in two groups", "frozen", "rate 0", "shared", "another module" or
            "empty group".
        text: a sentence.
    """

    parameter: str
    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


class RateRow(NamedTuple):
    """A parameter of the model.

    Attributes:
        parameter: its name.
        numbers: how many it has.
        groups: where it is, "0 head"; with several optimisers "1.0 head".
        rates: those of these groups.
        problems: the kinds of what is wrong with it.
    """

    parameter: str
    numbers: int
    groups: list[str]
    rates: list[float]
    problems: list[str]


class GroupRates:
    """The rate of every parameter, and what is wrong; made by `group_rates`. Prints as a table.

    Attributes:
        rows: a `RateRow` for each parameter.
        problems: a `RateProblem` for each mistake; empty if there is none.
        wrappers: what the model is wrapped in, the outermost first.
    """

    def __init__(self, rows: list[RateRow], problems: list[RateProblem], around: list[str]) -> None:
        self.rows, self.problems, self.wrappers = rows, problems, around

    def __str__(self) -> str:
        cells = [HEADER, *self._cells()]
        widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
            for a, b, c, d, e in cells
        ]
        if self.wrappers:
            lines.append(f"The model is in {', in '.join(self.wrappers)}.")
        found = [f"- {problem}" for problem in self.problems] or ["Nothing is wrong."]
        return "\n".join([*lines, *found])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        head, *rows = (
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            for tag, cells in [("th", HEADER), *(("td", cells) for cells in self._cells())]
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        said = [str(problem) for problem in self.problems] or ["Nothing is wrong."]
        listed = "".join(f"<li>{html.escape(text)}</li>" for text in said)
        table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f"<table>{table}</table><ul>{listed}</ul>"

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for name, numbers, groups, rates, kinds in self.rows:
            shown = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))
            yield name, f"{numbers:,}", ", ".join(groups), shown, ", ".join(kinds)


class Place(NamedTuple):
    """A group of an optimiser: how it is called, its rate now, and its parameters."""

    name: str
    rate: float
    parameters: list[Tensor]


def group_rates(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    *,
    head: str | nn.Module | None = None,
) -> GroupRates:
    """Which parameter moves at which rate, as the optimiser is now: it changes nothing.

    Found are parameters that are in no group, in two, frozen, or at rate 0; those that two modules
    share, which have one rate in both; parameters of another module, which was copied or replaced
    after the optimiser was made (so that this one does not move), and groups without parameters,
    as names that a wrapper changed make them.

    Args:
        model: as it is trained. `DataParallel`, `DistributedDataParallel` and `torch.compile` keep
            the parameters of what they wrap; names are those inside.
        optimizer: one of torch, or several that share the model.
        head: the name of the head, or the module: only parameters that it shares with the body are
            wrong then. None: all that two modules share are named.

    Returns:
        A table that prints, and its `problems`.

    Raises:
        ArgumentError: `model` is no module, or `optimizer` none of torch.
        UnknownNameError: the model has no part of that name.

    Examples:
        >>> import torch
        >>> from bilevel import loops
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(),
        ...                             torch.nn.Linear(8, 1))
        >>> groups = [{"params": model[0].parameters(), "lr": 1e-3},
        ...           {"params": [model[2].weight], "lr": 1e-2}]
        >>> loops.group_rates(model, torch.optim.SGD(groups))
        parameter  numbers  group   rate
        0.weight        24  0      0.001
        0.bias           8  0      0.001
        2.weight         8  1       0.01
        2.bias           1                in no group
        - 2.bias is in no group: it does not move.
    """
    check_model(model)
    places = _places(optimizer)
    held = owners(model)
    shared = _shared(model, held, head)
    rows, problems = [], list(_strangers(places, held))
    for parameter, owned in held.items():
        name = owned[0][0]
        there = [place for place in places for other in place.parameters if other is parameter]
        found = list(_problems(name, parameter, there))
        if name in shared:
            found.append(RateProblem(name, "shared", shared[name]))
        rates, kinds = [place.rate for place in there], [problem.kind for problem in found]
        groups = list(dict.fromkeys(place.name for place in there))
        rows.append(RateRow(name, parameter.numel(), groups, rates, kinds))
        problems += found
    return GroupRates(rows, problems, wrappers(model))


def _problems(name: str, parameter: Tensor, there: list[Place]) -> Iterator[RateProblem]:
    """What is wrong with a parameter that is in some groups."""
    named = " and ".join(place.name for place in there)
    if not parameter.requires_grad:
        where = f"its rate in group {named} does nothing" if there else "it is in no group"
        yield RateProblem(name, "frozen", f"{name} is frozen (`requires_grad` False): {where}.")
    elif not there:
        yield RateProblem(name, "in no group", f"{name} is in no group: it does not move.")
    if len(there) > 1:
        yield RateProblem(
            name, "in two groups", f"{name} is in {len(there)} places ({named}): it moves in each."
        )
    if any(place.rate == 0 for place in there):
        yield RateProblem(
            name, "rate 0", f"{name} has the rate 0 now, in group {named}: it does not move."
        )


def _shared(
    model: nn.Module, held: dict[Tensor, list[tuple[str, nn.Module]]], head: Any
) -> dict[str, str]:
    """Name -> what is said of it, of parameters that are shared."""
    if head is not None:
        inside = set(head_of(model, head).module.modules())
        found = {}
        for owned in held.values():
            own, other = (
                [name for name, module in owned if (module in inside) is of_head]
                for of_head in (True, False)
            )
            if own and other:
                text = f"{own[0]} of the head is {other[0]} of the body: one rate moves both."
                found[owned[0][0]] = text
        return found
    return {
        owned[0][0]: f"{' and '.join(name for name, _ in owned)} are one parameter, at one rate in "
        "each place."
        for owned in held.values()
        if len({id(module) for _, module in owned}) > 1
    }


def _strangers(
    places: list[Place], held: dict[Tensor, list[tuple[str, nn.Module]]]
) -> Iterator[RateProblem]:
    """Parameters in groups that are not the model's, and groups without any."""
    total = [parameter for place in places for parameter in place.parameters]
    strange = [parameter for parameter in total if parameter not in held]
    if strange:
        sizes = [parameter.shape for parameter in strange]
        if [parameter.shape for parameter in held] == sizes:
            text = (
                "All parameters of the optimiser are those of another module of the same shapes: "
                "this one was copied, wrapped or converted after the optimiser was made, and does "
                "not move. Make the optimiser of the module that is trained."
            )
        else:
            shown = ", ".join(str(tuple(size)) for size in sizes[:3])
            text = (
                f"{counted(len(strange), 'parameter')} of the optimiser "
                f"{'is' if len(strange) == 1 else 'are'} none of this model (of shape {shown}"
                f"{', ...' * (len(sizes) > 3)}): of another module, or replaced after the "
                "optimiser was made."
            )
        yield RateProblem("", "another module", text)
    for place in places:
        if not place.parameters:
            yield RateProblem(
                "",
                "empty group",
                f"Group {place.name} has no parameters, so that its rate {place.rate:g} moves "
                "nothing. Were they chosen by names? Wrappers change them (`module.`, "
                "`_orig_mod.`).",
            )


def _places(optimizer: Any) -> list[Place]:
    """All groups of one optimiser, or of several."""
    given = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    if not given or not all(isinstance(one, torch.optim.Optimizer) for one in given):
        raise ArgumentError(
            f"`optimizer` must be an optimiser of torch, or a list of them, got {spell(optimizer)}."
        )
    found = []
    for i, one in enumerate(given):
        for k, group in enumerate(one.param_groups):
            number = f"{i}.{k}" if len(given) > 1 else str(k)
            name = f"{number} {group['name']}" if isinstance(group.get("name"), str) else number
            rate = group.get("lr", torch.nan)
            found.append(Place(name, float(rate), list(group["params"])))
    return found
