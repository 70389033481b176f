"""Six small problems with known hypergradients, and how a row of the table is printed.

    grad Phi = d_w F - (d2_{w theta} g)(d2_{theta theta} g)^{-1} d_theta F     at theta*(w)

The objectives are written with operators only, so that torch and JAX arrays both fit; constants are
given to them as `c`, converted by the caller. Only NumPy is needed here, not `bilevel`: the scripts
beside this file run where the other library is installed.
"""

import dataclasses
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

Array = Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem at one body.

    Attributes:
        name: its name in the documentation.
        w: the body.
        theta: theta*(w).
        gradient: grad Phi(w), by a formula.
        F: of w, theta and the constants.
        g: likewise.
        largest: L, the largest eigenvalue of d2_{theta theta} g.
        constants: what F and g compute with.
    """

    name: str
    w: np.ndarray
    theta: np.ndarray
    gradient: np.ndarray
    F: Callable[[Array, Array, dict[str, Array]], Array]
    g: Callable[[Array, Array, dict[str, Array]], Array]
    largest: float
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def scalar(name: str, w: float, theta: float, slope: float, largest: float, F: Any, g: Any) -> Case:
    """A case whose body and head are numbers without an axis."""
    return Case(name, np.array(w), np.array(theta), np.array(slope), F, g, largest)


def isotropic() -> Case:
    """A12: d2_{theta theta} g = 2 I."""
    b = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]])
    t, w = np.array([1.0, -1.0, 2.0]), np.array([1.0, 1.0])
    return Case(
        "A12",
        w,
        b @ w / 2,
        b.T @ (b @ w / 2 - t) / 2,
        lambda w, theta, c: ((theta - c["t"]) ** 2).sum() / 2,
        lambda w, theta, c: (theta**2).sum() - (theta * (c["b"] @ w)).sum(),
        2.0,
        {"b": b, "t": t},
    )


def ridge(name: str, smallest: float, penalty: float) -> Case:
    """A15: a ridge penalty; the columns of X have scales from 1 down to `smallest`."""
    source = np.random.default_rng(0)
    scales = np.geomspace(1.0, smallest, 8)
    x, xv = (source.standard_normal((n, 8)) * scales for n in (60, 40))
    truth = source.standard_normal(8) / scales
    t, tv = (rows @ truth + 0.5 * source.standard_normal(len(rows)) for rows in (x, xv))
    gram = x.T @ x / len(x) + penalty * np.eye(8)
    theta = np.linalg.solve(gram, x.T @ t / len(x))
    adjoint = np.linalg.solve(gram, xv.T @ (xv @ theta - tv) / len(xv))
    return Case(
        name,
        np.array(penalty),
        theta,
        np.array(-theta @ adjoint),
        lambda w, theta, c: ((c["xv"] @ theta - c["tv"]) ** 2).mean() / 2,
        lambda w, theta, c: ((c["x"] @ theta - c["t"]) ** 2).mean() / 2 + w * (theta**2).sum() / 2,
        float(np.linalg.eigvalsh(gram)[-1]),
        {"x": x, "t": t, "xv": xv, "tv": tv},
    )


def condition(case: Case) -> float:
    """The condition number of the ridge cases' Hessian."""
    x = case.constants["x"]
    return float(np.linalg.cond(x.T @ x / len(x) + float(case.w) * np.eye(x.shape[1])))


def a13(w: Array, theta: Array, c: dict[str, Array]) -> Array:
    """G, and F too."""
    return ((w * theta - 2) ** 2 + (2 * w * theta - 1) ** 2) / 2 + theta**2 / 2


CASES = (
    scalar(
        "A4", 1.0, 1.0, 4.0, 2.0,
        lambda w, theta, c: (w - 1) ** 2 + (theta + 1) ** 2,
        lambda w, theta, c: (theta - w) ** 2,
    ),
    scalar(
        "A6", 0.0, 0.0, -0.5, 2.0,
        lambda w, theta, c: (theta - 1) ** 2 / 2,
        lambda w, theta, c: (theta - w) ** 2 / 2 + theta**2 / 2,
    ),
    isotropic(),
    scalar("A13", 1.0, 2 / 3, -4 / 9, 6.0, a13, a13),
    ridge("A15 well", 0.5, 0.1),
    ridge("A15 badly", 1e-3, 1e-6),
)  # fmt: skip


def show(setting: str, find: Callable[[Case], np.ndarray]) -> None:
    """Print the relative error of every case under one setting, or how it fails."""
    for case in CASES:
        try:
            found = np.asarray(find(case), dtype=np.float64)
        except Exception as error:  # of other people's code: of any type
            print(f"{setting:44} {case.name:10} {type(error).__name__}: {str(error)[:90]!r}")
            continue
        size = np.linalg.norm(np.atleast_1d(case.gradient))
        off = np.linalg.norm(np.atleast_1d(found - case.gradient)) / size
        values = np.array2string(np.atleast_1d(found), precision=6)
        exact = np.array2string(np.atleast_1d(case.gradient), precision=6)
        print(f"{setting:44} {case.name:10} {values:>22} exact {exact:>22} error {off:.1e}")


def versions(*names: str) -> None:
    """Print what was installed."""
    found = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    print(f"Python {sys.version.split()[0]}, {found}")


if __name__ == "__main__":
    for case in CASES[4:]:
        print(f"{case.name}: condition number {condition(case):.1e}")
