"""Compiled steps with exact heads: the numbers of eager ones, also where a jitter is needed."""

import pytest
import torch
from drawn_heads import Drawn, Held
from small_problems import General, Smooth, TrueBilevel, doubles, supervised

import bilevel
from bilevel.core.status import Status
from bilevel.data.sampler import Sampler
from bilevel.linear import systems
from bilevel.linear.cholesky import factorise, known
from bilevel.training import compiled as compiled_module
from problems.analytic import FeatureRegression, LogPenalties
from problems.regression import friedman1

# torch's own compiler still uses what torch deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch._prims_common.check:FutureWarning"),
]

STEPS, N = 200, 13


def train(problem, strategy, size=7, **options):
    return bilevel.solve(
        problem,
        strategy,
        steps=STEPS,
        batch_size=size,
        seeds=3,
        every=50,
        dtype=torch.float64,
        **options,
    )


def assert_equal(compiled, eager):
    pairs = zip(
        bilevel.trees.leaves(compiled.state.strategy),
        bilevel.trees.leaves(eager.state.strategy),
        strict=True,
    )
    for one, other in pairs:
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        else:
            assert one == other
    assert compiled.status == eager.status


class DeadBand(bilevel.LinearHeadProblem):
    """Features [x_1, relu(|w| - 0.2) x_2] without a ridge: singular while |w| <= 0.2.

    h(w) = (w + 1)^2 / 2 pulls every body to -1: from starts at +1 through the band.
    """

    def data(self, seed=None):
        x = doubles(1, N, 2)
        return {"train": bilevel.Batch(x, x @ torch.tensor([1.0, 2.0]).double() + doubles(2, N))}

    def init_body(self, generator):
        side = torch.rand((), generator=generator, dtype=torch.float64) < 0.5
        return torch.where(side, 1.0, -1.0).double()

    def init_head(self, generator):
        return torch.zeros(2, dtype=torch.float64)

    def features(self, body, inputs):
        band = torch.relu(body.abs() - 0.2)
        return torch.stack([inputs[:, 0], band * inputs[:, 1]], dim=1)

    def body_penalty(self, body):
        return 0.5 * (body + 1) ** 2


@pytest.fixture
def not_compiled(monkeypatch):
    """What would be compiled runs as it is, with the factorisation of compiled code."""
    inside = []
    make = compiled_module.CompiledSteps.__init__

    def two_steps_at_once(self, *arguments):
        make(self, *arguments)
        assert self.at_once == 1
        self.at_once = 2

    def steps(*arguments):
        inside.append(1)
        try:
            return compiled_module._steps(*arguments)
        finally:
            inside.pop()

    monkeypatch.setattr(compiled_module.CompiledSteps, "__init__", two_steps_at_once)
    monkeypatch.setattr(compiled_module, "compiled_for", lambda problem, key, in_cpp: steps)

    def as_compiled(function):
        def called(*arguments):
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: bool(inside))
                return function(*arguments)

        return called

    for function in (factorise, known):
        monkeypatch.setattr(systems, function.__name__, as_compiled(function))


def check_the_band(monkeypatch):
    """Runs are repeated eagerly while one is in the band, and compiled before and after."""
    problem, strategy = DeadBand(), bilevel.BestResponse(0.05, optimizer=bilevel.SGD())
    eager = train(problem, strategy)
    assert bool((eager.body < -0.9).all())  # every run has passed the band, or began behind it
    repeated, rows = [], Sampler.rows
    monkeypatch.setattr(Sampler, "rows", lambda self, k: repeated.append(k) or rows(self, k))
    compiled = train(problem, strategy, compile=True)
    assert_equal(compiled, eager)
    assert set(compiled.status) == {Status.JITTERED, Status.COMPLETED}
    repeated = sorted(set(repeated) - {0})  # training begins with a look at the rows of step 0
    assert repeated[0] > 4
    assert 4 <= len(repeated) < STEPS / 4
    assert compiled.state.strategy.codes.max() == Status.JITTERED


def test_calls_that_need_a_jitter_are_repeated_eagerly(not_compiled, monkeypatch):
    check_the_band(monkeypatch)


@pytest.mark.slow  # a compilation of what the test above has as it is
def test_a_compiled_run_that_needs_a_jitter_gets_the_eager_numbers(monkeypatch):
    check_the_band(monkeypatch)


def network():
    # without a ridge worth its name gradients nearly vanish, and RMSProp makes steps of rounding
    return friedman1(width=3, train=20, validation=5, test=5, ridge=0.1)


def few_rows():
    """Three rows and four features, all penalised: the dual form."""
    return Smooth(groups={"train": supervised(3, 3)})


EXACT = {
    "primal": (network, bilevel.FullData(), 7),
    "dual": (few_rows, bilevel.FullData(), 7),
    "batch": (network, bilevel.BatchData(), 7),
    "dual batch": (Smooth, bilevel.BatchData(), 3),
    "running": (network, bilevel.RunningData(decay=0.9), 7),
    "general head": (lambda: General(power=2), bilevel.FullData(), 7),
    "prior": (lambda: Drawn("squared, outputs", "penalised"), bilevel.FullData(), 7),
    "dual prior": (lambda: Drawn("squared, outputs", n=3), bilevel.FullData(), 7),
}


@pytest.mark.slow  # a compilation each
@pytest.mark.parametrize("case", EXACT)
def test_compiled_equals_eager(case):
    make, data, size = EXACT[case]
    problem, strategy = make(), bilevel.BestResponse(5e-3, bilevel.ClosedForm(data))
    compiled = train(problem, strategy, size, compile=True)
    assert_equal(compiled, train(problem, strategy, size))


IMPLICIT = {
    "body-free features": LogPenalties,
    "features": lambda: FeatureRegression(train=23, features=4, validation=11),
    "general head": lambda: TrueBilevel(power=2),
    "prior": lambda: Held("squared, outputs", "free"),
}


@pytest.mark.slow  # a compilation each
@pytest.mark.parametrize("name", IMPLICIT)
def test_compiled_implicit_gradients_equal_eager_ones(name):
    problem, strategy = IMPLICIT[name](), bilevel.BestResponse(5e-3)
    compiled = train(problem, strategy, compile=True)
    assert_equal(compiled, train(problem, strategy))


@pytest.mark.slow  # a compilation
def test_compiled_penalty_methods_equal_eager_ones():
    problem = Held("squared, outputs", "free")
    method = bilevel.PenaltyMethod(100.0, 4)
    strategy = bilevel.BestResponse(5e-3, gradient=method, optimizer=bilevel.SGD())
    assert_equal(train(problem, strategy, compile=True), train(problem, strategy))


def test_implicit_gradients_compile_with_the_factor_of_an_exact_head():
    for solver, gradient, compiles in (
        (None, None, True),
        (bilevel.ClosedForm(bilevel.BatchData()), None, True),
        (bilevel.ClosedForm(bilevel.RunningData()), None, False),
        (None, bilevel.Implicit(bilevel.CG()), False),
        (None, bilevel.Implicit(on_inexact="refine"), False),
    ):
        strategy = bilevel.BestResponse(5e-3, solver, gradient).fitted(LogPenalties())
        assert strategy.compilable is compiles
