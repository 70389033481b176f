"""What a record says, against closed forms: of heads that are not the best response, too."""

import contextlib
import math

import pytest
import torch
from small_problems import Scalar

import bilevel
from bilevel import Status
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.features import Features
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, DataError, IncompatibleError, ProblemError
from bilevel.training.cohort import Cohort
from problems.regression import Network, Regression, friedman1
from problems.toy import ScalarProduct

SGD = bilevel.SGD()


def train(problem, strategy, steps=3, **options):
    settings = {"seeds": 3, "every": 1, "dtype": torch.float64, "throw": False, **options}
    return bilevel.solve(problem, strategy, steps=steps, **settings)


def test_phi_is_taken_at_the_best_response_not_at_the_head():
    problem = ScalarProduct()
    found = train(problem, bilevel.TwoTimescale(0.01, 0.02, SGD))
    w, theta = found.body, found.head
    best = w / (w**2 + 1)
    phi = 1 / (2 * (w**2 + 1)) + 0.05 * w**2
    slope = -w / (w**2 + 1) ** 2 + 0.1 * w
    last = {name: values[-1] for name, values in found.history.items()}
    torch.testing.assert_close(last["phi"], phi, rtol=1e-12, atol=0)
    torch.testing.assert_close(last["head_gap"], (theta - best).abs(), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(last["phi_gradient_norm"], slope.abs(), rtol=1e-10, atol=0)
    assert (last["objective"] > last["phi"] + 1e-6).all()
    assert (last["head_bound"] >= last["head_gap"]).all()


def test_the_gradient_norm_is_projected_onto_the_set_of_bodies():
    class Outside(ScalarProduct):
        body_set = bilevel.Box(2.0, 3.0)  # Phi grows on it: its minimiser there is w = 2

    found = train(Outside(), bilevel.BestResponse(0.5, optimizer=SGD), 60)
    assert (found.body == 2.0).all()
    assert (found.history["phi_gradient_norm"][-1] == 0).all()
    assert bilevel.hypergradient(Outside(), found.body[0]).body > 0.1


def test_a_singular_head_has_no_distance_to_a_best_response():
    problem = friedman1(width=30, train=12, validation=5, test=5, ridge=0.0)
    found = train(problem, bilevel.TwoTimescale(1e-3, 1e-2), batch_size=6)
    for name in ("head_gap", "head_bound", "phi", "phi_gradient_norm"):
        assert found.history[name].isnan().all(), name
    assert found.history["objective"].isfinite().all()
    assert found.status == (Status.COMPLETED,) * 3


class Huge(bilevel.StackelbergProblem):
    """A gradient of 1e25 in float32: its square overflows, and RMSProp's step becomes 0."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.ones(())

    def init_head(self, generator):
        return torch.zeros(())

    def head_objective(self, w, theta, batch):
        return 1e25 * w + 0.5 * theta**2


@pytest.mark.filterwarnings("ignore:All 3 runs are one and the same")
@pytest.mark.parametrize("optimizer", [bilevel.RMSProp(), bilevel.Adam()])
def test_moments_that_overflow_are_a_divergence(optimizer):
    strategy = bilevel.TwoTimescale(0.01, 0.01, optimizer)
    found = train(Huge(), strategy, 3, dtype=torch.float32)
    assert found.status == (Status.DIVERGED,) * 3
    assert train(Huge(), strategy, 3).status == (Status.COMPLETED,) * 3


class Piecewise(bilevel.StackelbergProblem):
    """Quadratic near the origin, linear beyond 5: two random heads see a constant Hessian."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(3, dtype=torch.float64)

    def head_objective(self, w, theta, batch):
        huber = torch.nn.functional.huber_loss(theta, torch.zeros_like(theta), "sum", delta=5.0)
        return huber + 0.05 * (theta - 100 * w).square().sum()


def test_a_piecewise_quadratic_head_is_not_taken_for_a_quadratic_one():
    body = torch.ones((), dtype=torch.float64)
    with pytest.raises(IncompatibleError, match="not quadratic in the head"):
        bilevel.best_response(Piecewise(), body)
    solver = bilevel.FastSGD(0.5, 2000, tolerance=1e-10)
    found = bilevel.best_response(Piecewise(), body, solver)
    assert found.bound_kind == "estimated"
    # beyond 5 the slope of the loss is 5: 5 + 0.1 (theta - 100) = 0
    torch.testing.assert_close(found.head, torch.full((3,), 50.0, dtype=torch.float64))


class Doubled(bilevel.SquaredError):
    def rows(self, predictions, targets):
        return 2 * super().rows(predictions, targets)


@pytest.mark.parametrize("outputs", [None, 2])
def test_a_criterion_that_is_quadratic_with_another_curvature_is_refused(outputs):
    class Wrong(type(friedman1(width=2, train=6, validation=2, test=2))):
        criterion = Doubled()

    good = friedman1(width=2, train=6, validation=2, test=2)
    wrong = Wrong(good.draw, good.network, good.ridge)
    wrong.outputs = outputs
    with pytest.raises(ProblemError, match="promises curvature 1"):
        bilevel.best_response(wrong, good.init_body(torch.Generator()))


class Columns(bilevel.LinearHeadProblem):
    outputs, ridge = 2, 0.1

    def __init__(self, inputs, targets):
        self.rows = bilevel.Batch(inputs, targets)

    def data(self, seed=None):
        return {"train": self.rows}

    def init_body(self, generator):
        return torch.ones(2, 3)

    def init_head(self, generator):
        return torch.zeros(3, 2)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body)


