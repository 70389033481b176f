"""Penalties of linear models, chosen on rows that did not see them: by group, or by feature."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel.core.checks import check_positive_integer, single
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, spell
from bilevel.problem.base import Groups
from bilevel.tables.scaling import Scaling


class Penalties(bilevel.LinearHeadProblem):
    """The body are logarithms u of penalties, in a box; F is the loss of other rows.

        g = 1/n sum_i c(x_i theta, y_i) + 1/2 theta' diag(p) theta     over the n training rows
        F = 1/m sum_j c(x_j theta, y_j)                                over m validation rows

    p is e^u, of a feature or of all features of a group. With `tasks`, each fold is a task with a
    head of its own, and F the error of cross-validation.

    Args:
        count: how many penalties.
        each: how many features share one, one after the other.
        start: of all penalties.
        bounds: of all penalties.
        note: one sentence on the data.

    Raises:
        ArgumentError: penalties that are not positive, or a start outside of the bounds.
    """

    redraws_data = True
    body_free_features = True

    def __init__(
        self, count: int, each: int, start: float, bounds: tuple[float, float], note: str
    ) -> None:
        low, start, high = (
            math.log(single(penalty, name))
            for name, penalty in (("`lowest`", bounds[0]), ("`start`", start),
                                  ("`highest`", bounds[1]))
        )  # fmt: skip
        if not low <= start <= high:
            raise ArgumentError(
                f"`start` must lie between the bounds {math.exp(low):g} and "
                f"{math.exp(high):g}, got {math.exp(start):g}."
            )
        self.count, self.each, self.start, self.note = count, each, start, note
        self.body_set = bilevel.Box(low, high)

    @override
    def init_body(self, generator: torch.Generator) -> Tensor:
        return torch.full((self.count,), self.start, dtype=torch.float64)

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        features = self.count * self.each + self.fit_bias
        return torch.zeros(self.head_shape(features), dtype=torch.float64)

    @override
    def features(self, inputs: Tensor) -> Tensor:  # type: ignore[override] # no body: body_free
        return inputs

    @override
    def penalty(self, body: Tensor) -> Tensor:
        return body.exp().unsqueeze(1).expand(-1, self.each).flatten()

    @override
    def body_objective(self, body: Tensor, head: Tensor, batch: Groups) -> Tensor:
        rows = batch["validation"]
        predictions = self.predict(body, head, rows.inputs)
        return self.criterion.rows(predictions, rows.targets).mean()

    @override
    def strategies(self, body_lr: float, head_lr: float) -> Mapping[str, bilevel.AbstractStrategy]:
        """Exact heads, steps of heads that are differentiated, and one loop for all.

        F is not g: strategies whose body follows g would choose no penalty at all.
        """
        adam, steps = bilevel.Adam(), 10
        solver = bilevel.FastSGD(head_lr, steps, restart=True)
        made: dict[str, bilevel.AbstractStrategy] = {
            "best response": bilevel.BestResponse(body_lr, optimizer=adam),
            f"unrolled, {steps} steps": bilevel.BestResponse(
                body_lr, solver, bilevel.Unrolled(steps), adam
            ),
        }
        if not self.tasks:
            made["single loop"] = bilevel.SingleLoop(body_lr, head_lr, head_lr)
        return made


class GroupRidge(Penalties):
    """Ridge regression with a penalty for each group of columns: some groups say nothing.

    Targets are X W + noise, columns of X standard normal, those of W in group i normal with
    standard deviation `scales[i]`; the noise of a target has the variance of its signal. Inputs and
    targets are standardised by the rows that a head is fitted to: those of each fold by its own.

    Args:
        rows: n, training and validation rows together.
        scales: of the coefficients of each group.
        columns: of each group.
        targets: K; penalties are shared by them.
        folds: 0: a quarter of the rows are for validation; else F is the error of cross-validation
            with so many folds, whose heads are tasks, and test rows judge the head of all rows.
        test: test rows.
        start: see `Penalties`.
        lowest: the least penalty, relative to the mean square of a column, which is 1.
        highest: the largest.

    Raises:
        ArgumentError: a size is no positive integer, `rows` are no multiple of `folds`, there is no
            scale, or one is negative; see `Penalties`.

    Source: banded ridge regression, Dupre la Tour et al. 2022 (NeuroImage 264). Differs from the
    source in: 1. synthetic rows; 2. penalties shared by targets.
    """

    fit_bias = True

    def __init__(
        self,
        rows: int,
        scales: Sequence[float],
        columns: int,
        targets: int,
        folds: int,
        test: int,
        start: float,
        lowest: float,
        highest: float,
    ) -> None:
        sizes = {"rows": rows, "columns": columns, "targets": targets, "test": test}
        for name, size in sizes.items():
            check_positive_integer(size, f"`{name}`")
        check_positive_integer(folds, "`folds`", zero_allowed=True)
        if folds == 1 or (folds and rows % folds) or rows < max(8, 2 * folds):
            raise ArgumentError(
                f"`rows` must be a multiple of `folds`, of at least 8 and two in each of at least "
                f"two folds, got {rows=} and {folds=}."
            )
        if isinstance(scales, str) or not isinstance(scales, Sequence) or not scales:
            raise ArgumentError(f"`scales` must name a number for each group, got {spell(scales)}.")
        self.scales = [single(scale, "`scales`", zero_allowed=True) for scale in scales]
        self.rows, self.columns, self.targets, self.test = rows, columns, targets, test
        self.folds, self.tasks = folds, folds > 0
        self.outputs = targets if targets > 1 else None
        judged = f"{folds}-fold cross-validation" if folds else "a quarter for validation"
        note = (
            f"{rows} rows, {judged}, and {test} test rows; {len(self.scales)} groups of {columns} "
            "columns, drawn anew for every seed."
        )
        super().__init__(len(self.scales), columns, start, (lowest, highest), note)

    @override
    def data(self, seed: int | None = None) -> Groups:
        x, y = self.drawn(seed or 0)
        n = self.rows
        test = (x[n:], y[n:])
        if not self.folds:
            own = n - n // 4
            scaled = self.scaled((x[:own], y[:own]), (x[own:n], y[own:n]), test)
            return dict(zip(("train", "validation", "test"), scaled, strict=True))
        parts = np.array_split(np.arange(n), self.folds)
        made = []
        for i, held in enumerate(parts):
            rest = np.concatenate([part for j, part in enumerate(parts) if j != i])
            made.append(self.scaled((x[rest], y[rest]), (x[held], y[held])))
        train, validation = (
            bilevel.Batch(*map(torch.stack, zip(*group, strict=True)))
            for group in zip(*made, strict=True)
        )
        whole, judged = (
            bilevel.Batch(*(leaf.unsqueeze(0) for leaf in group))
            for group in self.scaled((x[:n], y[:n]), test)
        )
        new = {"train": whole, "test": judged}
        return {"train": train, "validation": validation, "test": new}

    def drawn(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows, test rows last: inputs (n, D) and targets (n, K)."""
        source = generator(seed, "group-ridge")

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        total = self.rows + self.test
        x = normal(total, len(self.scales) * self.columns)
        scales = torch.tensor(self.scales, dtype=torch.float64).repeat_interleave(self.columns)
        w = scales.unsqueeze(1) * normal(len(scales), self.targets)
        signal, noise = x @ w, normal(total, self.targets)
        deviation = w.norm(dim=0)  # of the signal: columns are independent, of variance one
        return x.numpy(), (signal + torch.where(deviation > 0, deviation, 1.0) * noise).numpy()

    def scaled(self, *groups: tuple[np.ndarray, np.ndarray]) -> list[bilevel.Batch]:
        """Groups standardised by the first of them."""
        inputs, targets = (Scaling.of(part, ()) for part in groups[0])
        found = []
        for x, y in groups:
            t = torch.from_numpy(targets(y))
            found.append(bilevel.Batch(torch.from_numpy(inputs(x)), t if self.outputs else t[:, 0]))
        return found


