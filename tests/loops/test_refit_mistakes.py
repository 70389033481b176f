"""What a refit cannot do is refused by name, and leaves the head as it is."""

import pytest
import torch
from torch import nn

import bilevel
from bilevel import errors, loops
from tests.support.loop_models import Picture, Tied, pictures

X, LABELS = pictures(6)


def normed():
    model = Picture()
    nn.utils.parametrizations.weight_norm(model.fc)
    return model


class Twice(Picture):
    """A network that calls its head twice."""

    def forward(self, pictures):
        return super().forward(pictures) + super().forward(pictures)


class Apart(nn.Module):
    """A network whose parts are called by the loop."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(64, 5), nn.Linear(5, 10)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": Tied(), "head": "head"}, errors.ArgumentError, "shares 'head.weight'"),
        ({"model": normed()}, errors.ArgumentError, "must be an `nn.Linear`|beside its weight"),
        ({"head": "convolution"}, errors.ArgumentError, "must be an `nn.Linear`"),
        ({"head": "fcc"}, errors.UnknownNameError, "Did you mean 'fc'"),
        ({"ridge": -1}, errors.ArgumentError, "`ridge`"),
        ({"every": 0}, errors.ArgumentError, "`every`"),
        ({"decay": 1.5}, errors.ArgumentError, "`decay` must be from 0 to 1"),
        ({"rows": 0}, errors.ArgumentError, "`rows`"),
        ({"criterion": "mse"}, errors.ArgumentError, "`criterion`"),
        ({"criterion": bilevel.HuberLoss()}, errors.IncompatibleError, "HuberLoss"),
        ({"criterion": bilevel.LogisticLoss()}, errors.IncompatibleError, "10 outputs"),
    ],
)
def test_arguments_that_cannot_be(change, error, text):
    given = {"model": Picture(), "head": "fc", "ridge": 0.1, "every": 2} | change
    with pytest.raises(error, match=text):
        loops.HeadRefit(**given)
    assert not given["model"]._forward_pre_hooks


@pytest.mark.parametrize(
    ("targets", "criterion", "error", "text"),
    [
        (LABELS[:5], None, errors.ShapeError, "6 rows"),
        (LABELS.unsqueeze(1), None, errors.ShapeError, r"\(6,\)"),
        (torch.rand(6), None, errors.ShapeError, r"\(6, 10\)"),
        (LABELS.float() / 2, bilevel.SoftmaxLoss(), errors.DataError, "fractions"),
        (LABELS - 5, None, errors.DataError, "between 0 and 9"),
        (LABELS + 5, None, errors.DataError, "between 0 and 9"),
        ([1, 2], None, errors.ArgumentError, "`targets`"),
        (torch.full((6, 10), torch.nan), None, errors.SingularHeadError, "not finite"),
    ],
)
def test_targets_that_do_not_fit(targets, criterion, error, text):
    model = Picture()
    before = model.fc.weight.clone()
    with loops.HeadRefit(model, "fc", 0.1, 1, criterion) as refit:
        model(X)
        with pytest.raises(error, match=text):
            refit.step(targets)
    assert torch.equal(model.fc.weight, before)
    assert model.training


def test_steps_go_with_forward_passes():
    model = Picture()
    with loops.HeadRefit(model, "fc", 0.1, 1) as refit:
        with pytest.raises(errors.ArgumentError, match="no call of the head 'fc'"):
            refit.step(LABELS)
        model(X)
        model(X)
        with pytest.raises(errors.ArgumentError, match="more than one call"):
            refit.step(LABELS)
    twice = Twice()
    with loops.HeadRefit(twice, "fc", 0.1, 1) as refit:
        twice(X)
        with pytest.raises(errors.ArgumentError, match="more than one call"):
            refit.step(LABELS)


@pytest.mark.parametrize("where", ["features", "targets"])
def test_rows_that_are_not_finite_are_left_out(where):
    """Sums over all rows would never be finite again."""
    found = []
    for bad in (True, False):
        model = Picture()
        with loops.HeadRefit(model, "fc", 0.1, 3 if bad else 2, decay=1.0) as refit:
            for scale in (1.0, torch.nan, 2.0) if bad else (1.0, 2.0):
                inputs, targets = scale * X, torch.ones(6, 10)
                if where == "targets" and scale != scale:
                    inputs, targets = X, targets * scale
                model(inputs)
                refit.step(targets)
        assert refit.refits == 1
        found.append(model.fc.weight.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


@pytest.mark.parametrize("wrong", ["two calls", "targets"])
@pytest.mark.parametrize("targets", [LABELS, torch.rand(6, 10)], ids=["classes", "real"])
def test_after_a_mistake_a_loop_can_go_on(wrong, targets):
    model = Picture()
    with loops.HeadRefit(model, "fc", 0.1, 1) as refit:
        model(X)
        if wrong == "two calls":  # as where a batch was left out
            model(X)
        with pytest.raises((errors.ArgumentError, errors.ShapeError)):
            refit.step(targets if wrong == "two calls" else targets[:5])
        model(X)
        assert refit.step(targets)


def test_a_loop_that_calls_the_parts_itself():
    apart = Apart()
    with loops.HeadRefit(apart, "fc", 0.1, 1) as refit:
        apart.fc(apart.body(X.flatten(1)))
        with pytest.raises(errors.ArgumentError, match=r"Call `model\(x\)`"):
            refit.step(LABELS)
    with loops.HeadRefit(apart, "fc", 0.1, 1) as refit:  # sums need no second call
        apart.fc(apart.body(X.flatten(1)))
        assert refit.step(torch.rand(6, 10))


def test_rows_that_do_not_determine_the_head():
    model = Picture()
    before = model.fc.weight.clone()
    with loops.HeadRefit(model, "fc", 0.0, 1) as refit:
        model(X)
        with pytest.raises(errors.SingularHeadError, match="larger `ridge`"):
            refit.step(torch.rand(6, 10))
    assert torch.equal(model.fc.weight, before)


def test_a_forward_pass_that_fails_leaves_modes_and_hooks():
    model, fails = Picture(), [False]

    def hook(*_):
        if fails[0]:
            raise RuntimeError("theirs")

    model.norm.register_forward_hook(hook)
    with loops.HeadRefit(model, "fc", 0.1, 1) as refit:
        model(X)
        fails[0] = True
        with pytest.raises(RuntimeError, match="theirs"):
            refit.step(LABELS)
        fails[0] = False
        assert model.training
        model(X)
        assert refit.step(LABELS)


def test_states_that_do_not_fit():
    model = Picture()
    with loops.HeadRefit(model, "fc", 0.1, 5) as refit:
        model(X)
        refit.step(torch.rand(6, 10))
        state = refit.state_dict()
    with pytest.raises(errors.ArgumentError, match="what `state_dict` returned"):
        loops.HeadRefit(model, "fc", 0.1, 5).load_state_dict({"a": 1})
    with pytest.raises(errors.ArgumentError, match="SquaredError"):
        loops.HeadRefit(model, "fc", 0.1, 5, bilevel.SoftmaxLoss()).load_state_dict(state)
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(errors.ShapeError, match="another shape"):
        loops.HeadRefit(other, "1", 0.1, 5).load_state_dict(state)


def test_models_of_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(errors.IncompatibleError, match="Several processes"):
        loops.HeadRefit(Picture(), "fc", 0.1, 1)