def test_data_that_overflow_the_type_of_the_training_are_refused():
    inputs = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    targets = inputs.clone()
    inputs[4, 1] = 1e39
    with pytest.raises(DataError, match=r"1 values that are NaN or infinite in torch.float32"):
        train(Columns(inputs, targets), bilevel.uniform(0.1), dtype=torch.float32)


def test_one_constant_column_of_targets_is_refused():
    inputs = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    targets = inputs.clone()
    targets[:, 1] = 3.0
    with pytest.raises(DataError, match="of a column are all equal"):
        train(Columns(inputs, targets), bilevel.uniform(0.1))


def test_the_state_of_another_optimiser_is_refused():
    problem = ScalarProduct()
    momentum = train(problem, bilevel.uniform(0.01, bilevel.SGD(0.9)))
    with pytest.raises(ArgumentError, match="another problem, strategy"):
        train(problem, bilevel.uniform(0.01, bilevel.RMSProp()), state=momentum.state)
    assert train(problem, bilevel.uniform(0.02, bilevel.SGD(0.5)), state=momentum.state)


def test_the_residual_is_that_of_the_head_that_is_returned():
    class Boxed(Columns):
        head_set = bilevel.Box(-0.05, 0.05)

    inputs = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    problem = Boxed(inputs, inputs.clone())
    data = TrainingData(problem, [0], torch.float64, "cpu")
    training = Cohort(Assembly.of(data), bilevel.uniform(0.1))
    state, rows = training.state.strategy, training.sampler.rows(0)
    solver, oracles = bilevel.ClosedForm(), training.oracles
    memory = solver.init(oracles, state.body, state.head, rows)
    solved = solver.solve(oracles, state.body, state.head, rows, memory, 0)
    slope = oracles.head_gradient(state.body, solved.head, rows)
    assert int(solved.status) == Status.OUTSIDE_SET
    assert math.isclose(float(solved.residual), float(slope.norm()), rel_tol=1e-10)
    assert float(slope.norm()) > 1e-3


def test_inner_rows_differ_between_body_steps_and_from_the_bodys_rows(monkeypatch):
    problem = friedman1(width=2, train=500, validation=2, test=2)
    data = TrainingData(problem, [0], torch.float64, "cpu")
    solver = bilevel.FastSGD(0.1, steps=2, batch_size=4)
    training = Cohort(Assembly.of(data, 4), bilevel.BestResponse(1e-3, solver).fitted(problem))
    seen, true = [], training.sampler._rows

    def rows_drawn(stream, *which):
        found = true(stream, *which)
        seen.append((stream, tuple(found.flatten().tolist())))
        return found

    monkeypatch.setattr(training.sampler, "_rows", rows_drawn)
    training.advance(5)
    assert [stream for stream, _ in seen].count("head") == 10
    assert len({rows for _, rows in seen}) == 15


