"""Exact heads on batches and on running averages, against NumPy and autograd through the solve."""

import numpy as np
import pytest
import torch
from small_problems import General, Smooth, doubles, grouped, points, sampler, supervised

import bilevel
from bilevel import SGD, BatchData, BestResponse, ClosedForm, FullData, RunningData, trees
from bilevel.core.status import Status
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, IncompatibleError, SingularHeadError

SEEDS, STEPS, LR = (0, 5), 6, 0.3
SIZES = {"more rows than features": 7, "fewer": 3}


def weights(body, inputs):
    return 0.5 + torch.sigmoid(inputs @ body["weight"])[:, 0]


class Weighted(Smooth):
    """`Smooth` with weights and penalties that depend on the body."""

    def row_weights(self, body, batch):
        return weights(body, batch["train"].inputs)

    def penalty(self, body):
        return 0.01 + body["bias"].square()


PROBLEMS = {
    "one output": lambda: Smooth(),
    "two outputs, bias": lambda: Smooth(outputs=2, fit_bias=True),
    "weighted": lambda: Weighted(),
}


def system(problem, body, inputs, targets):
    """Z'SZ/n, Z'St/n and diag(p) of one run, by plain tensor operations."""
    z = torch.tanh(inputs @ body["weight"] + body["bias"])
    p = torch.full((z.shape[1],), 0.1, dtype=torch.float64)
    s = torch.ones(len(z), dtype=torch.float64)
    if isinstance(problem, Weighted):
        p, s = 0.01 + body["bias"].square(), weights(body, inputs)
    if problem.fit_bias:
        z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        p = torch.cat([p, torch.zeros_like(p[:1])])
    t = targets.reshape(len(z), -1)
    return (z.T * s) @ z / len(z), (z.T * s) @ t / len(z), torch.diag(p)


def batch_phi(problem, body, inputs, targets):
    """min over theta of g on these rows, and the minimiser: differentiable through the solve."""
    gram, moment, p = system(problem, body, inputs, targets)
    head = torch.linalg.solve(gram + p, moment)
    s = weights(body, inputs) if isinstance(problem, Weighted) else torch.ones(len(inputs))
    t = targets.reshape(len(inputs), -1)
    value = 0.5 * (s.unsqueeze(1) * t.square()).sum() / len(t) - 0.5 * (moment * head).sum()
    return value, head


