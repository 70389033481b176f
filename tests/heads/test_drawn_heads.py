"""Heads with a prior and weights of outputs: every solver, against g written anew."""

import numpy as np
import pytest
import torch
from drawn_heads import KINDS, Drawn
from linear_heads import build, normal

import bilevel
import bilevel.exact
from bilevel import BatchData, ClosedForm, Cvxpy, Newton, ProjectedNewton, RunningData
from bilevel.core.status import Status
from bilevel.errors import IncompatibleError, ShapeError

BIASES = ("no", "free", "penalised")
QUADRATIC = [kind for kind in KINDS if kind.startswith("squared")]


def slope_of(problem, body, head, groups=None):
    """d_theta g, and a bound on the curvature."""
    groups = problem.data() if groups is None else groups
    return torch.func.grad(problem.g, 1)(body, head, groups)


def moved(problem):
    """Another body than the initial one."""
    return {name: leaf + 0.1 for name, leaf in problem.init_body(None).items()}


CELLS = [
    *[(solver, kind) for solver in (ClosedForm(), ClosedForm(BatchData())) for kind in QUADRATIC],
    *[(solver, kind) for solver in (Newton(), None) for kind in KINDS],
]


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("n", [3, 13])
@pytest.mark.parametrize(("solver", "kind"), CELLS)
def test_gradients_vanish(solver, kind, n, bias, free):
    problem = Drawn(kind, bias, n=n, free=free)
    body = moved(problem)
    found = bilevel.best_response(problem, body, solver)
    assert found.status is Status.CONVERGED
    start = slope_of(problem, body, torch.zeros_like(found.head))
    assert slope_of(problem, body, found.head).norm() <= 1e-9 * start.norm()
    expected = problem.best(body, problem.data(), found.head)
    assert (found.head - expected).norm() <= found.bound + 1e-9 * expected.norm()
    assert found.bound <= 1e-6


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_and_constraints(kind, bias):
    """theta = P(theta - d g), the gradient of g as it is written in the test."""
    free = Drawn(kind, bias)
    body = moved(free)
    numbers = bilevel.best_response(free, body).head.flatten()
    low, high = (float(numbers.quantile(share)) for share in (0.3, 0.7))
    box = bilevel.Box(low, high)
    problem = Drawn(kind, bias, head_set=box)
    for solver, allowed in ((ProjectedNewton(), 1e-9), (Cvxpy(), 1e-4)):
        found = bilevel.best_response(problem, body, solver)
        head = found.head
        assert found.status is Status.CONVERGED
        assert 0 < (head - head.clamp(low + 1e-3, high - 1e-3)).count_nonzero() < head.numel()
        mapped = box.project((head - slope_of(problem, body, head)).unsqueeze(0))[0]
        assert (mapped - head).abs().max() <= allowed
    at = bilevel.best_response(free, body, Cvxpy()).head
    assert slope_of(free, body, at).norm() <= 1e-5


