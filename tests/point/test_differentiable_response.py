"""`best_response` at a body that requires gradients."""

import collections

import pytest
import torch
from plain_heads import PlainHead, arguments, by_solve, normal

import bilevel
from bilevel.core.live_bytes import LiveBytes
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import IncompatibleError, ProblemError
from bilevel.hypergradients.condition import Condition
from bilevel.linear import factor
from problems.toy import ScalarProduct


def head_of(problem, solver=None):
    """theta* as a function of the features."""

    def head(features):
        body = {**problem.body, "features": features}
        return bilevel.best_response(problem, body, solver).head

    return head


def ridge_problem(rows, columns, **settings):
    z, t, p, s = (x.detach() for x in arguments(rows, columns))
    return PlainHead({"features": z, "ridge": p, "weights": s}, t, **settings)


def class_problem(**settings):
    labels = torch.arange(12) % 3
    body = {"features": normal(12, 2), "ridge": torch.full((2,), 0.1, dtype=torch.float64)}
    criterion = bilevel.SoftmaxLoss()
    return PlainHead(body, labels, criterion=criterion, outputs=3, **settings)


def differences(function, at, width=1e-5):
    """The Jacobian by central differences."""
    columns = []
    for i in range(at.numel()):
        step = torch.zeros(at.numel(), dtype=at.dtype)
        step[i] = width
        step = step.view_as(at)
        columns.append((function(at + step) - function(at - step)) / (2 * width))
    return torch.stack(columns, -1).unflatten(-1, at.shape)


def test_the_jacobian_of_a_ridge_solution_in_its_data():
    problem = ridge_problem(100, 20)
    z, p, s = (problem.body[name] for name in ("features", "ridge", "weights"))
    matrix = z.T @ (s.unsqueeze(1) * z) / 100 + torch.diag(p)
    inverse, theta = torch.linalg.inv(matrix), by_solve(z, problem.targets, p, s)
    error = problem.targets - z @ theta
    # d theta_a / d z_ij = s_i / n (e_i (H^-1)_aj - (H^-1 z_i)_a theta_j)
    closed = s[:, None] * torch.einsum("i,aj->aij", error, inverse) / 100
    closed -= torch.einsum("i,ai,j->aij", s, inverse @ z.T, theta) / 100
    found = torch.autograd.functional.jacobian(head_of(problem), z)
    torch.testing.assert_close(found, closed, rtol=1e-12, atol=1e-12)
    by_transform = torch.func.jacrev(head_of(problem))(z)
    torch.testing.assert_close(by_transform, closed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "problem",
    [
        class_problem(),
        class_problem(fit_bias=True),
        ridge_problem(4, 6),
        ridge_problem(8, 3, head_set=bilevel.Box(-0.1, 0.1)),
    ],
    ids=["softmax", "softmax with a free bias", "fewer rows than features", "box"],
)
def test_jacobians_are_those_of_differences(problem):
    head, at = head_of(problem), problem.body["features"]
    found = torch.autograd.functional.jacobian(head, at)
    torch.testing.assert_close(found, differences(head, at), rtol=1e-7, atol=1e-7)


def test_a_head_that_is_not_linear_in_features():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    response = bilevel.best_response(ScalarProduct(), w)  # theta* = w / (w^2 + 1)
    (slope,) = torch.autograd.grad(response.head, w)
    torch.testing.assert_close(slope, (1 - w**2) / (1 + w**2) ** 2, rtol=1e-12, atol=0)


