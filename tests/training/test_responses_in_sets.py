"""Records of heads in sets, far from the best response: against other programs."""

import numpy as np
import pytest
import torch
from scipy import optimize

import bilevel
from bilevel import SGD, BestResponse, Box, FastSGD, Implicit, Nonnegative, Status, TwoTimescale
from bilevel.problem.sets import ConvexSet

ROWS, COLUMNS, RIDGE = 60, 20, 1e-6
FAR = TwoTimescale(1e-4, 1e-2, SGD())


class Between(ConvexSet):
    """A set of one's own: nothing but bounds."""

    def bounds(self, tree):
        return torch.full_like(tree, -0.1), torch.full_like(tree, 0.3)

    def project(self, tree):
        return tree.clamp(-0.1, 0.3)


SETS = {
    "nonnegative": (Nonnegative(), 0.0, np.inf),
    "above": (Box(-torch.inf, 0.2), -np.inf, 0.2),
    "own": (Between(), -0.1, 0.3),
}


def table(seed=0):
    """Features of condition 100, and targets whose least squares lie on both sides of zero."""
    source = np.random.default_rng(seed)
    turned = np.linalg.qr(source.standard_normal((COLUMNS, COLUMNS)))[0]
    z = source.standard_normal((ROWS, COLUMNS)) * np.logspace(0, -2, COLUMNS) @ turned
    t = z @ (3 * source.standard_normal(COLUMNS)) + 0.3 * source.standard_normal(ROWS)
    return z, t