def steps_of(problem, strategy, batch_size, steps=STEPS):
    """(state before, state after, rows (R, B)) of every step."""
    source = sampler(problem, SEEDS, batch_size, ["train"])
    body, head = points(problem, SEEDS)
    oracles = Oracles(problem)
    strategy = strategy.fitted(problem)
    strategy.check(problem)
    state = strategy.init(oracles, body, head, source.rows(0))
    for k in range(steps):
        after = strategy.step(oracles, state, source.rows(k), k)
        yield state, after, source.indices("train", batch_size, k)
        state = after


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_a_batch_step_follows_the_gradient_of_the_batch_phi(make, size):
    problem, strategy = make(), BestResponse(LR, ClosedForm(BatchData()), optimizer=SGD())
    train = problem.data()["train"]
    moved = 0.0
    for before, after, rows in steps_of(problem, strategy, size):
        for run, index in enumerate(rows):
            body = trees.tree_map(lambda x, run=run: x[run].clone().requires_grad_(), before.body)
            value, head = batch_phi(problem, body, train.inputs[index], train.targets[index])
            slope = torch.autograd.grad(value, list(body.values()))
            found = [(before.body[n][run] - after.body[n][run]) / LR for n in body]
            for one, other in zip(found, slope, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
                moved = max(moved, float(other.abs().max()))
            expected = head.detach().reshape(after.head[run].shape)
            torch.testing.assert_close(after.head[run], expected, rtol=1e-10, atol=1e-12)
    assert moved > 1e-2


def test_a_batch_step_of_a_head_that_is_not_linear():
    """theta* = theta - H^{-1} d_theta g, differentiated with all its parts."""
    problem, strategy = General(2), BestResponse(LR, ClosedForm(BatchData()), optimizer=SGD())
    train = problem.data()["train"]
    for before, after, rows in steps_of(problem, strategy, 7, steps=2):
        for run, index in enumerate(rows):
            batch = {"train": bilevel.Batch(train.inputs[index], train.targets[index])}
            scale = before.body["scale"][run].clone().requires_grad_()
            shift = before.body["nested"]["shift"][run]

            def value(flat, scale=scale, shift=shift, batch=batch):
                body = {"scale": scale, "nested": {"shift": shift}}
                head = {"slope": flat[:3], "offset": flat[3]}
                return problem.head_objective(body, head, batch)

            start = torch.zeros(4, dtype=torch.float64, requires_grad=True)
            slope = torch.autograd.grad(value(start), start, create_graph=True)[0]
            hessian = torch.autograd.functional.hessian(value, start, create_graph=True)
            best = -torch.linalg.solve(hessian, slope)
            expected = torch.autograd.grad(value(best), scale)[0]
            found = (before.body["scale"][run] - after.body["scale"][run]) / LR
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("per_run", [False, True])
def test_running_averages_are_the_discounted_sums_of_all_batches(make, per_run):
    decay, extra = ((0.3, 0.9), (0.0, 0.02)) if per_run else ((0.7, 0.7), (1e-3, 1e-3))
    data = RunningData(decay[0], extra[0])
    if per_run:
        data = RunningData(*(torch.tensor(x, dtype=torch.float64) for x in (decay, extra)))
    problem = make()
    train = problem.data()["train"]
    terms = ([], [])
    strategy = BestResponse(0.1, ClosedForm(data), optimizer=SGD())
    for before, after, rows in steps_of(problem, strategy, 7):
        for run, index in enumerate(rows):
            body = trees.take(before.body, run)
            parts = system(problem, body, train.inputs[index], train.targets[index])
            gram, moment, p = (part.numpy() for part in parts)
            terms[run].append((gram, moment))
            powers = decay[run] ** np.arange(len(terms[run]))[::-1]
            average, target = (
                sum(c * term[i] for c, term in zip(powers, terms[run], strict=True)) / powers.sum()
                for i in (0, 1)
            )
            matrix = average + p + extra[run] * np.eye(len(p))
            expected = np.linalg.solve(matrix, target).reshape(after.head[run].shape)
            np.testing.assert_allclose(after.head[run], expected, rtol=1e-10, atol=1e-12)
    assert len(terms[0]) == STEPS


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_without_memory_and_ridge_it_is_the_batch(make):
    solutions = [
        bilevel.solve(
            make(), BestResponse(1e-2, ClosedForm(data)), steps=20, batch_size=9, seeds=3, every=20,
            dtype=torch.float64,
        )
        for data in (BatchData(), RunningData(0.0, 0.0))
    ]  # fmt: skip
    for one, other in zip(*(trees.leaves((s.body, s.head)) for s in solutions), strict=True):
        assert torch.equal(one, other)


def test_the_average_of_a_frozen_body_converges_to_the_head_of_all_rows():
    problem, solver = Smooth(), ClosedForm(RunningData(1 - 1e-9, 0.0))
    source, oracles = sampler(problem, SEEDS, 7, ["train"]), Oracles(problem)
    body, head = points(problem, SEEDS)
    state = solver.init(oracles, body, head, source.rows(0))
    exact = ClosedForm()
    kept = exact.init(oracles, body, head, source.rows(0))
    expected = exact.solve(oracles, body, head, source.rows(0), kept, 0).head
    errors = {}
    for k in range(600):
        solved = solver.solve(oracles, body, head, source.rows(k), state, k)
        state = solved.state
        errors[k + 1] = trees.norm(solved.head - expected)
    # sampling errors fall like 1 / sqrt(batches)
    assert bool((errors[600] < 0.25 * errors[6]).all())
    assert bool((errors[600] < 0.04 * trees.norm(expected)).all())


def test_batches_that_are_all_rows_together_give_the_head_of_all_rows():
    problem = Smooth(groups={"train": supervised(3, 21)})
    body, head = points(problem, SEEDS)
    oracles, solver = Oracles(problem), ClosedForm(RunningData(1 - 1e-13, 0.0))
    train = problem.data()["train"]
    parts = [
        Rows({"train": bilevel.Batch(train.inputs[i : i + 7], train.targets[i : i + 7])},
             {"train": None}) for i in (0, 7, 14)
    ]  # fmt: skip
    state = solver.init(oracles, body, head, parts[0])
    for k, rows in enumerate(parts):
        solved = solver.solve(oracles, body, head, rows, state, k)
        state = solved.state
    for run in range(len(SEEDS)):
        exact = bilevel.best_response(problem, trees.take(body, run)).head
        torch.testing.assert_close(solved.head[run], exact, rtol=1e-10, atol=1e-12)


def test_at_a_single_point_there_is_one_batch():
    problem = Smooth()
    body = problem.init_body(torch.Generator().manual_seed(3))
    exact = bilevel.best_response(problem, body)
    batch = bilevel.best_response(problem, body, ClosedForm(BatchData()))
    assert torch.equal(batch.head, exact.head)
    running = bilevel.best_response(problem, body, ClosedForm(RunningData(extra_ridge=0.05)))
    gram, moment, p = (part.numpy() for part in system(problem, body, *problem.data()["train"]))
    expected = np.linalg.solve(gram + p + 0.05 * np.eye(len(p)), moment)[:, 0]
    np.testing.assert_allclose(running.head, expected, rtol=1e-10)
    distance = float((running.head - exact.head).norm())
    assert 0 < distance <= running.bound  # the bound is about the exact head


@pytest.mark.parametrize("data", [BatchData(), RunningData(0.8)], ids=["batch", "running"])
def test_trainings_go_on_and_runs_do_not_interact(data):
    problem, strategy = Smooth(), BestResponse(1e-2, ClosedForm(data))
    options = {"batch_size": 7, "every": 10, "dtype": torch.float64}
    whole = bilevel.solve(problem, strategy, steps=30, seeds=[2, 4, 9], **options)
    first = bilevel.solve(problem, strategy, steps=10, seeds=[2, 4, 9], **options)
    rest = bilevel.solve(problem, strategy, steps=20, seeds=[2, 4, 9], state=first.state, **options)
    for one, other in zip(*(trees.leaves(s.state.strategy) for s in (whole, rest)), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
        assert isinstance(one, bool | int) or one.shape[0] == 3
    alone = bilevel.solve(problem, strategy, steps=30, seeds=[4], **options)
    torch.testing.assert_close(alone.head[0], whole.head[1], rtol=1e-10, atol=1e-12)


def test_decays_are_compared_in_one_training():
    problem, options = Smooth(), {"batch_size": 7, "seeds": 2, "dtype": torch.float64}
    pair = [BestResponse(0.05, ClosedForm(RunningData(d, e))) for d, e in ((0.5, 0.1), (0.9, 0.0))]
    found = bilevel.compare(problem, {"a": pair[0], "b": pair[1]}, steps=12, every=6, **options)
    for name, strategy in zip("ab", pair, strict=True):
        alone = bilevel.solve(problem, strategy, steps=12, every=6, **options)
        np.testing.assert_allclose(
            found.history[name]["objective"], alone.history["objective"], rtol=1e-10
        )


def test_features_without_a_body_are_averaged_too():
    """They are no reason to keep the Gram matrix of all rows."""
    x, y = doubles(1, 19, 4), doubles(2, 19)

    class Free(Smooth):
        body_free_features = True
        groups = {"train": bilevel.Batch(x, y)}  # noqa: RUF012 - a test

        def features(self, inputs):
            return inputs

    problem = Free()
    for _, after, rows in steps_of(problem, BestResponse(LR, ClosedForm(BatchData())), 7, 3):
        z, t = x[rows[1]].numpy(), y[rows[1]].numpy()
        expected = np.linalg.solve(z.T @ z / 7 + 0.1 * np.eye(4), z.T @ t / 7)
        np.testing.assert_allclose(after.head[1], expected, rtol=1e-10)


def test_a_batch_that_becomes_singular_is_jittered():
    """Two of five rows are distinct: some batch of three repeats one row three times."""
    x = doubles(4, 2, 2)[[0, 0, 0, 0, 1]]

    class Rows5(Smooth):
        ridge = 0.0
        groups = {"train": bilevel.Batch(x, x.sum(1))}  # noqa: RUF012 - a test

        def features(self, body, inputs):
            return inputs * (1 + body["bias"][:2] ** 2)

        def init_head(self, generator):
            return torch.zeros(2, dtype=torch.float64)

    problem = Rows5()
    seeds = [
        s for s in range(40) if 4 in sampler(problem, [s], 3, ["train"]).indices("train", 3, 0)
    ]
    solution = bilevel.solve(
        problem,
        BestResponse(1e-3, ClosedForm(BatchData())),
        steps=20,
        batch_size=3,
        seeds=seeds[:4],
    )
    assert set(solution.status) == {Status.JITTERED}


@pytest.mark.parametrize(
    ("data", "size", "advice"),
    [
        (BatchData(), 3, r"Set `ridge`.*more rows per batch.*ClosedForm\(RunningData\(\)\)"),
        (RunningData(extra_ridge=0.0), 3, "Set `extra_ridge` of RunningData"),
        (FullData(), 3, None),
        (RunningData(), 3, None),
        (BatchData(), 7, None),
    ],
)
def test_singular_batches_are_refused_at_the_start(data, size, advice):
    problem, strategy = Smooth(ridge=0.0), BestResponse(1e-3, ClosedForm(data))

    def train():
        return bilevel.solve(
            problem, strategy, steps=1, batch_size=size, seeds=2, dtype=torch.float64
        )

    if advice is None:
        assert train().state.step == 1
    else:
        with pytest.raises(SingularHeadError, match=advice):
            train()


def test_running_averages_need_features():
    with pytest.raises(IncompatibleError, match=r"General does not have.*LinearHeadProblem"):
        BestResponse(0.1, ClosedForm(RunningData())).check(General(2))
    body = trees.take(points(General(2))[0], 0)
    with pytest.raises(IncompatibleError, match="does not have"):
        bilevel.best_response(General(2), body, ClosedForm(RunningData()))


@pytest.mark.parametrize("decay", [1.0, 1, -0.1, float("nan"), "slow", torch.tensor([0.5, 1.0])])
def test_bad_decays_are_refused(decay):
    with pytest.raises(ArgumentError, match="`decay` must be"):
        RunningData(decay)


@pytest.mark.parametrize("extra", [-1e-3, float("inf"), None, torch.tensor([0.1, -0.1])])
def test_bad_extra_ridges_are_refused(extra):
    with pytest.raises(ArgumentError, match="`extra_ridge` must be"):
        RunningData(extra_ridge=extra)


@pytest.mark.parametrize("data", [FullData, "batch", None])
def test_other_data_are_refused(data):
    with pytest.raises(ArgumentError, match=r"`data` must be an object such as FullData\(\)"):
        ClosedForm(data)


def test_the_number_of_hyperparameters_must_fit():
    strategy = BestResponse(0.1, ClosedForm(RunningData(torch.tensor([0.1, 0.2]))))
    with pytest.raises(ArgumentError, match=r"\[2\] runs, but there are 3"):
        bilevel.solve(Smooth(groups=grouped(0)), strategy, steps=1, seeds=3)
