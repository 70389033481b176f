"""Quadratic heads for tests, and references that share no code with the library.

`build` makes a linear head problem from arrays and hooks; `dense` is its normal equations in NumPy;
`exact_head` solves them in rational arithmetic, so that errors at the level of rounding can be
measured. `Quadratic` is a head of any shape.
"""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import torch

import bilevel
from bilevel.heads import AbstractHeadSolver, HeadSolution

ONE = torch.ones((), dtype=torch.float64)


def normal(seed, *shape):
    """Standard normal numbers, a float64 array."""
    return np.random.default_rng(seed).standard_normal(shape)


def build(
    inputs,
    targets,
    *,
    features=None,
    row_weights=None,
    penalty=None,
    prior=None,
    body_penalty=None,
    body=None,
    start=None,
    extra=None,
    **attributes,
):
    """A problem on the training rows (inputs, targets); by default the features are w x.

    Args:
        inputs: (n, D) array.
        targets: (n,) or (n, K) array; sets `outputs`.
        features: (body, inputs) -> (n, M).
        row_weights: (body, batch) -> (n,) or (n, K).
        penalty: body -> scalar, (M,) or (M, K).
        prior: (body, batch) -> like the head.
        body_penalty: body -> 0-dim.
        body: the initial body; 1 by default.
        start: the initial head; zeros by default.
        extra: more row groups.
        **attributes: class attributes such as `ridge` and `fit_bias`.
    """
    inputs, targets = torch.as_tensor(inputs), torch.as_tensor(targets)
    first = ONE if body is None else body
    outputs = targets.shape[1] if targets.ndim == 2 else None
    find = features or (lambda w, x: w * x)

    def init_head(self, generator):
        if start is not None:
            return torch.as_tensor(start)
        columns = inputs if self.body_free_features else find(first, inputs)
        return torch.zeros(self.head_shape(columns.shape[1] + self.fit_bias), dtype=torch.float64)

    def with_body(self, w, x):
        return find(w, x)

    def without_body(self, x):
        return x

    members = {
        "outputs": outputs,
        "data": lambda self, seed=None: {"train": bilevel.Batch(inputs, targets), **(extra or {})},
        "init_body": lambda self, generator: first,
        "init_head": init_head,
        "features": without_body if attributes.get("body_free_features") else with_body,
        **attributes,
    }
    for name, hook in (("penalty", penalty), ("body_penalty", body_penalty)):
        if hook is not None:
            members[name] = lambda self, w, hook=hook: hook(w)
    for name, hook in (("row_weights", row_weights), ("prior", prior)):
        if hook is not None:
            members[name] = lambda self, w, batch, hook=hook: hook(w, batch)
    return type("Built", (bilevel.LinearHeadProblem,), members)()


def dense(design, targets, weights=None, penalty=0.0, prior=0.0):
    """H (K, M, M) and b (K, M) of every output, in NumPy; weights (n,) or (n, K)."""
    z, t = np.asarray(design), np.asarray(targets).reshape(len(targets), -1)
    s = np.ones(len(z)) if weights is None else np.asarray(weights)
    s = np.broadcast_to(s.reshape(len(z), -1), t.shape)
    p, q = (penalty_table(x, z.shape[1], t.shape[1]) for x in (penalty, prior))
    each = range(t.shape[1])
    matrix = [(z.T * s[:, k]) @ z / len(z) + np.diag(p[:, k]) for k in each]
    moment = [z.T @ (s[:, k] * t[:, k]) / len(z) + p[:, k] * q[:, k] for k in each]
    return np.stack(matrix), np.stack(moment)


def penalty_table(penalty, m, k):
    """Any penalty as (M, K)."""
    p = np.asarray(penalty, dtype=np.float64)
    return np.broadcast_to(p[:, None] if p.ndim == 1 else p, (m, k))


def dense_head(design, targets, weights=None, penalty=0.0, prior=0.0):
    """theta* by a dense solve, shaped like the head."""
    matrix, moment = dense(design, targets, weights, penalty, prior)
    theta = np.linalg.solve(matrix, moment[..., None])[..., 0].T
    return theta[:, 0] if np.ndim(targets) == 1 else theta


