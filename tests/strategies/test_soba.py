"""SOBA's directions: the implicit gradient with an adjoint that is tracked."""

import pytest
import torch
from small_problems import TrueBilevel, points, sampler

import bilevel
from bilevel import SingleLoop, trees
from bilevel.derivatives.oracles import Oracles
from bilevel.strategies import SOBA
from bilevel.strategies.single_loop import Levels
from problems.analytic import analytic


@pytest.mark.parametrize("batch_size", [None, 5])
def test_soba_goes_along_the_derivatives_of_a_batch(batch_size):
    problem = TrueBilevel()
    rows = sampler(problem, [0, 1], batch_size).rows(0)
    body, head = points(problem, [0, 1])
    vector = trees.tree_map(torch.cos, head)
    at = Levels(body, head, vector)
    found = SOBA().all(Oracles(problem), at, rows)
    for run in range(2):
        batch = {
            name: group if rows.axes[name] is None else trees.take(group, run)
            for name, group in rows.groups.items()
        }
        w, theta, v = (trees.take(level, run) for level in (body, head, vector))
        leaves = [leaf.requires_grad_() for leaf in (*trees.leaves(w), *trees.leaves(theta))]
        outer = torch.autograd.grad(
            problem.body_objective(w, theta, batch), leaves, allow_unused=True
        )
        inner = torch.autograd.grad(
            problem.head_objective(w, theta, batch), trees.leaves(theta), create_graph=True
        )
        product = sum((a * b).sum() for a, b in zip(inner, trees.leaves(v), strict=True))
        second = torch.autograd.grad(product, leaves, allow_unused=True)
        expected = [
            *(0 if a is None else a for a in inner),
            *second[len(trees.leaves(w)) :],
        ]
        split = len(trees.leaves(w))
        for i, leaf in enumerate(trees.leaves(found.body)):
            direct, cross = (0.0 if x is None else x for x in (outer[i], second[i]))
            torch.testing.assert_close(leaf[run], direct - cross + torch.zeros_like(leaf[run]))
        for i, leaf in enumerate(trees.leaves(found.head)):
            torch.testing.assert_close(leaf[run], expected[i].detach())
        for i, leaf in enumerate(trees.leaves(found.auxiliary)):
            torch.testing.assert_close(leaf[run], second[split + i] - outer[split + i])


def test_soba_is_the_implicit_gradient_at_the_best_response():
    problem = TrueBilevel(power=2)
    body = trees.take(points(problem)[0], 0)
    expected = bilevel.hypergradient(problem, body)
    rows = sampler(problem).full
    oracles, head = Oracles(problem), trees.single(expected.response.head)
    right = oracles.body_gradients(trees.single(body), head, rows)[1]
    hessian = oracles.head_hessian(trees.single(body), head, rows)
    adjoint = torch.linalg.solve(hessian, trees.flatten(right))
    vector = trees.unflatten(adjoint, head)
    at = Levels(trees.single(body), head, vector)
    found = SOBA().all(oracles, at, rows)
    for a, b in zip(trees.leaves(found.body), trees.leaves(expected.body), strict=True):
        torch.testing.assert_close(a[0], b, rtol=1e-10, atol=1e-12)
    assert float(trees.norm(found.head)) < 1e-10
    assert float(trees.norm(found.auxiliary)) < 1e-10


def test_soba_reaches_the_solution_that_alternation_misses():
    # A5: Phi = (w - 1)^2; along d_w F alone the body goes to 2
    options = {"seeds": 2, "every": 200, "dtype": torch.float64}
    solution = bilevel.solve(analytic("A5"), SingleLoop(0.1, 0.4, 0.4), steps=200, **options)
    torch.testing.assert_close(solution.body, torch.ones(2, dtype=torch.float64))
