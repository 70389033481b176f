"""Traces of the strategies against plain NumPy loops, and what the strategies refuse."""

import numpy as np
import pytest
import torch
from small_problems import Relu, doubles, points, sampler

import bilevel
from bilevel import (
    SGD,
    Ball,
    BestResponse,
    Box,
    Everywhere,
    FastSGD,
    Polynomial,
    RMSProp,
    TwoTimescale,
)
from bilevel.derivatives.oracles import Oracles

STEPS, BATCH, RIDGE = 5, 3, 0.05

# explicit arrays: N = 6 rows, D = 2 inputs, M = 3 units, all of them sometimes off
X = np.array([[0.5, -1.0], [1.5, 0.25], [-0.75, 2.0], [-1.25, -0.5], [2.0, 1.0], [0.1, 0.9]])
Y = np.array([1.0, -0.5, 2.0, 0.25, -1.5, 0.75])
W = np.array([[0.6, -0.4, 0.3], [-0.2, 0.5, 0.8]])
THETA = np.array([0.7, -0.3, 0.2])

ALPHA, BETA = Polynomial(0.2, 3 / 5), Polynomial(0.3, 2 / 5, 2.0)


def alpha(k):
    return 0.2 * (k + 1) ** (-3 / 5)


def beta(k):
    return 0.3 * (k + 2) ** (-2 / 5)


# gradients of regression (8) by hand: g = 1/(2N) |relu(X W) theta - y|^2 + ridge/2 |theta|^2


def in_body(w, theta, x, y):
    r = np.maximum(x @ w, 0) @ theta - y
    return x.T @ (np.outer(r, theta) * (x @ w > 0)) / len(y)


def in_head(w, theta, x, y):
    z = np.maximum(x @ w, 0)
    return z.T @ (z @ theta - y) / len(y) + RIDGE * theta


def best_head(w):
    z = np.maximum(X @ w, 0)
    return np.linalg.solve(z.T @ z + len(Y) * RIDGE * np.eye(z.shape[1]), z.T @ Y)


class NumpySGD:
    def __call__(self, slope, lr):
        return lr * slope


class NumpyRMSProp:
    def __init__(self):
        self.square = 0.0

    def __call__(self, slope, lr):
        self.square = 0.99 * self.square + 0.01 * slope**2
        return lr * slope / (np.sqrt(self.square) + 1e-8)


def ball(radius):
    return lambda v: v * min(1.0, radius / np.linalg.norm(v))


def box(low, high):
    return lambda v: np.clip(v, low, high)


def everywhere(v):
    return v


METHODS = {
    "rmsprop": (RMSProp(), NumpyRMSProp, (Everywhere(), everywhere), (Everywhere(), everywhere)),
    "sgd on ball and box": (
        SGD(), NumpySGD, (Ball(1.1), ball(1.1)), (Box(-0.25, 0.5), box(-0.25, 0.5)),
    ),
    "rmsprop on box and ball": (
        RMSProp(), NumpyRMSProp, (Box(-0.5, 0.75), box(-0.5, 0.75)), (Ball(0.6), ball(0.6)),
    ),
}  # fmt: skip


def reference_two_timescale(make, project_body, project_head, order, head_steps, batches):
    """Algorithm (2), line by line."""
    w, theta, trace = project_body(W), project_head(THETA), []
    step_body, step_head = make(), make()
    for k, rows in enumerate(batches):
        x, y = X[rows], Y[rows]
        w_next = project_body(w - step_body(in_body(w, theta, x, y), alpha(k)))
        seen = w_next if order == "alternating" else w
        for _ in range(head_steps):
            theta = project_head(theta - step_head(in_head(seen, theta, x, y), beta(k)))
        w = w_next
        trace.append((w, theta))
    return trace


def reference_best_response(make, project_body, batches):
    w, step, trace = project_body(W), make(), []
    for k, rows in enumerate(batches):
        theta = best_head(w)
        w = project_body(w - step(in_body(w, theta, X[rows], Y[rows]), alpha(k)))
        trace.append((w, best_head(w)))
    return trace


def relu(body_set=None, head_set=None):
    tensors = [torch.from_numpy(array) for array in (X, Y, W, THETA)]
    return Relu(*tensors, RIDGE, body_set, head_set)


def trace_of(problem, strategy, batch_size):
    """The states of all steps for seeds 0 and 1, and the rows that seed 1 saw."""
    oracles, source = Oracles(problem), sampler(problem, [0, 1], batch_size, ["train"])
    body, head = points(problem, [0, 1])
    body, head = problem.body_set.project(body), problem.head_set.project(head)
    strategy = strategy.fitted(problem)
    strategy.check(problem)
    state, trace, batches = strategy.init(oracles, body, head, source.rows(0)), [], []
    for k in range(STEPS):
        state = strategy.step(oracles, state, source.rows(k), k)
        trace.append((state.body[1].numpy(), state.head[1].numpy()))
        full = np.arange(len(Y))
        seen = full if batch_size is None else source.indices("train", batch_size, k)[1].numpy()
        batches.append(seen)
    return trace, batches


