"""The one loop: runs are independent, records and endings are right, arguments are checked."""

import gc

import pytest
import torch
from small_problems import ROUNDING, D, Noisy, Scalar, Smooth, doubles

import bilevel
from bilevel import SGD, Adam, BestResponse, FastSGD, RMSProp, TwoTimescale, solve, trees
from bilevel.core.status import Status
from bilevel.derivatives.assembly import Assembly
from bilevel.errors import AllRunsFailedError
from bilevel.training.cohort import Cohort
from problems.toy import ScalarProduct

STRATEGIES = {
    "alternating": TwoTimescale(0.02, 0.1, SGD()),
    "simultaneous": TwoTimescale(0.02, 0.1, SGD(0.5), order="simultaneous", head_steps=2),
    "rmsprop": TwoTimescale(0.002, 0.01),
    "rmsprop, simultaneous": TwoTimescale(0.002, 0.01, order="simultaneous"),
    "adam": TwoTimescale(0.002, 0.01, Adam()),
    "best response": BestResponse(0.02, optimizer=SGD()),
    "best response, rmsprop": BestResponse(0.002),
    "best response, inner sgd": BestResponse(0.02, FastSGD(0.2, 3, batch_size=4), optimizer=SGD()),
}
PROBLEMS = {
    "shared": lambda: Smooth(fit_bias=True),
    "redrawn": lambda: Smooth(fit_bias=True, outputs=2, redraws_data=True),
}
ENDED = [Status.DIVERGED, Status.CONVERGED]


def train(problem, strategy, steps=40, **options):
    options = {"seeds": 5, "batch_size": 6, "every": 20, "dtype": torch.float64} | options
    return solve(problem, strategy, steps=steps, **options)


def assert_run(found, run, other, other_run, rtol):
    """A run of one solution has the numbers of a run of another."""
    pairs = [(getattr(found, n), getattr(other, n)) for n in ("body", "head")]
    pairs = [p for a, b in pairs for p in zip(trees.leaves(a), trees.leaves(b), strict=True)]
    for a, b in pairs:
        scale = float(b[other_run].abs().max())
        torch.testing.assert_close(a[run], b[other_run], rtol=rtol, atol=rtol * scale)
    for name, values in other.history.items():
        a, b = found.history[name][:, run], values[:, other_run]
        # a gap of an exact head is rounding itself
        atol = 1e-12 if name in ROUNDING else 1e-15
        atol = 1e-14 if name.endswith("r2") else atol  # 1 - a ratio, which may be near 1
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol if rtol else 0.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "shared") for name in STRATEGIES]
    + [(name, "redrawn") for name in ("rmsprop", "best response, rmsprop")],
)
def test_a_run_does_not_depend_on_the_runs_beside_it(name, kind):
    problem = PROBLEMS[kind]()
    together = train(problem, STRATEGIES[name])
    alone = train(problem, STRATEGIES[name], seeds=[3])
    assert float((together.body["weight"][3] - together.body["weight"][2]).abs().max()) > 0.1
    assert_run(together, 3, alone, 0, 1e-12)


def test_noise_does_not_depend_on_the_runs_beside_it():
    strategy = TwoTimescale(0.02, 0.1, SGD())
    together, alone = train(Noisy(), strategy), train(Noisy(), strategy, seeds=[3])
    among = train(Noisy(), strategy, seeds=[9, 3])
    assert_run(together, 3, alone, 0, 1e-12)
    assert_run(among, 1, alone, 0, 1e-12)
    quiet = train(Scalar(), strategy)
    assert float((together.body - quiet.body).abs().min()) > 1e-4


def test_a_run_sees_the_rows_of_its_seed(monkeypatch, short_blocks):
    seen = {}
    for seeds in ([0, 1, 2, 3, 4], [3]):
        true = Cohort.step

        def step(self, seeds=seeds, true=true):
            rows = self.sampler.rows(self.state.step).groups["train"]
            seen[len(seeds), self.state.step] = rows.inputs[seeds.index(3)]
            true(self)

        with monkeypatch.context() as patch:
            patch.setattr(Cohort, "step", step)
            train(Smooth(), STRATEGIES["alternating"], 30, seeds=seeds, every=30)
    assert len(seen) == 60
    assert all(torch.equal(seen[5, k], seen[1, k]) for k in range(30))
    assert len({float(seen[1, k][0, 0]) for k in range(30)}) > 10


