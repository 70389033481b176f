"""Trainings of tasks, against loops over each task as a problem of its own."""

import pytest
import torch
from tasks import (
    Learned,
    LearnedQuery,
    Query,
    Tasks,
    close,
    down,
    exact,
    first_body,
    first_heads,
    separate,
    slope_of,
    tasks_drawn,
    tracked,
    unrolled,
)

import bilevel
from bilevel.linear import CG
from bilevel.training import compiled

SEEDS, STEPS, LR = [0, 4], 3, 0.3
SGD = bilevel.SGD()


def solved(problem, strategy, batch_size, **options):
    """A training of few plain steps."""
    given = {"steps": STEPS, "seeds": SEEDS, "every": STEPS, "dtype": torch.float64} | options
    return bilevel.solve(problem, strategy, batch_size=batch_size, **given)


def slowly(cells, *slow):
    """The names of cells, some of them marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in cells]


EXACT = {
    "ridge": (Tasks(fit_bias=True), None, None, None),
    "softmax, outputs": (Tasks(kind="labels"), None, None, 2),
    "logistic": (Learned(kind="signs"), None, None, None),
    "query": (LearnedQuery(kind=2, fit_bias=True), None, None, 2),
    "query, Newton": (Query(), bilevel.Newton(), None, None),
    "query, CG": (LearnedQuery(), None, bilevel.Implicit(CG(rtol=1e-13)), 4),
    "query, softmax": (Query(kind="labels"), None, None, 2),
}


@pytest.mark.parametrize("cell", slowly(EXACT, "query, softmax", "softmax, outputs"))
def test_exact_heads_follow_a_loop_over_tasks(cell):
    problem, solver, method, batch_size = EXACT[cell]
    strategy = bilevel.BestResponse(LR, solver, method, SGD)
    found = solved(problem, strategy, batch_size)
    drawn = tasks_drawn(problem, SEEDS, batch_size, STEPS)
    assert batch_size is None or not torch.equal(drawn[:, 0], drawn[:, 1])
    tasks = separate(problem)
    for run, seed in enumerate(SEEDS):
        body = first_body(problem, seed)
        for which in drawn[:, run].tolist():
            slopes = {t: exact(tasks[t], body)[1] for t in which}
            body = down(body, [slopes[t] for t in which], LR)
        close({name: leaf[run] for name, leaf in found.body.items()}, body)
        heads = [exact(task, body)[0] for task in tasks]
        close(found.head[run], torch.stack(heads), atol=1e-10)
        check_record(problem, found, run, body, heads)


def check_record(problem, found, run, body, heads):
    """The last record of a run, from the heads of its tasks."""
    tasks, last = separate(problem), {n: x[-1, run] for n, x in found.history.items()}
    pairs = [(t, h, t.data()) for t, h in zip(tasks, heads, strict=True)]
    inner = [task.head_objective(body, head, groups) for task, head, groups in pairs]
    outer = [task.body_objective(body, head, groups) for task, head, groups in pairs]
    close(last["objective"], torch.stack(inner).mean())
    if not problem.is_stackelberg:
        close(last["body_objective"], torch.stack(outer).mean())
    close(last["phi"], torch.stack(outer).mean())
    assert last["head_gap"] < 1e-8
    metrics = [task.metrics(body, head, groups) for task, head, groups in pairs]
    for name in metrics[0]:
        close(last[name], torch.stack([each[name] for each in metrics]).mean())


STEPPED = {
    "first order": (Tasks(fit_bias=True), 3, bilevel.Envelope(), False, 2),
    "all tasks": (LearnedQuery(kind=2), 3, bilevel.Unrolled(3), False, None),
    "query": (Query(), 3, bilevel.Unrolled(3), False, 2),
    "truncated": (LearnedQuery(kind="labels"), 4, bilevel.Unrolled(4, truncate=2), False, 4),
    "restart": (Query(kind="signs"), 2, bilevel.Unrolled(2), True, 2),
    "restart, all tasks": (Query(), 2, bilevel.Unrolled(2), True, None),
    "box": (Tasks(head_set=bilevel.Box(-0.3, 0.3)), 3, bilevel.Envelope(), False, 2),
}


class Started(LearnedQuery):
    """The head starts where the body says (ANIL)."""

    def init_body(self, generator):
        return super().init_body(generator) | {"start": torch.ones(4, dtype=torch.float64)}

    def head_start(self, body):
        return body["start"] * body["log_penalty"].exp()


STEPPED |= {
    "head_start": (Started(), 3, bilevel.Unrolled(3), True, 2),
    "head_start, all tasks": (Started(), 1, bilevel.Unrolled(1), True, None),
    "head_start, truncated": (Started(), 3, bilevel.Unrolled(3, truncate=2), True, 2),
}


@pytest.mark.parametrize("cell", STEPPED)
def test_heads_of_steps_follow_a_loop_over_tasks(cell):
    problem, count, method, restart, batch_size = STEPPED[cell]
    inner = bilevel.FastSGD(0.4, count, restart=restart)
    found = solved(problem, bilevel.BestResponse(LR, inner, method, SGD), batch_size)
    drawn, tasks = tasks_drawn(problem, SEEDS, batch_size, STEPS), separate(problem)
    unroll = isinstance(method, bilevel.Unrolled)
    for run, seed in enumerate(SEEDS):
        body, heads = first_body(problem, seed), first_heads(problem, seed)
        firsts, moves = list(heads), (0.4, count, getattr(method, "truncate", None))

        def respond(t, body, heads=heads, firsts=firsts, moves=moves):
            start = tasks[t].head_start(body) if restart else heads[t]
            return unrolled(tasks[t], body, firsts[t] if start is None else start, *moves)

        for which in drawn[:, run].tolist():
            at = tracked(body)
            made = {t: respond(t, at) for t in set(which)}
            slopes = {
                t: slope_of(tasks[t], at, h if unroll else h.detach()) for t, h in made.items()
            }
            body = down(at, [slopes[t] for t in which], LR)
            for t, head in made.items():
                heads[t] = head.detach()
        if batch_size is None or restart:
            heads[:] = [respond(t, tracked(body)).detach() for t in range(problem.count)]
        close({name: leaf[run] for name, leaf in found.body.items()}, body)
        close(found.head[run], torch.stack(heads))


def torch_optimizer(kind, parameters, lr):
    """The counterpart of an optimiser in torch."""
    if isinstance(kind, bilevel.Adam):
        return torch.optim.Adam(parameters, lr)
    if isinstance(kind, bilevel.RMSProp):
        return torch.optim.RMSprop(parameters, lr)
    return torch.optim.SGD(parameters, lr, momentum=kind.momentum)


TWO = {
    "plain": (Tasks(fit_bias=True, penalize_bias=True), SGD, "alternating", 1, None),
    "adam": (Learned(kind="labels"), bilevel.Adam(), "alternating", 2, 2),
    "rmsprop": (Tasks(kind=2), bilevel.RMSProp(), "simultaneous", 1, 4),
    "momentum": (Learned(kind="signs", fit_bias=True), bilevel.SGD(0.9), "alternating", 1, 2),
    "box": (Tasks(head_set=bilevel.Box(-0.3, 0.3)), bilevel.Adam(), "alternating", 1, 2),
}


@pytest.mark.parametrize("cell", TWO)
def test_two_timescales_follow_a_loop_over_tasks(cell):
    problem, optimizer, order, head_steps, batch_size = TWO[cell]
    strategy = bilevel.TwoTimescale(0.05, 0.2, optimizer, order, head_steps)
    found = solved(problem, strategy, batch_size)
    drawn, tasks = tasks_drawn(problem, SEEDS, batch_size, STEPS), separate(problem)
    for run, seed in enumerate(SEEDS):
        body, heads = tracked(first_body(problem, seed)), first_heads(problem, seed)
        heads = [head.clone().requires_grad_() for head in heads]
        outer = torch_optimizer(optimizer, list(body.values()), 0.05)
        inner = [torch_optimizer(optimizer, [head], 0.2) for head in heads]

        def differentiate(t, body=body, heads=heads):
            return tasks[t].head_objective(body, heads[t], tasks[t].data())

        for which in drawn[:, run].tolist():
            for each in (outer, *inner):
                each.zero_grad()
            (sum(map(differentiate, which)) / len(which)).backward()
            before = {t: heads[t].grad * len(which) / which.count(t) for t in set(which)}
            outer.step()
            for t in set(which):
                for j in range(head_steps):
                    inner[t].zero_grad()
                    differentiate(t).backward()
                    if order == "simultaneous" and not j:
                        heads[t].grad = before[t]
                    inner[t].step()
                    with torch.no_grad():
                        heads[t].copy_(problem.head_set.project(heads[t].detach()))
        close({name: leaf[run] for name, leaf in found.body.items()}, body)
        close(found.head[run], torch.stack(heads))


@pytest.mark.slow  # a compilation each
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check:FutureWarning")
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("kind", ["exact", "two-timescale", "head_start"])
def test_compiled_steps_are_the_same(kind, batch_size, monkeypatch):
    class Anew(Tasks):
        def head_start(self, body):
            return body["weight"].sum(0)

    restarted = bilevel.FastSGD(0.2, 2, restart=True)
    problem, strategy = {
        "exact": (Tasks(fit_bias=True), bilevel.BestResponse(0.1, optimizer=SGD)),
        "two-timescale": (Tasks(kind=2), bilevel.TwoTimescale(0.05, 0.1, bilevel.Adam())),
        "head_start": (Anew(), bilevel.BestResponse(0.1, restarted, bilevel.Envelope(), SGD)),
    }[kind]
    monkeypatch.setattr(compiled, "STEPS_PER_CALL", 1)
    found, eager = (solved(problem, strategy, batch_size, compile=flag) for flag in (True, False))
    close(found.head, eager.head, rtol=1e-12, atol=1e-12)
    close(found.body["weight"], eager.body["weight"], rtol=1e-12, atol=1e-12)


def test_what_is_not_compiled_says_so():
    strategy = bilevel.BestResponse(0.1, bilevel.FastSGD(0.2, 2), bilevel.Unrolled(2), SGD)
    with pytest.warns(UserWarning, match="BestResponse is more than tensor operations"):
        found = solved(Query(), strategy, 2, compile=True, steps=1)
    assert torch.equal(found.head, solved(Query(), strategy, 2, steps=1).head)


LABELS, BETWEEN = Tasks(kind="labels"), Tasks(head_set=bilevel.Box(-0.3, 0.3))


@pytest.mark.parametrize("kind", ["newton", "steps", "box", "refined", "cg", "neumann", "adam"])
def test_numbers_of_a_run_hold_for_all_of_its_heads(kind):
    def strategy(number):
        fast = bilevel.FastSGD(0.1, 3)
        stop = bilevel.FastSGD(number, 5, tolerance=number)
        refined = bilevel.Implicit(tolerance=0.1 * number, on_inexact="refine")
        if kind == "adam":
            return bilevel.TwoTimescale(0.1, number, bilevel.Adam(beta1=3 * number))
        parts = {
            "newton": (bilevel.Newton(1e-3 * number), None),
            "steps": (stop, bilevel.Envelope()),
            "box": (stop, bilevel.Envelope()),
            "refined": (fast, refined),
            "cg": (None, bilevel.Implicit(CG(rtol=number))),
            "neumann": (None, bilevel.Implicit(bilevel.Neumann(5, number))),
        }[kind]
        return bilevel.BestResponse(0.1, *parts, SGD)

    problem = {"newton": LABELS, "steps": Tasks(), "box": BETWEEN, "adam": Tasks()}.get(
        kind, Query()
    )
    options = {"steps": 2, "every": 2}
    together = solved(
        problem, strategy(torch.tensor([0.1, 0.2], dtype=torch.float64)), 2, **options
    )
    for run, number in enumerate((0.1, 0.2)):
        alone = solved(problem, strategy(number), 2, **options | {"seeds": [SEEDS[run]]})
        close(together.head[run], alone.head[0])
        assert together.status[run] == alone.status[0]
