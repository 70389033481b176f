"""Constrained minimisers for tests: the conditions they satisfy, and exact ones."""

import itertools
from fractions import Fraction

import numpy as np
from linear_heads import ball_head, exact_box_head, exact_solve

import bilevel

RADIUS = 0.12


def sets(scale=1.0):
    """Every set that cuts off the heads of the tests, by name."""
    return {
        "box": bilevel.Box(-0.05 * scale, 0.1 * scale),
        "nonnegative": bilevel.Nonnegative(),
        "ball": bilevel.Ball(RADIUS * scale),
        "simplex": bilevel.Simplex(),
        "l1 ball": bilevel.L1Ball(RADIUS * scale),
    }


def violation(name, head, slope):
    """How far head (P,) and slope = gradient of g there are from the optimality conditions."""
    head, slope = np.ravel(head), np.ravel(slope)
    small = 1e-12
    if name == "ball":
        assert np.linalg.norm(head) <= RADIUS * (1 + small)
        multiplier = -(slope @ head) / RADIUS**2
        assert multiplier > 0, "the ball does not cut the head off"
        return np.abs(slope + multiplier * head).max()
    if name == "simplex":
        assert head.min() >= 0
        assert abs(head.sum() - 1) <= small
        level = slope[head > 0].mean()
        return max(np.abs(slope - level)[head > 0].max(), (level - slope).max(), 0)
    if name == "l1 ball":
        assert abs(np.abs(head).sum() - RADIUS) <= small, "the ball does not cut the head off"
        level = np.abs(slope).max()
        on = head != 0
        assert (np.sign(head) == -np.sign(slope))[on].all()
        return np.abs(np.abs(slope) - level)[on].max()
    low, high = (-0.05, 0.1) if name == "box" else (0.0, np.inf)
    assert low <= head.min()
    assert head.max() <= high
    assert (head == low).any(), "the bounds do not cut the head off"
    # pushed outwards at a bound, not at all elsewhere
    wrong = np.where(head == low, -slope, np.where(head == high, slope, np.abs(slope)))
    return max(wrong.max(), 0)


def exact(name, matrix, moment):
    """argmin of 1/2 x'Hx - b'x over a set, in rational arithmetic; for the ball to many digits.

    All faces are tried; the one whose multipliers have the right signs is the answer.

    Args:
        name: of the set.
        matrix: (M, M) fractions, positive definite, M small.
        moment: (M,) fractions.
    """
    size = len(moment)
    if name == "box":
        return exact_box_head(matrix, moment, -0.05, 0.1)
    if name == "ball":
        return ball_head(matrix, moment, RADIUS)
    for signs in itertools.product((0, 1) if name == "simplex" else (-1, 0, 1), repeat=size):
        on = np.flatnonzero(signs)
        normal = np.array([Fraction(s) for s in signs], dtype=object)
        bordered = name in ("simplex", "l1 ball")
        if (name == "nonnegative" and min(signs) < 0) or (bordered and not len(on)):
            continue
        total = Fraction(1) if name == "simplex" else Fraction(RADIUS)
        system, right = matrix[np.ix_(on, on)], moment[on]
        if bordered:
            system = np.block([[system, normal[on, None]], [normal[None, on], np.array([[0]])]])
            right = np.append(right, total)
        solved = exact_solve(system, right) if len(on) else np.array([], dtype=object)
        x, level = np.full(size, Fraction(0), dtype=object), Fraction(0)
        x[on], level = solved[: len(on)], solved[-1] if bordered else level
        slope = matrix @ x - moment
        off = [i for i in range(size) if not signs[i]]
        if not all(x[i] * signs[i] > 0 for i in on):
            continue
        if name == "l1 ball" and (level < 0 or any(abs(slope[i]) > level for i in off)):
            continue
        if name != "l1 ball" and any(slope[i] < -level for i in off):
            continue
        return x
    raise AssertionError("no face satisfies the conditions")