DIVERGING = {
    "sgd": lambda lr: TwoTimescale(lr, 0.01, SGD()),
    "simultaneous": lambda lr: TwoTimescale(lr, 0.01, SGD(0.5), "simultaneous"),
    "rmsprop": lambda lr: TwoTimescale(0.01, lr),
    "adam": lambda lr: TwoTimescale(0.01, lr, Adam()),
    "best response": lambda lr: BestResponse(lr, optimizer=SGD()),
    "inner sgd": lambda lr: BestResponse(0.02, FastSGD(lr, 3), optimizer=SGD()),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "shared") for name in DIVERGING]
    + [("rmsprop", "redrawn"), ("best response", "redrawn")],
)
def test_one_diverging_run_leaves_the_others_unchanged_bitwise(name, kind):
    """Run 3 of 5, by its step size; its body, where needed, in features that do overflow."""
    rates = torch.full((5,), 0.002, dtype=torch.float64)
    wild = rates.clone()
    wild[2] = 1e308
    problem = Unbounded(redraws_data=kind == "redrawn", fit_bias=True)
    good = train(problem, DIVERGING[name](rates), 20, every=10)
    bad = train(problem, DIVERGING[name](wild), 20, every=10)
    assert good.status == (Status.COMPLETED,) * 5
    assert bad.status == (*good.status[:2], Status.DIVERGED, *good.status[3:])
    for run in (0, 1, 3, 4):
        assert_run(bad, run, good, run, 0.0)
    assert bad.status[2].failed
    assert "smaller step size" in bad.status[2].message
    assert not bad.history["objective"][-1, 2].isfinite()


class Unbounded(Smooth):
    """Features that grow with the body, so that heads solved exactly become non-finite too."""

    def features(self, body, inputs):
        return (inputs @ body["weight"] + body["bias"]) ** 2 / 4


@pytest.mark.parametrize(
    ("number", "code"),
    [(torch.nan, Status.DIVERGED), (1e200, Status.DIVERGED), (1e30, Status.JITTERED)],
)
@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("rows", [23, 3])
def test_a_closed_form_in_trouble_leaves_the_others_unchanged_bitwise(
    number, code, penalised, rows
):
    """`ClosedForm` itself, primal and dual, with one body whose features are lost or all alike."""
    problem = Unbounded()
    problem.groups = {"train": trees.tree_map(lambda x: x[:rows], problem.data()["train"])}
    training = Cohort(Assembly.of(data(problem, 5)), BestResponse(0.1).fitted(problem))
    made, solver = training.state.strategy, bilevel.ClosedForm()
    broken = {key: x.clone() for key, x in made.body.items()}
    broken["weight"][2] = number
    memory, all_rows = made.solver._replace(penalised=penalised), training.sampler.rows(0)
    good, bad = (
        solver.solve(training.oracles, body, made.head, all_rows, memory, 1)
        for body in (made.body, broken)
    )
    others = [0, 1, 3, 4]
    assert torch.equal(good.head[others], bad.head[others])
    assert torch.equal(good.residual[others], bad.residual[others])
    assert bad.status[others].tolist() == good.status[others].tolist() == [Status.CONVERGED] * 4
    assert bad.status[2] == code
    assert bool(bad.head[2].isfinite().all()) == (code is Status.JITTERED)


def data(problem, seeds):
    return bilevel.data.training_data.TrainingData(
        problem, list(range(seeds)), torch.float64, "cpu"
    )


@pytest.mark.parametrize("name", ["rmsprop", "best response, rmsprop"])
def test_memory_is_flat(name, short_blocks):
    """No step keeps anything: as many live tensors after 200 steps as after 20, and no graph."""
    problem = Smooth()
    training = Cohort(Assembly.of(data(problem, 3), 6), STRATEGIES[name].fitted(problem))

    def live():
        gc.collect()
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    def advance(steps):
        for _ in range(steps):
            training.step()
        numbers = [x for x in trees.leaves(training.state.strategy) if isinstance(x, torch.Tensor)]
        assert len(numbers) >= 3
        assert not any(x.requires_grad or x.grad_fn is not None for x in numbers)
        return live()

    before = advance(20)
    assert advance(180) <= before
    assert training.state.step == 200


def test_parameters_that_require_gradients_keep_no_graph():
    """`init_body` may return the `nn.Parameter`s of a module."""

    class Module(Smooth):
        def init_body(self, generator):
            return {k: torch.nn.Parameter(v) for k, v in super().init_body(generator).items()}

    rates = torch.full((5,), 0.01, dtype=torch.float64, requires_grad=True)
    found = train(Module(), TwoTimescale(rates, 0.1), 5)
    state = trees.leaves(found.state.strategy)
    assert not any(x.requires_grad for x in state)
    expected = train(Smooth(), TwoTimescale(rates.detach(), 0.1), 5)
    assert_run(found, 2, expected, 2, 0.0)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(10, 4, [0, 4, 8, 10]), (8, 4, [0, 4, 8]), (3, 100, [0, 3]), (3, 1, [0, 1, 2, 3])],
)
def test_records_at_the_start_every_so_often_and_at_the_end(steps, every, expected):
    called = []
    found = train(
        Smooth(),
        STRATEGIES["adam"],
        steps,
        every=every,
        callback=lambda k, values: called.append((k, values["objective"])),
    )
    assert found.steps.tolist() == [k for k, _ in called] == expected
    assert all(v.shape == (len(expected), 5) for v in found.history.values())
    assert all(v.dtype == torch.float64 for v in found.history.values())
    assert torch.equal(torch.stack([v for _, v in called]), found.history["objective"])


