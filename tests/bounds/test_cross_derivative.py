"""d2_{w theta} g as a matrix: its norm, and the memory that a bound takes."""

import pytest
import torch
from linear_heads import build, normal

import bilevel
from bilevel import trees
from bilevel.bounds import cross_derivative
from bilevel.bounds.cross_derivative import CrossDerivative
from bilevel.bounds.heads import Certifier
from bilevel.bounds.lanczos import MOST_STEPS, lanczos
from bilevel.bounds.lipschitz import quadratic_constants
from bilevel.core.live_bytes import LiveBytes
from bilevel.data.rows import Rows
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles


def heads(problem, *shape, runs=1):
    return torch.as_tensor(normal(9, runs, *shape))


def tanh_features(n, d, m, k=None, **options):
    targets = normal(2, n) if k is None else normal(2, n, k)
    return build(
        normal(1, n, d), targets, body=torch.as_tensor(normal(3, d, m)) / d**0.5, ridge=0.1,
        **{"features": lambda w, x: torch.tanh(x @ w), **options},
    )  # fmt: skip


def relu_net(n, d, m):
    body = {"first": torch.as_tensor(normal(3, d, 30)) / d**0.5,
            "second": torch.as_tensor(normal(4, 30, m)) / 30**0.5}  # fmt: skip
    return build(
        normal(1, n, d), normal(2, n), body=body, ridge=0.1,
        features=lambda w, x: torch.relu(x @ w["first"]) @ w["second"],
    )  # fmt: skip


