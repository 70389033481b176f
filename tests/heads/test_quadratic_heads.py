"""A head counts as quadratic only where its gradients say so: at the start, found and solved."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_heads import Given
from points import Custom, number

import bilevel
from bilevel import BestResponse, Box, ClosedForm, FastSGD, Implicit, Status
from bilevel.errors import IncompatibleError


class Stackelberg(Custom):
    """F is g."""

    body_objective = bilevel.StackelbergProblem.body_objective


def bent(w, theta):
    """Curvature 2 below 4, 12 above it; theta* = w there."""
    return ((theta - w) ** 2 + 5 * torch.relu(theta - 4) ** 2).sum()


def make(kind, start=0.0, head_set=None, g=bent):
    F = {"F is g": None, "F is not g": lambda w, t: (t**2).sum() / 2 + w}[kind]
    return (Stackelberg if F is None else Custom)(F, g, [start], 1.0, head_set)


KINDS = ["F is g", "F is not g"]
ONE = number(1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [-3.0, 1.0, 3.9, 4.1, 7.0, 1e4])
def test_a_bound_is_proven_only_where_the_gradient_is_that_of_the_quadratic(kind, head):
    found = bilevel.best_response(make(kind), ONE, Given(number(head)))
    assert found.bound_kind == ("proven" if head < 4 else "estimated")
    if head < 4:
        assert abs(head - 1) <= found.bound <= abs(head - 1) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("method", [bilevel.Envelope(), Implicit(), bilevel.Unrolled(1)])
def test_no_gradient_is_proven_from_another_piece(method):
    """grad Phi is 0; the implicit gradient of the upper piece is not."""
    found = bilevel.hypergradient(make("F is g", 9.0), ONE, method, solver=FastSGD(0.02, 1))
    assert found.response.bound_kind == found.bound_kind == "estimated"
    assert abs(float(found.body)) > 1
    assert found.bound > 0.5  # an estimate that has looked where theta* is


def test_a_gradient_of_the_same_piece_stays_proven():
    found = bilevel.hypergradient(make("F is g", 3.0), ONE, solver=FastSGD(0.1, 1))
    assert found.bound_kind == "proven"
    assert abs(float(found.body)) <= found.bound


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_on_another_piece_has_no_closed_form(kind):
    for made in (lambda p: bilevel.best_response(p, ONE, ClosedForm()),
                 lambda p: bilevel.solve(p, BestResponse(0.1), steps=2, seeds=2)):  # fmt: skip
        with pytest.raises(IncompatibleError, match=r"not quadratic in the head.*initial one"):
            made(make(kind, 6.0))
    found = bilevel.best_response(make(kind, 6.0), ONE, bilevel.Newton())
    assert float(found.head) == pytest.approx(1.0, abs=1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class Unchecked(ClosedForm):
    """From the piece where it starts to where it leads, as in a training whose body has moved."""

    def init(self, oracles, body, head, rows):
        at = bilevel.trees.tree_map(torch.zeros_like, head)
        return super().init(oracles, body, at, rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_solution_where_the_gradient_does_not_vanish_is_no_solution(dtype):
    problem = make("F is not g", 6.0)
    found = bilevel.best_response(problem, ONE.to(dtype), Unchecked())
    assert found.status is Status.NOT_QUADRATIC
    assert found.status.failed
    assert "Use Newton()" in found.status.message
    assert bilevel.hypergradient(problem, ONE, solver=Unchecked()).status is Status.NOT_QUADRATIC
    fine = bilevel.best_response(make("F is not g", 3.0), ONE.to(dtype), ClosedForm())
    assert fine.status is Status.CONVERGED


def test_numbers_that_overflow_say_nothing_of_the_pieces():
    problem = Custom(lambda w, t: t**2 / 2, lambda w, t: 500 * t - 50 * w * t + t**2 / 2, [0.0])
    strategy = BestResponse(1.0, optimizer=bilevel.SGD())
    for steps in (6, 12, 40):
        found = bilevel.solve(problem, strategy, steps=steps, seeds=1, throw=False)
        assert found.status[0] in (Status.COMPLETED, Status.DIVERGED, Status.SINGULAR)


def test_a_training_that_leaves_the_piece_says_so():
    """The body goes from 1 to 6: theta* from 1 to 4.33; a step from below 4 lands beyond it."""
    problem = Custom(lambda w, t: (w - 6) ** 2 + 0 * t, bent, [0.0], 1.0)
    strategy = BestResponse(0.25, optimizer=bilevel.SGD())
    stays, leaves = (
        bilevel.solve(
            problem, strategy, steps=steps, seeds=1, dtype=torch.float64, every=1, throw=False
        )
        for steps in (1, 2)
    )
    assert float(stays.body[0]) < 4 < float(leaves.body[0])
    assert stays.status == (Status.COMPLETED,)
    assert leaves.status == (Status.NOT_QUADRATIC,)
    with pytest.raises(bilevel.errors.BilevelError, match="not quadratic between"):
        bilevel.solve(problem, strategy, steps=2, seeds=1, dtype=torch.float64)


def test_records_beyond_the_piece_have_the_true_phi_and_no_false_bound():
    """Heads of steps that stop between, on the other piece than theta*: Newton steps find it."""
    problem = Custom(lambda w, t: (w - 12) ** 2 + t**2, bent, [0.0], 1.0)
    strategy = BestResponse(0.2, FastSGD(0.03, 1), Implicit(tolerance=9.0), bilevel.SGD())
    found = bilevel.solve(problem, strategy, steps=12, seeds=1, dtype=torch.float64, every=1)
    records, seen = {name: values[:, 0] for name, values in found.history.items()}, set()
    for k in range(1, 13):
        stopped = bilevel.solve(problem, strategy, steps=k, seeds=1, dtype=torch.float64)
        w, theta = float(stopped.body[0]), float(stopped.head[0])
        best = w if w < 4 else (w + 20) / 6
        crossed = (theta < 4) != (best < 4)
        seen.add(crossed)
        assert float(records["phi"][k]) == pytest.approx((w - 12) ** 2 + best**2, rel=1e-12)
        if crossed:
            assert math.isnan(records["head_bound"][k])
        else:
            assert abs(theta - best) <= float(records["head_bound"][k])
    assert seen == {True, False}


def test_a_set_of_heads_is_looked_at_where_its_minimiser_is():
    """On [5, 9] all heads are on the upper piece, whose quadratic is not that of random heads."""
    box = Box(5.0, 9.0)
    for head in (5.0, 6.5):
        found = bilevel.best_response(make("F is not g", 6.0, box), ONE, Given(number(head)))
        assert found.bound_kind == "estimated"
    # on [-9, 4.5] the minimiser w = 4.2 of the lower piece is none; a head below 4 cannot know
    found = bilevel.best_response(make("F is not g", 0.0, Box(-9.0, 4.5)), number(5.0), Given(ONE))
    assert found.bound_kind != "proven"


def test_quadratic_heads_of_any_scale_stay_proven():
    """What was right stays: badly scaled, far away, with large constants, on sets."""
    scales = number(1e-6, 1.0, 1e6)
    for far, head_set in (
        (0.0, None),
        (1e6, None),
        (0.0, Box(-0.5, 0.5)),
        (0.0, bilevel.Ball(1.0)),
    ):

        def g(w, t, far=far):
            return (scales * (t - far - w) ** 2).sum() / 2 + 1e3

        problem = Custom(lambda w, t: t.sum(), g, [0.1, 0.2, 0.3], 1.0, head_set)
        for head in (number(1.0, -2.0, 3.0), number(far, far, far) + 1):
            found = bilevel.best_response(problem, ONE, Given(head))
            assert found.bound_kind == "proven"
            if head_set is None:
                assert float((head - far - 1).norm()) <= found.bound


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1e-12, 1e-9, 1e-8, 1e-7, 1e-5, 1e-2, 1.0, 1e2]),
    st.sampled_from([0.3, 1.0, 3.0, 10.0]),
)
def test_no_proven_bound_of_a_bent_head_is_below_the_error(seed, bend, far):
    """A quadratic with a bend along a random direction: theta* by Newton steps between pieces."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 4))
    root = rng.standard_normal((size, size))
    hessian, normal = root @ root.T + 0.3 * np.eye(size), rng.standard_normal(size)
    offset, w = float(rng.standard_normal() * far), 0.7
    H, a = torch.as_tensor(hessian), torch.as_tensor(normal)

    def g(body, theta):
        off = theta - body
        return off @ H @ off / 2 + bend * torch.relu(body * (a @ theta) - offset) ** 2 / 2

    best = np.full(size, w)
    for _ in range(20):
        over = max(w * normal @ best - offset, 0.0)
        slope = hessian @ (best - w) + bend * over * w * normal
        piece = hessian + (bend * w**2 * np.outer(normal, normal) if over > 0 else 0)
        best = best - np.linalg.solve(piece, slope)
    theta = torch.as_tensor(best + far * rng.standard_normal(size))
    problem = Stackelberg(None, g, [0.0] * size, w)
    problem.head = torch.zeros(size, dtype=torch.float64)
    over = max(w * normal @ best - offset, 0.0)
    exact = -float(np.ones(size) @ hessian @ (best - w)) + bend * over * float(normal @ best)
    for method in (bilevel.Envelope(), Implicit(tolerance=1e9)):
        found = bilevel.hypergradient(problem, number(w), method, solver=Given(theta))
        if found.response.bound_kind == "proven":
            assert np.linalg.norm(theta.numpy() - best) <= found.response.bound
        if found.bound_kind == "proven":
            assert abs(float(found.body) - exact) <= found.bound