def test_records_are_on_all_rows_in_float64_of_the_state_of_that_step():
    problem = Smooth(fit_bias=True)
    found = train(problem, STRATEGIES["alternating"], 7, every=3, dtype=torch.float32)
    assert found.head.dtype == torch.float32
    last = train(problem, STRATEGIES["alternating"], 3, every=3, dtype=torch.float32)
    for solution, record in ((found, -1), (last, 1)):
        groups = trees.cast(trees.cast(problem.data(), torch.float32), torch.float64)
        for run in range(5):
            body, head = trees.take(solution.body, run), solution.head[run].double()
            value = problem.head_objective(trees.cast(body, torch.float64), head, groups)
            assert float(found.history["objective"][record, run]) == pytest.approx(
                float(value), rel=1e-14
            )
    gap, bound = found.history["head_gap"], found.history["head_bound"]
    assert bool((gap <= bound).all())
    assert bool((gap > 0).all())
    exact = train(problem, STRATEGIES["best response"], 7).history
    assert float(exact["head_gap"].max()) < 1e-13
    torch.testing.assert_close(exact["phi"], exact["objective"], rtol=1e-13, atol=0)


def test_tolerance_stops_runs_and_freezes_them():
    strategy, options = BestResponse(2.0, optimizer=SGD()), {"every": 10, "batch_size": None}
    free = train(Smooth(), strategy, 100, **options)
    norm = free.history["phi_gradient_norm"]
    below = norm <= 0.2 * norm[0]
    when = [int(column.nonzero()[0]) if column.any() else None for column in below.T]
    assert len(set(when)) > 2  # runs stop at different records
    found = train(Smooth(), strategy, 100, tolerance=0.2, **options)
    for run, record in enumerate(when):
        stopped = record is not None
        assert found.status[run] is (Status.CONVERGED if stopped else Status.NOT_STATIONARY)
        end = len(found.steps) if record is None else record + 1
        for name, values in found.history.items():
            assert torch.equal(values[:end, run], free.history[name][:end, run])
            assert torch.equal(values[end:, run], values[end - 1, run].expand(len(values) - end))
        if stopped and record > 0:
            until = train(Smooth(), strategy, 10 * record, **options)
            assert_run(found, run, _at_end(until, found, record), run, 0.0)


def _at_end(until, found, record):
    """`until`, compared on body and head only: its history is shorter."""
    assert until.steps[-1] == found.steps[record]
    until.history.clear()
    return until


def test_training_ends_when_all_runs_have_ended():
    strategy = BestResponse(2.0, optimizer=SGD())
    found = train(Smooth(), strategy, 500, every=10, tolerance=0.75, batch_size=None)
    assert set(found.status) == {Status.CONVERGED}
    assert found.state.step == found.steps[-1] == 20


def test_lemma_4_1_is_solved():
    best = 1.470468517231
    for strategy in (
        TwoTimescale(0.4, 0.5, SGD()),
        TwoTimescale(0.4, 0.5, SGD(), "simultaneous"),
        BestResponse(2.0, optimizer=SGD()),
        BestResponse(2.0, FastSGD(0.4, 5), optimizer=SGD()),
    ):
        found = train(ScalarProduct(), strategy, 250, every=250)
        assert found.body.tolist() == pytest.approx([best] * 5, abs=2e-12)
        assert found.head.tolist() == pytest.approx([best / (best**2 + 1)] * 5, abs=2e-12)
        assert found.history["objective"][-1].tolist() == pytest.approx([0.2662277660168] * 5)
        assert float(found.history["body_error"][-1].max()) < 1e-23


def test_predictions_of_every_run():
    problem = Smooth(fit_bias=True, outputs=2)
    found = train(problem, STRATEGIES["rmsprop"], 3, dtype=torch.float32)
    inputs = doubles(4, 6, D)
    predictions = found.predict(inputs)
    assert predictions.shape == (5, 6, 2)
    for run in range(5):
        one = problem.predict(trees.take(found.body, run), found.head[run], inputs.float())
        torch.testing.assert_close(predictions[run], one)
    numpy = found.predict(inputs.numpy())
    assert torch.equal(numpy, predictions)
    whole = torch.arange(2 * D).reshape(2, D)
    assert torch.equal(found.predict(whole), found.predict(whole.double()))
    with pytest.raises(bilevel.errors.IncompatibleError, match="no `predict`"):
        train(Scalar(), STRATEGIES["rmsprop"], 1).predict(inputs)


def test_all_runs_failing_raises_and_carries_the_solution():
    strategy = TwoTimescale(1e300, 1e300, SGD())
    with pytest.raises(AllRunsFailedError, match=r"All 5 runs failed.*smaller step size") as caught:
        train(Scalar(), strategy, every=10)
    found = train(Scalar(), strategy, every=10, throw=False)
    for solution in (caught.value.solution, found):
        assert solution.status == (Status.DIVERGED,) * 5
        assert solution.steps.tolist() == [0, 10]  # nothing is trained further
        assert solution.history["objective"][0].isfinite().all()
    assert isinstance(caught.value, RuntimeError)
    assert "5 DIVERGED" in str(found)


def test_the_same_call_gives_the_same_bits():
    first, second = (train(Smooth(), RMS, 50) for _ in range(2))
    for run in range(5):
        assert_run(first, run, second, run, 0.0)


RMS = TwoTimescale(0.01, 0.1, RMSProp())
