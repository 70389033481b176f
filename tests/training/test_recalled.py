"""Compiled calls past the guards: the numbers of guarded ones, and guards wherever they are due."""

import pytest
import torch
from torch._dynamo import lookup_backend

import bilevel
from bilevel import trees
from bilevel.training import compiled as compiled_module
from bilevel.training.compiled import CompiledSteps
from bilevel.training.recalled import Recalled, Seen
from problems.analytic import LogPenalties
from problems.mspbe import Known, NeuralMSPBE, random_process
from problems.mspbe.bodies import Layers
from problems.regression import friedman1
from problems.toy import ScalarProduct

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

STRATEGY = bilevel.TwoTimescale(5e-3, 5e-2, bilevel.SGD(), order="simultaneous")


def as_they_are(graph, examples, config_patches):
    return lookup_backend("eager")(graph, examples)


@pytest.fixture
def guarded(monkeypatch):
    """The steps at which guards were asked; graphs are traced and run as they are."""
    asked = []
    ask = CompiledSteps._guarded

    def noted(self, state, drawn, step):
        asked.append(int(step))
        return ask(self, state, drawn, step)

    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 2)
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: as_they_are)
    monkeypatch.setattr(CompiledSteps, "_guarded", noted)
    return asked


def network(ridge=1e-2):
    return friedman1(width=3, train=20, validation=5, test=5, ridge=ridge)


def both(problem, strategy=STRATEGY, steps=12, **options):
    """The same training compiled and not, to the rounding of another order of sums."""
    options = {"seeds": 3, "batch_size": 7, "every": 6, "dtype": torch.float64, **options}
    made = [
        bilevel.solve(problem(), strategy, steps=steps, compile=c, **options) for c in (True, False)
    ]
    for one, other in zip(*(trees.leaves(x.state.strategy) for x in made), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    return made


def test_guards_are_asked_once_between_two_records(guarded):
    both(network)
    assert guarded == [0, 6]


def test_what_a_callback_changes_is_seen(guarded):
    def changing(made, at):
        def change(k, values):
            if k == 6:
                made.ridge = at

        return change

    heads = []
    for compile, ridge in ((True, 0.5), (False, 0.5), (False, 1e-2)):
        problem = network()
        found = bilevel.solve(problem, STRATEGY, steps=12, every=6, seeds=2, batch_size=7,
                              dtype=torch.float64, compile=compile,
                              callback=changing(problem, ridge))  # fmt: skip
        heads.append(found.head)
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(heads[0], heads[2], rtol=1e-6)


def test_other_types_sizes_and_numbers_of_runs_ask_again(guarded):
    problem = network()
    both(lambda: problem)
    both(lambda: problem, batch_size=5)
    both(lambda: problem, seeds=2)
    single, _ = both_singles(problem)
    assert single.head.dtype == torch.float32
    both(lambda: problem)
    assert guarded == [0, 6] * 5


def both_singles(problem):
    options = {"seeds": 3, "batch_size": 7, "every": 6, "dtype": torch.float32}
    made = [bilevel.solve(problem, STRATEGY, steps=12, compile=c, **options) for c in (True, False)]
    torch.testing.assert_close(made[0].head, made[1].head, rtol=1e-4, atol=1e-5)
    return made


def test_noise_and_schedules_reach_recalled_steps(guarded):
    strategy = bilevel.TwoTimescale(bilevel.Polynomial(0.05, 0.6), 0.2, bilevel.SGD())
    both(lambda: ScalarProduct(noise_scale=0.3), strategy, steps=270, every=270, batch_size=None)
    assert guarded == [0]


@pytest.mark.parametrize(
    ("problem", "gradient"), [(network, None), (LogPenalties, bilevel.Implicit())]
)
def test_exact_heads_are_recalled_beside_what_was_decided_before(problem, gradient, guarded):
    both(problem, bilevel.BestResponse(5e-3, gradient=gradient), batch_size=None)
    assert guarded == [0, 6]


def test_schedules_that_look_at_the_step_are_compiled(guarded):
    body = bilevel.Cosine(0.05, 12, final=0.01, warmup=3)
    head = bilevel.Piecewise(0.2, [4, 9], [0.3, 0.1])
    both(network, bilevel.TwoTimescale(body, head, bilevel.AdamW()))
    assert guarded == [0, 6]


@pytest.mark.parametrize("width", [(3,), (3, 2)])
def test_neural_tdc_is_compiled(width, guarded):
    process = random_process(states=6)
    layers = Layers(process.inputs.shape[1], width)
    problem = NeuralMSPBE(Known(process, "iid", 40), layers)
    both(lambda: problem, bilevel.SingleLoop(0.01, 0.05, 0.1), batch_size=2)
    assert guarded == [0, 6]


def test_what_cannot_be_called_from_cpp_is_called_from_python(guarded, monkeypatch):
    patches = []

    def failing(graph, examples, config_patches):
        patches.append(config_patches)
        if config_patches:
            raise NotImplementedError("no C++ for this operation")
        return graph

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: failing)
    both(network)
    assert patches == [{"cpp_wrapper": True}, {}]
    assert guarded == [0, 0, 6]


def doubles(*shape):
    return torch.ones(shape, dtype=torch.float64)


def twice(x, rate):
    return (x * rate,)


def seen(x, rate, made):
    return [Seen(twice, (x, rate), (made,))]


def test_a_call_is_made_again_with_other_tensors():
    old, kept, rate = doubles(2), doubles(3), doubles(1)
    made = 2 * old
    again = Recalled.of(seen(old, rate, made), (old, kept), rate, (made, kept))
    found = again((made, 3 * kept), 5 * rate)
    assert found[0].tolist() == [10.0] * 2
    assert found[1].tolist() == [3.0] * 3  # what is passed on is that of the new state
    assert old not in again.inputs  # and the old state is not held


@pytest.mark.parametrize(
    "wrong", [doubles(3), doubles(2).float(), doubles(2, 2)[:, 0], doubles(2).requires_grad_()]
)
def test_another_kind_of_tensor_is_not_called_with(wrong):
    old, rate = doubles(2), doubles(1)
    made = 2 * old
    again = Recalled.of(seen(old, rate, made), old, rate, made)
    assert again(wrong, rate) is None
    assert again(made, rate.float()) is None
    assert again(made, rate).tolist() == [2.0] * 2


def test_what_is_no_tensor_must_stay_the_same():
    old, rate = doubles(2), doubles(1)
    made = 2 * old
    again = Recalled.of(seen(old, rate, made), (old, True, 3), rate, (made, True, 3))
    assert again((made, True, 4), rate) is None
    assert again((made, 1, 3), rate) is None
    found, *plain = again((made, True, 3), rate)
    assert (found.tolist(), plain) == ([2.0, 2.0], [True, 3])


def test_what_cannot_be_told_is_not_recalled():
    old, rate = doubles(2), doubles(1)
    made = 2 * old
    calls = seen(old, rate, made)
    assert Recalled.of([], old, rate, made) is None
    assert Recalled.of(calls * 2, old, rate, made) is None
    assert Recalled.of(calls, (old, old), rate, (made, made)) is None  # which of the two?
    assert Recalled.of(calls, (old, 3 * old), rate, (made, made)) is None
    assert Recalled.of(calls, old, rate, 2 * old) is None  # from elsewhere
    assert Recalled.of(calls, old, rate, (made,)) is None
    assert Recalled.of(calls, old[:1].expand(2), rate, made) is None  # the first state differs
    assert Recalled.of(calls, (old, 1), rate, (made, 2)) is None  # a number that moves