class Linear(bilevel.LinearHeadProblem):
    """Features Z diag(w); heads start far off."""

    ridge = RIDGE

    def __init__(self, convex, criterion):
        self.head_set, self.criterion = convex, criterion

    def data(self, seed=None):
        logistic = isinstance(self.criterion, bilevel.LogisticLoss)
        drawn = [map(torch.from_numpy, table(number)) for number in (0, 1)]
        rows = [bilevel.Batch(z, (t > 0).long() if logistic else t) for z, t in drawn]
        return {"train": rows[0], "validation": rows[1]}

    def init_body(self, generator):
        return 1 + 0.1 * torch.rand(COLUMNS, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.randn(COLUMNS, generator=generator, dtype=torch.float64)

    def features(self, body, inputs):
        return inputs * body


class TrueLinear(Linear):
    """F is not g."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return (self.predict(body, head, rows.inputs) - rows.targets).square().mean()


def answer(problem, body, low, high):
    """theta* by scipy: active sets for squares, L-BFGS-B with a polish of the free numbers else."""
    z = table()[0] * body.numpy()
    if problem.criterion.quadratic:
        tall = np.vstack([z / np.sqrt(ROWS), np.sqrt(RIDGE) * np.eye(COLUMNS)])
        right = np.concatenate([table()[1] / np.sqrt(ROWS), np.zeros(COLUMNS)])
        found = optimize.lsq_linear(tall, right, (low, high), method="bvls", tol=1e-15)
        return found.x
    signs = np.where(table()[1] > 0, 1.0, -1.0)[:, None] * z

    def value(theta):
        return np.logaddexp(0, -signs @ theta).mean() + 0.5 * RIDGE * theta @ theta

    def slope(theta):
        return -signs.T @ (1 / (1 + np.exp(signs @ theta))) / ROWS + RIDGE * theta

    start = np.clip(np.zeros(COLUMNS), low, high)
    options = {"maxiter": 10**5, "maxfun": 10**6, "ftol": 1e-16, "gtol": 1e-12}
    found = optimize.minimize(
        value, start, jac=slope, bounds=[(low, high)] * COLUMNS, method="L-BFGS-B", options=options
    ).x
    free = (found > low) & (found < high)
    full = found.copy()

    def inside(x):
        full[free] = x
        return slope(full)[free]

    full[free] = optimize.root(inside, found[free], tol=1e-15).x
    outside = np.where(full <= low, np.minimum(slope(full), 0), np.maximum(slope(full), 0))
    assert np.abs(np.where(free, slope(full), outside)).max() < 1e-12
    return full


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("criterion", [bilevel.SquaredError(), bilevel.LogisticLoss()])
def test_the_best_response_is_found_from_far_off(name, criterion):
    convex, low, high = SETS[name]
    problem = Linear(convex, criterion)
    made = bilevel.solve(
        problem, FAR, steps=2, seeds=3, every=1, batch_size=None, dtype=torch.float64
    ).history
    assert bool(made["phi"].isfinite().all())
    still = bilevel.solve(
        problem,
        TwoTimescale(1e-12, 1e-2, SGD()),
        steps=1,
        seeds=1,
        batch_size=None,
        dtype=torch.float64,
    )
    body, head = still.body[0], still.head[0].numpy()
    best = answer(problem, body, low, high)
    last = {key: float(values[-1, 0]) for key, values in still.history.items()}
    value = problem.head_objective(body, torch.from_numpy(best), problem.data())
    assert last["phi"] == pytest.approx(float(value), rel=1e-10)
    assert last["head_gap"] == pytest.approx(np.linalg.norm(head - best), rel=1e-6)


def test_the_gradient_of_phi_is_known_on_a_set_of_ones_own():
    convex, low, high = SETS["own"]
    problem = TrueLinear(convex, bilevel.SquaredError())
    strategy = BestResponse(1e-3, FastSGD(0.1, 2), Implicit(), optimizer=SGD())
    found = bilevel.solve(problem, strategy, steps=2, seeds=1, batch_size=None, dtype=torch.float64)
    body = found.body[0]

    def phi(at):
        best = torch.from_numpy(answer(problem, at, low, high))
        return float(problem.body_objective(at, best, problem.data()))

    step = 1e-6
    slope = [
        (phi(body + step * way) - phi(body - step * way)) / (2 * step)
        for way in torch.eye(COLUMNS, dtype=torch.float64)
    ]
    last = {key: float(values[-1, 0]) for key, values in found.history.items()}
    assert last["phi"] == pytest.approx(phi(body), rel=1e-9)
    assert last["phi_gradient_norm"] == pytest.approx(np.linalg.norm(slope), rel=1e-6)


def test_tolerance_stops_runs_whose_heads_are_far_off():
    problem = Linear(Nonnegative(), bilevel.SquaredError())
    options = {"seeds": 2, "every": 2, "batch_size": None, "dtype": torch.float64}
    found = bilevel.solve(problem, TwoTimescale(1e-3, 1e-2), steps=40, tolerance=0.995, **options)
    assert found.status == (Status.CONVERGED,) * 2
    norm = found.history["phi_gradient_norm"]
    assert bool((norm[-1] <= 0.995 * norm[0]).all())


def test_a_best_response_that_is_not_unique_is_not_recorded():
    """Two equal columns, without a ridge, between bounds that neither meets."""

    class Twins(Linear):
        ridge = 0.0

        def features(self, body, inputs):
            return torch.stack([inputs[:, 0] * body[0], inputs[:, 0] * body[0]], 1)

        def init_head(self, generator):
            return torch.zeros(2, dtype=torch.float64)

    standing = TwoTimescale(1e-12, 1e-12, SGD())
    problem = Twins(Box(-100.0, 100.0), bilevel.SquaredError())
    options = {"seeds": 1, "batch_size": None, "dtype": torch.float64}
    found = bilevel.solve(problem, standing, steps=1, **options).history
    assert bool(found["phi"].isnan().all())
    z, t = table()
    half = float(z[:, 0] @ t / (z[:, 0] @ z[:, 0]) / 2)

    class There(Twins):  # nothing is left to do, and nothing was looked at
        def init_head(self, generator):
            return torch.full((2,), half, dtype=torch.float64)

        def init_body(self, generator):
            return torch.ones(COLUMNS, dtype=torch.float64)

    found = bilevel.solve(
        There(problem.head_set, problem.criterion), standing, steps=1, **options
    ).history
    assert bool(found["phi"].isnan().all())


@pytest.mark.parametrize("radius", [3.0, 1e6])
@pytest.mark.parametrize("criterion", [bilevel.HuberLoss(0.5), bilevel.LogisticLoss()])
def test_balls_that_do_not_hold_the_head(criterion, radius):
    """From heads at the edge of the ball the answer is that of the whole space."""

    class Wide(Linear):
        ridge = 1e-3

        def init_head(self, generator):
            return 100 * super().init_head(generator)

    strategy = TwoTimescale(1e-12, 1e-12, SGD())
    options = {"seeds": 3, "batch_size": 4, "dtype": torch.float64}
    free = bilevel.solve(
        Wide(bilevel.Everywhere(), criterion), BestResponse(1e-12), steps=1, **options
    )
    longest = float(free.head.norm(dim=1).max())
    found = bilevel.solve(
        Wide(bilevel.Ball(radius * longest), criterion), strategy, steps=1, **options
    )
    torch.testing.assert_close(found.history["phi"], free.history["phi"], rtol=1e-10, atol=0)
