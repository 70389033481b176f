"""Constraints that are weakly active: Phi has one-sided derivatives, and the bound says so."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_heads import Given
from points import Custom, number

import bilevel
from bilevel import Box, Implicit, Nonnegative

H = number([2.0, 0.5], [0.5, 1.0])
SOLVER = bilevel.FastSGD(0.6, 80)


def follows(w, theta):
    """theta* = (w, w - 1) where the second is not negative: weakly active at w = 1."""
    off = theta - torch.stack([w, w - 1])
    return off @ H @ off / 2


def sides(F=lambda w, theta: 3 * theta[0] + 7.3 * theta[1], box=None, at=1.0):
    return Custom(F, follows, [0.4, 0.2], at, box or Box(0.0, 9.0))


# theta_0 = w + (w - 1)/4 below w = 1, where theta_1 is held at 0
LEFT, RIGHT = 3.75, 10.3


@pytest.mark.parametrize("box", [Box(0.0, 9.0), Nonnegative(), Box(-2.0, number(4.0, 0.0))])
@pytest.mark.parametrize("method", [Implicit(), Implicit(bilevel.CG()), bilevel.Unrolled(80)])
def test_a_kink_has_no_bound_and_is_named(box, method):
    mirrored = isinstance(box, Box) and not isinstance(box.high, float)
    sign = -1.0 if mirrored else 1.0  # the bound is above: the whole problem seen from behind

    def g(w, theta):
        return follows(w, sign * theta)

    problem = Custom(lambda w, t: sign * (3 * t[0] + 7.3 * t[1]), g, [0.4, -0.2], 1.0, box)
    if mirrored:
        problem.head_set = Box(number(-4.0, -4.0), number(4.0, 0.0))
    found = bilevel.hypergradient(problem, number(1.0), method, solver=SOLVER)
    assert found.response.bound < 1e-12
    assert LEFT - 1e-6 <= float(found.body) <= RIGHT + 1e-6
    assert found.bound_kind == "unknown"
    assert math.isnan(found.bound)
    assert "head[1] may be free or held by a bound of the set" in found.note
    assert "kink" in found.note


@pytest.mark.parametrize(("w", "slope"), [(0.999, LEFT), (1.001, RIGHT)])
def test_beside_a_kink_there_is_a_bound(w, slope):
    found = bilevel.hypergradient(sides(), number(w), Implicit(), solver=SOLVER)
    assert found.bound_kind == "estimated"
    assert abs(float(found.body) - slope) <= found.bound < 1e-9


def test_a_head_that_is_not_solved_cannot_tell_the_sides_apart():
    """At 1 - 1e-3 the second coordinate is held; a head that is off by more may have it free."""
    problem, w = sides(), number(1 - 1e-3)
    for head, kind in [([1 - 1e-3, 3e-3], "unknown"), ([1 - 1.25e-3, 0.0], "estimated")]:
        found = bilevel.hypergradient(
            problem, w, Implicit(tolerance=1.0), solver=Given(number(*head))
        )
        assert found.bound_kind == kind
        assert abs(float(found.body) - LEFT) <= found.bound or kind == "unknown"


def test_differences_at_a_kink_are_the_mean_of_both_slopes_without_a_bound():
    found = bilevel.hypergradient(sides(), number(1.0), bilevel.FiniteDifferences(), solver=SOLVER)
    assert float(found.body) == pytest.approx((LEFT + RIGHT) / 2, rel=1e-6)
    assert found.bound_kind == "unknown"


class Stackelberg(Custom):
    """F is g."""

    body_objective = bilevel.StackelbergProblem.body_objective


@pytest.mark.parametrize("method", [bilevel.Envelope(), Implicit()])
@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_where_f_is_g_there_is_no_kink(method, off):
    """grad Phi is 0 at w = 1 (and so is Phi), from both sides."""
    problem = Stackelberg(None, follows, [0.4, 0.2], 1.0, Box(0.0, 9.0))
    solver = Given(number(1.0 + off, off))
    found = bilevel.hypergradient(problem, number(1.0), method, solver=solver)
    assert found.bound_kind == "proven"
    assert abs(float(found.body)) <= found.bound <= 1e-12 + 20 * off


UNMOVED = {
    "F does not see it": lambda w, t: 3 * t[0],
    "g does not move it": lambda w, t: 3 * t[0] + 7.3 * t[2],
}


@pytest.mark.parametrize("name", UNMOVED)
def test_a_coordinate_that_changes_nothing_makes_no_kink(name):
    """Heads of features that are zero everywhere are of this kind."""

    def g(w, t):
        moved = t[1] - w + 1 if name == "F does not see it" else t[1]
        return (t[0] - w).square() + moved.square() + t[2].square()

    problem = Custom(UNMOVED[name], g, [0.4, 0.2, 0.3], 1.0, Nonnegative())
    found = bilevel.hypergradient(problem, number(1.0), Implicit(), solver=bilevel.FastSGD(0.4, 60))
    assert found.bound_kind == "estimated"
    assert abs(float(found.body) - 3) <= found.bound < 1e-9
    assert "in the bound" in found.note


def test_bounds_that_are_the_same_leave_nothing_open():
    """The second coordinate is fixed, and not pushed at all where w = 1."""
    box = Box(number(0.0, 0.0), number(9.0, 0.0))
    found = bilevel.hypergradient(sides(box=box), number(1.0), Implicit(), solver=SOLVER)
    assert found.bound_kind == "estimated"
    assert abs(float(found.body) - LEFT) <= found.bound < 1e-9


def test_leaves_are_named_and_many_are_counted():
    class Leaves(bilevel.StackelbergProblem):
        head_set = Nonnegative()

        def data(self, seed=None):
            return {}

        def init_body(self, generator):
            return number(0.0)

        def init_head(self, generator):
            return {"a": torch.zeros(40).double(), "b": torch.ones(1, 2).double()}

        def head_objective(self, w, head, batch):
            return (head["a"] - w).square().sum() + (head["b"] - number([0.0, 1.0])).square().sum()

        def body_objective(self, w, head, batch):
            return head["a"].sum()

    found = bilevel.hypergradient(
        Leaves(), number(0.0), Implicit(), solver=bilevel.FastSGD(0.4, 60)
    )
    assert found.bound_kind == "unknown"
    assert "head['a'][0], head['a'][1], head['a'][2] and 38 more" in found.note


class Pushed(bilevel.StackelbergProblem):
    """g = (theta - m0 - w m1)' H (theta - m0 - w m1) / 2 on theta >= 0, F = c' theta."""

    head_set = Nonnegative()

    def __init__(self, hessian, start, along, weights):
        self.given = [torch.as_tensor(x) for x in (hessian, start, along, weights)]

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return number(0.0)

    def init_head(self, generator):
        return torch.ones(len(self.given[1]), dtype=torch.float64)

    def head_objective(self, w, theta, batch):
        hessian, start, along, _ = self.given
        off = theta - start - w * along
        return off @ hessian @ off / 2

    def body_objective(self, w, theta, batch):
        return self.given[3] @ theta


def one_sided(hessian, along, weights, free, weak, sign):
    """c' d / sign with d the derivative of theta* to that side: all faces are tried."""
    for some in itertools.product([False, True], repeat=int(weak.sum())):
        kept = free.copy()
        kept[weak] = some
        d = np.zeros(len(along))
        pull = sign * hessian @ along
        if kept.any():
            d[kept] = np.linalg.solve(hessian[np.ix_(kept, kept)], pull[kept])
        push = hessian @ d - pull
        if (d[weak] >= -1e-12).all() and (push[weak & ~kept] >= -1e-12).all():
            return float(weights @ d) / sign
    raise AssertionError("no face")


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from("fwa"), min_size=1, max_size=4))
def test_every_bound_covers_both_sides(seed, kinds):
    """Coordinates are free, weakly active or active, in any mixture."""
    rng, size = np.random.default_rng(seed), len(kinds)
    root = rng.standard_normal((size, size))
    hessian = root @ root.T + 0.5 * np.eye(size)
    kinds = np.array(kinds)
    free, weak = kinds == "f", kinds == "w"
    theta = np.where(free, 0.5 + rng.random(size), 0.0)
    push = np.where(kinds == "a", 0.5 + rng.random(size), 0.0)
    start = theta - np.linalg.solve(hessian, push)
    along, weights = rng.standard_normal((2, size))
    problem = Pushed(hessian, start, along, weights)
    found = bilevel.hypergradient(
        problem, number(0.0), Implicit(), solver=Given(torch.as_tensor(theta))
    )
    slopes = [one_sided(hessian, along, weights, free, weak, sign) for sign in (-1.0, 1.0)]
    if abs(slopes[0] - slopes[1]) > 1e-9 or found.bound_kind == "unknown":
        assert found.bound_kind == "unknown"
        assert weak.any()
    else:
        assert max(abs(float(found.body) - slope) for slope in slopes) <= found.bound
        assert found.bound < 1e-9
