"""The memory of records and steps: runs take turns by what their features take, seen or not."""

import pytest
import torch
from linear_heads import build, normal

import bilevel
from bilevel.core.live_bytes import LiveBytes
from bilevel.data.training_data import TrainingData
from bilevel.training import recorder
from bilevel.training.training import Training

N, D, M, RUNS, BUDGET = 2000, 4, 32, 24, 2**22
"""Features take 0.5 MiB a run in float64; all runs at once would take 12 MiB several times over."""


def problem(features, rows=N, extra=None, k=None, **options):
    targets = normal(2, rows) if k is None else normal(2, rows, k)
    body = options.pop("body", torch.as_tensor(normal(3, D, M)))
    return build(normal(1, rows, D), targets, features=features, body=body, extra=extra, ridge=0.1,
                 **options)  # fmt: skip


def group(seed, rows):
    return bilevel.Batch(*(torch.as_tensor(normal([seed, i], rows, D)) for i in range(2)))._replace(
        targets=torch.as_tensor(normal([seed, 2], rows))
    )


def linear(w, x):
    return x @ w


def shared(k=None):
    """Features that do not know the body, as wide as the others."""
    targets = normal(2, N) if k is None else normal(2, N, k)
    return build(normal(1, N, M), targets, body_free_features=True, ridge=0.1,
                 body_penalty=lambda w: w.square().sum())  # fmt: skip


def deep(last):
    body = {"first": torch.as_tensor(normal(3, D, M)), "second": torch.as_tensor(normal(4, M, M))}

    def features(w, x):
        return last(torch.tanh(x @ w["first"]) @ w["second"])

    return problem(features, body=body)


def forces(w, x):
    """The gradient of an energy, which leaves hooks on what autograd saves no place."""
    return torch.func.vmap(torch.func.grad(lambda h: torch.tanh(h).square().sum()))(x @ w)


FURTHER = {"validation": group(5, 500), "test": group(6, 3 * N)}
KINDS = {
    "linear": lambda: problem(linear),
    "an affine map": lambda: problem(lambda w, x: x @ w * 2 + 1),
    "linear with a bias": lambda: problem(linear, fit_bias=True),
    "outputs": lambda: problem(lambda w, x: x @ w[:, :2], k=20),
    "row weights": lambda: problem(
        linear, row_weights=lambda w, batch: torch.ones_like(batch["train"].targets)
    ),
    "tanh": lambda: problem(lambda w, x: torch.tanh(x @ w)),
    "gradients": lambda: problem(forces, rows=700),
    "deep, tanh at the end": lambda: deep(torch.tanh),
    "deep, linear at the end": lambda: deep(lambda z: z),
    "without the body": shared,
    "further groups": lambda: problem(linear, rows=500, extra=FURTHER),
    "tanh on further groups": lambda: problem(
        lambda w, x: torch.tanh(x @ w), rows=500, extra=FURTHER
    ),
}


class General(bilevel.StackelbergProblem):
    """A head that the library does not know to be linear: its Hessian takes more than a gradient.

    A prediction for each pair of a row and a number of the head, and autograd saves rows only.
    """

    def data(self, seed=None):
        inputs = torch.as_tensor(normal(1, N, M))
        return {"train": bilevel.Batch(inputs, torch.as_tensor(normal(2, N)))}

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(M, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        rows = batch["train"]
        losses = (rows.inputs @ head - body * rows.targets).square().mean()
        return 0.5 * losses + 0.05 * head.square().sum()


KINDS["a Hessian"] = General


def loop(made, strategy):
    data = TrainingData(made, list(range(RUNS)), torch.float32, "cpu")
    return Training(strategy.fitted(made), data, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_records_stay_within_their_budget(kind, monkeypatch):
    monkeypatch.setattr(recorder, "RECORD_BYTES", BUDGET)
    training = loop(KINDS[kind](), bilevel.TwoTimescale(1e-4, 1e-3)).cohorts[0]
    state = training.state.strategy
    with LiveBytes() as live:
        training.recorder.record(state.body, state.head)
    assert 0.3 * BUDGET < live.peak < BUDGET


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_all_rows_stay_near_their_budget(kind, monkeypatch):
    """By half of it, as 2**29 stands for the gigabyte that docs/how-to/many-runs.md tells of."""
    monkeypatch.setattr("bilevel.training.training.STEP_BYTES", BUDGET // 2)
    training = loop(KINDS[kind](), bilevel.BestResponse(1e-3)).cohorts[0]
    with LiveBytes() as live:
        training.advance(1)
    assert live.peak < 1.3 * BUDGET


@pytest.mark.parametrize("kind", KINDS)
def test_a_recorder_is_made_within_its_budget(kind, monkeypatch):
    """Whether a head is quadratic is looked at too, which takes Hessians."""
    monkeypatch.setattr(recorder, "RECORD_BYTES", BUDGET)
    made = KINDS[kind]()
    with LiveBytes() as live:
        loop(made, bilevel.TwoTimescale(1e-4, 1e-3))
    assert live.peak < 1.5 * BUDGET


def test_nothing_of_a_part_outlives_it(monkeypatch):
    """Small tensors between the large ones of many parts would keep the heap from being used again.

    A process grew to five times what its records take.
    """
    monkeypatch.setattr(recorder, "RECORD_BYTES", BUDGET)
    seen = []

    class Noted(General):
        def metrics(self, body, head, batch):
            seen.append(live.now)
            return {"body": body}

    training = loop(Noted(), bilevel.TwoTimescale(1e-4, 1e-3)).cohorts[0]
    state = training.state.strategy
    with LiveBytes() as live:
        training.recorder.record(state.body, state.head)
    assert len(seen) == len(training.recorder.parts) == RUNS
    assert len(set(seen[1:])) == 1  # in the first part, there is no room for all runs yet


def test_live_bytes_forget_what_is_freed():
    with LiveBytes() as live:
        kept = torch.zeros(1000)
        view = kept.view(10, 100).T
        for _ in range(5):
            view = (kept + 1).view(10, 100).T
    assert view.shape == (100, 10)
    assert (live.now, live.peak) == (8000, 12000)
    del kept, view
    assert live.now == 0
