"""Batches that know the numbers of their rows: what belongs to a row is found in any batch."""

import copy
import itertools
import pickle

import pytest
import torch
from small_problems import D, N, doubles, grouped
from tasks import N as OF_TASK
from tasks import T, Tasks

import bilevel
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch._prims_common.check:FutureWarning"),
]
SMALL = 4
BODY = doubles(5, N)


class Unweighted(bilevel.LinearHeadProblem):
    """A head on the inputs, a number of the body for each row; F is the error on others."""

    ridge, body_free_features, rows = 0.3, True, N

    def data(self, seed=None):
        groups = grouped(0 if seed is None else seed + 1)
        train = groups["train"]
        return {**groups, "train": bilevel.Batch(*(leaf[: self.rows] for leaf in train))}

    def init_body(self, generator):
        return torch.randn(self.rows, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(D, dtype=torch.float64)

    def features(self, inputs):
        return inputs

    def body_objective(self, body, head, batch):
        inputs, targets = batch["validation"]
        return 0.5 * (inputs @ head - targets).square().mean()


def weights_of_rows(self, body, batch):
    return torch.sigmoid(body[batch["train"].row_numbers])


class Weighted(Unweighted):
    """A weight for each training row."""

    row_weights = weights_of_rows


class Alone(Weighted):
    """F is g, with a term of the body that keeps weights from zero."""

    body_objective = bilevel.StackelbergProblem.body_objective

    def body_penalty(self, body):
        return body.square().mean()


class ByPlace(Unweighted):
    """Without numbers: right where all rows are there in their order."""

    def row_weights(self, body, batch):
        return torch.sigmoid(body)


class Small(Weighted):
    rows = SMALL


class General(bilevel.StackelbergProblem):
    """The same in a problem that is not known to be linear, with numbers of validation rows."""

    def data(self, seed=None):
        return Small().data(seed)

    def init_body(self, generator):
        return Small().init_body(generator)

    def init_head(self, generator):
        return Small().init_head(generator)

    def head_objective(self, body, head, batch):
        inputs, targets = batch["train"]
        weights = torch.sigmoid(body[batch["train"].row_numbers])
        fit = (weights * 0.5 * (inputs @ head - targets).square()).mean()
        return fit + 0.15 * head.square().sum()

    def body_objective(self, body, head, batch):
        inputs, targets = batch["validation"]
        return ((1 + batch["validation"].row_numbers) * (inputs @ head - targets).square()).mean()


def started(seed):
    """The initial points of `Alone`."""
    return Assembly.of(TrainingData(Alone(), [seed], torch.float64, "cpu"))


def numbered(problem, *index):
    """Given training rows, by their numbers."""
    index = torch.tensor(index)
    train = problem.data()["train"]
    return bilevel.NumberedBatch(*(leaf[index] for leaf in train), index)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", [Small, General])
def test_mean_over_all_batches_is_the_whole(kind, size):
    """g and its gradient in body and head, by enumeration of all draws of a batch."""
    problem, body, head = kind(), doubles(5, SMALL), doubles(6, D)
    whole = {**problem.data(), "train": numbered(problem, *range(SMALL))}

    def value(body, head, batch):
        if kind is General:
            batch = {**batch, "validation": whole["validation"]}
        return problem.head_objective(body, head, batch)

    at = torch.func.grad_and_value(value, argnums=(0, 1))
    (in_body, in_head), expected = at(body, head, whole)
    draws = list(itertools.product(range(SMALL), repeat=size))
    found = [at(body, head, {**whole, "train": numbered(problem, *draw)}) for draw in draws]
    mean = torch.stack([value for _, value in found]).mean()
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-14)
    for level, exact in enumerate((in_body, in_head)):
        mean = torch.stack([slopes[level] for slopes, _ in found]).mean(0)
        torch.testing.assert_close(mean, exact, rtol=1e-12, atol=1e-14)


