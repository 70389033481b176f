"""Regression on the rows of a table, with what a model needs to predict new rows of such a one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel import trees
from bilevel.errors import DataError, counted
from bilevel.problem.network.hidden_layers import Network
from bilevel.tables.columns import Table
from bilevel.tables.csv_file import quoted
from bilevel.tables.model import MakesModels, Model, spans_of
from bilevel.tables.model_file import Plain
from bilevel.trees import Tree
from problems.regression import Regression
from problems.splits import Splits

Array = NDArray[Any]


class TableRegression(Regression, MakesModels):
    """`Regression` on a table, whose missing numbers may be filled in split by split.

    Args:
        draw: `draw(seed)` gives the rows of the groups, NaN where a number is missing.
        network: the body.
        ridge: lambda, at least 0.
        note: one sentence on the data.
        weight_decay: of the hidden layers, at least 0.
        table: what the rows are of.
        fills: whether missing numbers become the median of the training rows.
    """

    def __init__(
        self,
        draw: Callable[[int], Splits],
        network: Network,
        ridge: float,
        note: str,
        weight_decay: float,
        *,
        table: Table,
        fills: bool,
    ) -> None:
        self.table, self.fills, self.drawn = table, fills, draw
        names = table.names
        super().__init__(self._filled, network, ridge, note, weight_decay, names, table.target.name)

    def model(self, seed: int, body: Tree, head: Tree, about: Mapping[str, Plain]) -> Model:
        """What the run of a seed learned from its training rows."""
        splits = self.drawn(seed)
        of_inputs, of_target = self.scalings(self._filled(seed))
        inputs, _ = splits["train"]
        return Model(
            columns=self.table.columns,
            targets=(self.table.target,),
            inputs=of_inputs,
            outputs=of_target,
            medians=self._medians(inputs, seed) if self.fills else None,
            spans=spans_of(inputs),
            network=self.network,
            body={name: leaf.double() for name, leaf in body.items()},
            head=trees.leaves(head)[0].double()[:, None],
            about=about,
        )

    def _filled(self, seed: int) -> Splits:
        """The rows of the groups, without missing numbers."""
        splits = self.drawn(seed)
        if not self.fills:
            return splits
        medians = self._medians(splits["train"][0], seed)
        return {name: (np.where(np.isnan(x), medians, x), y) for name, (x, y) in splits.items()}

    def _medians(self, inputs: Array, seed: int) -> Array:
        """(D,), of the training rows."""
        empty = np.isnan(inputs).all(0)
        if empty.any():
            name = self.table.names[int(empty.argmax())]
            raise DataError(
                f"With seed {seed} column {name!r} has no number in any training row, so that "
                f"nothing can be filled in. Leave it out: --set drop={name}."
            )
        found: Array = np.nanmedian(inputs, axis=0)
        return found


def whole(path: Path, table: Table) -> Array:
    """The inputs with the medians of all rows where numbers are missing: for a look, not to train.

    Raises:
        DataError: a column holds no number at all.
    """
    missing = np.isnan(table.inputs)
    if not missing.any():
        return table.inputs
    empty = missing.all(0)
    if empty.any():
        name = table.names[int(empty.argmax())]
        raise DataError(f"{path}: Column {name!r} lacks all values: leave it out (drop={name}).")
    found: Array = np.where(missing, np.nanmedian(table.inputs, axis=0), table.inputs)
    return found


def prepared(table: Table) -> str:
    """Sentences for the note: which columns were encoded, and which numbers filled in."""
    text = [column for column in table.columns if column.categories]
    note = ""
    if text:
        listed = ", ".join(f"{x.name!r} ({counted(len(x.categories), 'text')})" for x in text)
        note += f" A column of 0 and 1 for each text of {listed}."
    missing = np.isnan(table.inputs)
    if missing.any():
        names = [table.names[place] for place in np.flatnonzero(missing.any(0)).tolist()]
        note += (
            f" {counted(int(missing.sum()), 'missing number')} of {quoted(names)}: the median of "
            "the training rows."
        )
    return note