class LogisticPenalties(Penalties):
    """Logistic regression with a penalty for each feature: the example of hypertorch.

    Labels are x w + noise > 0, x and w standard normal; half of the rows are for validation. The
    rows of seed 0 are those of the example, test rows included.

    Args:
        rows: n, training and validation rows together.
        inputs: D.
        noise: its standard deviation.
        test: test rows.
        start: see `Penalties`.
        lowest: the least penalty.
        highest: the largest.

    Raises:
        ArgumentError: a size is no positive integer, or `noise` is negative; see `Penalties`.

    Source: hypertorch, examples/logistic_regression.ipynb. Differs from the source in: 1. the body
    are logarithms of the penalties, between bounds; 2. float64 where it is asked for.
    """

    criterion = bilevel.LogisticLoss()

    def __init__(
        self,
        rows: int,
        inputs: int,
        noise: float,
        test: int,
        start: float,
        lowest: float,
        highest: float,
    ) -> None:
        for name, size in {"rows": rows, "inputs": inputs, "test": test}.items():
            check_positive_integer(size, f"`{name}`")
        if rows < 8:
            raise ArgumentError(f"`rows` must be at least 8, got {rows}.")
        self.rows, self.inputs, self.test = rows, inputs, test
        self.noise_scale = single(noise, "`noise`", zero_allowed=True)
        note = (
            f"{rows} rows of {inputs} inputs, half of them for validation, and {test} test rows; "
            "labels are the sign of a noisy linear function, drawn anew for every seed."
        )
        super().__init__(inputs, 1, start, (lowest, highest), note)

    @override
    def data(self, seed: int | None = None) -> Groups:
        # the generator and the order of the example
        source = np.random.RandomState(1 + (seed or 0))
        w = source.randn(self.inputs)

        def drawn(rows: int) -> tuple[np.ndarray, np.ndarray]:
            x = source.randn(rows, self.inputs)
            return x, (x @ w + self.noise_scale * source.randn(rows) > 0).astype(np.int64)

        x, y = drawn(self.rows)
        train, validation, of_train, of_validation = train_test_split(
            x, y, test_size=0.5, random_state=source
        )
        groups = {
            "train": (train, of_train),
            "validation": (validation, of_validation),
            "test": drawn(self.test),
        }
        return {
            name: bilevel.Batch(*map(torch.from_numpy, group)) for name, group in groups.items()
        }


