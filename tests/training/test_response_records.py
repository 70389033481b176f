"""Which records hold the best response, and that going on or taking turns changes no number."""

import numpy as np
import pytest
import torch
from class_heads import Classes, curved
from scipy import optimize
from small_problems import Smooth, sampler

import bilevel
from bilevel import BestResponse, Newton, TwoTimescale
from bilevel.bounds.heads import Certifier
from bilevel.comparison.statistics.values import last_values
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.training import best_responses
from problems.classification import digits
from problems.regression import friedman1

COLUMNS = ("head_gap", "phi", "phi_gradient_norm", "gradient_gap")
STRATEGIES = {
    "two": TwoTimescale(0.02, 0.1),
    "newton": BestResponse(0.02, Newton()),
    "single": bilevel.SingleLoop(0.02, 0.1, 0.1),
}


class TrueClasses(Classes):
    """F: the loss of the validation rows."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets).mean()


def problem_of(strategy):
    kind = TrueClasses if strategy == "single" else Classes
    return kind(criterion=bilevel.LogisticLoss(), ridge=0.03)


def train(problem, strategy, steps=6, **options):
    settings = {"seeds": 3, "batch_size": 6, "every": 2, "dtype": torch.float64, **options}
    return bilevel.solve(problem, strategy, steps=steps, **settings)


@pytest.fixture
def dear(monkeypatch):
    """As if every best response cost too much for each record."""
    monkeypatch.setattr(best_responses, "DEAR", 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_records_of_a_training_that_goes_on_have_the_same_bits(strategy, dtype):
    """A record depends on the point, not on the records before it."""
    problem, method = problem_of(strategy), STRATEGIES[strategy]
    whole = train(problem, method, 6, dtype=dtype)
    first = train(problem, method, 4, dtype=dtype)
    second = train(problem, method, 2, dtype=dtype, state=first.state)
    for name, values in whole.history.items():
        assert torch.equal(torch.cat([first.history[name], second.history[name][1:]]), values), name
    assert set(COLUMNS) <= set(whole.history)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_runs_together_in_turns_and_alone_are_measured_alike(strategy):
    problem, method = problem_of(strategy), STRATEGIES[strategy]
    whole = train(problem, method)
    turns = train(problem, method, max_runs_at_once=2)
    alone = [train(problem, method, seeds=[run]) for run in range(3)]
    for name in COLUMNS:
        exact = method is STRATEGIES["newton"] and name in ("head_gap", "gradient_gap")
        options = {"rtol": 1e-8, "atol": 1e-10} if exact else {"rtol": 1e-9, "atol": 1e-12}
        torch.testing.assert_close(turns.history[name], whole.history[name], **options)
        for run in range(3):
            values = alone[run].history[name][:, 0]
            torch.testing.assert_close(values, whole.history[name][:, run], **options)


def test_dear_best_responses_are_in_some_records(dear):
    problem, method = curved("logistic"), STRATEGIES["two"]
    found = train(problem, method, 50, every=1)
    held = found.history["phi"].isfinite()
    assert held[:, 0].nonzero().flatten().tolist() == list(range(0, 51, 10))
    for name in COLUMNS:
        assert torch.equal(found.history[name].isfinite(), held), name
    short = train(problem, method, 5, every=1)
    assert short.history["phi"].isfinite().all()
    odd = train(problem, method, 52, every=1).history["phi"][:, 0]
    assert odd.isfinite().nonzero().flatten().tolist() == [*range(0, 53, 11), 52]
    assert found.history["objective"].isfinite().all()
    for other in (found.history["head_bound"], found.history["test_accuracy"]):
        assert other.isfinite().all()


def test_the_last_record_holds_dear_best_responses_too(dear):
    found = train(curved("logistic"), STRATEGIES["two"], 51, every=1).history["phi"][:, 0]
    assert found.isfinite().nonzero().flatten().tolist() == [*range(0, 51, 11), 51]


def test_with_a_tolerance_every_record_holds_them(dear):
    found = train(curved("logistic"), STRATEGIES["two"], 30, every=1, tolerance=1e-9)
    assert found.history["phi_gradient_norm"].isfinite().all()
    assert set(found.status) == {bilevel.Status.NOT_STATIONARY}


def test_what_costs_little_is_in_every_record():
    for problem in (curved("logistic"), Smooth()):
        found = train(problem, STRATEGIES["two"], 50, every=1)
        assert found.history["phi"].isfinite().all()


def test_what_costs_too_much_is_in_none(monkeypatch):
    monkeypatch.setattr(best_responses, "TOO_DEAR", 0.0)
    found = train(curved("logistic"), STRATEGIES["two"])
    assert not set(COLUMNS) & set(found.history)
    assert set(COLUMNS) <= set(train(Smooth(), STRATEGIES["two"]).history)


def test_digits_are_measured_in_some_records():
    """The sizes decide: softmax heads of real images are dear, small regressions are not."""
    strategy = TwoTimescale(1e-3, 1e-2)
    found = bilevel.solve(digits(width=12), strategy, steps=24, seeds=1, every=1)
    held = found.history["phi"][:, 0].isfinite().nonzero().flatten().tolist()
    assert held == [*range(0, 24, 5), 24]
    cheap = bilevel.solve(friedman1(width=12), strategy, steps=24, seeds=1, every=1)
    assert cheap.history["phi"].isfinite().all()


@pytest.mark.usefixtures("untimed", "unrendered")
def test_an_interrupted_comparison_goes_on_with_the_same_records(tmp_path, dear):
    problem = curved("logistic")
    pair = {"two": STRATEGIES["two"], "newton": STRATEGIES["newton"]}
    options = {"seeds": 2, "steps": 25, "every": 1, "batch_size": 6}
    whole = bilevel.compare(problem, pair, **options)
    seen = []

    def pressed(progress):
        seen.append(progress)
        if len(seen) == 33:  # in the second strategy
            raise KeyboardInterrupt

    folder = tmp_path / "kept"
    bilevel.compare(problem, pair, **options, checkpoint=folder, callback=pressed)
    again = bilevel.compare(problem, pair, **options, checkpoint=folder)
    for key, table in whole.history.items():
        for name, values in table.items():
            np.testing.assert_array_equal(again.history[key][name], values, err_msg=name)
    phi = whole.history["two"]["phi"][:, 0]
    assert np.flatnonzero(np.isfinite(phi)).tolist() == [*range(0, 25, 5), 25]
    assert np.isfinite(last_values(whole.history["two"], "phi")).all()
    # curves go through the records that know it
    line = whole.plot("phi").axes[0].lines[0]
    assert np.isfinite(line.get_ydata()).all()
    assert line.get_xdata().tolist() == [*range(0, 25, 5), 25]
    assert "<svg" in whole.report(tmp_path / "report").read_text("utf-8")


class Flat(bilevel.StackelbergProblem):
    """A head of which one number is in F alone: no answer is the best response."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.randn((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(2, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * head[0] ** 2 + torch.nn.functional.softplus(head[0]) + body**2

    def body_objective(self, body, head, batch):
        return (head[1] - body) ** 2 + head[0] ** 2


