"""Groups of parameters: every parameter in one of them, at the rate of its level."""

import functools

import pytest
import torch
from torch import nn

from bilevel import errors, loops
from tests.support.loop_models import Picture, Tied, sequences


def names(model, groups):
    """The names of the parameters of each group."""
    known = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: [known[p] for p in group["params"]] for group in groups}


@pytest.mark.parametrize("head", ["fc", "module"])
def test_every_parameter_is_in_one_group_at_the_rate_of_its_level(head):
    model = Picture()
    groups = loops.param_groups(model, model.fc if head == "module" else head, 1e-3, 1e-2)
    assert [(group["name"], group["lr"]) for group in groups] == [("body", 1e-3), ("head", 1e-2)]
    assert names(model, groups)["head"] == ["fc.weight", "fc.bias"]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "ASGD"])
def test_optimisers_of_torch_move_each_level_at_its_rate(kind):
    model = Picture().double()
    optimizer = getattr(torch.optim, kind)(loops.param_groups(model, "fc", 1e-3, 1e-2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    ratio = moved["fc.bias"] / moved["convolution.bias"]
    assert ratio == pytest.approx(10.0, rel=0.02)  # AdamW's decay is proportional to the weights


def test_options_are_those_of_all_groups():
    groups = loops.param_groups(Picture(), "fc", 1e-3, 1e-2, betas=(0.5, 0.9), weight_decay=0.1)
    assert all(g["betas"] == (0.5, 0.9) and g["weight_decay"] == 0.1 for g in groups)
    for name in ("params", "lr", "name"):
        with pytest.raises((errors.ArgumentError, TypeError)):
            loops.param_groups(Picture(), "fc", 1e-3, 1e-2, **{name: 1})


def test_biases_and_norms_are_left_out_of_the_decay_if_asked():
    model = Picture()
    groups = loops.param_groups(model, "fc", 1e-3, 1e-2, decay_all=False, weight_decay=0.1)
    assert names(model, groups) == {
        "body": ["convolution.weight"],
        "body, no decay": ["convolution.bias", "norm.weight", "norm.bias"],
        "head": ["fc.weight"],
        "head, no decay": ["fc.bias"],
    }
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    wide = nn.Sequential(nn.LayerNorm((2, 3)), nn.Flatten(), nn.Linear(6, 1))
    groups = loops.param_groups(wide, "2", 1e-3, 1e-2, decay_all=False)
    assert names(wide, groups)["body, no decay"] == ["0.weight", "0.bias"]


def test_frozen_parameters_have_their_place():
    model = Picture()
    model.convolution.requires_grad_(False)
    found = names(model, loops.param_groups(model, "fc", 1e-3, 1e-2))
    assert "convolution.weight" in found["body"]


COMPILE = functools.partial(torch.compile, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, COMPILE])
def test_wrapped_models_have_the_names_of_what_is_inside(wrap):
    model = Picture()
    wrapped = wrap(wrap(model)) if wrap is nn.DataParallel else wrap(model)
    for head in ("fc", model.fc):
        groups = loops.param_groups(wrapped, head, 1e-3, 1e-2)
        assert names(model, groups)["head"] == ["fc.weight", "fc.bias"]
    (prefixed,) = (n for n, _ in wrapped.named_modules() if n.endswith("fc"))
    assert prefixed != "fc"
    assert len(loops.param_groups(wrapped, prefixed, 1e-3, 1e-2)[1]["params"]) == 2


def test_a_part_of_a_model_may_be_compiled():
    model = Picture()
    model.fc = COMPILE(model.fc)
    for head in ("fc", model.fc):
        groups = loops.param_groups(model, head, 1e-3, 1e-2)
        assert [p.shape for p in groups[1]["params"]] == [(10, 36), (10,)]


def test_weights_of_the_head_that_the_body_shares_are_refused():
    with pytest.raises(errors.ArgumentError, match=r"shares 'head.weight' with the body.*embed"):
        loops.param_groups(Tied(), "head", 1e-3, 1e-2)
    assert sequences(3)[0].shape == (3, 7)
    repeated = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    repeated[1].weight = repeated[0].weight  # both are body: one rate, one place
    assert len(loops.param_groups(repeated, "2", 1e-3, 1e-2)[0]["params"]) == 3


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"head": "fcc"}, errors.UnknownNameError, "Did you mean 'fc'"),
        ({"head": ""}, errors.ArgumentError, "whole model"),
        ({"head": nn.Linear(2, 2)}, errors.ArgumentError, "not part of the model"),
        ({"head": 3}, errors.ArgumentError, "name of a module"),
        ({"body_lr": -1.0}, errors.ArgumentError, "`body_lr` must be at least 0"),
        ({"head_lr": torch.ones(2)}, errors.ArgumentError, "`head_lr` must be a single number"),
        ({"model": nn.Sequential(nn.Linear(2, 1))}, errors.ArgumentError, "no body"),
        ({"model": nn.Sequential(nn.LazyLinear(1))}, errors.ArgumentError, "no shape yet"),
        ({"model": "fc"}, errors.ArgumentError, "`model` must be"),
        ({"decay_all": 0}, errors.ArgumentError, "`decay_all`"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, error, text):
    given = {"model": Picture(), "head": "fc", "body_lr": 1e-3, "head_lr": 1e-2} | change
    if isinstance(change.get("model"), nn.Sequential):
        given["head"] = "0"
    with pytest.raises(error, match=text):
        loops.param_groups(**given)