def group_ridge(
    rows: int = 400,
    scales: Sequence[float] = (1.0, 0.5, 0.1, 0.0, 0.0),
    columns: int = 30,
    targets: int = 20,
    folds: int = 0,
    test: int = 1000,
    start: float = 1.0,
    lowest: float = 1e-5,
    highest: float = 1e5,
) -> GroupRidge:
    """Ridge regression with a penalty for each group of columns, chosen on other rows.

    Args:
        rows: training and validation rows together.
        scales: of the coefficients of each group.
        columns: of each group.
        targets: K; penalties are shared by them.
        folds: 0: a quarter of the rows are for validation; else so many folds, whose heads are
            tasks.
        test: test rows.
        start: of all penalties.
        lowest: the least penalty.
        highest: the largest.

    Raises:
        ArgumentError: a number is out of its range.

    Examples:
        >>> import bilevel, torch
        >>> problem = bilevel.load_problem("group-ridge", rows=40, columns=3, targets=1, test=10)
        >>> problem.init_body(torch.Generator()).shape    # a penalty for each group
        torch.Size([5])
    """
    return GroupRidge(rows, scales, columns, targets, folds, test, start, lowest, highest)


def logistic_penalties(
    rows: int = 1000,
    inputs: int = 20,
    noise: float = 0.1,
    test: int = 1000,
    start: float = 1.0,
    lowest: float = 1e-7,
    highest: float = 1e3,
) -> LogisticPenalties:
    """Logistic regression with a penalty for each feature, chosen on other rows.

    Args:
        rows: training and validation rows together, half of them each.
        inputs: features.
        noise: standard deviation of that in the labels, at least 0.
        test: further rows.
        start: of all penalties.
        lowest: of a penalty.
        highest: of a penalty.

    Raises:
        ArgumentError: a number is out of its range.

    Examples:
        >>> import bilevel, torch
        >>> problem = bilevel.load_problem("logistic-penalties", rows=40, inputs=4, test=10)
        >>> problem.init_body(torch.Generator()).shape    # a penalty for each feature
        torch.Size([4])
    """
    return LogisticPenalties(rows, inputs, noise, test, start, lowest, highest)
