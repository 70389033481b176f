"""Who asks for row numbers gets them, nobody else pays, and weights of other rows are found out."""

import pytest
import torch
from small_problems import D, N
from test_row_numbers import BODY, ByPlace, Unweighted, Weighted, weights_of_rows

import bilevel
from bilevel.data.numbered import asks_row_numbers
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.errors import ArgumentError, ProblemError, ShapeError


@pytest.mark.parametrize("batch_size", [None, 6])
def test_nobody_asks_nobody_pays(batch_size):
    """Plain batches stay what they were."""
    data = TrainingData(ByPlace(), [0], torch.float64, "cpu")
    assert not asks_row_numbers(ByPlace())
    rows = Sampler(data, batch_size, ("train", "validation")).rows(0)
    assert all(type(group) is bilevel.Batch for group in rows.groups.values())


def test_a_function_outside_is_told_of_by_the_class():
    class Outside(Unweighted):
        def row_weights(self, body, batch):
            return weights_of_rows(self, body, batch)

    with pytest.raises(ProblemError, match="numbers_rows = True"):
        bilevel.best_response(Outside(), BODY)
    Outside.numbers_rows = True
    found = bilevel.best_response(Outside(), BODY).head
    assert torch.equal(found, bilevel.best_response(Weighted(), BODY).head)


@pytest.mark.parametrize(
    "row_weights",
    [
        lambda self, body, batch: torch.sigmoid(body[batch["train"].row_numbers]),
        property(lambda self: lambda body, batch: torch.sigmoid(body[batch["train"].row_numbers])),
        staticmethod(lambda body, batch: torch.sigmoid(body[batch["train"].row_numbers])),
    ],
)
def test_who_asks_is_found(row_weights):
    assert asks_row_numbers(type("Asks", (ByPlace,), {"row_weights": row_weights})())


class TestMistakes:
    def test_weights_by_place_are_found_in_batches_of_all_sizes(self):
        for size in (N, 5):
            with pytest.raises((ProblemError, ShapeError), match="row_numbers"):
                bilevel.solve(
                    ByPlace(), bilevel.BestResponse(0.1), steps=1, batch_size=size, seeds=1,
                    dtype=torch.float64,
                )  # fmt: skip

    def test_weights_of_the_rows_themselves_are_no_mistake(self):
        def by_inputs(self, body, batch):
            return torch.sigmoid(batch["train"].inputs @ body[:D])

        problem = type("ByInputs", (Unweighted,), {"row_weights": by_inputs})()
        options = {"steps": 1, "seeds": 1, "dtype": torch.float64}
        found = bilevel.solve(problem, bilevel.BestResponse(0.1), batch_size=5, **options)
        assert bool(found.body.isfinite().all())

    def test_given_rows_without_numbers(self):
        with pytest.raises(ProblemError, match="NumberedBatch"):
            bilevel.best_response(Weighted(), BODY, batch=Weighted().data())

    def test_a_body_that_is_too_short(self):
        short = type("Short", (Weighted,), {"init_body": lambda self, generator: BODY[:-1]})
        with pytest.raises(ProblemError, match="out of"):
            bilevel.best_response(short(), BODY[:-1])

    def test_a_flag_that_is_none(self):
        wrong = type("Wrong", (Weighted,), {"numbers_rows": "yes"})
        with pytest.raises(ArgumentError, match="numbers_rows"):
            bilevel.best_response(wrong(), BODY)
