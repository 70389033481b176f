"""Newton where g is flat or next to it: Huber's loss far from its targets, heads far off."""

import numpy as np
import pytest
import torch
from class_heads import CURVED, given
from linear_heads import ONE, build, normal
from points import Point
from scipy.optimize import minimize

import bilevel
from bilevel import HuberLoss, Newton, Status, trees


def huber(delta, z, y, penalty):
    """g and its slope, in NumPy."""

    def value(t):
        off = z @ t - y
        inner = np.clip(off, -delta, delta)
        g = (inner * (off - 0.5 * inner)).mean() + 0.5 * (penalty * t * t).sum()
        return g, z.T @ inner / len(z) + penalty * t

    return value


def shifted(seed, offset):
    """Rows of a linear function with noise, all targets moved by the same."""
    z = normal(seed, 60, 3)
    return z, z @ [1.0, -2.0, 0.5] + 0.3 * normal(9 + seed, 60) + offset


@pytest.mark.parametrize("offset", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("delta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(("fit_bias", "ridge"), [(False, 0.0), (True, 0.0), (True, 1e-2)])
def test_huber_heads_are_found_from_targets_deltas_away(offset, delta, fit_bias, ridge):
    """At the start no row, or too few, lie within delta: the second derivative is singular."""
    for seed in range(3):
        z, y = shifted(seed, offset * delta)
        problem = given(z, y, HuberLoss(delta), fit_bias=fit_bias, ridge=ridge)
        found = bilevel.best_response(problem, ONE, Newton())
        design = np.column_stack([z, np.ones((60, int(fit_bias)))])
        value = huber(delta, design, y, np.array([ridge] * 3 + [0.0] * fit_bias))
        g, slope = value(found.head.numpy())
        start = np.linalg.lstsq(design, y, rcond=None)[0]
        other = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-9})
        assert found.status is Status.CONVERGED
        assert np.abs(slope).max() <= 1e-10
        assert g <= other.fun + 1e-12


def test_a_run_on_flat_ground_keeps_no_other_run_back():
    """One that lengthens its step costs the others none of theirs."""
    z, y = shifted(0, 500.0)
    problem = build(z, y, features=lambda w, x: torch.stack([x[:, 0] * w, x[:, 1], x[:, 2] - w], 1))
    problem.criterion = HuberLoss(1.0)
    bodies = [torch.tensor(w, dtype=torch.float64) for w in np.geomspace(0.01, 30, 9)]
    found = Point(problem, bodies).solved(Newton(max_steps=40))
    assert set(found.status.tolist()) == {int(Status.CONVERGED)}
    for run, body in enumerate(bodies):
        alone = Point(problem, [body]).solved(Newton(max_steps=40)).head[0]
        torch.testing.assert_close(found.head[run], alone, rtol=1e-7, atol=1e-9)


def test_a_long_way_on_flat_ground_takes_few_steps():
    """500 deltas off, steps by the majorant alone go a small part of the way each."""
    for seed in range(40):
        z, y = shifted(seed, 500.0)
        found = bilevel.best_response(given(z, y, HuberLoss(1.0)), ONE, Newton(max_steps=50))
        assert found.status is Status.CONVERGED, seed
        slope = huber(1.0, z, y, np.zeros(3))(found.head.numpy())[1]
        assert np.abs(slope).max() <= 1e-10


