"""Bounds that are made of what linear heads are made of, against true errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_heads import Given, build, normal

import bilevel

N, V, D = 23, 9, 4


def judged(problem):
    """The same problem with an F that is not g, and no polynomial."""

    def body_objective(self, body, head, batch):
        x, y = batch["validation"]
        features = self.features(x) if self.body_free_features else self.features(body, x)
        off = features @ head - y
        return off.square().mean() / 2 + 0.1 * torch.tanh(head).sum() * body.square().mean()

    type(problem).body_objective = body_objective
    return problem


def validation(seed, k=None):
    shape = (V,) if k is None else (V, k)
    inputs, targets = normal([seed, 8], V, D), normal([seed, 9], *shape)
    return {"validation": bilevel.Batch(torch.as_tensor(inputs), torch.as_tensor(targets))}


def penalties(seed, k=None):
    """Features that know no body: all of it is in the penalties."""
    targets = normal([seed, 2], N) if k is None else normal([seed, 2], N, k)
    penalty = (lambda w: w.exp()) if k is None else (
        lambda w: w.exp()[:, None] * torch.arange(1.0, 1 + k).to(w)
    )  # fmt: skip
    body = torch.as_tensor(normal([seed, 3], D)) - 1
    return build(normal([seed, 1], N, D), targets, body=body, penalty=penalty,
                 body_free_features=True, extra=validation(seed, k))  # fmt: skip


def networks(seed, k=None):
    """Features, penalties and weights of rows that depend on the body."""
    body = torch.as_tensor(normal([seed, 3], D, 5))
    targets = normal([seed, 2], N) if k is None else normal([seed, 2], N, k)
    return build(
        normal([seed, 1], N, D), targets, body=body, extra=validation(seed, k),
        features=lambda w, x: torch.tanh(x @ w), penalty=lambda w: 0.1 + w.square().mean(0),
        row_weights=lambda w, b: 1 + torch.sigmoid(b["train"].inputs @ w[:, 0]),
    )  # fmt: skip


MAKERS = {
    "penalties": penalties,
    "penalties of outputs": lambda seed: penalties(seed, 3),
    "networks": networks,
    "networks, outputs": lambda seed: networks(seed, 2),
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.integers(-9, -1))
def test_no_bound_is_below_the_error_where_f_is_not_g(name, seed, power):
    """Estimates: nothing is promised of them; here it holds."""
    problem = judged(MAKERS[name](seed))
    body = problem.init_body(None)
    exact = bilevel.hypergradient(problem, body)
    off = torch.as_tensor(normal([seed, 6], *exact.response.head.shape))
    head = exact.response.head + 10.0**power * off / off.norm()
    found = bilevel.hypergradient(problem, body, solver=Given(head))
    error = float((found.body - exact.body).norm())
    assert found.bound_kind == "estimated"
    assert error <= found.bound + exact.bound
    assert found.bound <= 1e4 * error + 1e-12  # and it is of use
    assert exact.bound <= 1e-10


class Classes(bilevel.LinearHeadProblem):
    """Features that are the body; a head of more numbers than columns are made for."""

    criterion, outputs, ridge = bilevel.SoftmaxLoss(), 9, 0.1
    n, m = 30, 60

    def data(self, seed=None):
        labels = torch.arange(self.n) % self.outputs
        return {"train": bilevel.Batch(torch.as_tensor(normal(1, self.n, 1)), labels)}

    def init_body(self, generator):
        return torch.as_tensor(normal(2, self.n, self.m))

    def init_head(self, generator):
        return torch.zeros(self.m, self.outputs, dtype=torch.float64)

    def features(self, body, inputs):
        return body


class Judged(Classes):
    """With an F of its own."""

    def body_objective(self, body, head, batch):
        return head.pow(3).sum() + (body[: self.m // 2] @ head).square().mean()


@pytest.mark.parametrize("scale", [1e-8, 1e-5, 1e-2])
@pytest.mark.parametrize(
    ("make", "method"),
    [
        (Classes, bilevel.Envelope()),
        (Classes, bilevel.Implicit()),
        (Judged, bilevel.Implicit()),
    ],
)
def test_bounds_of_heads_of_many_numbers_cover_the_error(make, method, scale):
    problem = make()
    body = problem.init_body(None)
    exact = bilevel.hypergradient(problem, body)
    for seed in range(3):
        off = torch.as_tensor(normal([seed, 6], problem.m, problem.outputs))
        head = exact.response.head + scale * off / off.norm()
        found = bilevel.hypergradient(problem, body, method, solver=Given(head))
        error = float((found.body - exact.body).norm())
        assert error <= found.bound + exact.bound
        if error > 1e-10:
            assert found.bound <= 3e3 * error
