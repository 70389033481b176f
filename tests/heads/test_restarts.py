"""`FastSGD(restart=True)` and `head_start`, of problems with one head, against autograd."""

import numpy as np
import pytest
import torch
from tasks import (
    M,
    Query,
    close,
    down,
    first_body,
    first_heads,
    separate,
    slope_of,
    tracked,
    unrolled,
)

import bilevel
from bilevel.core.parts import signature
from bilevel.errors import ArgumentError, BilevelError, ShapeError

OPTIONS = {"batch_size": None, "steps": 3, "every": 3, "dtype": torch.float64}


class Started(Query):
    """The head starts where the body says."""

    def init_body(self, generator):
        return super().init_body(generator) | {"start": torch.ones(M, dtype=torch.float64)}

    def head_start(self, body):
        return body["start"] + body["weight"].sum(0).tanh()


@pytest.mark.parametrize("truncate", [None, 1])
@pytest.mark.parametrize("kind", [Query, Started])
def test_each_solve_starts_anew(kind, truncate):
    problem = separate(kind())[1]
    solver, method = bilevel.FastSGD(0.4, 2, restart=True), bilevel.Unrolled(2, truncate)
    strategy = bilevel.BestResponse(0.3, solver, method, bilevel.SGD())
    found = bilevel.solve(problem, strategy, seeds=[0, 4], **OPTIONS)
    for run, seed in enumerate([0, 4]):
        body, first = first_body(problem, seed), first_heads(problem, seed)[0]

        def respond(at, first=first):
            start = problem.head_start(at)
            return unrolled(problem, at, first if start is None else start, 0.4, 2, truncate)

        for k in range(3):
            at = tracked(body)
            slope = slope_of(problem, at, respond(at))
            if k == 0 and seed == 0:
                point = bilevel.hypergradient(problem, body, method, solver=solver)
                close(point.body, slope)
                close(point.response.head, respond(at).detach())
            body = down(at, [slope], 0.3)
        close({name: leaf[run] for name, leaf in found.body.items()}, body)
        close(found.head[run], respond(tracked(body)).detach())


def test_the_start_is_no_matter_of_exact_heads_and_of_kept_ones():
    kept = bilevel.FastSGD(0.4, 2)
    for solver, method in ((None, None), (kept, bilevel.Unrolled(2))):
        strategy = bilevel.BestResponse(0.3, solver, method, bilevel.SGD())
        found, plain = (
            bilevel.solve(separate(kind())[0], strategy, seeds=1, **OPTIONS)
            for kind in (Started, Query)
        )
        torch.testing.assert_close(found.head, plain.head, rtol=0, atol=0)


def test_a_start_that_does_not_depend_on_the_body_counts_for_nothing():
    class Constant(Query):
        def head_start(self, body):
            return torch.full((M,), 0.5, dtype=torch.float64)

    class Drawn(Query):
        def init_head(self, generator):
            return torch.full((M,), 0.5, dtype=torch.float64)

    solver = bilevel.FastSGD(0.4, 2, restart=True)
    strategy = bilevel.BestResponse(0.3, solver, bilevel.Unrolled(2), bilevel.SGD())
    found, drawn = (
        bilevel.solve(kind(), strategy, seeds=2, **OPTIONS) for kind in (Constant, Drawn)
    )
    close(found.body["weight"], drawn.body["weight"])


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize(
    "start",
    [torch.zeros(M + 1), torch.zeros(M, 1), {"head": torch.zeros(M)}, 0.5, torch.zeros(M).long()],
    ids=["longer", "axis", "tree", "number", "whole"],
)
def test_a_start_of_another_form_is_refused(start, tasks):
    class Wrong(Query):
        def head_start(self, body):
            return start

    problem = Wrong() if tasks else separate(Wrong())[0]
    strategy = bilevel.BestResponse(0.3, bilevel.FastSGD(0.4, 2, restart=True), bilevel.Unrolled(2))
    with pytest.raises(ShapeError, match="`head_start`") as caught:
        bilevel.solve(problem, strategy, seeds=1, **OPTIONS)
    assert isinstance(caught.value, BilevelError)


def test_starts_are_cast_and_projected():
    class Single(Query):
        def head_start(self, body):
            return torch.full((M,), 9.0) + 0 * body["weight"].sum()

    problem = Single(head_set=bilevel.Box(-0.5, 0.5))
    strategy = bilevel.BestResponse(
        0.3, bilevel.FastSGD(1e-12, 1, restart=True), bilevel.Unrolled(1), bilevel.SGD()
    )
    for dtype in (torch.float32, torch.float64):
        found = bilevel.solve(problem, strategy, seeds=1, **OPTIONS | {"dtype": dtype})
        assert found.head.dtype == dtype
        assert bool((found.head == 0.5).all())


def test_files_without_the_field_stay_readable():
    assert "restart" not in str(signature(bilevel.FastSGD(0.1, 2)))
    assert "restart" in str(signature(bilevel.FastSGD(0.1, 2, restart=True)))
    with pytest.raises(ArgumentError, match="`restart` must be True or False"):
        bilevel.FastSGD(0.1, 2, restart="no")
    assert bilevel.FastSGD(0.1, 2, restart=np.True_).restarts


def test_a_training_by_kept_heads_does_not_go_on_by_new_ones():
    kept, anew = (
        bilevel.BestResponse(0.1, bilevel.FastSGD(0.4, 2, restart=restart), bilevel.Unrolled(2))
        for restart in (False, True)
    )
    problem = Query()
    state = bilevel.solve(problem, kept, seeds=1, **OPTIONS).state
    with pytest.raises(ArgumentError):
        bilevel.solve(problem, anew, seeds=1, state=state, **OPTIONS)
