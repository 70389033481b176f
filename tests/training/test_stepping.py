"""Compiled steps: the numbers of eager ones, and few compilations."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch._dynamo.utils import counters

import bilevel
from bilevel.training import compiled as compiled_module
from problems.regression import Regression, friedman1
from problems.toy import ScalarProduct

# torch's own compiler still uses the script compiler that torch deprecates
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

TWO = bilevel.TwoTimescale(5e-3, 5e-2, order="simultaneous")
SGD_DECAYING = bilevel.TwoTimescale(
    bilevel.Polynomial(0.05, 0.6), bilevel.Polynomial(0.2, 0.4), bilevel.SGD()
)
INNER = bilevel.BestResponse(5e-3, solver=bilevel.FastSGD(0.1, steps=2))


@pytest.fixture(autouse=True)
def _few_steps_per_call(monkeypatch):
    # compilation takes as long as a call has steps; two of them show what ten would
    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 2)


def network(ridge=1e-2) -> Regression:
    return friedman1(width=3, train=20, validation=5, test=5, ridge=ridge)


def train(problem, strategy, steps=200, **options):
    return bilevel.solve(
        problem,
        strategy,
        steps=steps,
        batch_size=7,
        seeds=3,
        every=51,
        dtype=torch.float64,
        **options,
    )


def assert_equal(compiled, eager):
    for name, values in compiled.body.items():
        torch.testing.assert_close(values, eager.body[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(compiled.head, eager.head, rtol=1e-10, atol=1e-12)


@pytest.mark.slow  # two compilations; a few steps of one of them are compared below
@pytest.mark.parametrize(
    "strategy",
    # exact heads are compiled in test_exact_stepping
    [TWO, INNER],
    ids=["two-timescale", "best response"],
)
def test_compiled_equals_eager(strategy):
    problem = network()
    assert_equal(train(problem, strategy, compile=True), train(problem, strategy))


@pytest.mark.slow  # two compilations of another optimiser and another order
@pytest.mark.parametrize(
    "strategy",
    [SGD_DECAYING, bilevel.TwoTimescale(1e-3, 1e-2, bilevel.Adam(), head_steps=2)],
    ids=["sgd", "adam"],
)
def test_compiled_equals_eager_for_other_optimisers(strategy):
    problem = network()
    assert_equal(train(problem, strategy, compile=True), train(problem, strategy))


def test_rates_compile_once_and_problems_keep_their_numbers():
    problem, other = network(), network(ridge=0.3)
    counters.clear()
    for rate in (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3):
        compiled = train(
            problem, bilevel.TwoTimescale(rate, 0.05, order="simultaneous"), 4, compile=True
        )
    assert counters["stats"]["unique_graphs"] == 1
    first = train(other, TWO, 20, compile=True)
    assert_equal(first, train(other, TWO, 20))
    again = train(problem, TWO, 20, compile=True)
    assert_equal(again, train(problem, TWO, 20))
    assert not torch.allclose(first.head, again.head)
    assert counters["stats"]["unique_graphs"] == 2
    assert compiled.status == (bilevel.Status.COMPLETED,) * 3


@pytest.mark.slow  # one more compilation
def test_noise_reaches_compiled_steps():
    problem = ScalarProduct(noise_scale=0.3)
    compiled, eager = (
        bilevel.solve(problem, SGD_DECAYING, steps=300, seeds=4, dtype=torch.float64, compile=flag)
        for flag in (True, False)
    )
    torch.testing.assert_close(compiled.body, eager.body, rtol=1e-10, atol=1e-12)


def test_what_decides_on_values_runs_eagerly_and_says_so():
    to_tolerance = bilevel.FastSGD(0.1, steps=5, tolerance=1e-3)
    problem, strategy = network(), bilevel.BestResponse(5e-3, solver=to_tolerance)
    with pytest.warns(UserWarning, match="runs eagerly"):
        compiled = train(problem, strategy, 20, compile=True)
    assert torch.equal(compiled.head, train(problem, strategy, 20).head)


def test_functions_are_forgotten_with_their_problem():
    problem = network()
    made = weakref.ref(compiled_module.compiled_for(problem, "key"))
    assert compiled_module.compiled_for(problem, "key") is made()
    del problem
    gc.collect()
    assert made() is None


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("same", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_a_problem_is_compiled_anew(same):
    problem = ScalarProduct()
    made = compiled_module.compiled_for(problem, "key")
    other = same(problem)
    assert compiled_module.compiled_for(other, "key") is not made
    assert compiled_module.compiled_for(problem, "key") is made


def test_what_cannot_be_compiled_is_an_error_that_names_the_problem():
    class Printing(Regression):
        def features(self, body, inputs):
            torch._dynamo.graph_break()
            return super().features(body, inputs)

    problem = network()
    broken = Printing(problem.draw, problem.network, problem.ridge)
    with pytest.raises(bilevel.errors.ProblemError, match=r"Printing cannot be compiled"):
        train(broken, TWO, 4, compile=True)


def test_records_fall_on_the_same_steps():
    eager = train(network(), TWO, 110)
    assert eager.steps.tolist() == [0, 51, 102, 110]
    rest = train(network(), TWO, 55, state=eager.state)
    assert rest.steps.tolist() == [110, 153, 165]