@pytest.mark.parametrize("kind", QUADRATIC)
def test_running_averages_begin_with_the_head_of_the_batch(kind):
    problem = Drawn(kind, "free")
    body, solver = moved(problem), ClosedForm(RunningData(extra_ridge=1e-9))
    found = bilevel.best_response(problem, body, solver).head
    torch.testing.assert_close(found, bilevel.best_response(problem, body).head, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_features_far_from_zero(shift):
    """Weights of outputs keep their digits beside a free bias."""
    x, y = normal(1, 40, 3), normal(2, 40, 2)
    s = 0.1 + np.abs(normal(3, 40, 2))
    prior = torch.as_tensor(normal(4, 4, 2))
    made = build(
        x + shift, y + shift, ridge=0.3, fit_bias=True, start=normal(5, 4, 2),
        row_weights=lambda w, batch: torch.as_tensor(s), prior=lambda w, batch: prior,
    )  # fmt: skip
    head = bilevel.best_response(made, torch.ones((), dtype=torch.float64)).head.numpy()
    for k in range(2):
        # seen from the weighted means a free bias vanishes
        z, t = (a - np.average(a, axis=0, weights=s[:, k]) for a in (x, y[:, k]))
        matrix = (z.T * s[:, k]) @ z / 40 + 0.3 * np.eye(3)
        moment = z.T @ (s[:, k] * t) / 40 + 0.3 * prior[:3, k].numpy()
        np.testing.assert_allclose(head[:3, k], np.linalg.solve(matrix, moment), rtol=1e-9)


def test_equal_weights_of_outputs_are_weights_of_rows():
    x, y, s = normal(1, 9, 3), normal(2, 9, 2), 0.1 + np.abs(normal(3, 9))
    heads = [
        bilevel.best_response(
            build(x, y, ridge=0.1, row_weights=lambda w, batch, a=a: torch.as_tensor(a)),
            torch.ones((), dtype=torch.float64),
        ).head
        for a in (s, np.stack([s, s], 1))
    ]
    torch.testing.assert_close(*heads, rtol=1e-13, atol=0)


def test_an_output_without_weight_is_drawn_to_the_prior():
    """As of an action that no row takes."""
    x, y, prior = normal(1, 9, 3), normal(2, 9, 2), torch.as_tensor(normal(4, 3, 2))
    taken = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(9, 2)
    made = build(x, y, ridge=0.1, row_weights=lambda w, batch: taken, prior=lambda w, batch: prior)
    found = bilevel.best_response(made, torch.ones((), dtype=torch.float64)).head
    torch.testing.assert_close(found[:, 1], prior[:, 1], rtol=1e-13, atol=0)
    assert (found[:, 0] - prior[:, 0]).norm() > 0.1


def test_a_prior_is_a_shift_of_the_targets():
    """What docs/extend/exact-heads.md says of `ridge_head`."""
    x, y, q = (torch.as_tensor(normal(i, *shape)) for i, shape in enumerate([(9, 3), (9,), (3,)]))
    problem = build(x, y, ridge=0.1, prior=lambda w, batch: q)
    found = q + bilevel.exact.ridge_head(x, y - x @ q, 0.1)
    expected = bilevel.best_response(problem, torch.ones((), dtype=torch.float64)).head
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_chunks_of_rows_keep_the_prior():
    x, y, prior = normal(1, 30, 3), normal(2, 30, 2), torch.as_tensor(normal(4, 4, 2))
    options = {"ridge": 0.1, "fit_bias": True, "start": normal(5, 4, 2)}
    one = torch.ones((), dtype=torch.float64)
    whole, parts = (
        bilevel.best_response(
            build(x, y, prior=lambda w, batch: w * prior, chunk_rows=size, **options), one
        )
        for size in (None, 7)
    )
    torch.testing.assert_close(parts.head, whole.head, rtol=1e-12, atol=1e-13)
    assert parts.residual <= 1e-14
    of_rows = build(
        x, y, prior=lambda w, batch: prior * batch["train"].inputs.mean(), chunk_rows=7, **options
    )
    with pytest.raises(IncompatibleError, match=r"`prior`.*differs between chunks.*chunk_rows"):
        bilevel.best_response(of_rows, one)


def test_weights_of_outputs_that_do_not_split_are_refused():
    problem = Drawn("softmax")
    problem.weighted = "outputs"
    with pytest.raises(IncompatibleError, match=r"SoftmaxLoss.*one weight for each row.*by_output"):
        bilevel.best_response(problem, problem.init_body(None))


@pytest.mark.parametrize(("kind", "shape"), [("squared", (13, 2)), ("squared, outputs", (13, 3)),
                                             ("squared, outputs", (13, 1))])  # fmt: skip
def test_weights_of_other_shapes_are_refused(kind, shape):
    problem = Drawn(kind)
    problem.row_weights = lambda body, batch: torch.ones(shape, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"`row_weights` must return shape \(13,\)"):
        bilevel.best_response(problem, problem.init_body(None))


@pytest.mark.parametrize("prior", [0.5, torch.ones(3), torch.ones(4, 1)])
def test_priors_of_other_shapes_are_refused(prior):
    problem = Drawn("squared")
    problem.prior = lambda body, batch: prior
    with pytest.raises(ShapeError, match=r"`prior` must return .*shape of the head, \(4,\)"):
        bilevel.best_response(problem, problem.init_body(None))


def test_a_prior_of_none_is_zero():
    problem, plain = Drawn("squared"), Drawn("squared")
    problem.prior = lambda body, batch: None
    plain.prior = lambda body, batch: torch.zeros(4, dtype=torch.float64)
    body = moved(problem)
    heads = [bilevel.best_response(one, body).head for one in (problem, plain)]
    torch.testing.assert_close(*heads, rtol=1e-14, atol=0)
