"""Random matrices of the ensembles: Haar rotations, orthonormal columns, whitened designs."""

from typing import Any

import torch
from torch import Tensor

from bilevel.core.checks import check_instance, check_positive_integer
from bilevel.errors import ArgumentError


def checked_size(name: str, value: Any, least: int = 1) -> int:
    """`value`, if it is an integer of at least `least`."""
    check_positive_integer(value, f"`{name}`")
    if value < least:
        raise ArgumentError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    return value  # type: ignore[no-any-return]


def gaussian(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Independent N(0, 1) entries, (rows, columns), float64."""
    check_instance(generator, torch.Generator, "generator", "torch.Generator()")
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def orthonormal_columns(d: int, h: int, generator: torch.Generator) -> Tensor:
    """A (d, h) matrix Q with Q'Q = I, uniform among all of them.

    It is the Q of a QR decomposition of a Gaussian matrix whose R has a positive diagonal.

    Args:
        d: rows, at least h.
        h: columns.
        generator: what it is drawn with.

    Raises:
        ArgumentError: h > d: there are no h orthonormal vectors of d entries.
    """
    checked_size("d", d)
    if checked_size("h", h) > d:
        raise ArgumentError(
            f"There are no h = {h} orthonormal columns of d = {d} entries: take h <= d, or "
            "Gaussian weights."
        )
    q, r = torch.linalg.qr(gaussian(d, h, generator))
    flipped: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return flipped


def haar(n: int, generator: torch.Generator) -> Tensor:
    """A random (n, n) orthogonal matrix, uniform among all of them.

    Examples:
        >>> import torch
        >>> u = haar(3, torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(u.T @ u, torch.eye(3, dtype=torch.float64)))
        True
    """
    return orthonormal_columns(n, n, generator)


def whitened_design(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Rows X, (n, d), with X'X = n I: the empirical covariance is the identity.

    Raises:
        ArgumentError: d > n: fewer rows than inputs have no such covariance.
    """
    checked_size("n", n)
    if checked_size("d", d) > n:
        raise ArgumentError(f"X'X = n I needs n >= d rows, got n = {n} and d = {d}.")
    rows: Tensor = n**0.5 * orthonormal_columns(n, d, generator)
    return rows