class Flat(bilevel.StackelbergProblem):
    """g = |theta|^2 / 2 - theta' S A w, A with orthonormal rows: the spectrum of C is that of S."""

    def __init__(self, scales):
        self.scales = torch.tensor(scales, dtype=torch.float64)
        rows = torch.linalg.qr(torch.as_tensor(normal(5, 60, len(scales)))).Q.T
        self.matrix = self.scales[:, None] * rows

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.ones(60, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(len(self.scales), dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * head.square().sum() - head @ self.matrix @ body


KINDS = {
    "tanh": (tanh_features(20, 7, 40), (40,)),
    "linear in the body": (tanh_features(50, 7, 40, features=lambda w, x: x @ w), (40,)),
    "outputs": (tanh_features(20, 7, 20, 3), (20, 3)),
    "two leaves": (relu_net(40, 6, 50), (50,)),
    "one number": (tanh_features(20, 3, 1), (1,)),
    "a flat spectrum": (Flat([2.0] * 40), (40,)),
    "a slowly falling spectrum": (Flat([1 - 0.005 * i for i in range(40)]), (40,)),
    "two that dominate": (Flat([5.0, -5.0, *[0.1] * 30]), (32,)),
    "no dependence": (Flat([0.0] * 20), (20,)),
}


def cross(name, runs=1):
    problem, shape = KINDS[name]
    bodies = [
        trees.tree_map(lambda x, i=i: x * (1 + 0.3 * i), problem.init_body(None))
        for i in range(runs)
    ]
    groups = problem.data()
    rows = Rows(groups, dict.fromkeys(groups))
    at = trees.stack(bodies), heads(problem, *shape, runs=runs)
    return CrossDerivative(HeadPoint(Oracles(problem), *at, rows))


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_the_estimated_norm_is_the_spectral_one_rounded_up(name, runs):
    matrix = cross(name, runs)
    expected = torch.linalg.svdvals(matrix.columns())[:, 0]
    found = matrix.leading()
    assert (found >= expected * (1 - 1e-9) - 1e-12).all()
    assert (found <= expected * 1.01 + 1e-12).all()
    torch.testing.assert_close(matrix.norm(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["tanh", "two leaves"])
def test_large_matrices_are_not_kept(name, monkeypatch):
    matrix = cross(name, 2)
    monkeypatch.setattr(cross_derivative, "COLUMN_BYTES", 2000)
    monkeypatch.setattr(CrossDerivative, "columns", lambda self: pytest.fail("kept all columns"))
    assert torch.equal(matrix.norm(), matrix.leading())


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_signs_estimate_the_frobenius_norm_however_many_pass_at_once(at_once, monkeypatch):
    matrix = cross("tanh")
    squares = matrix.columns().square().sum((1, 2))
    whole = matrix.from_signs(512)
    assert float(whole) == pytest.approx(float(squares.sqrt()), rel=0.1)
    monkeypatch.setattr(CrossDerivative, "at_once", at_once)
    torch.testing.assert_close(matrix.from_signs(512), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_the_norm_of_a_larger_matrix_is_spectral_too(name, monkeypatch):
    matrix = cross(name)
    expected = torch.linalg.svdvals(matrix.columns())[:, 0]
    monkeypatch.setattr(cross_derivative, "LARGEST_NORM", 0)
    monkeypatch.setattr(CrossDerivative, "columns", lambda self: pytest.fail("made all columns"))
    found = matrix.norm()
    assert (found >= expected * (1 - 1e-9) - 1e-12).all()
    assert (found <= expected * 1.01 + 1e-12).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("largest", [1.05, 1.3, 2.0, 8.0])
def test_what_the_start_hides_is_found(seed, largest):
    """The start is nearly an eigenvector, and not that of the largest eigenvalue."""
    drawn = torch.randn(2000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = 0.5 * torch.rand(2000, generator=torch.Generator().manual_seed(9)).double()
    values[:2] = torch.tensor([1.0, largest])
    start = 0.1 * drawn / drawn.norm()
    start[0] += 1.0
    found = lanczos(lambda v: v * values, (start / start.norm()).unsqueeze(0))
    assert 0.999 * largest <= float(found.value + found.residual) <= 1.1 * largest


@pytest.mark.parametrize("k", [None, 3])
def test_features_as_the_body_take_few_products(k, monkeypatch):
    """What is largest is looked for in the head's own space first."""
    body = torch.as_tensor(normal(3, 60, 40))
    problem = build(
        normal(1, 60, 1), normal(2, 60) if k is None else normal(2, 60, k), body=body,
        features=lambda w, x: w, ridge=0.1,
    )  # fmt: skip
    rows = Rows(problem.data(), {"train": None})
    head = heads(problem, *((40,) if k is None else (40, k)))
    matrix = CrossDerivative(HeadPoint(Oracles(problem), body.unsqueeze(0), head, rows))
    expected = float(torch.linalg.svdvals(matrix.columns())[0, 0])
    made, squared = [], CrossDerivative._squared
    monkeypatch.setattr(
        CrossDerivative, "_squared", lambda self, v: made.append(1) or squared(self, v)
    )
    assert expected * (1 - 1e-9) <= float(matrix.leading()) <= 1.005 * expected
    assert len(made) == MOST_STEPS


def test_heads_side_by_side_are_those_in_turn(monkeypatch):
    matrix = cross("tanh")
    point = matrix.point
    others = torch.stack([(point.head + 0.1 * i).flatten(1) for i in range(5)])

    def function(at, unit):
        return (*at.body_gradients(), at.cross_vjp(unit), at.hvp(unit))

    (together,) = matrix.at_heads(function, others, point.head)
    monkeypatch.setattr(CrossDerivative, "at_once", 1)
    in_turn = list(matrix.at_heads(function, others, point.head))
    assert len(in_turn) == len(others)
    in_turn = [torch.cat(each) for each in zip(*in_turn, strict=True)]
    torch.testing.assert_close(together, in_turn, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("k", [None, 2])
def test_proven_constants_are_the_same_when_nothing_is_kept(k, monkeypatch):
    problem = tanh_features(9, 4, 6, k)
    groups = problem.data()
    rows = Rows(groups, dict.fromkeys(groups))
    body = problem.init_body(None).unsqueeze(0)
    head = heads(problem, *((6,) if k is None else (6, k)))
    point = HeadPoint(Oracles(problem), body, head, rows)
    assert Certifier.for_problem(point).quadratic
    distance = torch.full((1,), 0.25, dtype=torch.float64)
    at = (point, distance, distance)
    kept = quadratic_constants(*at)
    monkeypatch.setattr(cross_derivative, "COLUMN_BYTES", 1)
    monkeypatch.setattr(cross_derivative, "CHUNK_BYTES", 1)
    summed = quadratic_constants(*at)
    assert summed.kind == kept.kind == "proven"
    for a, b in zip(summed[:5], kept[:5], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def validated(problem):
    """With an F of its own."""

    class Validated(type(problem)):
        def body_objective(self, body, head, batch):
            return head.pow(3).sum()

    return Validated()


# columns that take 245 MiB or more, of bodies of 0.5 to 2.4 MiB
BODIES = {
    "tanh": lambda: tanh_features(6, 3200, 100),
    "linear in the body": lambda: tanh_features(6, 3200, 100, features=lambda w, x: x @ w),
    "F is not g": lambda: validated(tanh_features(6, 3200, 100)),
    "outputs": lambda: tanh_features(6, 3200, 100, 2),
    "more numbers than probes": lambda: tanh_features(6, 100, 600),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bound_takes_a_few_bodies(name):
    problem = BODIES[name]()
    body = problem.init_body(None)
    with LiveBytes() as live:
        found = bilevel.hypergradient(problem, body)
    assert found.bound_kind == "estimated"
    assert found.bound > 0
    assert live.peak < 25 * body.nbytes + 2**26


@pytest.mark.parametrize("method", [bilevel.Envelope(), bilevel.Implicit()])
def test_a_proven_bound_takes_a_few_bodies(method):
    """Third derivatives of 10 numbers: 243 MiB if they were kept."""
    problem = tanh_features(6, 32000, 10)
    body = problem.init_body(None)
    with LiveBytes() as live:
        found = bilevel.hypergradient(problem, body, method)
    assert found.bound_kind == "proven"
    assert live.peak < 30 * body.nbytes + 2**26


def test_third_derivatives_of_a_large_body_are_not_asked_for():
    """The rows and the features are few, so that only the body tells what a product takes."""
    problem = tanh_features(2, 30000, 40, features=lambda w, x: x @ w)
    with LiveBytes() as live:
        found = bilevel.hypergradient(problem, problem.init_body(None))
    assert found.bound_kind == "estimated"
    assert live.peak < 2**27


def test_a_head_of_thousands_is_no_reason_to_form_squares():
    """As linear in the body as in the head: autograd saves nothing but the rows."""
    problem = tanh_features(3, 2, 3000, features=lambda w, x: x @ w)
    with LiveBytes() as live:
        found = bilevel.hypergradient(problem, problem.init_body(None))
    assert found.bound_kind == "estimated"
    assert live.peak < 2**27
