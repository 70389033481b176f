"""Regression on data of one's own: a CSV file, or arrays."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bilevel.core.arrays import array_of
from bilevel.core.checks import check_one_of
from bilevel.errors import ArgumentError, DataError, ShapeError, counted, unknown_name
from bilevel.problem.network.hidden_layers import Network, Width
from bilevel.storage.folder import located
from bilevel.tables import lost_digits
from bilevel.tables.columns import read_table
from bilevel.tables.csv_file import LARGEST, read_cells
from bilevel.tables.scaling import few_digits, only_rounding
from problems.regression import Regression
from problems.splits import random_split, sizes_of_fractions
from problems.table_model import TableRegression, prepared, whole

Encode = Literal["onehot"]
Impute = Literal["median"]
FEWEST_ROWS = 20
FEW_VALUES = 10  # a whole-numbered target with at most so many values may be a class label


def table(
    file: str | Path,
    target: str,
    drop: str | Sequence[str] = (),
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    validation: float = 0.2,
    test: float = 0.2,
    weight_decay: float = 0.0,
    encode: Encode | None = None,
    impute: Impute | None = None,
) -> TableRegression:
    """A CSV file of your own: one column from all the others.

    Args:
        file: a CSV file; its first line names the columns, everything else is numbers.
        target: the column to predict.
        drop: columns to leave out, as a sequence or as "name,name"; a name may hold commas.
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: share of the rows for validation; 0 for none.
        test: share of the rows for testing.
        weight_decay: of the hidden layers, at least 0.
        encode: "onehot": columns of text become columns of 0 and 1, one for each text; None: they
            are refused.
        impute: "median": missing numbers of the inputs become the median of the training rows;
            None: they are refused.

    Returns:
        The problem: the rows split anew for every seed, standardised with the training rows.

    Raises:
        DataError: the file cannot be used; the message says where and what to do.
        UnknownNameError: there is no such column; the nearest name is shown.
        ArgumentError: `drop` names the target.

    Examples:
        >>> import bilevel, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "rents.csv"
        >>> rows = [f"{size},{size % 2},{7 * size}" for size in range(20, 100)]
        >>> _ = file.write_text(chr(10).join(["size,floor,rent", *rows]))
        >>> problem = bilevel.load_problem("table", file=file, target="rent", width=4)
        >>> {group: len(rows.targets) for group, rows in problem.data(0).items()}
        {'train': 48, 'test': 16, 'validation': 16}
    """
    path, target = located(file), str(target)
    cells = read_cells(path)
    dropped = names_in(drop, cells.names)
    for name in (target, *dropped):
        if name not in cells.names:
            raise unknown_name("column", name, cells.names, f" in {path.name}")
    if target in dropped:
        raise ArgumentError(f"`drop` names the target {target!r}. Drop other columns only.")
    for name, value, kinds in (("encode", encode, Encode), ("impute", impute, Impute)):
        if value is not None:
            check_one_of(value, kinds, name)
    found = read_table(
        cells,
        [name for name in cells.names if name not in set(dropped)],
        target,
        one_hot=encode is not None,
        blank=impute is not None,
    )
    inputs, targets = whole(path, found), found.targets
    check_table(inputs, targets, f"{path}: ", f"column {target!r}")
    sizes = sizes_of_fractions(len(targets), validation, test)
    note = f"{path.name}: {len(targets)} rows, target {target!r} from "
    note += f"{counted(len(found.columns), 'column')}."
    note += remarks(
        inputs, targets, [*map(repr, found.names), repr(target)], map(repr, found.counted)
    )
    note += prepared(found) + describe(targets, validation, test)
    network, draw = Network(width, depth, activation), random_split(found.inputs, targets, sizes)
    return TableRegression(
        draw, network, ridge, note, weight_decay, table=found, fills=impute is not None
    )


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    validation: float = 0.2,
    test: float = 0.2,
    weight_decay: float = 0.0,
    note: str = "",
) -> Regression:
    """The same problem from NumPy arrays or tensors, which are copied.

    Args:
        inputs: (n, D), n rows of D numbers.
        targets: (n,), the number to predict for each row.
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: share of the rows for validation; 0 for none.
        test: share of the rows for testing.
        weight_decay: of the hidden layers, at least 0.
        note: one sentence on the data, for reports.

    Raises:
        ShapeError: `inputs` is not (n, D), or `targets` not (n,).
        DataError: values that are no finite numbers, constant targets, fewer than 20 rows.

    Examples:
        >>> import numpy as np
        >>> from problems.table import from_arrays
        >>> random = np.random.default_rng(0)
        >>> inputs = random.normal(size=(100, 3))
        >>> problem = from_arrays(inputs, inputs @ np.array([1.0, -2.0, 0.5]))
        >>> {name: len(rows.targets) for name, rows in problem.data(0).items()}
        {'train': 60, 'test': 20, 'validation': 20}
    """
    (x, whole), (y, wide) = numbers("inputs", inputs), numbers("targets", targets)
    if x.ndim != 2 or x.shape[1] == 0:
        remedy = " Write `inputs[:, None]` for a single column." if x.ndim == 1 else ""
        raise ShapeError(f"`inputs` must be (n, D), rows of D numbers, got {x.shape}.{remedy}")
    if y.ndim != 1:
        remedy = "Write `targets[:, 0]`." if y.shape[1:] == (1,) else "Choose one column of them."
        raise ShapeError(
            f"`targets` must be (n,), one number for each row, got {y.shape}. {remedy}"
        )
    if len(x) != len(y):
        raise ShapeError(
            f"`inputs` has {len(x)} rows and `targets` {len(y)}: each row needs one target."
        )
    check_table(x, y, "", "`targets`")
    sizes = sizes_of_fractions(len(y), validation, test)
    note = note or f"Arrays: {len(y)} rows of {counted(x.shape[1], 'column')}."
    called = [*(f"column {place} (from 0)" for place in range(x.shape[1])), "`targets`"]
    note += remarks(x, y, called, [called[place] for place in whole] + called[-1:] * len(wide))
    note += describe(y, validation, test)
    network = Network(width, depth, activation)
    return Regression(random_split(x, y, sizes), network, ridge, note, weight_decay)


def names_in(listed: Any, known: Sequence[str]) -> list[str]:
    """The names in a sequence or in "name,name", where a name may hold commas or be quoted."""
    if not isinstance(listed, str):
        with contextlib.suppress(TypeError):  # of what nobody can go through, such as a number
            return [str(name).strip() for name in listed if str(name).strip()]
    pieces, found, names = str(listed).split(","), [], {"", *known}
    plain = names.issuperset(map(str.strip, pieces))
    longest = 1 if plain else 1 + max(name.count(",") for name in names)
    while pieces:
        for count in range(min(longest, len(pieces)), 0, -1):  # one piece at last
            name = ",".join(pieces[:count]).strip()
            if name not in names and name[:1] == name[-1:] == '"':
                name = name[1:-1].replace('""', '"').strip()
            if name in names:
                break
        found += [name] * bool(name)
        pieces = pieces[count:]
    return found


def numbers(name: str, given: Any) -> tuple[NDArray[np.float64], list[int]]:
    """A float64 copy of an argument, or an error that names it.

    Whole numbers that float64 does not hold are counted from the first row: the columns of which
    this is true come with the copy.
    """
    exact = array_of(given, name)
    found = exact.astype(np.float64)
    bad = ~(np.abs(found) <= LARGEST)
    if bad.any():
        where = ""
        if found.ndim == 2:
            places = [int(place) for place in np.flatnonzero(bad.any(axis=0))]
            where = f", in columns {', '.join(map(str, places))} counted from 0"
        raise DataError(
            f"`{name}` holds {int(bad.sum())} values that are NaN, infinite or beyond "
            f"{LARGEST:g}{where}. Drop those rows or impute the values."
        )
    counted = []
    if exact.dtype.kind in "iu" and found.size and found.ndim in (1, 2):
        sides = (array.reshape(len(array), -1) for array in (exact, found))
        for place, (whole, column) in enumerate(zip(*(side.T for side in sides), strict=True)):
            apart = lost_digits.may_count(column) and lost_digits.apart(whole.tolist(), column)
            if isinstance(apart, np.ndarray):
                column[:] = apart
                counted.append(place)
    return found, counted


def check_table(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], where: str, what: str
) -> None:
    """Refuse tables from which nothing can be learned."""
    if inputs.shape[1] == 0:
        raise DataError(f"{where}there is no column beside the target to predict it from.")
    if len(targets) < FEWEST_ROWS:
        raise DataError(
            f"{where}{len(targets)} rows are too few for training, validation and test: at least "
            f"{FEWEST_ROWS} are needed."
        )
    if np.ptp(targets) == 0 or only_rounding(targets[:, None]).any():
        up_to = ", but for rounding" if np.ptp(targets) else ""
        raise DataError(
            f"{where}{what} is {targets[0]:g} in every row{up_to}: there is nothing to predict. "
            "Choose another target."
        )
    if ((np.ptp(inputs, axis=0) == 0) | only_rounding(inputs)).all():
        raise DataError(f"{where}all columns but the target are the same in every row.")


def remarks(
    inputs: NDArray[np.float64],
    targets: NDArray[np.float64],
    called: Sequence[str],
    counted: Iterable[str],
) -> str:
    """Sentences for the note: columns of no use, and columns of which digits are lost.

    Args:
        inputs: (n, D).
        targets: (n,).
        called: the names of the columns and of the target, (D + 1,).
        counted: the names of those that are counted from the first row.
    """
    values = np.column_stack([inputs, targets])
    rounded = only_rounding(values)
    found = {
        "The same in every row, so of no use": np.ptp(values, axis=0) == 0,
        "The same in every row but for rounding, so of no use": rounded,
        "So far from 0 for their spread that few digits are left": few_digits(values) & ~rounded,
    }
    listed = {
        text: [called[place] for place in np.flatnonzero(at).tolist()] for text, at in found.items()
    }
    listed["Counted from the first row, for float64 loses digits of the numbers"] = [*counted]
    return "".join(f" {text}: {', '.join(names)}." for text, names in listed.items() if names)


def describe(targets: NDArray[np.float64], validation: float, test: float) -> str:
    """Sentences for the note: how the rows are split, and whether the target looks like classes."""
    shares = (
        f"{float(validation):.0%} validation, {float(test):.0%} test"
        if validation
        else f"{float(test):.0%} test"
    )
    note = f" Split anew for every seed, {shares}; standardised with training rows."
    values = len(np.unique(targets))
    if values <= FEW_VALUES and (targets == np.round(targets)).all():
        note += (
            f" The target has only {values} values, all whole numbers: if they stand for classes, "
            "the squared error used here is not made for them."
        )
    return note