def fractions(array):
    """An array of floats as exact rational numbers (an object array)."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, dtype=np.float64))


def exact_system(design, targets, weights=None, penalty=0.0, prior=0.0):
    """`dense` in rational arithmetic: object arrays H (K, M, M) and b (K, M)."""
    z, t = fractions(design), fractions(targets).reshape(len(targets), -1)
    s = fractions(np.ones(len(z)) if weights is None else weights).reshape(len(z), -1)
    s = np.broadcast_to(s, t.shape)
    p, q = (fractions(penalty_table(x, z.shape[1], t.shape[1])) for x in (penalty, prior))
    count, shifted, moments = Fraction(len(z)), [], []
    for k in range(t.shape[1]):
        matrix = (z.T * s[:, k]) @ z / count
        matrix[np.diag_indices(len(matrix))] += p[:, k]
        shifted.append(matrix)
        moments.append((z.T * s[:, k]) @ t[:, k] / count + p[:, k] * q[:, k])
    return np.stack(shifted), np.stack(moments)


def exact_solve(matrix, vector):
    """x with A x = b by Gaussian elimination on fractions; A positive definite."""
    rows = [[*row, value] for row, value in zip(matrix.tolist(), vector.tolist(), strict=True)]
    size = len(rows)
    for i in range(size):
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    solution = [Fraction(0)] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return np.array(solution, dtype=object)


def exact_head(design, targets, weights=None, penalty=0.0, prior=0.0):
    """theta* (M, K) without any rounding."""
    matrix, moment = exact_system(design, targets, weights, penalty, prior)
    return np.stack([exact_solve(a, b) for a, b in zip(matrix, moment, strict=True)], axis=1)


def length(difference):
    """The norm of an object array, rounded once."""
    square = sum(value * value for value in np.ravel(difference))
    return float(square) ** 0.5 if square > 0 else 0.0


def distance(head, exact):
    """|head - exact|, computed without cancellation."""
    return length(fractions(np.asarray(head).reshape(exact.shape)) - exact)


class Given(AbstractHeadSolver):
    """Answers with a given head, whatever the body: to certify heads of one's own."""

    def __init__(self, head):
        self.head = head

    def init(self, oracles, body, head, rows):
        return ()

    def solve(self, oracles, body, head, rows, state, k):
        given = bilevel.trees.single(self.head)
        nothing = torch.zeros(1, dtype=torch.float64)
        return HeadSolution(given, nothing, torch.zeros(1, dtype=torch.int64), state)

    @property
    def cost(self):
        return bilevel.Cost()


def exact_box_head(matrix, moment, low, high):
    """argmin of 1/2 x'Hx - b'x on a box, in rational arithmetic: all active sets are tried.

    Args:
        matrix: (M, M) fractions, positive definite, M small.
        moment: (M,) fractions.
        low: a float.
        high: a float.
    """
    size, bounds = len(moment), {-1: Fraction(low), 1: Fraction(high)}
    for active in itertools.product((-1, 0, 1), repeat=size):
        x = np.array([bounds.get(side, Fraction(0)) for side in active], dtype=object)
        free = [i for i in range(size) if active[i] == 0]
        if free:
            rest = moment[free] - matrix[free] @ x
            x[free] = exact_solve(matrix[np.ix_(free, free)], rest)
        slope = matrix @ x - moment
        inside = all(bounds[-1] <= value <= bounds[1] for value in x)
        if inside and all(side * value <= 0 for side, value in zip(active, slope, strict=True)):
            return x
    raise AssertionError("a convex problem on a box has a solution")


def ball_head(matrix, moment, radius):
    """argmin of 1/2 x'Hx - b'x on a ball, 50 digits: (H + s I) x = b with |x| = radius, s >= 0."""
    with mpmath.workdps(60):
        values = [[mpmath.mpf(a.numerator) / a.denominator for a in row] for row in matrix]
        a = mpmath.matrix(values)
        b = mpmath.matrix([mpmath.mpf(v.numerator) / v.denominator for v in moment])
        identity = mpmath.eye(len(moment))

        def at(shift):
            return mpmath.lu_solve(a + shift * identity, b)

        if mpmath.norm(at(0)) > radius:
            low, high = mpmath.mpf(0), mpmath.norm(b) / radius
            for _ in range(180):
                middle = (low + high) / 2
                low, high = (middle, high) if mpmath.norm(at(middle)) > radius else (low, middle)
            x = at(high)
        else:
            x = at(0)
        return np.array([Fraction(int(mpmath.nint(v * 2**160)), 2**160) for v in x], dtype=object)


class Quadratic(bilevel.StackelbergProblem):
    """g = 1/2 theta'A theta - w b'theta on any tree; A is the diagonal plus a rank-one part."""

    def __init__(self, shapes, *, power=2.0, shift=1.0, head_set=None):
        self.shapes, self.power, self.shift = shapes, power, shift
        self.head_set = head_set or bilevel.Everywhere()
        self.size = sum(int(np.prod(shape)) for shape in shapes.values())
        self.b, self.u = normal(3, self.size), normal(4, self.size)
        self.matrix = np.diag(shift + np.arange(self.size)) + np.outer(self.u, self.u)

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return ONE

    def init_head(self, generator):
        tree = {name: torch.ones(shape).double() for name, shape in self.shapes.items()}
        return tree if len(tree) > 1 else tree["only"]

    def head_objective(self, body, head, batch):
        leaves = list(head.values()) if isinstance(head, dict) else [head]
        flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
        diagonal = self.shift + torch.arange(self.size).double()
        value = 0.5 * (diagonal * flat.abs() ** self.power).sum()
        value = value + 0.5 * (torch.as_tensor(self.u) @ flat) ** 2
        return value - body * (torch.as_tensor(self.b) @ flat)


HEADS = {
    "0-dim": {"only": ()},
    "vector": {"only": (4,)},
    "matrix": {"only": (2, 3)},
    "tree": {"slope": (2, 2), "offset": (), "more": (3,)},
}