@pytest.mark.parametrize("seed", [7, 43, 87, 151])
def test_warm_huber_heads_of_several_outputs_and_large_features_are_found(seed):
    """Steps that are lengthened too readily go round in circles here."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((40, 8))
    y = x @ random.standard_normal((8, 2)) + 0.3 * random.standard_normal((40, 2))
    scale, delta = 10 ** random.uniform(0, 4), 10 ** random.uniform(-2, 0)
    activation = torch.tanh if seed % 2 else torch.nn.Identity()
    problem = build(
        x, y, features=lambda w, inputs: activation(inputs @ w), body=torch.eye(8).double(),
        ridge=1e-5, fit_bias=True, penalize_bias=True, criterion=HuberLoss(delta),
    )  # fmt: skip
    bodies = [
        np.eye(8),
        *(scale * (np.eye(8) + c * random.standard_normal((8, 8))) for c in (1, 2)),
    ]
    point, solver = Point(problem, [torch.eye(8).double()]), Newton()
    head, state = point.head, solver.init(point.oracles, point.body, point.head, point.rows)
    for k, body in enumerate(bodies):
        where = point.oracles, torch.from_numpy(body)[None], head, point.rows
        found = solver.solve(*where, state, k)
        head, state = found.head, found.state
        assert found.status.tolist() == [int(Status.CONVERGED)]
    features = x @ body if seed % 2 == 0 else np.tanh(x @ body)
    design, penalty = np.column_stack([features, np.ones(40)]), np.full(9, 1e-5)
    for k in range(2):
        slope = huber(delta, design, y[:, k], penalty)(head[0, :, k].numpy())[1]
        assert np.abs(slope).max() <= 1e-9


def test_the_majorant_of_huber_lies_above_it_and_touches():
    loss, at = HuberLoss(0.5), torch.linspace(-4, 4, 81, dtype=torch.float64)
    here, there = at.repeat_interleave(81), at.repeat(81)
    zero = torch.zeros_like(here)
    step, above = there - here, loss.majorant(here, zero)
    bound = loss.rows(here, zero) + loss.slope(here, zero) * step + 0.5 * above * step**2
    assert bool((loss.rows(there, zero) <= bound + 1e-12).all())


@pytest.mark.parametrize("size", [1e3, 1e13, 1e15, 1e30])
@pytest.mark.parametrize("name", ["logistic", "softmax", "huber"])
def test_a_status_of_success_means_a_good_head_from_any_start(name, size):
    criterion, outputs = CURVED[name]
    z = normal(3, 40, 3)
    labels = {"logistic": normal(4, 40) + z[:, 0] > 0, "softmax": np.arange(40) % 3}
    y = labels[name].astype(int) if name in labels else z[:, 0] + 0.5 * normal(4, 40)
    problem = given(z, y, criterion, outputs, fit_bias=True, ridge=1e-3)
    near = Point(problem, [ONE])
    expected = near.solved(Newton()).head
    for seed in range(3):
        draw = torch.from_numpy(normal(seed, *near.head.shape[1:]))
        found = Point(problem, [ONE], [size * draw]).solved(Newton())
        assert found.status.tolist() == [int(Status.CONVERGED)]
        torch.testing.assert_close(found.head, expected, rtol=0, atol=1e-8)


def test_one_far_off_run_harms_no_other():
    z = normal(3, 40, 3)
    problem = given(z, np.arange(40) % 3, *CURVED["softmax"], fit_bias=True, ridge=1e-3)
    draw = torch.from_numpy(normal(5, 4, 3))
    runs = Point(problem, [ONE] * 3, [draw, 1e15 * draw, 0 * draw]).solved(Newton())
    assert runs.status.tolist() == [int(Status.CONVERGED)] * 3
    for i, scale in enumerate([1, 1e15, 0]):
        alone = Point(problem, [ONE], [scale * draw]).solved(Newton())
        torch.testing.assert_close(trees.take(runs.head, i), alone.head[0], rtol=0, atol=1e-12)


def test_no_bound_where_a_set_leaves_the_biases_of_classes_undetermined():
    z = normal(3, 40, 3)
    for head_set in (bilevel.Nonnegative(), bilevel.Box(-5.0, 5.0)):
        problem = given(
            z, np.arange(40) % 3, *CURVED["softmax"], fit_bias=True, ridge=1e-2, head_set=head_set
        )
        found = bilevel.best_response(problem, ONE, bilevel.Cvxpy())
        assert found.status is Status.CONVERGED
        assert np.isnan(found.bound)
    free = given(z, np.arange(40) % 3, *CURVED["softmax"], fit_bias=True, ridge=1e-2)
    assert 0 < bilevel.best_response(free, ONE, Newton()).bound < 1e-8
