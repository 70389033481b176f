"""Data hyper-cleaning as a problem: the body weighs training rows, F is the loss of clean ones."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

import bilevel
from bilevel.core.checks import single
from bilevel.errors import check_name
from problems.hyper_cleaning.heads import of_given, out_of_fold
from problems.hyper_cleaning.labels import auc, f1
from problems.hyper_cleaning.rows import CLASSES, DATA, Rows, reader

WEIGHTS = ("tied", "cells", "per-row")
START = {"tied": 1.0, "cells": 0.0, "per-row": 0.0}


class HyperCleaning(bilevel.LinearHeadProblem):
    """g = 1/n sum_i s_i(w) c(z_i theta, y_i) + e^r/2 |theta|^2, F = 1/V sum_j c(z_j theta, y_j).

    c is the softmax loss. g is over training rows of which some have a wrong label, F over clean
    validation rows. The body has the numbers w behind the weights, and r:

        tied:     s_i = sigmoid(w_1 + w_2 logit p_i), p_i the probability of the given label by a
                  head that did not see the row
        cells:    s_i = sigmoid(w_c), a number for each pair c of predicted and given class
        per-row:  s_i = sigmoid(w_i)

    The inputs of a row are its features, then what its weight is made of (the logit, or the cell),
    and whether its label is right, which metrics alone look at.

    Args:
        draw: the rows of a seed.
        weights: "tied", "cells" or "per-row".
        ridge: e^r at first, positive; also that of the heads by which p is found.
        note: one sentence on the data.

    Raises:
        ArgumentError: `ridge` is no positive number.
        UnknownNameError: there are no such weights.

    Source: Franceschi, Donini, Frasconi and Pontil 2017 (arXiv 1703.01785), section 5.1, for
    "per-row". Differs from the source in: 1. the ridge is learned too; 2. weights are sigmoids, not
    a ball's; 3. the other weights are ours.
    """

    criterion = bilevel.SoftmaxLoss()
    outputs = CLASSES
    fit_bias = penalize_bias = body_free_features = redraws_data = True

    def __init__(
        self, draw: Callable[[int], Rows], weights: str = "tied", ridge: float = 1e-2,
        note: str = "",
    ) -> None:  # fmt: skip
        single(ridge, "`ridge`")
        check_name(weights, dict.fromkeys(WEIGHTS), "kind of weights")
        self.draw, self.weights, self.start, self.note = draw, weights, float(ridge), note
        first = draw(0)
        self.count, self.columns = first.noisy.shape

    def data(self, seed: int | None = None) -> dict[str, Any]:
        """The groups for a seed (0 where none is given)."""
        rows = self.draw(seed or 0)
        ones = torch.ones(self.count, dtype=torch.float64)
        by = torch.zeros(self.count, dtype=torch.float64)
        if self.weights != "per-row":
            found = out_of_fold(rows, ones, self.start)
            cell = found.argmax(1) * CLASSES + rows.given
            by = of_given(rows, found) if self.weights == "tied" else cell.double()
        told = torch.stack([by, rows.right.double()], 1)

        def group(design: Tensor, labels: Tensor, told: Tensor) -> bilevel.Batch:
            return bilevel.Batch(torch.cat([design, told], 1), labels)

        return {
            "train": group(rows.noisy, rows.given, told),
            "validation": group(rows.clean, rows.labels, torch.zeros(len(rows.clean), 2)),
            "test": group(rows.test, rows.truth, torch.zeros(len(rows.test), 2)),
        }

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """w, the same for all seeds, and r."""
        size = {"tied": 2, "cells": CLASSES**2, "per-row": self.count}[self.weights]
        return {
            "weights": torch.full((size,), START[self.weights]),
            "log_ridge": torch.tensor(math.log(self.start)),
        }

    def init_head(self, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(self.columns + 1, CLASSES)

    @override
    def features(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return inputs[:, :-2]

    @override
    def row_weights(self, body: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
        rows, w = batch["train"], body["weights"]
        if self.weights == "tied":
            return torch.sigmoid(w[0] + w[1] * rows.inputs[:, -2])
        if self.weights == "cells":
            return torch.sigmoid(w[rows.inputs[:, -2].long()])
        return torch.sigmoid(w[rows.row_numbers])

    @override
    def penalty(self, body: dict[str, Tensor]) -> Tensor:
        return body["log_ridge"].exp()

    @override
    def body_objective(
        self, body: dict[str, Tensor], head: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        inputs, labels = batch["validation"]
        return cross_entropy(self.predict(body, head, inputs), labels)

    @override
    def metrics(
        self, body: dict[str, Tensor], head: Tensor, data: dict[str, Any]
    ) -> dict[str, Tensor]:
        found = super().metrics(body, head, data)
        s, right = self.row_weights(body, data), data["train"].inputs[:, -1] > 0.5
        # the ridge makes up for a factor of all weights, so that their mean divides them
        found["train_detector_f1"] = f1(s > s.mean(), right).to(s.dtype)
        found["train_detector_auc"] = auc(s, right)
        return found

    def strategies(self, body_lr: float, head_lr: float) -> Mapping[str, bilevel.AbstractStrategy]:
        """Exact heads, two single loops, and weights that stay as they are."""
        adam = bilevel.Adam()
        return {
            "frozen weights": bilevel.SingleLoop(0.0, head_lr, head_lr, optimizer=adam),
            "single loop": bilevel.SingleLoop(body_lr, head_lr, head_lr, optimizer=adam),
            "single loop, fast body": bilevel.SingleLoop(head_lr, head_lr, head_lr, optimizer=adam),
            "best response": bilevel.BestResponse(
                body_lr, gradient=bilevel.Implicit(), optimizer=adam
            ),
        }


def hyper_cleaning(
    source: str = "digits",
    rows: int = 0,
    clean: int = 100,
    noise: float = 0.5,
    weights: str = "tied",
    ridge: float = 1e-2,
    data_dir: str | Path = "",
    download: bool = True,
) -> HyperCleaning:
    """Data hyper-cleaning: weights of training rows of which half have a wrong label (real data).

    Args:
        source: digits, fashion-mnist or mnist (these need their files, or download them).
        rows: training rows; 0: 800 of digits, 5,000 of the others.
        clean: validation rows, with clean labels.
        noise: share of the training rows with a wrong label, from 0 to 0.9.
        weights: tied, cells or per-row.
        ridge: at first, positive; it is learned with the weights.
        data_dir: see `problems.images.load`.
        download: likewise.

    Raises:
        ArgumentError: a number is out of its range.
        UnknownNameError: there is no such source, or there are no such weights.
        MissingDataError: the files of the source are nowhere.

    Examples:
        >>> import bilevel, torch
        >>> problem = bilevel.load_problem("hyper-cleaning", rows=60, clean=20)
        >>> sorted(problem.data(0)), problem.is_stackelberg
        (['test', 'train', 'validation'], False)
    """
    draw = reader(source, rows, clean, noise, data_dir, download=download)
    n = rows or DATA[source].rows
    note = (
        f"{DATA[source].title}: {n:,} training rows, {noise:.0%} of them with a wrong label, "
        f"{clean:,} clean rows, drawn anew for every seed; principal components."
    )
    return HyperCleaning(draw, weights, ridge, note)