def assert_traces(found, expected):
    for (w, theta), (w_expected, theta_expected) in zip(found, expected, strict=True):
        np.testing.assert_allclose(w, w_expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(theta, theta_expected, rtol=1e-12, atol=1e-12)
    assert max(np.abs(theta - THETA).max() for _, theta in found) > 1e-3


def test_the_explicit_gradients_are_central_differences():
    """The reference of all traces is right by itself."""

    def g(w, theta):
        r = np.maximum(X @ w, 0) @ theta - Y
        return r @ r / (2 * len(Y)) + RIDGE / 2 * theta @ theta

    v, u, h = doubles(1, 2, 3).numpy(), doubles(2, 3).numpy(), 1e-6
    along_body = (g(W + h * v, THETA) - g(W - h * v, THETA)) / (2 * h)
    along_head = (g(W, THETA + h * u) - g(W, THETA - h * u)) / (2 * h)
    assert (in_body(W, THETA, X, Y) * v).sum() == pytest.approx(along_body, rel=1e-8)
    assert (in_head(W, THETA, X, Y) * u).sum() == pytest.approx(along_head, rel=1e-8)
    assert np.abs(in_head(W, best_head(W), X, Y)).max() < 1e-15


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("head_steps", [1, 3])
@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize("method", METHODS)
def test_two_timescale_is_algorithm_2(method, order, head_steps, batch_size):
    optimizer, make, (body_set, project_body), (head_set, project_head) = METHODS[method]
    strategy = TwoTimescale(ALPHA, BETA, optimizer, order, head_steps)
    found, batches = trace_of(relu(body_set, head_set), strategy, batch_size)
    expected = reference_two_timescale(make, project_body, project_head, order, head_steps, batches)
    assert_traces(found, expected)


def test_the_traces_tell_orders_sets_and_head_steps_apart():
    """Each feature changes the trace, so none of the comparisons above is idle."""
    runs = {}
    for order in ("alternating", "simultaneous"):
        for head_steps in (1, 3):
            for method in METHODS:
                optimizer, _, (body_set, _), (head_set, _) = METHODS[method]
                strategy = TwoTimescale(ALPHA, BETA, optimizer, order, head_steps)
                trace, _ = trace_of(relu(body_set, head_set), strategy, None)
                runs[order, head_steps, method] = trace[-1][1]
    found = list(runs.values())
    assert all(np.abs(a - b).max() > 1e-6 for i, a in enumerate(found) for b in found[i + 1 :])


@pytest.mark.parametrize("batch_size", [None, BATCH])
@pytest.mark.parametrize("method", METHODS)
def test_best_response_descends_phi(method, batch_size):
    optimizer, make, (body_set, project_body), _ = METHODS[method]
    strategy = BestResponse(ALPHA, optimizer=optimizer)
    found, batches = trace_of(relu(body_set), strategy, batch_size)
    assert_traces(found, reference_best_response(make, project_body, batches))


def test_best_response_on_all_rows_is_gradient_descent_on_phi_itself():
    """Danskin: with all rows and plain steps the trace descends Phi, by its own differences."""

    def phi(w):
        z = np.maximum(X @ w, 0)
        inverse = np.linalg.solve(z @ z.T + len(Y) * RIDGE * np.eye(len(Y)), Y)
        return RIDGE / 2 * Y @ inverse

    found, _ = trace_of(relu(), BestResponse(0.1, optimizer=SGD()), None)
    w, h = W, 1e-6
    for after, _ in found:
        slope = np.zeros_like(w)
        for index in np.ndindex(*w.shape):
            move = np.zeros_like(w)
            move[index] = h
            slope[index] = (phi(w + move) - phi(w - move)) / (2 * h)
        np.testing.assert_allclose(after, w - 0.1 * slope, rtol=1e-7, atol=1e-9)
        w = after


def test_an_inner_solver_starts_from_the_last_head():
    """BestResponse(FastSGD) against a NumPy loop."""
    strategy = BestResponse(ALPHA, FastSGD(0.4, 2), optimizer=SGD())
    found, _ = trace_of(relu(), strategy, None)

    def answer(w, theta):
        for _ in range(2):
            theta = theta - 0.4 * in_head(w, theta, X, Y)
        return theta

    w, theta, expected = W, answer(W, THETA), []
    for k in range(STEPS):
        w = w - alpha(k) * in_body(w, theta, X, Y)
        theta = answer(w, theta)
        expected.append((w, theta))
    assert_traces(found, expected)


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
def test_solve_makes_these_steps(order):
    rows = [np.arange(len(Y))] * STEPS
    for strategy, expected in (
        (
            TwoTimescale(ALPHA, BETA, order=order),
            reference_two_timescale(NumpyRMSProp, everywhere, everywhere, order, 1, rows),
        ),
        (BestResponse(ALPHA), reference_best_response(NumpyRMSProp, everywhere, rows)),
    ):
        found = bilevel.solve(
            relu(), strategy, steps=STEPS, batch_size=None, seeds=1, dtype=torch.float64
        )
        assert_traces([(found.body[0].numpy(), found.head[0].numpy())], expected[-1:])
