"""Predictions for the rows of a new CSV file, and what is said of them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bilevel.errors import DataError, counted
from bilevel.storage.folder import located, reserve, write_csv
from bilevel.tables import lost_digits
from bilevel.tables.columns import Column
from bilevel.tables.csv_file import (
    MISSING,
    Cells,
    Entries,
    is_number,
    quoted,
    read_cells,
    shortened,
)
from bilevel.tables.model import Model
from bilevel.tables.model_file import Label

Array = NDArray[Any]
FEW = 5
"""Columns that are named in a message."""


class Predicted(NamedTuple):
    """A file and the predictions for its rows.

    Attributes:
        cells: of the file.
        model: what predicted.
        values: (n,) or (n, K), in the units of the targets, or labels.
        probabilities: (n, number of classes); None where numbers are predicted.
        inputs: (n, D), as the model read them.

    Examples:
        >>> import numpy as np, pathlib, tempfile
        >>> from sklearn.linear_model import Ridge
        >>> from bilevel.estimators import save_model
        >>> from bilevel.tables import Model, Predicted
        >>> folder, X = pathlib.Path(tempfile.mkdtemp()), np.arange(8.0).reshape(4, 2)
        >>> fitted = Ridge(1e-9).fit(X, X.sum(1))
        >>> path = save_model(fitted, folder / "sum.safetensors", names=["a", "b"])
        >>> _ = (folder / "new.csv").write_text(chr(10).join(["id,a,b", "first,2,3"]))
        >>> Predicted.of(Model.load(path), folder / "new.csv").values.round(6)
        array([5.])
    """

    cells: Cells
    model: Model
    values: Array
    probabilities: Array | None
    inputs: Array

    @classmethod
    def of(
        cls, model: Model, path: str | os.PathLike[str], *, extrapolate: bool = False
    ) -> "Predicted":
        """Predict the rows of a CSV file.

        Args:
            model: what predicts.
            path: of the file, which has the columns of the training.
            extrapolate: predict even if a column seems to be of another unit.

        Raises:
            DataError: the file cannot be used; the message says where and what to do.
        """
        cells = read_cells(located(path))
        inputs = model.read(cells)
        far = {} if extrapolate else model.far(inputs)
        if far:
            said = [
                f"Column {name!r} holds numbers such as {typical:g}, all of them outside of "
                f"{low:g} to {high:g}, where the model was trained."
                for name, (typical, low, high) in list(far.items())[:FEW]
            ]
            raise DataError(
                f"{path}: {' '.join(said)} Is that another unit? Convert it, or predict all the "
                "same with --extrapolate."
            )
        sure = None if model.classes is None else model.probabilities(inputs)
        return cls(cells, model, model.predict(inputs), sure, inputs)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The columns of the file of predictions.

        First those of the file that the model does not need, identifiers among them, the targets
        too if they are there; then what is predicted.
        """
        needed = {column.name for column in self.model.columns}
        made: dict[str, list[Any]] = {}
        for target, values in zip(self.model.targets, self._by_target(), strict=True):
            made[f"predicted {target.name}"] = values.tolist()
        if self.probabilities is not None:
            assert self.model.classes is not None
            for label, sure in zip(self.model.classes, self.probabilities.T, strict=True):
                made[f"probability of {label}"] = sure.tolist()
        kept = [name for name in self.cells.names if name not in needed and name not in made]
        return {name: [cell for _, cell in self.cells.column(name)] for name in kept} | made

    def write(self, path: Path) -> None:
        """Write them as one new CSV file; numbers keep all their digits.

        Raises:
            ResultsExistError: there is such a file already.
        """
        columns = self.columns
        write_csv(reserve(path, "file"), list(columns), zip(*columns.values(), strict=True))

    def remarks(self) -> list[str]:
        """Sentences on rows that differ from those of the training, and filled in numbers."""
        found = [
            f"Column {name!r} lies outside of the range of the training in {int(beyond.sum())} of "
            f"{counted(len(beyond), 'row')}, the first in line "
            f"{self.cells.lines[int(beyond.argmax())][0]}."
            for name, beyond in self.model.outside(self.inputs).items()
        ]
        if len(found) > FEW:
            found[FEW:] = [f"So do {counted(len(found) - FEW, 'further column')}."]
        if found:
            found.append("Predictions there are extrapolations.")
        found += [
            f"Column {name!r} holds {shortened(text)!r} in {int(rows.sum())} of "
            f"{counted(len(rows), 'row')}, the first in line "
            f"{self.cells.lines[int(rows.argmax())][0]}: no row that the model was trained on did, "
            "and predictions there are guesses."
            for (name, text), rows in list(self.model.unseen(self.inputs).items())[:FEW]
        ]
        missing = np.isnan(self.inputs)
        if missing.any():
            names = [name for column in self.model.columns for name in column.inputs]
            where = [names[place] for place in np.flatnonzero(missing.any(0)).tolist()]
            found.append(
                f"{counted(int(missing.sum()), 'missing number')} of {quoted(where)}: the medians "
                "of the training are taken."
            )
        return found

    def judged(self) -> list[str]:
        """A sentence for each target that is in the file: how far predictions are from it."""
        there = [
            (target, values)
            for target, values in zip(self.model.targets, self._by_target(), strict=True)
            if target.name in self.cells.names
        ]
        judge: Callable[[Column, Array, Entries], str] = _of_numbers
        if self.model.classes is not None:
            judge = functools.partial(_of_classes, {str(label) for label in self.model.classes})
        return [judge(target, values, self.cells.column(target.name)) for target, values in there]

    def _by_target(self) -> list[Array]:
        return [self.values] if self.values.ndim == 1 else list(self.values.T)


def _of_classes(labels: set[str], target: Column, values: Array, entries: Entries) -> str:
    """How many labels of a file are those that were predicted."""
    given = [
        (value, cell)
        for value, (_, cell) in zip(values.tolist(), entries, strict=True)
        if cell.lower() not in MISSING or cell in labels
    ]
    right = sum(_same(value, cell) for value, cell in given)
    share = f": {right / len(given):.1%} of the predictions are right" if given else ""
    return f"Column {target.name!r} is there too, in {len(given)} of {_rows(entries)}{share}."


def _same(label: Label, cell: str) -> bool:
    if isinstance(label, bool):
        return cell.lower() in (str(label).lower(), str(int(label)))
    if isinstance(label, int | float) and is_number(cell):
        return float(cell) == label
    return str(label) == cell


def _of_numbers(target: Column, values: Array, entries: Entries) -> str:
    """How far the numbers of a file are from those that were predicted."""
    known = np.array([is_number(cell) for _, cell in entries])
    said = f"Column {target.name!r} is there too, in {int(known.sum())} of {_rows(entries)}"
    if not known.any():
        return f"{said}: there are no numbers to compare with."
    first = target.first or "0"
    truth = lost_digits.counted_from(first, [cell for _, cell in entries if is_number(cell)])
    errors = values[known] - float(first) - truth
    size, spread = float(np.sqrt(np.mean(errors**2))), float(truth.std())
    r2 = f", R2 {1 - (size / spread) ** 2:.3f}" if spread > 0 else ""
    return (
        f"{said}: typical error (RMSE) {size:.4g}, mean absolute error "
        f"{np.abs(errors).mean():.4g}{r2}."
    )


def _rows(entries: Entries) -> str:
    return counted(len(entries), "row")
