"""Hypergradients of heads with a prior and weights of outputs, against autograd through theta*."""

import pytest
import torch
from drawn_heads import KINDS, Drawn, Held

import bilevel
from bilevel import CG, ClosedForm, Dense, Envelope, FastSGD, Implicit, Neumann, Unrolled, trees
from bilevel.core.status import Status

EXACT = {
    "default": None,
    "factor": Implicit(),
    "CG": Implicit(CG(rtol=1e-12)),
    "Dense": Implicit(Dense()),
    "Neumann": Implicit(Neumann(4000)),
}
SMOOTH = [kind for kind in KINDS if not kind.startswith("huber")]
KNOWN = {}


def moved(problem):
    """Another body than the initial one."""
    return {name: leaf + 0.1 for name, leaf in problem.init_body(None).items()}


def expected(make, kind, bias, **options):
    """grad Phi by autograd, made once."""
    key = make, kind, bias, *options.items()
    if key not in KNOWN:
        problem = make(kind, bias, **options)
        KNOWN[key] = torch.func.grad(problem.phi)(moved(problem))
    return KNOWN[key]


def distance(some, other):
    """|a - b| over all leaves."""
    return float(trees.norm(trees.single(trees.tree_map(torch.sub, some, other))))


def check(problem, found, reference, allowed):
    """An error of at most `allowed` relative to the gradient, and no bound below it."""
    size = float(trees.norm(trees.single(reference)))
    off = distance(found.body, reference)
    assert off <= allowed * size
    # what the reference itself may be off by
    assert off <= found.bound + 1e-11 * size
    assert bool(reference["v"].all())


CELLS = [
    (kind, method, bias)
    for kind in SMOOTH
    for method in EXACT
    for bias in ("no", "free", "penalised")
    # a free bias of classes is undetermined up to a number for all: H has no inverse
    if not (method == "Dense" and bias == "free" and kind.startswith("softmax"))
]


@pytest.mark.parametrize(("kind", "method", "bias"), CELLS)
@pytest.mark.parametrize("free", [False, True])
def test_true_bilevel(kind, method, bias, free):
    problem = Held(kind, bias, free=free)
    found = bilevel.hypergradient(problem, moved(problem), EXACT[method])
    check(problem, found, expected(Held, kind, bias, free=free), 1e-7)


@pytest.mark.parametrize(("kind", "method", "bias"), CELLS)
def test_stackelberg(kind, method, bias):
    problem = Drawn(kind, bias)
    found = bilevel.hypergradient(problem, moved(problem), EXACT[method])
    check(problem, found, expected(Drawn, kind, bias), 1e-7)


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("make", [Drawn, Held])
def test_differences_and_unrolled_steps(make, kind):
    problem = make(kind, "penalised")
    body, reference = moved(problem), expected(make, kind, "penalised")
    found = bilevel.hypergradient(problem, body, bilevel.FiniteDifferences())
    # the tolerance of heads, over the width
    check(problem, found, reference, 1e-7 if problem.criterion.quadratic else 1e-5)
    steps = 3000
    found = bilevel.hypergradient(problem, body, Unrolled(steps), solver=FastSGD(0.3, steps))
    check(problem, found, reference, 1e-7)


@pytest.mark.parametrize("steps", [1, 5, 50])
@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("make", [Drawn, Held])
def test_no_bound_is_below_the_error_at_early_heads(make, kind, steps):
    problem = make(kind, "penalised")
    body, reference = moved(problem), expected(make, kind, "penalised")
    for method in (Implicit(), *([Envelope()] if make is Drawn else [])):
        found = bilevel.hypergradient(problem, body, method, solver=FastSGD(0.3, steps))
        assert found.bound >= distance(found.body, reference)
        if make is Drawn and problem.criterion.quadratic:
            assert found.bound_kind == "proven"
            assert found.response.bound_kind == "proven"


@pytest.mark.parametrize("bias", ["no", "free"])
@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("make", [Drawn, Held])
def test_tasks(make, kind, bias):
    problem = make(kind, bias, tasks=3)
    found = bilevel.hypergradient(problem, moved(problem))
    check(problem, found, expected(make, kind, bias, tasks=3), 1e-7)


@pytest.mark.parametrize("kind", SMOOTH)
def test_best_responses_are_differentiable(kind):
    problem = Held(kind, "penalised")
    body = {name: leaf.requires_grad_() for name, leaf in moved(problem).items()}
    head = bilevel.best_response(problem, body).head
    value = problem.F(body, head, problem.data())
    found = torch.autograd.grad(value, list(body.values()))
    reference = expected(Held, kind, "penalised")
    for one, other in zip(found, reference.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("make", [Drawn, Held])
def test_trainings_follow_the_gradient(make, kind):
    """A step of all rows from a head that is exact, for two runs."""
    problem = make(kind, "free")
    ends = []
    for rate in (1e-200, 0.1):
        strategy = bilevel.BestResponse(rate, optimizer=bilevel.SGD())
        solution = bilevel.solve(
            problem, strategy, steps=1, seeds=2, batch_size=None, every=1, dtype=torch.float64
        )
        assert set(solution.status) == {Status.COMPLETED}
        ends.append({name: leaf[1] for name, leaf in solution.body.items()})
    slope = torch.func.grad(problem.phi)(ends[0])
    for name, leaf in ends[1].items():
        moved = ends[0][name] - 0.1 * slope[name]
        torch.testing.assert_close(leaf, moved, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in SMOOTH if kind.startswith("squared")])
def test_batches_are_drawn_too(kind):
    """Heads on the rows of a batch, whose prior is that of the batch."""
    problem = Drawn(kind, "free")
    strategy = bilevel.BestResponse(0.05, ClosedForm(bilevel.BatchData()))
    solution = bilevel.solve(
        problem, strategy, steps=20, seeds=2, batch_size=6, every=10, dtype=torch.float64
    )
    assert set(solution.status) == {Status.COMPLETED}
