"""Objectives that depend on the body where autograd sees no such thing: no bound is given."""

import math

import pytest
import torch
from linear_heads import build, normal
from points import Custom, number

import bilevel
from bilevel import Envelope, FiniteDifferences, Implicit
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ProblemError

BODY = torch.as_tensor(normal(1, 3, 5))


def unseen(w, x):
    with torch.no_grad():
        return torch.tanh(x @ w)


FEATURES = {
    "detached": lambda w, x: torch.tanh(x @ w.detach()),
    "under no_grad": unseen,
    "detached in part": lambda w, x: torch.tanh(x @ torch.cat([w[:, :4], w[:, 4:].detach()], 1)),
    "detached after a layer": lambda w, x: torch.sigmoid((x @ w).detach() + 0.1 * x @ w),
}


def network(features, **options):
    return build(
        normal(2, 14, 3), normal(3, 14), features=features, body=BODY, ridge=0.1, **options
    )


@pytest.mark.parametrize("method", [None, Implicit()])
@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_cut_off_leave_no_bound(name, method):
    problem = network(FEATURES[name])
    if method is not None and name in ("detached", "under no_grad"):
        with pytest.raises(ProblemError, match="cuts the body off"):
            bilevel.hypergradient(problem, BODY, method)
        return
    found = bilevel.hypergradient(problem, BODY, method)
    differences = bilevel.hypergradient(problem, BODY, FiniteDifferences())
    assert float((found.body - differences.body).norm()) > 1e-3  # it is wrong indeed
    for answer in (found, differences):
        assert answer.bound_kind == "unknown"
        assert math.isnan(answer.bound)
        assert "autograd" in answer.note
    assert found.response.bound_kind == "proven"  # of the head nothing is wrong


def test_steep_objectives_are_no_mistakes(monkeypatch):
    """A step from the body itself sees their curvature; steps to both sides do not."""
    made, counts, moved = [], [], HeadPoint.moved
    monkeypatch.setattr(HeadPoint, "moved", lambda *some: made.append(1) or moved(*some))
    for steep in (1.0, 1e8):
        made.clear()
        problem = Custom(
            lambda w, t, c=steep: t**2 + c * (w - 1.3) ** 2, lambda w, t: (t - w) ** 2, [0.0], 1.3
        )
        found = bilevel.hypergradient(problem, number(1.3), Implicit())
        assert float(found.body) == pytest.approx(2.6)
        assert found.bound_kind == "estimated"
        counts.append(len(made))
    assert counts[1] == counts[0] + 2


def test_a_body_objective_that_is_cut_off_leaves_no_bound():
    problem = Custom(lambda w, t: t**2 + 3 * w.detach() ** 2, lambda w, t: (t - w) ** 2, [0.0], 1.3)
    found = bilevel.hypergradient(problem, number(1.3), Implicit())
    assert float(found.body) == pytest.approx(2.6)  # of 2.6 + 7.8
    assert found.bound_kind == "unknown"
    assert "autograd" in found.note


SEEN = {
    "as usual": lambda w, x: torch.tanh(x @ w),
    "kinks": lambda w, x: torch.relu(x @ w),
    "small": lambda w, x: 1e-6 * torch.tanh(x @ w),
    "large": lambda w, x: 1e5 * torch.tanh(x @ w),
    "steep": lambda w, x: torch.sin(1e5 * (x @ w)),
    "not of the body": lambda w, x: torch.tanh(x @ BODY),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SEEN)
def test_features_that_are_seen_keep_their_bound(name, dtype):
    def features(w, x):
        return SEEN[name](w, x) if name != "not of the body" else torch.tanh(x @ BODY.to(x))

    found = bilevel.hypergradient(network(features), BODY.to(dtype))
    assert found.bound_kind == "proven"
    assert found.bound >= 0
    if dtype == torch.float64 and name in ("as usual", "kinks", "large"):
        differences = bilevel.hypergradient(network(features), BODY, FiniteDifferences())
        size = float(found.body.norm())
        assert float((found.body - differences.body).norm()) <= found.bound + 1e-6 * size


@pytest.mark.parametrize("method", [Envelope(), Implicit()])
def test_at_a_minimum_nothing_is_suspected(method):
    """Differences of a gradient of zero are rounding."""
    g = lambda w, t: (t - w).square() / 2 + 1e4 + w.pow(4)  # noqa: E731
    problem = Custom(None, g, [0.3], 0.0)
    problem.__class__ = type("Same", (Custom,), {
        "body_objective": bilevel.StackelbergProblem.body_objective})  # fmt: skip
    found = bilevel.hypergradient(problem, number(0.0), method)
    assert found.bound_kind == "proven"
    assert abs(float(found.body)) <= found.bound < 1e-9


def test_a_gradient_that_is_rounding_keeps_its_proof():
    """Targets that the features fit: Phi and its gradient are 0 at this body."""
    x = normal(2, 14, 3)
    targets = torch.tanh(torch.as_tensor(x) @ BODY) @ torch.as_tensor(normal(4, 5))
    problem = build(x, targets.numpy(), features=lambda w, x: torch.tanh(x @ w), body=BODY)
    found = bilevel.hypergradient(problem, BODY)
    assert found.bound_kind == "proven"
    assert float(found.body.norm()) <= found.bound < 1e-10


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e-3, 1e5])
@pytest.mark.parametrize("name", ["tanh", "sin", "exp"])
def test_bodies_of_any_scale(name, scale, cut):
    """Curved over their own size, or beyond all numbers a little further."""
    curve = {"tanh": torch.tanh, "sin": lambda u: torch.sin(3 * u), "exp": torch.exp}[name]
    problem = build(
        normal(2, 14, 3), normal(3, 14), body=scale * BODY, ridge=0.1,
        features=lambda w, x: curve(x @ (w.detach() if cut else w) / scale),
    )  # fmt: skip
    found = bilevel.hypergradient(problem, scale * BODY)
    assert found.bound_kind == ("unknown" if cut else "proven")
    assert math.isnan(found.bound) == cut
