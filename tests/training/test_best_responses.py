"""Records of heads without a closed form, against references of other libraries and formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from class_heads import CURVED, Classes, curved, huber_data, slope
from convex_heads import sets, violation
from linear_heads import Given
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression
from small_problems import D, N, Smooth, TrueBilevel, doubles, sampler

import bilevel
from bilevel import SGD, BestResponse, FastSGD, Newton, SingleLoop, Status, TwoTimescale, trees
from bilevel.bounds.heads import Certifier
from bilevel.derivatives.head_point import HeadPoint
from bilevel.errors import ArgumentError
from bilevel.training.best_responses import BestResponses

COLUMNS = {"head_gap", "phi", "phi_gradient_norm", "gradient_gap"}
STRATEGIES = {
    "two": TwoTimescale(0.05, 0.1, SGD()),
    "newton": BestResponse(0.05, Newton(), optimizer=SGD()),
    "inner": BestResponse(0.05, FastSGD(0.5, 400, tolerance=1e-3), optimizer=SGD()),
}
TRUE = STRATEGIES | {"two": SingleLoop(0.05, 0.1, 0.1, SGD())}


def train(problem, strategy, steps=4, **options):
    settings = {"seeds": 2, "batch_size": None, "every": 2, "dtype": torch.float64, **options}
    return bilevel.solve(problem, strategy, steps=steps, **settings)


def last(found, run=0):
    return {name: float(values[-1, run]) for name, values in found.history.items()}


def parts(found, run=0):
    return trees.take(found.body, run), trees.take(found.head, run)


def answer(problem, body, start=None):
    """theta* by scipy's root finder on the slope in NumPy; undetermined sums are zero."""
    shape = tuple(problem.init_head(torch.Generator()).shape)

    def equation(flat):
        return slope(problem, body, torch.from_numpy(flat.reshape(shape))).ravel()

    start = np.zeros(math.prod(shape)) if start is None else start.numpy().ravel()
    found = optimize.root(equation, start, tol=1e-15).x
    assert np.abs(equation(found)).max() < 1e-13
    return torch.from_numpy(found.reshape(shape))


def phi(problem, body, start=None):
    return float(problem.body_objective(body, answer(problem, body, start), problem.data()))


def moved(body, entry, by):
    """The body with one of its numbers moved."""
    flat = trees.flatten(trees.single(body)).clone()
    flat[0, entry] += by
    return trees.take(trees.unflatten(flat, trees.single(body)), 0)


def differences(value, body, step=1e-5):
    """The gradient of a function of the body by central differences."""
    count = trees.flatten(trees.single(body)).shape[1]
    pairs = [(value(moved(body, i, step)), value(moved(body, i, -step))) for i in range(count)]
    return np.array([(up - down) / (2 * step) for up, down in pairs])