def test_an_epoch_of_single_rows_moves_both_levels_like_all_rows():
    """At rates that hardly move them, n steps add up to n gradients of the whole."""
    rate = 1e-6
    strategy = bilevel.TwoTimescale(rate, rate, bilevel.SGD(), order="simultaneous")
    moves = []
    for batch_size in ({"train": 1}, None):
        options = {"seeds": 1, "dtype": torch.float64, "every": N, "batch_size": batch_size}
        options["sampling"] = "epochs"
        last, first = bilevel.solve(Alone(), strategy, steps=N, **options), started(0)
        moves.append(
            [(a - b) / rate for a, b in ((last.body, first.body), (last.head, first.head))]
        )
    for one, other in zip(*moves, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("redraws", [False, True])
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_on_all_rows_is_the_one_by_place(compile, redraws):
    found = []
    for kind in (Weighted, ByPlace):
        problem = kind()
        problem.redraws_data = redraws
        found.append(
            bilevel.solve(
                problem, bilevel.BestResponse(0.1), steps=4, batch_size=None, seeds=3, every=2,
                dtype=torch.float64, compile=compile,
            )
        )  # fmt: skip
    torch.testing.assert_close(found[0].body, found[1].body, rtol=1e-12, atol=1e-14)
    for name, values in found[0].history.items():
        torch.testing.assert_close(values, found[1].history[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("redraws", [False, True])
def test_batches_hold_the_rows_that_they_number(redraws):
    """Each row of each group, of its own seed."""
    problem = Weighted()
    problem.redraws_data = redraws
    seeds = [3, 1, 3]
    data = TrainingData(problem, seeds, torch.float64, "cpu")
    sampler = Sampler(data, {"train": 9, "validation": 2}, ("train", "validation"))
    for k in (0, 300):
        drawn = sampler.rows(k).groups
        for name, group in drawn.items():
            for run, seed in enumerate(seeds):
                own = problem.data(seed if redraws else None)[name]
                for leaf, all_rows in zip((group.inputs, group.targets), own, strict=True):
                    assert torch.equal(leaf[run], all_rows[group.row_numbers[run]])
    whole = sampler.full.groups["train"].row_numbers
    assert torch.equal(whole, torch.arange(N).expand_as(whole))


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_steps_on_batches_are_those_by_hand(compile):
    """Plain gradient steps of both levels on drawn rows, against formulas of this test."""
    problem = Alone()
    strategy = bilevel.TwoTimescale(0.5, 0.1, bilevel.SGD(), order="simultaneous")
    options = {"batch_size": {"train": 5}, "seeds": [2], "dtype": torch.float64, "every": 6}
    found = bilevel.solve(Alone(), strategy, steps=6, compile=compile, **options)
    data = TrainingData(problem, [2], torch.float64, "cpu")
    sampler = Sampler(data, {"train": 5}, ("train", "validation"))
    start = started(2)
    body, head = start.body[0].clone(), start.head[0].clone()
    x, y = problem.data()["train"]
    for k in range(6):
        index = sampler.indices("train", 5, k)[0]
        residual, s = x[index] @ head - y[index], torch.sigmoid(body[index])
        in_body = 2 * body / N
        in_body.index_add_(0, index, s * (1 - s) * 0.5 * residual**2 / 5)
        in_head = x[index].T @ (s * residual) / 5 + 0.3 * head
        body, head = body - 0.5 * in_body, head - 0.1 * in_head
    torch.testing.assert_close(found.body[0], body, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.head[0], head, rtol=1e-11, atol=1e-12)


def test_points_on_all_and_on_given_rows():
    problem, index = Weighted(), torch.tensor([4, 0, 4, 21])
    train = problem.data()["train"]
    s = torch.sigmoid(BODY)
    for batch, rows in ((None, torch.arange(N)), ({"train": numbered(problem, *index)}, index)):
        given = batch and {**problem.data(), **batch}
        head = bilevel.best_response(problem, BODY, batch=given).head
        x, y = (leaf[rows] for leaf in train)
        gram = (x * s[rows, None]).T @ x / len(rows) + 0.3 * torch.eye(D, dtype=torch.float64)
        expected = torch.linalg.solve(gram, x.T @ (s[rows] * y) / len(rows))
        torch.testing.assert_close(head, expected, rtol=1e-10, atol=1e-12)
        found = bilevel.hypergradient(problem, BODY, batch=given)
        xv, yv = problem.data()["validation"]
        adjoint = torch.linalg.solve(gram, xv.T @ (xv @ expected - yv) / len(xv))
        by_rows = -(x @ expected - y) * (x @ adjoint) * (s * (1 - s))[rows] / len(rows)
        slope = torch.zeros_like(BODY).index_add_(0, rows, by_rows)
        torch.testing.assert_close(found.body, slope, rtol=1e-9, atol=1e-12)


def test_rows_of_tasks_count_on():
    class Weighed(Tasks):
        def init_body(self, generator):
            return {**super().init_body(generator), "scores": doubles(8, T * OF_TASK)}

        def row_weights(self, body, batch):
            return torch.sigmoid(body["scores"][batch["train"].row_numbers])

    class Placed(Weighed):
        numbers_rows = False

        def data(self, seed=None):
            groups = super().data(seed)
            inputs, targets = groups["train"]
            own = torch.arange(T * OF_TASK).reshape(T, OF_TASK, 1).double()
            return {**groups, "train": bilevel.Batch(torch.cat([inputs, own], 2), targets)}

        def features(self, body, inputs):
            return super().features(body, inputs[:, :2])

        def row_weights(self, body, batch):
            return torch.sigmoid(body["scores"][batch["train"].inputs[:, 2].long()])

    options = {"steps": 4, "seeds": 2, "dtype": torch.float64, "batch_size": 2}
    a, b = (
        bilevel.solve(kind(), bilevel.BestResponse(0.1), **options) for kind in (Weighed, Placed)
    )
    assert torch.equal(a.body["scores"], b.body["scores"])
    assert bool((a.body["scores"] != doubles(8, T * OF_TASK)).any())


def test_chunks_are_numbered():
    """F asks for numbers of validation rows, while the head is solved in chunks."""

    class Chunked(Weighted):
        body_free_features, chunk_rows = False, 10

        def features(self, body, inputs):
            return inputs * body[:D]

        row_weights = bilevel.LinearHeadProblem.row_weights

        def body_objective(self, body, head, batch):
            rows = batch["validation"]
            assert torch.equal(rows.row_numbers, torch.arange(len(rows.targets)))
            assert not hasattr(rows, "noise")
            return ((self.predict(body, head, rows.inputs) - rows.targets) ** 2).mean()

    class Whole(Chunked):
        chunk_rows = None

    a, b = (bilevel.hypergradient(kind(), BODY, bound=False).body for kind in (Chunked, Whole))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_numbered_batches_unpack_like_batches():
    rows = bilevel.NumberedBatch(*grouped(0)["train"], torch.arange(N))
    inputs, targets = rows
    assert inputs is rows.inputs is rows[0]
    assert targets is rows.targets is rows[1]
    assert len(rows) == 2
    assert torch.equal(copy.deepcopy(rows).row_numbers, rows.row_numbers)
    assert torch.equal(pickle.loads(pickle.dumps(rows)).targets, targets)
    bilevel.check_problem(Weighted())
