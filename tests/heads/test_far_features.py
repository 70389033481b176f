"""Heads of criteria and between bounds, of features that lie far from zero beside a free bias.

Shifting features by numbers that a free bias takes up changes nothing but the bias.
"""

import numpy as np
import pytest
import torch
from linear_heads import ONE, build, exact_box_head, exact_system, normal
from points import Point

import bilevel
from bilevel import Box, Cvxpy, Implicit, Newton, Nonnegative, ProjectedNewton, Status

FAR = 2.0**23
WIDE = Box(-1e12, 1e12)
CRITERIA = {
    "squared": bilevel.SquaredError(),
    "huber": bilevel.HuberLoss(1.0),
    "logistic": bilevel.LogisticLoss(),
    "softmax": bilevel.SoftmaxLoss(),
}


def rows(name, n=40, m=3, seed=5):
    """Features with few binary digits, so that shifting them is exact, and targets."""
    z = np.round(normal([seed, n], n, m) * 256) / 256
    scores = z @ normal([seed, 2], m, 3) + normal([seed, 3], n, 3)
    if name in ("squared", "huber"):
        return z, scores[:, 0]
    return z, scores.argmax(1) if name == "softmax" else (scores[:, 0] > 0).astype(np.int64)


def criterion_problem(name, far, **attributes):
    """Features w z + far."""
    z, targets = rows(name)
    attributes = {"fit_bias": True, "ridge": 1e-2, "criterion": CRITERIA[name], **attributes}
    problem = build(z, targets, features=lambda w, x: w * x + far, **attributes)
    type(problem).outputs = 3 if name == "softmax" else None
    return problem


@pytest.mark.parametrize(
    ("solver", "head_set"),
    [(Newton(), None), (ProjectedNewton(), WIDE), (Cvxpy(), None)],
    ids=["newton", "box", "cvxpy"],
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CRITERIA)
def test_a_shift_that_the_bias_takes_up_changes_nothing_else(name, weighted, solver, head_set):
    attributes = {} if head_set is None else {"head_set": head_set}
    if weighted:
        weights = torch.as_tensor(np.abs(normal(7, 40))).clamp(min=0.3) - 0.3  # some are zero
        attributes["row_weights"] = lambda w, batch: weights
    near, far = (
        bilevel.best_response(criterion_problem(name, shift, **attributes), ONE, solver)
        for shift in (0.0, FAR)
    )
    assert near.status is far.status is Status.CONVERGED
    torch.testing.assert_close(far.head[:-1], near.head[:-1], rtol=0, atol=1e-11)
    bias = near.head[-1] - FAR * far.head[:-1].sum(0)
    torch.testing.assert_close(far.head[-1], bias, rtol=1e-15, atol=1e-7)


@pytest.mark.parametrize("name", ["huber", "logistic", "softmax"])
def test_nor_do_gradients_that_ask_for_an_adjoint(name):
    def gradient(shift):
        problem = criterion_problem(name, shift)
        type(problem).body_objective = lambda self, w, head, batch: (w * head[:-1]).square().sum()
        point = Point(problem, [ONE, 0.5 * ONE])
        return point.gradient(Implicit(), Newton())

    near, far = gradient(0.0), gradient(FAR)
    assert near.status.tolist() == far.status.tolist() == [int(Status.CONVERGED)] * 2
    assert float(near.body.abs().min()) > 1e-3
    torch.testing.assert_close(far.body, near.body, rtol=1e-7, atol=0)


@pytest.mark.parametrize("far", [3e3, FAR])
@pytest.mark.parametrize("body_free", [False, True])
def test_numbers_at_their_bounds_beside_a_bias_that_is_not(far, body_free):
    z, targets = rows("squared")
    inputs = z + np.array([far, -far, 2 * far])
    problem = build(
        inputs, targets, fit_bias=True, ridge=1e-2, head_set=Box(-1e9, 0.3),
        body_free_features=body_free,
    )  # fmt: skip
    found = bilevel.best_response(problem, ONE)
    design = np.column_stack([inputs, np.ones(len(inputs))])
    (matrix,), (moment,) = exact_system(design, targets, penalty=np.array([1e-2] * 3 + [0.0]))
    exact = exact_box_head(matrix, moment, -1e9, 0.3).astype(float)
    assert 0 < (exact == 0.3).sum() < 3
    assert exact[-1] < 0.3
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.head[:-1], exact[:-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.head[-1], exact[-1], rtol=1e-12)


