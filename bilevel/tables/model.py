"""A trained network with all that turns the rows of a table into predictions in their own units."""

import abc
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.core.arrays import array_of
from bilevel.core.graph import ordinary
from bilevel.errors import ArgumentError, DataError, ShapeError, counted, spell
from bilevel.problem.network.hidden_layers import Network
from bilevel.storage.folder import located, reserve
from bilevel.storage.tensors import write_tensors
from bilevel.tables.columns import Column, encode
from bilevel.tables.csv_file import Cells
from bilevel.tables.model_file import Label, Plain, kept, read
from bilevel.tables.scaling import Scaling
from bilevel.trees import Tree

Array = NDArray[Any]
FAR = 30.0
"""Numbers so many times larger or smaller than those of the training are of another unit."""
APART = 10.0
"""So many times the range of the training rows beside it is somewhere else altogether."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network, or a linear function, of the columns of a table.

    Attributes:
        columns: of the inputs, in their order.
        targets: the columns that are predicted.
        inputs: the standardisation of the D inputs.
        outputs: that of the K targets; None for classes.
        medians: (D,), in the place of missing numbers; None: they are refused.
        spans: (3, D), the lowest and the highest number of the training rows, and the median of
            their sizes; None: not known.
        network: the hidden layers; None: the inputs are the features.
        body: their weights and biases, float64.
        head: (M + 1, K), the last row for the bias, float64; of two classes K is 1.
        classes: the labels, sorted; None: numbers are predicted.
        about: where it is from, in texts and numbers.

    Examples:
        >>> import numpy as np, tempfile
        >>> from sklearn.linear_model import Ridge
        >>> from bilevel.estimators import save_model
        >>> from bilevel.tables import Model
        >>> X = np.arange(8.0).reshape(4, 2)
        >>> fitted = Ridge().fit(X, X.sum(1))
        >>> model = Model.load(save_model(fitted, f"{tempfile.mkdtemp()}/sum.safetensors"))
        >>> [column.name for column in model.columns]
        ['x0', 'x1']
        >>> bool(np.allclose(model.predict(X), fitted.predict(X)))
        True
    """

    columns: tuple[Column, ...]
    targets: tuple[Column, ...]
    inputs: Scaling
    outputs: Scaling | None
    medians: Array | None
    spans: Array | None
    network: Network | None
    body: dict[str, Tensor]
    head: Tensor
    classes: tuple[Label, ...] | None = None
    about: Mapping[str, Plain] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        named = ", ".join(target.name for target in self.targets)
        return f"Model({named} from {counted(len(self.columns), 'column')})"

    def read(self, cells: Cells) -> Array:
        """The inputs (n, D) in the rows of a file; NaN where the median of the training will be.

        Raises:
            DataError: a column lacks, or holds what the model was not trained on; the message says
                where and what to do.
        """
        if not cells.lines:
            raise DataError(f"{cells.path} holds no rows below the names of its columns.")
        return encode(cells, self.columns, blank=self.medians is not None)

    def outside(self, inputs: Array) -> dict[str, Array]:
        """By column, which rows (n,) lie outside of the range of the training rows."""
        found: dict[str, Array] = {}
        place = 0
        if self.spans is None:
            return found
        for column in self.columns:
            if not column.categories:
                low, high, _ = self.spans[:, place]
                values = inputs[:, place]
                beyond = (values < low) | (values > high)
                if beyond.any():
                    found[column.name] = beyond
            place += len(column.inputs)
        return found

    def unseen(self, inputs: Array) -> dict[tuple[str, str], Array]:
        """By column and text, which rows (n,) hold a text that no training row did.

        The table had it in other rows, for validation or test: its weights are those of the start.
        """
        names = [(c.name, text) for c in self.columns for text in c.categories or ("",)]
        return {
            name: inputs[:, place] > 0
            for place, name in enumerate(names)
            if self.spans is not None
            and name[1]
            and self.spans[1, place] == 0
            and (inputs[:, place] > 0).any()
        }

    def far(self, inputs: Array) -> dict[str, tuple[float, float, float]]:
        """Columns whose numbers are of another unit, it seems, than those of the training.

        All of them lie outside of the range of the training rows, and either by more than `APART`
        times that range, or they are `FAR` times larger or smaller.

        Returns:
            By name the median of the numbers, and the range of the training rows.
        """
        found = {}
        places = {name: k for k, name in enumerate(n for c in self.columns for n in c.inputs)}
        for name, beyond in self.outside(inputs).items():
            assert self.spans is not None
            low, high, size = self.spans[:, places[name]].tolist()
            values = inputs[:, places[name]]
            values = values[~np.isnan(values)]
            if beyond.sum() < len(values):
                continue
            apart = np.maximum(low - values, values - high).min()
            typical = float(np.median(np.abs(values)))
            ratio = typical / size if size > 0 else 1.0
            if apart > APART * (high - low) > 0 or (ratio > 0 and not 1 / FAR < ratio < FAR):
                found[name] = (float(np.median(values)), low, high)
        return found

    @ordinary()
    def scores(self, inputs: Any) -> Array:
        """What the head says, (n, K): standardised targets, or the logits of classes.

        Args:
            inputs: (n, D), in the units of the training; NaN where a number is missing.

        Raises:
            ShapeError: they have not D columns.
            DataError: a number is missing, and no median was learned; or it is not finite.
        """
        rows = np.asarray(array_of(inputs, "inputs"), dtype=np.float64)
        expected = len(self.inputs.origin)
        if rows.ndim != 2 or rows.shape[1] != expected:
            raise ShapeError(
                f"`inputs` must be (n, {expected}), one column for each input of the model, got "
                f"{rows.shape}."
            )
        if self.medians is not None:
            rows = np.where(np.isnan(rows), self.medians, rows)
        z = torch.from_numpy(self.inputs(rows)) if len(rows) else torch.empty(0, expected).double()
        if self.network is not None:
            z = self.network.features(self.body, z)
        found: Array = (z @ self.head[:-1] + self.head[-1]).numpy()
        return found

    def predict(self, inputs: Any) -> Array:
        """Predictions in the units of the targets, (n,) or (n, K); or the labels of classes, (n,).

        Args:
            inputs: (n, D), see `scores`.
        """
        found = self.scores(inputs)
        if self.classes is not None:
            places = found.argmax(1) if found.shape[1] > 1 else (found[:, 0] > 0).astype(int)
            labels: Array = np.asarray(self.classes)[places]
            return labels
        assert self.outputs is not None
        made = self.outputs.inverse(found)
        made += np.array([float(target.first or 0) for target in self.targets])
        return made[:, 0] if len(self.targets) == 1 else made

    def probabilities(self, inputs: Any) -> Array:
        """The probability of each class, (n, number of classes).

        Args:
            inputs: (n, D), see `scores`.
        """
        logits = torch.from_numpy(self.scores(inputs))
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        found: Array = logits.softmax(1).numpy()
        return found

    def renamed(self, names: Sequence[str] | None, targets: str | Sequence[str]) -> "Model":
        """The same with other names of its columns (None: as they are) and of its targets.

        Raises:
            ArgumentError: they are not as many, or one is there twice.
        """
        columns = [column.name for column in self.columns] if names is None else _listed(names)
        aims = [targets] if isinstance(targets, str) else _listed(targets)
        for what, given, there in (
            ("names", columns, self.columns),
            ("target", aims, self.targets),
        ):
            if len(given) != len(there):
                raise ArgumentError(
                    f"`{what}` must be {counted(len(there), 'name')}, got {spell(given)}."
                )
        if len({*columns, *aims}) < len(columns) + len(aims):
            raise ArgumentError("`names` and `target` must all differ.")
        return dataclasses.replace(
            self,
            columns=tuple(x._replace(name=n) for x, n in zip(self.columns, columns, strict=True)),
            targets=tuple(x._replace(name=n) for x, n in zip(self.targets, aims, strict=True)),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to one new file, which `load` and `bilevel predict` read.

        Raises:
            ResultsExistError: there is such a file already.
        """
        target = reserve(path, "file")
        write_tensors(target, *kept(vars(self)))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Model":
        """Read what `save` wrote, or the model in a results folder of `bilevel compare`.

        Raises:
            ResultsError: the file is missing, damaged, or holds something else.
        """
        return cls(**read(located(path)))


def _listed(names: object) -> list[str]:
    try:
        return [str(name) for name in names]  # type: ignore[attr-defined]
    except TypeError as error:
        raise ArgumentError(f"Names are a list of texts, got {spell(names)}.") from error


def spans_of(inputs: Array) -> Array:
    """(3, D): the lowest and highest numbers of rows, and the medians of their sizes.

    0 for columns without a number.
    """
    some = ~np.isnan(inputs).all(0)
    found = np.zeros((3, inputs.shape[1]))
    rows = inputs[:, some]
    found[:, some] = np.nanmin(rows, 0), np.nanmax(rows, 0), np.nanmedian(np.abs(rows), 0)
    return found


class MakesModels(abc.ABC):
    """Problems on tables, of whose trainings a `Model` is kept."""

    @abc.abstractmethod
    def model(self, seed: int, body: Tree, head: Tree, about: Mapping[str, Plain]) -> Model:
        """What one run learned.

        Args:
            seed: of the run.
            body: its body.
            head: its head.
            about: where it is from.
        """