@pytest.mark.parametrize("start", [0.3, None])
def test_no_best_response_is_unique_where_the_hessian_is_singular(start):
    """At the very minimiser too, where Newton's method has nothing to do."""
    rows = sampler(Flat()).full
    root = optimize.brentq(lambda t: t + 1 / (1 + np.exp(-t)), -1, 0, xtol=1e-16)
    head = torch.tensor([[root if start is None else start, 1.0]], dtype=torch.float64)
    body = torch.ones(1, dtype=torch.float64)
    certifier = Certifier(Oracles(Flat()), "estimated", "local", "")
    found = best_responses.BestResponses(certifier, "newton").solve(None, body, head, rows)
    assert found.head.isnan().all()


class Cubic(Flat):
    """g is quadratic for heads below 3 only."""

    def head_objective(self, body, head, batch):
        return 0.5 * (head - body).square().sum() + torch.relu(head - 3).pow(3).sum()

    def body_objective(self, body, head, batch):
        return head.square().sum()


def test_runs_whose_heads_prove_not_quadratic_are_found_by_newton_steps(monkeypatch):
    """theta + 3 (theta - 3)^2 = w beyond 3; two random heads see a constant Hessian."""
    body = torch.tensor([1.0, 7.0], dtype=torch.float64)
    head, rows = torch.zeros(2, 2).double(), sampler(Cubic(), (0, 1)).full
    oracles = Oracles(Cubic())
    certifier = Certifier.for_problem(HeadPoint(oracles, body / 7, head, rows))
    found = best_responses.BestResponses.for_problem(certifier, body / 7, head, rows)
    system = certifier.system(HeadPoint(oracles, body, head, rows))
    solved = certifier.best_response(system, head)
    # the certifier does not give what its gradients contradict
    spoiled = torch.stack([solved[0], torch.full_like(solved[1], torch.nan)])
    monkeypatch.setattr(Certifier, "best_response", lambda *_: spoiled)
    best = found.solve(system, body, head, rows)
    root = optimize.brentq(lambda t: t - 7 + 3 * max(t - 3, 0) ** 2, 3, 7, xtol=1e-15)
    assert found.way == "system"
    expected = torch.tensor([[1.0, 1.0], [root, root]], dtype=torch.float64)
    torch.testing.assert_close(best.head, expected, rtol=1e-12, atol=0)
