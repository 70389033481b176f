"""Conditions that only a constrained minimiser satisfies, in NumPy."""

import numpy as np

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