@pytest.mark.filterwarnings("ignore:All 3 runs are one and the same")
def test_a_head_that_was_jittered_once_says_so_at_the_end():
    class Fading(bilevel.StackelbergProblem):
        """The head's curvature is w: it vanishes where the body passes 0 and comes back."""

        def data(self, seed=None):
            return {}

        def init_body(self, generator):
            return torch.tensor(2.0, dtype=torch.float64)

        def init_head(self, generator):
            return torch.zeros(2, dtype=torch.float64)

        def head_objective(self, w, theta, batch):
            curvature = torch.stack([torch.ones_like(w), (w - 1) ** 2])
            return 0.5 * (curvature * theta**2).sum() - 0.1 * theta[0] + w

    strategy = bilevel.BestResponse(0.5, optimizer=SGD)  # w: 2, 1.5, 1, 0.5, 0
    found = train(Fading(), strategy, 4)
    assert found.body.tolist() == [0.0] * 3
    assert found.status == (Status.JITTERED,) * 3
    assert train(Fading(), strategy, 1).status == (Status.COMPLETED,) * 3


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_features_that_are_shared_change_no_number(decay, monkeypatch):
    """Bit for bit; with a term in the body alone too."""
    seen = []

    class Counted(Regression):
        def features(self, body, inputs):
            seen.append(len(inputs))
            return super().features(body, inputs)

    def predicted(self, design, head):
        heads.append(head)
        return predictions(self, design, head)

    heads, predictions = [], Features._predictions
    monkeypatch.setattr(Features, "_predictions", predicted)
    problem = Counted(friedman1().draw, Network(5), weight_decay=decay)
    found, counts, times = [], [], []
    for sharing in (Oracles.sharing, lambda oracles: contextlib.nullcontext()):
        monkeypatch.setattr(Oracles, "sharing", sharing)
        data = TrainingData(problem, [0, 1], torch.float32, "cpu")
        made = Cohort(Assembly.of(data, 8), bilevel.TwoTimescale(0.1, 0.1))
        assert len(made.recorder.parts) == 1
        seen.clear()
        heads.clear()
        found.append(made.record())
        counts.append(seen.count(800))
        times.append(len(heads))
    assert set(found[0]) == set(found[1])
    for name, values in found[0].items():
        assert torch.equal(values, found[1][name]), name
    assert counts[0] == counts[1] - 7 == 1  # metrics too
    assert times[0] == 2 < times[1]  # of the head and of the best response


def test_a_callback_cannot_rewrite_the_history():
    """It is given tensors and a dict of its own."""

    def spoil(step, values):
        for tensor in values.values():
            tensor.fill_(step)
            tensor.numpy()[:] = -1
            tensor.resize_(0)
        values.clear()
        values["objective"] = None

    for strategy in (bilevel.TwoTimescale(0.01, 0.1), bilevel.BestResponse(0.01)):
        alone, spoiled = (train(ScalarProduct(), strategy, callback=f) for f in (None, spoil))
        assert list(spoiled.history) == list(alone.history)
        for metric, values in alone.history.items():
            assert torch.equal(values.nan_to_num(7), spoiled.history[metric].nan_to_num(7))
        assert torch.equal(spoiled.body, alone.body)


@pytest.mark.parametrize("rows", [5, 30])
def test_few_rows_that_are_drawn_for_each_seed_are_recorded(rows):
    """Below eight rows the kernel of the rows is factored: it is that of each run's own."""

    class Redrawn(bilevel.LinearHeadProblem):
        redraws_data, ridge = True, 0.1

        def data(self, seed=None):
            source = torch.Generator().manual_seed(seed)
            x = torch.randn(rows, 8, generator=source, dtype=torch.float64)
            return {"train": bilevel.Batch(x, x[:, 0] + 0.1 * x[:, 1])}

        def init_body(self, generator):
            return torch.randn(8, 8, generator=generator, dtype=torch.float64)

        def init_head(self, generator):
            return torch.zeros(8, dtype=torch.float64)

        def features(self, body, inputs):
            return inputs @ body

    both, alone = (
        train(Redrawn(), bilevel.BestResponse(1e-3), seeds=seeds).history for seeds in ([3, 4], [4])
    )
    assert both["head_gap"].max() < 1e-12
    for name in ("phi", "phi_gradient_norm"):
        torch.testing.assert_close(both[name][:, 1:], alone[name], rtol=1e-10, atol=0)


@pytest.mark.parametrize("at_once", [None, 2])
def test_metrics_that_raise_where_a_run_diverged_end_no_other(at_once):
    """Singular values of what is not finite are errors of torch, in all runs of a call."""

    class Singular(Scalar):
        def metrics(self, w, theta, batch):
            return {"length": torch.linalg.svdvals((w * theta).reshape(1, 1))[0]}

    rates = torch.tensor([1e-2, 1e4, 1e-2, 1e4, 1e4], dtype=torch.float64)
    options = {"steps": 8, "every": 2, "dtype": torch.float64, "batch_size": None}
    found = bilevel.solve(
        Singular(), bilevel.uniform(rates, SGD), seeds=5, max_runs_at_once=at_once, **options
    )
    lost = torch.tensor([status == Status.DIVERGED for status in found.status])
    assert lost.tolist() == [False, True, False, True, True]
    length = found.history["length"]
    assert bool(length[-1].isnan().eq(lost).all())
    alone = bilevel.solve(Singular(), bilevel.uniform(1e-2, SGD), seeds=[0, 2], **options)
    assert torch.equal(length[:, [0, 2]], alone.history["length"])

    class Never(Singular):
        def metrics(self, w, theta, batch):
            return {"length": torch.linalg.svdvals((w * torch.nan).reshape(1, 1))[0]}

    with pytest.raises(ProblemError, match="`metrics` of Never must return a dict of 0-dim"):
        bilevel.solve(Never(), bilevel.uniform(rates, SGD), seeds=5, **options)
