"""Heads and hypergradients of tasks, against each task as a problem of its own."""

import math

import pytest
import torch
from tasks import (
    Learned,
    LearnedQuery,
    Query,
    Tasks,
    close,
    first_body,
    mean,
    separate,
)

import bilevel
from bilevel.linear import CG, Dense

Implicit, Newton, FastSGD = bilevel.Implicit, bilevel.Newton, bilevel.FastSGD
CELLS = {
    "ridge": (Tasks(), None, None),
    "free bias": (Tasks(fit_bias=True), bilevel.ClosedForm(), bilevel.Envelope()),
    "penalised bias, outputs": (Tasks(fit_bias=True, penalize_bias=True, kind=2), None, None),
    "softmax": (Tasks(kind="labels", fit_bias=True), None, None),
    "logistic, penalties": (Learned(kind="signs"), Newton(), bilevel.Envelope()),
    "query, factor": (Query(fit_bias=True), None, None),
    "query, outputs, penalties": (LearnedQuery(kind=2), None, None),
    "query, CG": (LearnedQuery(fit_bias=True), None, Implicit(CG(rtol=1e-13))),
    "query, Dense": (Query(kind=2), None, Implicit(Dense())),
    "query, softmax": (LearnedQuery(kind="labels"), None, None),
    "query, logistic, CG": (Query(kind="signs", fit_bias=True), None, Implicit(CG(rtol=1e-13))),
    "query, Newton": (Query(), Newton(), None),
    "unrolled": (Query(), FastSGD(0.3, 7), bilevel.Unrolled(7)),
    "unrolled, softmax": (LearnedQuery(kind="labels"), FastSGD(0.3, 5), bilevel.Unrolled(5)),
    "truncated": (LearnedQuery(kind=2), FastSGD(0.3, 6), bilevel.Unrolled(6, truncate=2)),
    "refined": (Query(), FastSGD(0.3, 3), Implicit(on_inexact="refine")),
    "box": (Query(head_set=bilevel.Box(-0.2, 0.2)), None, None),
    "box, steps": (Tasks(head_set=bilevel.Box(-0.2, 0.2)), FastSGD(0.5, 30), None),
}


SLOW = ("query, logistic, CG", "unrolled, softmax", "softmax", "query, Dense")


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, marks=pytest.mark.slow) if cell in SLOW else cell for cell in CELLS],
)
def test_tasks_are_separate_problems(cell):
    problem, solver, method = CELLS[cell]
    body, tasks = first_body(problem), separate(problem)
    if solver is not None and not solver.exact:
        start = torch.linspace(-1, 1, 4, dtype=torch.float64)
        start = start if problem.outputs is None else start.unsqueeze(1).expand(-1, problem.outputs)
        for each in (problem, *tasks):
            each.__dict__["init_head"] = lambda generator: start.clone()
    found = bilevel.hypergradient(problem, body, method, solver=solver)
    alone = [bilevel.hypergradient(task, body, method, solver=solver) for task in tasks]
    close(found.body, mean([each.body for each in alone]))
    close(found.value, sum(each.value for each in alone) / len(alone))
    close(found.bound, sum(each.bound for each in alone) / len(alone), rtol=1e-6, atol=1e-9)
    close(found.response.head, torch.stack([each.response.head for each in alone]))
    response = bilevel.best_response(problem, body, solver)
    apart = [each.response for each in alone]
    if cell == "refined":
        apart = [bilevel.best_response(task, body, solver) for task in tasks]
    close(response.head, torch.stack([each.head for each in apart]))
    close(response.mu, min(each.mu for each in apart))
    close(response.value_bound, sum(each.value_bound for each in apart) / len(apart), 1e-6, 1e-9)
    for name in ("bound", "residual"):
        expected = math.hypot(*(getattr(each, name) for each in apart))
        close(getattr(response, name), expected, rtol=1e-6, atol=1e-9)
    assert response.bound_kind == apart[0].bound_kind
    assert response.status == max(each.status for each in apart)
    assert found.bound_kind == alone[0].bound_kind
    assert found.status == max(each.status for each in alone)


def test_the_best_response_is_differentiable():
    problem = LearnedQuery(fit_bias=True)
    body = {name: leaf.requires_grad_() for name, leaf in first_body(problem).items()}
    vector = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (bilevel.best_response(problem, body).head * vector).sum().backward()
    found = {name: leaf.grad.clone() for name, leaf in body.items()}
    for leaf in body.values():
        leaf.grad = None
    heads = torch.stack([bilevel.best_response(task, body).head for task in separate(problem)])
    (heads * vector).sum().backward()
    close(found, {name: leaf.grad for name, leaf in body.items()})


def test_a_batch_holds_tasks():
    problem, body = Query(), first_body(Query())
    groups = {
        name: bilevel.Batch(*(leaf[1:3] for leaf in group))
        for name, group in problem.data().items()
    }
    found = bilevel.hypergradient(problem, body, batch=groups)
    some = [bilevel.hypergradient(task, body) for task in separate(problem)[1:3]]
    close(found.body, mean([each.body for each in some]))
