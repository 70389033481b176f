"""The analytic problems with options, by name, and in the library."""

import math

import numpy as np
import pytest
import torch
from analytic_cases import CASES, close, flat

import bilevel
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, UnknownNameError
from problems.analytic import (
    NAMES,
    FeatureRegression,
    RandomQuadratic,
    RidgePenalty,
    analytic,
)


@pytest.mark.parametrize("case", [c for c in CASES if c[0] == "A" and c != "A9"])
def test_the_library_finds_the_best_response(case):
    problem = CASES[case]
    found = bilevel.best_response(problem, problem.start)
    close(flat(found.head), flat(problem.best_response(problem.start)), 1e-9)
    assert found.bound_kind == "proven"
    assert 0 < found.mu <= problem.curvature(problem.start).smallest * (1 + 1e-7)


def test_only_a13_has_one_objective():
    assert {case for case, problem in CASES.items() if problem.is_stackelberg} == {"A13"}
    found = bilevel.hypergradient(CASES["A13"], CASES["A13"].start)
    assert float(found.body) == pytest.approx(-4 / 9, abs=1e-14)


def test_conditions_to_ten_thousand():
    problem = RandomQuadratic(20, 30, 1e-2, 1e2, seed=8)
    values = torch.linalg.eigvalsh(problem.hessian(problem.start))
    assert float(values[-1] / values[0]) == pytest.approx(1e4, rel=1e-9)
    ratios = values[1:] / values[:-1]
    assert float(ratios.max() / ratios.min()) == pytest.approx(1.0, rel=1e-9)


def test_seeds_of_random_quadratics_differ():
    first, again, other = (RandomQuadratic(3, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.above, again.above)
    assert torch.equal(first.start, again.start)
    assert not torch.equal(first.above, other.above)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_random_quadratics_are_the_formula(nonlinear):
    problem = RandomQuadratic(3, 5, 0.5, 4.0, nonlinear=nonlinear)
    names = ("above", "coupling", "offset", "head_matrix", "body_matrix", "target", "along")
    above, c, offset, k, m, target, b = (getattr(problem, name).numpy() for name in names)
    w, theta = np.array([0.3, -1.1, 0.6]), np.array([0.2, 1.4, -0.5, 0.9, -2.0])
    scale = 1 - np.tanh(b @ w) ** 2 / 2 if nonlinear else 1.0
    inner = scale * above + 0.5 * np.eye(5)
    moved = np.tanh(w) if nonlinear else w
    g = theta @ inner @ theta / 2 - theta @ (c @ moved + offset)
    F = np.sum((k @ theta + m @ w - target) ** 2) / 2 + 0.05 * w @ w
    pair = torch.from_numpy(w), torch.from_numpy(theta)
    assert float(problem.head_objective(*pair, {})) == pytest.approx(g, rel=1e-13)
    assert float(problem.body_objective(*pair, {})) == pytest.approx(F, rel=1e-13)


@pytest.mark.parametrize("case", ["A15-ridge", "A15-log"])
def test_penalised_regressions_are_the_formula(case):
    problem = CASES[case]
    rows = {name: [part.numpy() for part in group] for name, group in problem.data().items()}
    head = problem.init_head(generator(3, "head"))
    theta, w = head.numpy(), problem.start.numpy()
    penalty = w * theta @ theta if case == "A15-ridge" else np.exp(w) @ theta**2
    (x, t), (xv, tv) = rows["train"], rows["validation"]
    assert x.shape == (23, 5)
    assert xv.shape == (11, 5)
    assert t.std() > 0.5
    g = np.sum((x @ theta - t) ** 2) / 46 + penalty / 2
    F = np.sum((xv @ theta - tv) ** 2) / 22
    assert float(problem.head_objective(problem.start, head, problem.rows())) == pytest.approx(g)
    assert float(problem.body_objective(problem.start, head, problem.rows())) == pytest.approx(F)


@pytest.mark.parametrize("case", ["A16", "A16-linear", "A16-rank-2", "A16-wide"])
def test_feature_regressions_are_the_formula(case):
    problem = CASES[case]
    rows = {name: [part.numpy() for part in group] for name, group in problem.data().items()}
    head = problem.init_head(generator(3, "head"))

    def loss(group):
        x, y = rows[group]
        z = x @ problem.start.numpy()
        z = z if case == "A16-linear" else np.tanh(z)
        return np.sum((z @ head.numpy() - y) ** 2) / (2 * len(y)), z

    g = loss("train")[0] + 0.05 * float(head.square().sum())
    F = loss("train" if case == "A16-linear" else "validation")[0]
    assert float(problem.head_objective(problem.start, head, problem.rows())) == pytest.approx(g)
    assert float(problem.body_objective(problem.start, head, problem.rows())) == pytest.approx(F)
    n, d = loss("train")[1].shape
    rank = {"A16-rank-2": 2, "A16-wide": 7, "A16": 5, "A16-linear": 3}[case]
    assert (n, d) == ((7, 12) if case == "A16-wide" else (23, 5))
    assert np.linalg.matrix_rank(loss("train")[1]) == rank
    if rank < d:
        assert problem.curvature(problem.start).smallest == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomQuadratic(0, 3), "body >= 1"),
        (lambda: RandomQuadratic(2, 1, tree=True), "2 with `tree`"),
        (lambda: RandomQuadratic(2, 3, mu=0.0), "0 < mu <= largest"),
        (lambda: RandomQuadratic(2, 3, mu=2.0, largest=1.0), "0 < mu <= largest"),
        (lambda: RandomQuadratic(2, 3, mu=1.0, largest=math.inf), "0 < mu <= largest"),
        (lambda: RidgePenalty(inputs=0), "at least 1"),
        (lambda: FeatureRegression(train=1), "train at least 2"),
        (lambda: FeatureRegression(ridge=0.0), "ridge positive"),
        (lambda: FeatureRegression(rank=24), "`rank` must be from 1 to train=23"),
        (lambda: FeatureRegression(activation="relu"), '"linear" or "tanh"'),
        (lambda: FeatureRegression(upper="test"), '"train" or "validation"'),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_an_unknown_name_shows_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no analytic problem 'A15-lg'.*mean 'A15-log'"):
        analytic("A15-lg")


def test_the_catalogue_is_in_order():
    assert NAMES[:3] == ("A1", "A2", "A3")
    assert NAMES[9:] == (
        "A10", "A11", "A12", "A13", "A14", "A15-log", "A15-ridge", "A16", "B1", "B2", "B5", "B7"
    )  # fmt: skip
    for name in NAMES:
        assert analytic(name).name == name
        assert analytic(name).source
