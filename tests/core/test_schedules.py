"""Step sizes: values, numbers per run, and what is refused."""

import pytest
import torch

from bilevel import Constant, Polynomial
from bilevel.core.schedules import as_schedule
from bilevel.errors import ArgumentError

NAN, INF = float("nan"), float("inf")


def test_a_constant_is_constant():
    assert [Constant(0.3)(k) for k in (0, 1, 10**6)] == [0.3] * 3
    assert isinstance(Constant(1)(0), float)


@pytest.mark.parametrize(
    ("initial", "exponent", "offset"),
    [(0.5, 3 / 5, 1.0), (2.0, 2 / 5, 1.0), (1.0, 1, 1), (0.1, 2 / 3, 10.0), (0.7, 0, 0.5)],
)
def test_a_polynomial_is_initial_times_k_plus_offset_to_minus_exponent(initial, exponent, offset):
    schedule = Polynomial(initial, exponent, offset)
    for k in (0, 1, 7, 1000):
        assert schedule(k) == pytest.approx(initial / (k + offset) ** exponent, rel=1e-15)


def test_numbers_per_run_are_separate_schedules():
    initial = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    exponent = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
    stacked = Polynomial(initial, exponent, 2.0)
    for k in (0, 5):
        separate = [Polynomial(float(initial[i]), float(exponent[i]), 2.0)(k) for i in range(3)]
        torch.testing.assert_close(
            stacked(k), torch.tensor(separate, dtype=torch.float64), rtol=1e-15, atol=0
        )


def test_integers_become_floats_so_that_they_may_be_stacked():
    assert isinstance(Polynomial(1, 1, 1).exponent, float)
    assert Constant(torch.tensor([1, 2])).value.is_floating_point()


def test_step_sizes_carry_no_graph():
    rate = torch.tensor([0.1, 0.2], requires_grad=True)
    assert not Constant(rate)(0).requires_grad
    assert not Polynomial(rate * 2, 0.5)(0).requires_grad


def test_a_number_is_a_constant_and_a_schedule_stays_itself():
    schedule = Polynomial(1.0, 0.5)
    assert as_schedule(schedule, "lr") is schedule
    assert as_schedule(0.25, "lr")(3) == 0.25


TENSORS = [torch.tensor([0.1, bad]) for bad in (0.0, -1.0, NAN, INF)]
SHAPES = [torch.ones(2, 2), torch.tensor([])]
BAD = [0.0, -0.1, NAN, INF, -INF, "fast", None, [0.1], *TENSORS, *SHAPES]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_bad_step_sizes_are_refused_and_named(value):
    with pytest.raises(ArgumentError, match="step size"):
        Constant(value)
    with pytest.raises(ArgumentError, match="`initial`"):
        Polynomial(value, 0.5)
    with pytest.raises(ArgumentError, match="`offset`"):
        Polynomial(1.0, 0.5, value)
    with pytest.raises(ArgumentError, match="`body_lr`"):
        as_schedule(value, "body_lr")


@pytest.mark.parametrize("exponent", [-0.5, NAN, INF, torch.tensor([0.5, -1.0])], ids=repr)
def test_schedules_do_not_grow(exponent):
    with pytest.raises(ArgumentError, match=r"`exponent` must be at least 0"):
        Polynomial(1.0, exponent)