def test_a_solver_that_iterates():
    problem = ridge_problem(30, 3)
    z = problem.body["features"]
    iterated = head_of(problem, bilevel.FastSGD(0.3, 2000, tolerance=1e-13))
    found = torch.autograd.functional.jacobian(iterated, z)
    exact = torch.autograd.functional.jacobian(head_of(problem), z)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_a_body_in_single_precision_and_a_loss():
    problem = ridge_problem(9, 3)
    body = {name: leaf.float() for name, leaf in problem.body.items()}
    body["ridge"].requires_grad_()
    response = bilevel.best_response(problem, body)
    assert response.head.dtype == torch.float32
    response.head.square().sum().backward()
    doubled = problem.body["ridge"].clone().requires_grad_()
    z, s = problem.body["features"], problem.body["weights"]
    by_solve(z, problem.targets, doubled, s).square().sum().backward()
    torch.testing.assert_close(body["ridge"].grad.double(), doubled.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ridge", "softmax"])
def test_backward_is_one_solve_with_the_factor_that_is_there(monkeypatch, kind):
    problem, labels = ridge_problem(100, 20), torch.arange(100) % 5
    if kind == "softmax":
        settings = {"criterion": bilevel.SoftmaxLoss(), "outputs": 5}
        problem = PlainHead(problem.body, labels, **settings)
    z = problem.body["features"].requires_grad_()
    response = bilevel.best_response(problem, {**problem.body, "features": z})
    calls = collections.Counter()

    def count(owner, name):
        function = getattr(owner, name)

        def counted(*given, **named):
            calls[name] += 1
            return function(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    count(torch.linalg, "cholesky_ex")
    count(factor, "by_cholesky")
    count(Condition, "solve")
    count(HeadPoint, "cross_vjp")
    loss = response.head.sum()
    with LiveBytes() as memory:
        loss.backward()
    assert calls["cholesky_ex"] == 0
    assert calls["by_cholesky"] == (2 if kind == "ridge" else 0)  # the second one refines
    assert calls["solve"] == calls["cross_vjp"] == 1
    # outer products of rows and head: two, and their sum; the Hessian of classes is five times z
    assert memory.peak < 3.5 * z.nbytes


@pytest.mark.parametrize("wanted", [False, True])
def test_nothing_changes_where_no_gradient_is_asked_for(wanted):
    problem = ridge_problem(9, 3)
    plain = bilevel.best_response(problem, problem.body)
    body = {**problem.body, "features": problem.body["features"].clone().requires_grad_(wanted)}
    with torch.no_grad():
        inside = bilevel.best_response(problem, body)
    assert not plain.head.requires_grad
    assert not inside.head.requires_grad
    assert torch.equal(plain.head, inside.head)
    outside = bilevel.best_response(problem, body)
    assert outside.head.requires_grad == wanted
    assert torch.equal(outside.head.detach(), plain.head)
    assert outside.bound == plain.bound


def test_second_derivatives_are_refused():
    problem = ridge_problem(9, 3)
    z = problem.body["features"].requires_grad_()
    head = bilevel.best_response(problem, {**problem.body, "features": z}).head
    (slope,) = torch.autograd.grad(head.square().sum(), z, create_graph=True)
    with pytest.raises(IncompatibleError, match="first derivatives only"):
        slope.sum().backward()


def test_heads_without_a_derivative_are_refused():
    problem = ridge_problem(9, 3, head_set=bilevel.Ball(0.1))
    ball = head_of(problem, bilevel.FastSGD(0.1, 100))
    with pytest.raises(IncompatibleError, match="Derivatives of a head on Ball"):
        ball(problem.body["features"].requires_grad_()).sum().backward()

    class Cut(PlainHead):
        def features(self, body, inputs):
            return body["features"].detach()

        def penalty(self, body):
            return 0.1

        def row_weights(self, body, batch):
            return None

    cut = Cut(problem.body, problem.targets)
    with pytest.raises(ProblemError, match="cuts the body off"):
        bilevel.best_response(cut, cut.body).head.sum().backward()


@pytest.mark.parametrize("name", ["inputs", "targets"])
def test_sums_of_rows_refuse_a_graph(name):
    given = {"inputs": normal(5, 2), "targets": normal(5)}
    given[name].requires_grad_()
    with pytest.raises(IncompatibleError, match=r"rows require gradients.*exact.ridge_head"):
        bilevel.GramAccumulator().add(**given)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_made_where_none_is_asked_for(mode):
    problem = ridge_problem(9, 3)
    body = {name: leaf.clone().requires_grad_() for name, leaf in problem.body.items()}
    with mode():
        head = bilevel.best_response(problem, body).head
    assert not head.requires_grad
    assert bilevel.best_response(problem, body).head.requires_grad
