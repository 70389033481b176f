"""Sine waves: the data, the hooks, and training against loops written by hand."""

import math

import pytest
import torch

import bilevel
from bilevel.core.generators import generator
from bilevel.core.live_bytes import LiveBytes
from bilevel.errors import ArgumentError
from problems.sinusoid import sinusoid
from tests.support.few_shot_loops import LR, by_hand, from_body, ridge_heads, stepped_heads, trained

SMALL = {"shots": 6, "queries": 5, "train": 9, "test": 3, "test_points": 7, "width": (8, 5)}
SEEDS = 2


def small(**options):
    return sinusoid(**{**SMALL, **options})


def test_rows_of_a_task_are_of_one_wave():
    groups = small(train=200).data(3)
    new = groups["test"]
    for support, query in ((groups["train"], groups["validation"]), (new["train"], new["test"])):
        x = torch.cat([support.inputs, query.inputs], 1)
        y = torch.cat([support.targets, query.targets], 1).unsqueeze(2)
        waves = torch.cat([x.sin(), x.cos()], 2)  # A cos(b) sin(x) + A sin(b) cos(x)
        found = torch.linalg.lstsq(waves, y, driver="gelsd").solution
        torch.testing.assert_close(waves @ found, y, rtol=0, atol=1e-10)
        amplitude, phase = found.norm(dim=1), torch.atan2(found[:, 1], found[:, 0])
        assert amplitude.min() >= 0.1
        assert amplitude.max() <= 5
        assert phase.min() >= 0
        assert phase.max() <= math.pi
        assert x.abs().max() <= 5
    assert amplitude.std() > 0.1
    assert groups["train"].inputs.std() > 2
    assert new["test"].inputs.shape == (3, 7, 1)
    assert not torch.equal(groups["train"].inputs, small(train=200).data(4)["train"].inputs)


def test_hooks_are_the_formulas():
    problem = small(ridge=0.3)
    body = problem.init_body(generator(1, "body"))
    groups = {name: group for name, group in problem.data(1).items() if name != "test"}
    support, query = groups["train"], groups["validation"]
    found = bilevel.adapt(problem, body, *support).head
    for task in range(9):
        z, judged = (
            torch.cat([problem.features(body, group.inputs[task]), torch.ones(n, 1)], 1)
            for group, n in ((support, 6), (query, 5))
        )
        matrix = z.T @ z + 0.3 * torch.eye(6, dtype=z.dtype)
        head = torch.linalg.solve(matrix, z.T @ support.targets[task])
        torch.testing.assert_close(found[task], head, rtol=1e-9, atol=1e-12)
        batch = {name: bilevel.Batch(*(x[task] for x in group)) for name, group in groups.items()}
        loss = 0.5 * (judged @ head - query.targets[task]).square().mean()
        torch.testing.assert_close(problem.body_objective(body, head, batch), loss)
    assert problem.head_start(body) is body["start"]
    assert "log_ridge" not in small(ridge=0.0).init_body(generator(1, "body"))


def agrees(problem, strategy, heads, *, learns_start=False, steps=20):
    """Assert that the bodies of `solve` are those of the loop."""
    first, bodies, batches = trained(problem, strategy, steps, SEEDS)
    for run in range(SEEDS):
        start = {name: leaf[run] for name, leaf in first.body.items()}
        tasks = [batch[run] for batch in batches]
        expected = by_hand(problem, run, start, tasks, heads(first, run))
        for name, leaf in expected.items():
            torch.testing.assert_close(bodies[name][run], leaf, rtol=0, atol=1e-10, msg=name)
        assert not torch.equal(expected["weight1"], start["weight1"])
        moved = not torch.equal(expected["start"], start["start"])
        assert moved == learns_start


def anil(steps, lr=0.05):
    solver = bilevel.FastSGD(lr, steps, restart=True)
    return bilevel.BestResponse(LR, solver, bilevel.Unrolled(steps), bilevel.Adam())


def test_exact_heads_are_those_of_autograd_through_solve():
    problem = small()
    strategy = bilevel.BestResponse(LR, optimizer=bilevel.Adam())
    agrees(problem, strategy, lambda first, run: ridge_heads(problem))


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_anil_is_autograd_through_its_steps(steps, ridge):
    problem = small(ridge=ridge)
    heads = stepped_heads(problem, 0.05, steps, from_body)
    agrees(problem, anil(steps), lambda *_: heads, learns_start=True)


def test_steps_start_anew_at_the_initial_heads_without_a_start():
    """Of each task, at each step of the body."""
    problem = small()
    problem.head_start = lambda body: None

    def heads(first, run):
        initial = [
            problem.init_head(source) for source in [generator(run, "head")] for _ in range(9)
        ]
        initial = torch.stack(initial)
        start = lambda body, tasks: initial[tasks].clone().requires_grad_()  # noqa: E731
        return stepped_heads(problem, 0.05, 3, start)

    agrees(problem, anil(3), heads)


def test_the_strategies_train_and_new_tasks_are_recorded():
    problem = small()
    strategies = problem.strategies(1e-3, 1e-2)
    assert list(strategies) == ["exact head", "ANIL, 5 steps", "ANIL, 1 step", "heads kept"]
    for name, strategy in strategies.items():
        solution = bilevel.solve(problem, strategy, steps=3, batch_size=4, seeds=2)
        found = solution.history["test_mse"]
        assert found.isfinite().all(), name
        assert not any(status.failed for status in solution.status)
        support, judged = problem.data(1)["test"].values()
        solver = strategy.solver if name.startswith("ANIL") else None
        heads = solution.adapt(*(x.float() for x in support), solver)[1]
        body = {key: leaf[1] for key, leaf in solution.body.items()}
        off = [
            problem.predict(body, head, x.float()) - y
            for head, x, y in zip(heads, *judged, strict=True)
        ]
        expected = torch.stack(off).square().mean()
        torch.testing.assert_close(found[-1, 1], expected, rtol=1e-3, atol=1e-6)


def test_memory_knows_no_square_of_all_heads():
    """60 heads of 21 numbers: blocks of 21 x 21, never 1,260 x 1,260."""
    problem = small(train=60, width=(10, 20), shots=22)
    whole = (60 * 21) ** 2 * 8
    for strategy in problem.strategies(1e-3, 1e-2).values():
        with LiveBytes() as live:
            bilevel.solve(problem, strategy, steps=2, batch_size=None, seeds=1)
        assert live.peak < whole / 3


@pytest.mark.parametrize("wrong", [{"shots": 0}, {"train": 2.5}, {"ridge": -1}, {"inner_lr": 0}])
def test_sizes_are_checked(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        small(**wrong)