@pytest.mark.parametrize("seed", range(8))
def test_no_proven_bound_of_a_bent_head_in_a_box_is_below_the_error(seed):
    """theta* by projected steps; the bend of half of the problems is too small to matter."""
    rng = np.random.default_rng(seed)
    root, normal, best = rng.standard_normal((2, 2)), rng.standard_normal(2), np.zeros(2)
    hessian, centre = root @ root.T + 0.5 * np.eye(2), 2 * rng.standard_normal(2)
    bend, offset = (1e-9 if seed % 2 else 3.0), float(rng.standard_normal())
    H, a, m = map(torch.as_tensor, (hessian, normal, centre))

    def g(body, theta):
        off = theta - m * body
        return off @ H @ off / 2 + bend * torch.relu(a @ theta - offset) ** 2 / 2

    step = 1 / np.linalg.eigvalsh(hessian + bend * np.outer(normal, normal)).max()
    for _ in range(3000):
        slope = hessian @ (best - centre) + bend * max(normal @ best - offset, 0) * normal
        best = np.clip(best - step * slope, -1.0, 1.5)
    problem = Stackelberg(None, g, [0.0, 0.0], 1.0, Box(-1.0, 1.5))
    exact = -float(centre @ hessian @ (best - centre))
    kinds = set()
    for scale in (1e-6, 1e-2, 1.0):
        theta = torch.as_tensor(best + scale * rng.standard_normal(2))
        found = bilevel.hypergradient(problem, ONE, bilevel.Envelope(), solver=Given(theta))
        kinds.add(found.response.bound_kind)
        if found.response.bound_kind == "proven":
            assert np.linalg.norm(theta.numpy() - best) <= found.response.bound + 1e-14
        if found.bound_kind == "proven":
            assert abs(float(found.body) - exact) <= found.bound + 1e-13
    assert "proven" in kinds or seed % 2 == 0
