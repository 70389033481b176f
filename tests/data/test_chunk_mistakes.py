"""Chunks of rows: what cannot be used is refused by name, before anything is trained."""

import numpy as np
import pytest
import torch
from small_problems import D, N, Smooth, as_maps, grouped

import bilevel
from bilevel import Batch
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import (
    ArgumentError,
    DataError,
    IncompatibleError,
    ProblemError,
    ShapeError,
    SingularHeadError,
)

CHUNK = 5


def spoiled(level, row, value):
    groups = grouped(0)
    getattr(groups["train"], level)[row] = value
    return groups


class Weighted(Smooth):
    def row_weights(self, body, batch):
        return torch.ones(len(batch["train"].targets)).double()


class Redrawn(Smooth):
    redraws_data = True


class Centred(Smooth):
    def features(self, body, inputs):
        return super().features(body, inputs - inputs.mean(0))


class InPlace(Smooth):
    def features(self, body, inputs):
        inputs *= 2
        return super().features(body, inputs)


class Ints(Smooth):
    def data(self, seed=None):
        train = grouped(0)["train"]
        return {"train": Batch(train.inputs.numpy(), np.arange(N))}


BAD = {
    "nan": (lambda: Smooth(groups=spoiled("inputs", 17, np.nan)), DataError,
            r'"train"\].inputs holds 3 values.*NaN or infinite.*the first is in row 17'),
    "inf target": (lambda: Smooth(groups=spoiled("targets", 21, np.inf)), DataError, "in row 21"),
    "too large": (lambda: Smooth(groups=spoiled("inputs", 13, 1e300)), DataError,
                  "infinite in torch.float32: standardise them.*in row 13"),
    "ints": (Ints, DataError, r"floating point, got torch.int64"),
    "n differs": (lambda: Smooth(groups={"train": Batch(torch.ones(9, D), torch.rand(8))}),
                  ShapeError, "differ in their rows"),
    "no rows": (lambda: Smooth(groups={"train": Batch(torch.ones(0, D), torch.rand(0))}),
                DataError, "is empty"),
    "weights": (Weighted, IncompatibleError, "overrides `row_weights`.*`chunk_rows = None`"),
    "redrawn": (Redrawn, IncompatibleError, "redraws its data.*`chunk_rows = None`"),
    "criterion": (lambda: Smooth(criterion=bilevel.HuberLoss()), IncompatibleError,
                  "has HuberLoss.*Chunks are for squared errors"),
    "other rows": (Centred, ProblemError, "depend on which rows are evaluated with it"),
    "in place": (InPlace, ProblemError, "changes its data in place"),
    "singular": (lambda: Smooth(ridge=0.0, features=lambda body, x: x[:, [0, 0, 1, 2]]),
                 SingularHeadError, "Set `ridge`"),
    "zero": (lambda: Smooth(chunk_rows=0), ArgumentError, "`chunk_rows` of Smooth must be a pos"),
    "true": (lambda: Smooth(chunk_rows=True), ArgumentError, "positive integer or None"),
    "float": (lambda: Smooth(chunk_rows=8.0), ArgumentError, "got 8.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_before_training(case, tmp_path):
    make, error, message = BAD[case]
    problem = make()
    if problem.chunk_rows is None:
        problem.chunk_rows = CHUNK
    if case in ("nan", "in place", "too large"):  # from a file that nobody can write to
        problem.groups = as_maps(tmp_path, problem.data())
    with pytest.raises(error, match=message):
        bilevel.solve(problem, bilevel.BestResponse(1e-2), steps=1, batch_size=4, seeds=1)


def test_solvers_that_need_all_features_say_so():
    chunked = Smooth(chunk_rows=CHUNK)
    data = TrainingData(chunked, [0], torch.float64, "cpu")
    rows = Sampler(data, None, ("train",)).full
    with pytest.raises(IncompatibleError, match=r"sets `chunk_rows`.*features of all rows at once"):
        Oracles(chunked).linear_parts(data.initial(chunked.init_body, "body"), rows)