@pytest.mark.parametrize("far", [2048.0, 2.0**17])
def test_runs_whose_bias_meets_its_bound_are_solved_with_it(far):
    """The other run of the same call is not; both against rational arithmetic."""
    z, targets = rows("squared", m=2)
    box, heads = Box(-5.0, 5.0), []
    for sign in (1.0, 0.0):  # the second run's features lie near zero
        inputs = z + sign * far
        design = np.column_stack([inputs, np.ones(len(inputs))])
        (matrix,), (moment,) = exact_system(design, targets, penalty=np.array([1e-2] * 2 + [0.0]))
        heads.append(exact_box_head(matrix, moment, -5.0, 5.0).astype(float))
    assert abs(heads[0][-1]) == 5 > abs(heads[1][-1])
    problem = build(
        z, targets, features=lambda w, x: x + w * far, fit_bias=True, ridge=1e-2, head_set=box
    )
    found = Point(problem, [ONE, 0 * ONE]).solved(ProjectedNewton())
    assert found.status.tolist() == [int(Status.CONVERGED)] * 2
    np.testing.assert_allclose(found.head, np.stack(heads), rtol=0, atol=1e-8)


@pytest.mark.parametrize("head_set", [Box(-4.0, 4.0), Box(-0.5, 0.2), Nonnegative(), Box(0.2, 3)])
@pytest.mark.parametrize("far", [0.0, 2048.0])
def test_sums_that_g_does_not_determine_are_no_singular_heads(far, head_set):
    """The biases of softmax but for their sum, which the bounds of a set rarely determine."""
    problem = criterion_problem("softmax", far, head_set=head_set)
    found = bilevel.best_response(problem, ONE, ProjectedNewton())
    low, high = (float(x) for x in head_set.bounds(torch.zeros(()).double()))
    assert bool(((found.head >= low) & (found.head <= high)).all())
    assert found.status is Status.CONVERGED
    assert found.residual < 1e-9
    if far == 0:
        assert found.residual < 1e-13
        asked = bilevel.best_response(problem, ONE, Cvxpy())
        predictions = [
            (lambda scores: scores - scores.mean(1, keepdim=True))(
                problem.predict(ONE, head, torch.as_tensor(rows("softmax")[0]))
            )
            for head in (found.head, asked.head)
        ]
        torch.testing.assert_close(*predictions, rtol=0, atol=1e-8)


def test_large_features_do_not_hide_that_the_bias_is_on_its_way():
    """The rounding of predictions is that of each feature times its own coefficient."""
    z, targets = rows("huber", m=2)
    targets, large, heads = targets + 256, 2.0**20, []
    for scale in (1.0, large):
        problem = build(
            scale * z, targets, fit_bias=True, ridge=0.5 * scale**2, head_set=WIDE,
            criterion=bilevel.HuberLoss(1.0),
        )  # fmt: skip
        found = bilevel.best_response(problem, ONE, ProjectedNewton())
        assert found.status is Status.CONVERGED
        heads.append(found.head * torch.tensor([scale, scale, 1.0]))
    torch.testing.assert_close(heads[1], heads[0], rtol=1e-10, atol=1e-10)


def test_what_all_outputs_have_in_common_does_not_run_away():
    """A wide box does not stop a step along the sum of the biases, which leads nowhere."""
    problem = criterion_problem("softmax", 128.0, head_set=Box(-1e9, 1e9))
    found = bilevel.best_response(problem, ONE, Cvxpy())
    assert found.status is Status.CONVERGED
    exact = bilevel.best_response(problem, ONE, ProjectedNewton())
    torch.testing.assert_close(found.head[:-1], exact.head[:-1], rtol=0, atol=1e-7)


def test_some_of_the_runs_with_fixed_features_and_a_bias_are_handed_to_cvxpy():
    z = normal(8, 40, 12)
    problem = build(
        z @ normal(9, 12, 12), z @ normal(10, 12), fit_bias=True, ridge=1e-3,
        head_set=Box(-0.1, 0.1), body_free_features=True,
    )  # fmt: skip
    exact = bilevel.best_response(problem, ONE).head
    starts = [exact, torch.full((13,), 0.1).double()]
    found = Point(problem, [ONE, ONE], starts).solved(ProjectedNewton(max_steps=1))
    assert found.status.tolist() == [int(Status.CONVERGED)] * 2
    assert [bool(word) for word in found.words] == [False, True]
    torch.testing.assert_close(found.head, exact.expand(2, -1), rtol=0, atol=1e-10)
