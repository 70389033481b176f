"""The table of rates finds what keeps a parameter from moving as it was meant."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bilevel import errors, loops
from tests.support.loop_models import Picture, Tied


def groups(model, **changes):
    """What one writes by hand: the body, and the head."""
    head = list(model.fc.parameters())
    body = [p for p in model.parameters() if all(p is not q for q in head)]
    return [{"params": body, "lr": 1e-3} | changes, {"params": head, "lr": 1e-2}]


def in_no_group():
    model = Picture()
    made = groups(model)
    made[1]["params"].pop()
    return model, torch.optim.SGD(made)


def in_two_groups():
    model = Picture()
    optimizer = torch.optim.SGD(groups(model))
    optimizer.param_groups[0]["params"].append(model.fc.bias)  # `add_param_group` refuses it
    return model, optimizer


def frozen():
    model = Picture()
    model.fc.bias.requires_grad_(False)
    return model, torch.optim.SGD(groups(model))


def shared():
    model = Tied()
    return model, torch.optim.SGD(model.parameters(), 0.1)


def at_rate_0():
    model = Picture()
    return model, torch.optim.SGD(groups(model, lr=0.0))


def wrapped():
    model = Picture()
    optimizer = torch.optim.SGD(groups(model))
    return AveragedModel(model), optimizer


PLANTED = {
    "in no group": (in_no_group, {"fc.bias"}, "in no group"),
    "in two groups": (in_two_groups, {"fc.bias"}, "2 places (0 and 1)"),
    "frozen": (frozen, {"fc.bias"}, "its rate in group 1 does nothing"),
    "shared": (shared, {"embed.weight"}, "embed.weight and head.weight are one parameter"),
    "rate 0": (
        at_rate_0,
        {"convolution.weight", "convolution.bias", "norm.weight", "norm.bias"},
        "rate 0 now, in group 0",
    ),
    "another module": (wrapped, {""}, "copied, wrapped or converted after"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_mistake_is_found_and_no_other(kind):
    plant, names, text = PLANTED[kind]
    found = loops.group_rates(*plant())
    kinds = {problem.kind for problem in found.problems}
    assert kinds == ({kind, "in no group"} if kind == "another module" else {kind})
    of_kind = [problem for problem in found.problems if problem.kind == kind]
    assert {problem.parameter for problem in of_kind} == names
    assert text in str(found)
    assert text in found._repr_html_()


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, "compile"])
def test_groups_without_a_mistake(wrap):
    model = Picture()
    optimizer = torch.optim.AdamW(loops.param_groups(model, "fc", 1e-3, 1e-2))
    outer = torch.compile(model, backend="eager") if wrap == "compile" else wrap(model)
    found = loops.group_rates(outer, optimizer)
    assert found.problems == []
    assert {row.parameter: row.rates for row in found.rows} == {
        name: [1e-2 if name.startswith("fc") else 1e-3] for name, _ in model.named_parameters()
    }
    assert found.rows[-1].groups == ["1 head"]
    assert found.rows[0].numbers == 36
    assert "Nothing is wrong." in str(found)
    assert len(found.wrappers) == (outer is not model)
    assert str(found).count("The model is in") == (outer is not model)


def test_groups_by_names_that_a_wrapper_changed():
    model = nn.DataParallel(Picture())
    named = dict(model.named_parameters())
    head = [p for name, p in named.items() if name.startswith("fc")]
    body = [p for name, p in named.items() if not name.startswith("fc")]
    optimizer = torch.optim.SGD([{"params": body, "lr": 1e-3}, {"params": head, "lr": 1e-2}])
    (problem,) = loops.group_rates(model, optimizer).problems
    assert problem.kind == "empty group"
    assert "`module.`" in str(problem)


def test_layers_that_were_replaced_afterwards():
    model = Picture()
    optimizer = torch.optim.SGD(groups(model))
    model.fc = nn.Linear(36, 3)
    found = loops.group_rates(model, optimizer).problems
    assert [problem.kind for problem in found] == ["another module", "in no group", "in no group"]
    assert "2 parameters of the optimiser are none of this model" in str(found[0])
    twin = copy.deepcopy(model)
    kinds = {problem.kind for problem in loops.group_rates(twin, optimizer).problems}
    assert kinds == {"another module", "in no group"}


def test_several_optimisers_and_rates_that_move():
    model = Picture()
    body, head = groups(model)
    pair = [torch.optim.SGD([body]), torch.optim.Adam([head], lr=torch.tensor(0.5))]
    found = loops.group_rates(model, pair)
    assert found.problems == []
    assert found.rows[-1].groups == ["1.0"]
    for group in pair[1].param_groups:
        group["lr"] = 0.25
    assert loops.group_rates(model, pair).rows[-1].rates == [0.25]
    both = [*pair, torch.optim.SGD(model.fc.parameters(), 0.1)]
    assert {problem.kind for problem in loops.group_rates(model, both).problems} == {
        "in two groups"
    }


def test_sharing_counts_between_head_and_body_if_the_head_is_named():
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (problem,) = loops.group_rates(model, optimizer, head="head").problems
    assert problem.kind == "shared"
    assert "head.weight of the head is embed.weight of the body" in str(problem)
    repeated = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    repeated[1].weight = repeated[0].weight
    optimizer = torch.optim.SGD(repeated.parameters(), 0.1)
    assert loops.group_rates(repeated, optimizer, head="2").problems == []
    assert [p.kind for p in loops.group_rates(repeated, optimizer).problems] == ["shared"]


def test_nothing_is_changed():
    model = Picture()
    optimizer = torch.optim.SGD(groups(model), momentum=0.9)
    before = copy.deepcopy(optimizer.state_dict())
    loops.group_rates(model, optimizer)
    assert optimizer.state_dict() == before


@pytest.mark.parametrize("optimizer", [None, [], [1], torch.optim.SGD, {"lr": 1}])
def test_what_is_no_optimiser(optimizer):
    with pytest.raises(errors.ArgumentError, match="`optimizer` must be"):
        loops.group_rates(Picture(), optimizer)
