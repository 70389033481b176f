"""Step sizes: values, numbers per run, and what is refused."""

import pytest
import torch

from bilevel import Constant, Cosine, Piecewise, Polynomial
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


def torch_rates(make, lr, steps):
    """The step sizes of a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.zeros(())], lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("steps", "final"), [(20, 0.0), (7, 0.02), (1, 0.3)])
def test_a_cosine_is_that_of_torch(steps, final):
    def make(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, final)

    ours = [Cosine(0.3, steps, final)(k) for k in range(steps + 1)]
    assert ours == pytest.approx(torch_rates(make, 0.3, steps + 1), rel=1e-12, abs=1e-16)
    assert Cosine(0.3, steps, final)(10 * steps) == final


def test_a_warm_up_is_a_line_and_then_the_cosine_of_the_rest():
    schedule = Cosine(0.4, 11, 0.1, warmup=3)
    assert [schedule(k) for k in range(3)] == pytest.approx([0.1, 0.2, 0.3], rel=1e-15)
    assert [schedule(k + 3) for k in range(9)] == [Cosine(0.4, 8, 0.1)(k) for k in range(9)]


def test_pieces_are_those_of_torch():
    def make(optimizer):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 8], gamma=0.1)

    ours = [Piecewise(0.5, [3, 8], [0.1, 0.01])(k) for k in range(12)]
    assert ours == pytest.approx(torch_rates(make, 0.5, 12), rel=1e-12)
    assert [Piecewise(0.5, (), ())(k) for k in (0, 9)] == [0.5, 0.5]


@pytest.mark.parametrize(
    "schedule", [Cosine(0.3, 9, 0.1, 2), Piecewise(0.3, [3, 8], [0.1, 2.0])], ids=lambda s: repr(s)
)
def test_steps_as_tensors_give_the_same_numbers(schedule):
    for k in range(11):
        found = schedule(torch.full((), float(k), dtype=torch.float64))
        assert float(found) == pytest.approx(schedule(k), rel=1e-15, abs=1e-17)
        assert schedule.scaled(2.0)(k) == pytest.approx(2 * schedule(k), rel=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(0.1, 5, warmup=5), "`warmup` is part of `steps`"),
        (lambda: Cosine(0.1, 0), "`steps` must be a positive integer"),
        (lambda: Cosine(0.1, 5, -0.1), "`final` must be at least 0"),
        (lambda: Piecewise(0.1, [3], [0.1, 0.2]), "must be as many, got 1 and 2"),
        (lambda: Piecewise(0.1, [3, 3], [0.1, 0.2]), "`boundaries` must rise"),
        (lambda: Piecewise(0.1, [0.5], [0.1]), "A boundary must be a positive integer"),
        (lambda: Piecewise(0.1, [3], [-0.1]), "A factor must be positive"),
        (lambda: Piecewise(0.1, 3, 0.1), "`boundaries` must be a list"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


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
    with pytest.raises(ArgumentError, match="`initial`"):
        Cosine(value, 5)
    with pytest.raises(ArgumentError, match="`initial`"):
        Piecewise(value, [3], [0.5])
    with pytest.raises(ArgumentError, match="`offset`"):
        Polynomial(1.0, 0.5, value)
    with pytest.raises(ArgumentError, match="`body_lr`"):
        as_schedule(value, "body_lr")


@pytest.mark.parametrize("exponent", [-0.5, NAN, INF, torch.tensor([0.5, -1.0])], ids=repr)
def test_schedules_do_not_grow(exponent):
    with pytest.raises(ArgumentError, match=r"`exponent` must be at least 0"):
        Polynomial(1.0, exponent)
