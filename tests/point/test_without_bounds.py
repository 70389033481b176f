"""Heads and gradients that nobody asked the bounds of."""

import math

import pytest
import torch
from linear_heads import build, normal
from tasks import LearnedQuery, first_body

import bilevel
from bilevel.bounds.gradients import GradientCertifier
from bilevel.bounds.heads import Certifier
from bilevel.errors import ArgumentError, ProblemError
from problems.analytic import analytic


def network(**options):
    body = torch.as_tensor(normal(1, 3, 4))
    return build(
        normal(2, 11, 3), normal(3, 11), features=lambda w, x: torch.tanh(x @ w), body=body,
        ridge=0.1, **options,
    )  # fmt: skip


def validated():
    """F is not g."""
    made = network()
    type(made).body_objective = lambda self, body, head, batch: head.pow(3).sum() + body.sum()
    return made


class Penalties(bilevel.LinearHeadProblem):
    """Features that know no body."""

    body_free_features = True

    def data(self, seed=None):
        make = (torch.as_tensor(normal(i, n, 5)) for i, n in ((4, 20), (5, 9)))
        names = ("train", "validation")
        return {name: bilevel.Batch(x, x.sum(1)) for name, x in zip(names, make, strict=True)}

    def init_body(self, generator):
        return torch.zeros(5, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(5, dtype=torch.float64)

    def features(self, inputs):
        return inputs

    def penalty(self, body):
        return body.exp()

    def body_objective(self, body, head, batch):
        x, y = batch["validation"]
        return (x @ head - y).square().mean() / 2


CASES = {
    "F is g": (network(), None, None),
    "envelope": (network(), bilevel.Envelope(), None),
    "F is not g": (validated(), None, None),
    "penalties": (Penalties(), None, None),
    "steps": (validated(), bilevel.Unrolled(30), bilevel.FastSGD(0.3, 30)),
    "refined": (validated(), bilevel.Implicit(on_inexact="refine"), bilevel.FastSGD(0.3, 3)),
    "tasks": (LearnedQuery(kind=2), None, None),
    "no linear head": (analytic("A14"), None, None),
    "a set": (network(head_set=bilevel.Box(-0.1, 0.1)), None, None),
}


@pytest.fixture
def no_bounds(monkeypatch):
    def refused(*arguments, **options):
        pytest.fail("a bound was computed")

    for name in ("certify", "system", "for_problem"):
        monkeypatch.setattr(Certifier, name, refused)
    monkeypatch.setattr(GradientCertifier, "_made", refused)


def start(problem):
    return problem.start if hasattr(problem, "start") else first_body(problem)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_with_bounds(name, request):
    problem, method, solver = CASES[name]
    body = start(problem)
    bounded = bilevel.hypergradient(problem, body, method, solver=solver)
    request.getfixturevalue("no_bounds")
    found = bilevel.hypergradient(problem, body, method, solver=solver, bound=False)
    for a, b in zip(*(torch.utils._pytree.tree_leaves(x.body) for x in (found, bounded)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    assert (found.value, found.status) == (bounded.value, bounded.status)
    assert found.bound_kind == found.response.bound_kind == "not computed"
    assert bounded.bound_kind != "not computed" != bounded.response.bound_kind
    for number in (found.bound, found.response.bound, found.response.mu):
        assert math.isnan(number)
    assert math.isnan(found.response.value_bound)
    assert "bound=False" in found.note
    assert "bound=False" in found.response.note


@pytest.mark.parametrize("name", CASES)
def test_heads_are_those_with_bounds(name, request):
    problem, _, solver = CASES[name]
    body = start(problem)
    bounded = bilevel.best_response(problem, body, solver)
    request.getfixturevalue("no_bounds")
    found = bilevel.best_response(problem, body, solver, bound=False)
    assert torch.equal(found.head, bounded.head)
    assert (found.status, found.words) == (bounded.status, bounded.words)
    assert found.bound_kind == "not computed"
    assert math.isnan(found.bound)
    assert found.residual == pytest.approx(bounded.residual, rel=1e-6, abs=1e-12)


@pytest.mark.usefixtures("no_bounds")
def test_the_residual_of_a_refined_head_is_its_own():
    problem, method, solver = CASES["refined"]
    found = bilevel.hypergradient(problem, start(problem), method, solver=solver, bound=False)
    rough = bilevel.best_response(problem, start(problem), solver, bound=False)
    assert found.response.residual < 1e-12 < 1e-3 < rough.residual


@pytest.mark.parametrize("name", ["F is g", "tasks", "no linear head", "penalties"])
def test_heads_have_derivatives_without_bounds(name, request):
    problem, _, solver = CASES[name]
    slopes = []
    for options in ({}, {"bound": False}):
        if options:
            request.getfixturevalue("no_bounds")
        body = torch.utils._pytree.tree_map(lambda x: x.clone().requires_grad_(), start(problem))
        found = bilevel.best_response(problem, body, solver, **options)
        found.head.square().sum().backward()
        slopes.append([leaf.grad for leaf in torch.utils._pytree.tree_leaves(body)])
    for a, b in zip(*slopes, strict=True):
        assert torch.equal(a, b)
        assert bool(a.any())


@pytest.mark.parametrize("function", [bilevel.best_response, bilevel.hypergradient])
@pytest.mark.parametrize("wrong", [None, 1, "no"])
def test_the_flag_is_one(function, wrong):
    with pytest.raises(ArgumentError, match="`bound` must be True or False"):
        function(analytic("A14"), analytic("A14").start, bound=wrong)


class OneWay(torch.autograd.Function):
    """The identity, which cannot be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("there is no way back")


@pytest.mark.parametrize("bound", [True, False])
def test_objectives_without_a_derivative_are_told(bound):
    problem = build(normal(2, 11, 4), normal(3, 11), features=lambda w, x: OneWay.apply(x * w),
                    ridge=0.1)  # fmt: skip
    body = torch.ones((), dtype=torch.float64)
    with pytest.raises(ProblemError, match=r"cannot be differentiated .* there is no way back"):
        bilevel.hypergradient(problem, body, bound=bound)
    # a head asks for no derivative in the body
    assert bilevel.best_response(problem, body, bound=bound).status.name == "CONVERGED"
    head = bilevel.best_response(problem, body.requires_grad_(), bound=bound).head
    with pytest.raises(ProblemError, match=r"cannot be differentiated .* there is no way back"):
        head.sum().backward()


class Counted:
    """How often a function of torch is called."""

    def __init__(self, monkeypatch, owner, name):
        self.calls, made = 0, getattr(owner, name)

        def counted(*arguments, **options):
            self.calls += 1
            return made(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(("bound", "spectra"), [(True, 1), (False, 0)])
def test_nothing_is_made_twice(bound, spectra, monkeypatch):
    """One Gram matrix, one factor; a spectrum of H, none of the diagonal cross derivative."""
    from bilevel.linear.centre import Joined

    grams = Counted(monkeypatch, Joined, "products")
    factors = Counted(monkeypatch, torch.linalg, "cholesky_ex")
    values = Counted(monkeypatch, torch.linalg, "eigvalsh")
    bilevel.hypergradient(Penalties(), torch.zeros(5, dtype=torch.float64), bound=bound)
    assert (grams.calls, factors.calls, values.calls) == (1, 1, spectra)


@pytest.mark.parametrize(("bound", "evaluations", "again"), [(True, 9, 4), (False, 5, 1)])
def test_features_are_evaluated_a_few_times(bound, evaluations, again, monkeypatch):
    """Four times by the check of the contract, not in another call; once for all that is solved.

    For a bound at one body beside this one, once to see what memory a product takes, and twice
    for what is computed side by side.
    """
    problem, body = validated(), torch.as_tensor(normal(1, 3, 4))
    features = Counted(monkeypatch, type(problem), "features")
    bilevel.hypergradient(problem, body, bound=bound)
    assert features.calls == evaluations
    bilevel.hypergradient(problem, 2 * body, bound=bound)
    assert features.calls == evaluations + again