class TrueClasses(Classes):
    """F: the loss of the validation rows, and pulls on head and body."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        losses = self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets)
        return losses.mean() + 0.1 * (head**2).sum() + body["bias"].sum()


def problem_of(kind, name):
    criterion, outputs = CURVED[name]
    return kind(criterion=criterion, outputs=outputs, ridge=0.03)


@pytest.mark.parametrize(
    ("name", "strategy"), [*itertools.product(CURVED, ["two", "newton"]), ("softmax", "inner")]
)
@pytest.mark.parametrize("kind", [Classes, TrueClasses])
def test_what_is_recorded_beside_the_best_response(kind, name, strategy):
    """Distance and Phi against scipy, |grad Phi| against differences of heads solved anew."""
    problem = problem_of(kind, name)
    found = train(problem, (STRATEGIES if kind is Classes else TRUE)[strategy])
    assert set(found.history) >= COLUMNS
    values, (body, head) = last(found), parts(found)
    best = answer(problem, body)
    gap = float((head - best).norm())
    assert values["head_gap"] == pytest.approx(gap, rel=1e-8, abs=1e-12)
    assert values["head_gap"] <= values["head_bound"]
    assert values["phi"] == pytest.approx(phi(problem, body), rel=1e-12)
    exact = differences(lambda w: phi(problem, w, best), body)
    assert values["phi_gradient_norm"] == pytest.approx(np.linalg.norm(exact), rel=1e-6)
    if strategy == "newton":
        assert max(values["head_gap"], values["gradient_gap"]) < 1e-9
    elif kind is Classes:  # at a head held fixed

        def held(w):
            return float(problem.head_objective(w, head, problem.data()))

        error = np.linalg.norm(differences(held, body) - exact)
        assert values["gradient_gap"] == pytest.approx(error, rel=1e-5)
    else:
        at = bilevel.hypergradient(problem, body, solver=Given(head)).body
        away = trees.flatten(trees.single(at))[0].numpy() - exact
        assert values["gradient_gap"] == pytest.approx(np.linalg.norm(away), rel=1e-4, abs=1e-8)


def test_heads_in_float32_are_measured_against_the_head_of_scikit_learn():
    problem = curved("logistic", ridge=0.02)
    found = train(problem, TwoTimescale(0.01, 0.1), 6, dtype=torch.float32)
    values, (body, head) = last(found), parts(found)
    rows = problem.data()["train"]
    # what a training in float32 sees of the rows is what its records mean
    inputs = rows.inputs.float().double()
    features = problem.features(trees.cast(body, torch.float64), inputs)
    model = LogisticRegression(C=1 / (0.02 * N), fit_intercept=False, tol=1e-12, max_iter=10_000)
    best = model.fit(features.numpy(), rows.targets.numpy()).coef_[0]
    assert values["head_gap"] == pytest.approx(np.linalg.norm(head.numpy() - best), rel=1e-5)
    margins = (2 * rows.targets.numpy() - 1) * (features.numpy() @ best)
    assert values["phi"] == pytest.approx(
        np.logaddexp(0, -margins).mean() + 0.01 * best @ best, rel=1e-9
    )


class Exponential(bilevel.StackelbergProblem):
    """g = sum (theta - w)^2 / 2 + c exp(theta): theta* = w - W(c exp(w)), Lambert's function."""

    c, quantity = 0.3, 5

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.randn(self.quantity, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return {"a": torch.zeros(2).double(), "b": torch.zeros(self.quantity - 2).double()}

    def head_objective(self, body, head, batch):
        theta = torch.cat([head["a"], head["b"]])
        return 0.5 * (theta - body).square().sum() + self.c * theta.exp().sum()

    def answered(self, body):
        w = np.asarray(body)
        return w - special.lambertw(self.c * np.exp(w)).real


class TrueExponential(Exponential):
    def body_objective(self, body, head, batch):
        return torch.cat([head["a"], head["b"]]).sin().sum() + 0.5 * body.square().sum()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", [Exponential, TrueExponential])
def test_a_general_strongly_convex_head_is_measured_too(kind, strategy):
    problem = kind()
    found = train(problem, (STRATEGIES if kind is Exponential else TRUE)[strategy])
    values, (body, head) = last(found, 1), parts(found, 1)
    best = problem.answered(body)
    theta, w = np.concatenate([head["a"], head["b"]]), body.numpy()
    assert values["head_gap"] == pytest.approx(np.linalg.norm(theta - best), rel=1e-8, abs=1e-12)
    lifted = problem.c * np.exp(best)
    if kind is Exponential:
        value, gradient = 0.5 * ((best - w) ** 2).sum() + lifted.sum(), w - best
    else:
        value = np.sin(best).sum() + 0.5 * w @ w
        gradient = np.cos(best) / (1 + lifted) + w
    assert values["phi"] == pytest.approx(value, rel=1e-12)
    assert values["phi_gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-10)


def responses(problem, seeds=(0, 1)):
    """How best responses are found, with a point to try it at."""
    rows = sampler(problem, seeds).full
    drawn = sampler(problem, seeds)
    body = drawn.data.initial(problem.init_body, "body")
    head = problem.head_set.project(drawn.data.initial(problem.init_head, "head"))
    oracles = bilevel.derivatives.oracles.Oracles(problem)
    certifier = Certifier.for_problem(HeadPoint(oracles, body, head, rows))
    return BestResponses.for_problem(certifier, body, head, rows), (body, head, rows)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_best_response_is_right_to_rounding_whatever_the_units(scale):
    """Residuals of the NumPy formulas, in units of the targets, over the ridge."""
    groups = huber_data(3)
    train_rows = groups["train"]._replace(targets=scale * groups["train"].targets)
    problem = Classes(
        criterion=bilevel.HuberLoss(0.5 * scale), ridge=1e-3, groups={"train": train_rows}
    )
    found, (body, head, rows) = responses(problem)
    best = found.solve(None, body, head, rows).head
    for run in range(2):
        left = slope(problem, trees.take(body, run), best[run])
        assert np.linalg.norm(left) / 1e-3 <= 1e-10 * float(best[run].norm())


@pytest.mark.parametrize("name", sets())
@pytest.mark.parametrize("criterion", ["squared error", "logistic"])
def test_heads_in_a_set_are_measured_against_the_minimiser_there(name, criterion):
    curves = criterion == "logistic"
    problem = curved("logistic") if curves else Smooth(ridge=0.03)
    problem.head_set = sets()[name]
    found, (body, head, rows) = responses(problem)
    best = found.solve(None, body, head, rows).head
    assert bool(best.isfinite().all())
    for run in range(2):
        one = trees.take(body, run)
        if curves:
            left = slope(problem, one, best[run])
        else:
            z = problem.features(one, problem.data()["train"].inputs).numpy()
            left = z.T @ (z @ best[run].numpy() - problem.data()["train"].targets.numpy()) / N
            left += 0.03 * best[run].numpy()
        assert violation(name, best[run].numpy(), left) <= 1e-12
    recorded = last(train(problem, TwoTimescale(0.05, 0.1, SGD())))
    assert 0 < recorded["head_gap"] <= recorded["head_bound"]
    assert recorded["phi"] < recorded["objective"]
    assert recorded["phi_gradient_norm"] > 0


def test_separated_classes_have_no_best_response():
    problem = curved("logistic", ridge=0.0)
    inputs = doubles(5, N, D)
    far = problem.features(problem.init_body(torch.Generator().manual_seed(0)), inputs)[:, 0] > 0
    problem.groups = {"train": bilevel.Batch(inputs, far.long())}
    found = train(problem, TwoTimescale(1e-9, 1e-3, SGD()), seeds=[0])
    for name in COLUMNS:
        assert found.history[name].isnan().all(), name
    assert found.history["objective"].isfinite().all()


class Waves(bilevel.StackelbergProblem):
    """g is not convex in the head."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.ones(3).double()

    def init_head(self, generator):
        return torch.zeros(3).double()

    def head_objective(self, body, head, batch):
        return (head - body).square().sum() + 4 * (3 * head).cos().sum()


class Wide(Exponential):
    quantity = 1100


class Batched(Smooth):
    head_set, chunk_rows = bilevel.Box(-0.05, 0.05), 5


class TrueBall(TrueBilevel):
    head_set = bilevel.Ball(0.5)


@pytest.mark.parametrize("problem", [Waves(), Wide(), Batched(), TrueBall()])
def test_tolerance_is_refused_where_the_gradient_is_not_recorded(problem):
    def standing(problem, body, head, batches):
        for _ in batches:
            yield body, head

    strategy = bilevel.OwnLoop(standing)
    found = train(problem, strategy, 1)
    assert "phi_gradient_norm" not in found.history
    with pytest.raises(ArgumentError, match=r"`tolerance` needs \|grad Phi\|"):
        train(problem, strategy, 1, tolerance=0.1)


CASES = {
    "logistic": (curved("logistic"), STRATEGIES["newton"], 0.83),
    "true softmax": (problem_of(TrueClasses, "softmax"), STRATEGIES["newton"], 0.9),
    "exponential": (Exponential(), STRATEGIES["newton"], 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_tolerance_stops_runs_without_a_closed_form(case):
    problem, strategy, tolerance = CASES[case]
    free = train(problem, strategy, 60, every=10, seeds=3)
    norm = free.history["phi_gradient_norm"]
    below = norm <= tolerance * norm[0]
    found = train(problem, strategy, 60, every=10, seeds=3, tolerance=tolerance)
    assert below.any()
    assert not below.any(0).all()
    for run, column in enumerate(below.T):
        arrived = bool(column.any())
        assert found.status[run] is (Status.CONVERGED if arrived else Status.NOT_STATIONARY)
        if arrived:
            record = int(column.nonzero()[0])
            end = found.history["phi_gradient_norm"][-1, run]
            assert float(end) == pytest.approx(float(norm[record, run]), rel=1e-10)


@pytest.mark.parametrize(
    ("solver", "code"),
    [(bilevel.ClosedForm(), Status.OUTSIDE_SET), (FastSGD(1e-3, 2, tolerance=1e-12),
                                                  Status.NOT_CONVERGED)],
)  # fmt: skip
def test_a_small_gradient_does_not_hide_what_a_head_was(solver, code):
    """|grad Phi| is taken at the best response: it says nothing of the head of the run."""
    problem = Smooth()
    problem.head_set = bilevel.Box(-0.05, 0.05)
    found = train(problem, BestResponse(0.05, solver), 20, every=5, tolerance=0.9)
    assert found.state.codes.tolist() == [Status.CONVERGED] * 2
    assert found.status == (code,) * 2
    exact = train(problem, BestResponse(0.05), 20, every=5, tolerance=0.9)
    assert exact.status == (Status.CONVERGED,) * 2


def test_a_run_that_oscillates_does_not_end_as_completed():
    problem = Exponential()
    found = train(problem, BestResponse(2.5, Newton(), optimizer=SGD()), 30, tolerance=1e-3)
    norm = found.history["phi_gradient_norm"]
    assert (norm[-1] > 1e-3 * norm[0]).all()
    assert found.status == (Status.NOT_STATIONARY,) * 2
    message = found.status[0].message
    assert not found.status[0].failed
    assert "`body_lr`" in message
    assert "`steps`" in message
    assert message in repr(found)
    free = train(problem, BestResponse(2.5, Newton(), optimizer=SGD()), 30)
    assert free.status == (Status.COMPLETED,) * 2
