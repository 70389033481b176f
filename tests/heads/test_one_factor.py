"""What a head solver factored is handed on: to the adjoint, to the bound and to the records."""

import dataclasses

import pytest
import torch
from linear_heads import build, normal

import bilevel
from bilevel.core.status import Status
from bilevel.heads import AbstractHeadSolver

FACTORISATIONS = ["cholesky_ex", "cholesky", "solve", "solve_ex", "inv", "inv_ex", "lu_factor",
                  "lu_factor_ex", "ldl_factor", "ldl_factor_ex", "lstsq"]  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """The names of the factorisations so far; eigenvalues for mu are none."""
    made = []

    def counting(name):
        plain = getattr(torch.linalg, name)

        def call(*args, **kwargs):
            made.append(name)
            return plain(*args, **kwargs)

        return call

    for name in FACTORISATIONS:
        monkeypatch.setattr(torch.linalg, name, counting(name))
    return made


def validated(problem):
    """With an F of its own, smooth in both levels."""

    class Validated(type(problem)):
        def body_objective(self, body, head, batch):
            return head.pow(3).sum() + head.sum() * body.sum()

    return Validated()


def tanh_features(rows=13, k=None, width=5, **options):
    targets = normal(2, rows) if k is None else normal(2, rows, k)
    body = torch.as_tensor(normal(3, 3, width))
    return validated(build(
        normal(1, rows, 3), targets, features=lambda w, x: torch.tanh(x @ w), body=body,
        ridge=0.3, **options,
    ))  # fmt: skip


LINEAR = {
    "n > M": tanh_features,
    "n < M": lambda: tanh_features(rows=4),
    "outputs": lambda: tanh_features(k=2),
    "a penalty for each output": lambda: tanh_features(
        k=2, penalty=lambda w: w.mean(0).exp()[:, None] * torch.tensor([1.0, 3.0]).to(w)
    ),
    "weights and a bias": lambda: tanh_features(
        fit_bias=True, row_weights=lambda w, batch: 1 + torch.sigmoid(w.sum() * torch.arange(13))
    ),
    "features without the body": lambda: validated(build(
        normal(1, 13, 3), normal(2, 13), body_free_features=True, penalty=lambda w: w.exp(),
        body=torch.zeros(3, dtype=torch.float64),
    )),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", LINEAR)
def test_a_linear_head_is_factored_once(kind, dtype, counted):
    problem = LINEAR[kind]()
    body = problem.init_body(None).to(dtype)
    found = bilevel.hypergradient(problem, body)
    assert counted == ["cholesky_ex"]
    expected = bilevel.hypergradient(problem, body, bilevel.Implicit(bilevel.Dense()))
    rtol = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found.body, expected.body, rtol=rtol, atol=rtol)
    assert found.bound <= 1.5 * expected.bound + 1e-12


def labelled(classes):
    body = torch.as_tensor(normal(3, 3, 5))
    labels = torch.as_tensor(normal(2, 30, classes)).argmax(1)
    problem = build(
        normal(1, 30, 3), labels, features=lambda w, x: torch.tanh(x @ w), body=body, ridge=0.3,
        start=torch.zeros((5,) if classes == 2 else (5, classes)).double(),
        criterion=bilevel.LogisticLoss() if classes == 2 else bilevel.SoftmaxLoss(),
    )  # fmt: skip
    problem.__class__.outputs = None if classes == 2 else classes
    return validated(problem)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_factor_of_newton_serves_the_adjoint(classes, counted):
    problem = labelled(classes)
    body = problem.init_body(None)
    bilevel.best_response(problem, body)
    alone = len(counted)
    counted.clear()
    found = bilevel.hypergradient(problem, body)
    assert 0 < len(counted) == alone
    dense = bilevel.hypergradient(problem, body, bilevel.Implicit(bilevel.Dense()))
    torch.testing.assert_close(found.body, dense.body, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_bound_of_a_gradient_without_an_adjoint_takes_the_factor_too(dtype, counted):
    problem = tanh_features(width=2)
    body = problem.init_body(None).to(dtype)
    found = bilevel.hypergradient(problem, body, bilevel.FiniteDifferences())
    solves = 1 + 2 * body.numel()
    # the factor of rounded rows is none of the rows themselves
    assert len(counted) == solves + (dtype == torch.float32)
    exact = bilevel.hypergradient(problem, body.double())
    assert float((found.body.double() - exact.body).norm()) <= found.bound


@dataclasses.dataclass(frozen=True, eq=False)
class Shifted(AbstractHeadSolver):
    """A closed form that says it was jittered, and whose factor is that of another matrix."""

    inner: bilevel.ClosedForm = bilevel.ClosedForm()  # noqa: RUF009 - frozen
    exact = True

    def init(self, oracles, body, head, rows):
        return self.inner.init(oracles, body, head, rows)

    def solve(self, oracles, body, head, rows, state, k):
        solved = self.inner.solve(oracles, body, head, rows, state, k)
        status = torch.full_like(solved.status, int(Status.JITTERED))
        factor = solved.factor._replace(cholesky=2 * solved.factor.cholesky)
        return solved._replace(status=status, factor=factor)

    cost = bilevel.Cost(solves=1)


def test_the_factor_of_a_jittered_matrix_is_not_taken_at_a_point():
    problem = tanh_features()
    body = problem.init_body(None)
    found = bilevel.hypergradient(problem, body, solver=Shifted())
    expected = bilevel.hypergradient(problem, body)
    torch.testing.assert_close(found.body, expected.body, rtol=1e-12, atol=1e-14)
    assert found.status is Status.JITTERED


def test_steps_and_records_factor_once_each(counted):
    """Three runs of four steps: the heads of five bodies, and three records."""
    strategy = bilevel.BestResponse(1e-3)
    solution = bilevel.solve(
        tanh_features(), strategy, steps=4, seeds=3, batch_size=6, every=2, dtype=torch.float64
    )
    assert counted == ["cholesky_ex"] * (5 + 3)
    assert (solution.history["gradient_gap"] <= 1e-10).all()
