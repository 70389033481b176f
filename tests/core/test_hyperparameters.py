"""Hyper-parameters with a run axis: what may be stacked, and what a stack computes."""

import dataclasses

import pytest
import torch

from bilevel import (
    SGD,
    Adam,
    BestResponse,
    Box,
    ClosedForm,
    Cosine,
    Envelope,
    FastSGD,
    Polynomial,
    RMSProp,
    TwoTimescale,
    uniform,
)
from bilevel.core.parts import numbers, run_counts, stack, structure
from bilevel.core.parts import part as part_of

EQUAL = {
    "rates": (TwoTimescale(0.1, 0.2), uniform(0.3)),
    "integer rates": (TwoTimescale(1, 2), TwoTimescale(0.5, 0.5)),
    "numbers of the optimiser": (
        uniform(0.1, RMSProp(smoothing=0.9)),
        uniform(0.2, RMSProp(smoothing=0.99, eps=1e-3)),
    ),
    "momentum, zero and not": (uniform(0.1, SGD()), uniform(0.1, SGD(0.9))),
    "schedules": (uniform(Polynomial(1, 0.5)), uniform(Polynomial(2, 0, 3))),
    "cosines": (uniform(Cosine(1, 9)), uniform(Cosine(2, 9, 0.1))),
    "tensors and floats": (uniform(0.1), uniform(torch.tensor(0.1))),
    "closed form": (BestResponse(0.1, ClosedForm()), BestResponse(0.2, ClosedForm())),
    "inner rates": (BestResponse(0.1, FastSGD(0.1, 3)), BestResponse(0.1, FastSGD(0.2, 3))),
}
DIFFERENT = {
    "order": (uniform(0.1), uniform(0.1, order="simultaneous")),
    "head steps": (uniform(0.1), uniform(0.1, head_steps=2)),
    "optimiser": (uniform(0.1, SGD()), uniform(0.1, RMSProp())),
    "schedule": (uniform(0.1), uniform(Polynomial(0.1, 0.5))),
    "length of a schedule": (uniform(Cosine(0.1, 9)), uniform(Cosine(0.1, 8))),
    "one schedule": (TwoTimescale(0.1, 0.1), TwoTimescale(0.1, Polynomial(0.1, 0.5))),
    "strategy": (uniform(0.1), BestResponse(0.1)),
    "inner steps": (BestResponse(0.1, FastSGD(0.1, 3)), BestResponse(0.1, FastSGD(0.1, 4))),
    "tolerance or none": (FastSGD(0.1, 3), FastSGD(0.1, 3, tolerance=1e-3)),
    "inner rows": (FastSGD(0.1, 3), FastSGD(0.1, 3, batch_size=5)),
    "solver": (BestResponse(0.1), BestResponse(0.1, ClosedForm())),
    "gradient": (BestResponse(0.1), BestResponse(0.1, gradient=Envelope())),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_structure(name):
    first, second = EQUAL[name]
    assert structure(first) == structure(second)
    assert hash(structure(first)) == hash(structure(second))


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_structure(name):
    first, second = DIFFERENT[name]
    assert structure(first) != structure(second)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    number: float
    names: list = dataclasses.field(default_factory=list)


def test_static_fields_that_cannot_be_hashed_are_compared_by_identity():
    names = ["a"]
    assert structure(Part(1.0, names)) == structure(Part(2.0, names))
    assert structure(Part(1.0, ["a"])) != structure(Part(1.0, names))


def test_a_stack_repeats_each_part_for_all_seeds():
    parts = [TwoTimescale(0.1, 0.4, SGD(0.5)), TwoTimescale(0.2, 0.4, SGD(0.9))]
    stacked = stack(parts, 3)
    assert stacked.body_lr(0).tolist() == [0.1, 0.1, 0.1, 0.2, 0.2, 0.2]
    assert stacked.body_lr(0).dtype == torch.float64
    assert stacked.optimizer.momentum.tolist() == [0.5] * 3 + [0.9] * 3
    assert stacked.head_lr(0) == 0.4  # shared by all: stays a plain number
    assert (stacked.order, stacked.head_steps) == ("alternating", 1)


def test_a_stack_of_schedules_is_evaluated_run_by_run():
    parts = [uniform(Polynomial(0.5, 0.6)), uniform(Polynomial(0.3, 1, 7))]
    found = stack(parts, 2).head_lr(11)
    expected = [0.5 * 12**-0.6] * 2 + [0.3 / 18] * 2
    assert found.tolist() == pytest.approx(expected, rel=1e-15)


def test_a_stack_of_one_number_tensors():
    parts = [uniform(torch.tensor(0.25)), uniform(torch.tensor([0.5])), uniform(1)]
    assert stack(parts, 2).body_lr(0).tolist() == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_stacking_leaves_the_parts_unchanged():
    parts = [uniform(0.1, Adam(beta1=0.8)), uniform(0.2, Adam())]
    stack(parts, 4)
    assert parts[0].body_lr(0) == 0.1
    assert parts[0].optimizer.beta1 == 0.8


def test_cast_changes_tensors_and_leaves_floats():
    part = TwoTimescale(torch.tensor([0.1, 0.2]), 0.3, SGD(torch.tensor([0.5, 0.6])))
    found = part_of(part, slice(None), torch.ones((), dtype=torch.float64))
    assert found.body_lr(0).dtype == found.optimizer.momentum.dtype == torch.float64
    assert found.head_lr(0) == 0.3
    assert part.body_lr(0).dtype == torch.float32


def test_run_counts_look_into_all_parts():
    assert run_counts(numbers(uniform(0.1))) == set()
    nested = TwoTimescale(torch.ones(2), Polynomial(torch.ones(3), 0.5), SGD(torch.full((4,), 0.1)))
    assert run_counts(numbers(nested)) == {2, 3, 4}
    assert run_counts(numbers(uniform(torch.tensor(0.1)))) == set()


def test_parts_are_frozen():
    for part in (uniform(0.1), SGD(), Box(0.0, 1.0), Polynomial(1.0, 0.5), FastSGD(0.1, 2)):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1.0)
