"""Training loops of the user's own: the numbers of the library's, and no way to spoil them."""

import copy
import dataclasses
import functools
import gc
import pickle
import weakref

import pytest
import torch
from own_loops import ALPHA, BETA, SEEDS, in_place, simultaneous, train
from small_problems import General, Noisy, Smooth, TrueBilevel, sampler

import bilevel
from bilevel import SGD, OwnLoop, RMSProp, Status, TwoTimescale, trees
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import AllRunsFailedError, ArgumentError
from problems.toy import ScalarProduct


def assert_equal(found, expected, rtol=1e-12):
    """Points and records."""
    pairs = zip(
        trees.leaves((found.body, found.head)),
        trees.leaves((expected.body, expected.head)),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)
    assert found.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        torch.testing.assert_close(found.history[name], values, rtol=1e-9, atol=1e-12)


TWO = TwoTimescale(ALPHA, BETA, SGD(), order="simultaneous")
PROBLEMS = {
    "linear head": Smooth,
    "trees": General,
    "redrawn": lambda: Smooth(outputs=2, redraws_data=True),
    "noise, no data": Noisy,
}


@pytest.mark.parametrize("loop", [simultaneous, in_place])
@pytest.mark.parametrize("batch_size", [6, None])
@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_solve_gives_the_numbers_of_the_library(make, batch_size, loop):
    found = train(make(), OwnLoop(loop), 20, batch_size=batch_size)
    assert_equal(found, train(make(), TWO, 20, batch_size=batch_size))
    assert found.status == (Status.COMPLETED,) * 5
    assert (found.history["objective"][-1] != found.history["objective"][0]).all()


def test_rmsprop_of_torch_is_the_rmsprop_of_the_library():
    make = functools.partial(torch.optim.RMSprop, alpha=0.99, eps=1e-8)
    loop = functools.partial(in_place, make=make, alpha=0.002, beta=0.01)
    expected = TwoTimescale(0.002, 0.01, RMSProp(), order="simultaneous")
    assert_equal(train(Smooth(), OwnLoop(loop)), train(Smooth(), expected))


@pytest.mark.parametrize("redraws_data", [False, True])
def test_runs_that_take_turns_have_the_same_numbers(redraws_data):
    problem = Smooth(redraws_data=redraws_data)
    found = train(problem, OwnLoop(in_place), max_runs_at_once=2)
    together = train(problem, OwnLoop(in_place))
    for a, b in zip(trees.leaves(found.body), trees.leaves(together.body), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.head, together.head)


def test_epochs_are_the_rows_of_all_strategies():
    options = {"sampling": "epochs"}
    assert_equal(train(Smooth(), OwnLoop(in_place), **options), train(Smooth(), TWO, **options))


def test_compare_gives_the_numbers_of_the_library():
    strategies = {
        "mine": OwnLoop(in_place),
        "again": OwnLoop(in_place, gradients=2),
        "faster": OwnLoop(functools.partial(in_place, beta=2 * BETA)),
        "two": TWO,
        "two, faster": TwoTimescale(ALPHA, 2 * BETA, SGD(), order="simultaneous"),
    }
    comparison = bilevel.compare(
        Smooth(), strategies, seeds=4, steps=20, every=10, batch_size=6, dtype=torch.float64
    )
    for mine, other in [("mine", "two"), ("again", "two"), ("faster", "two, faster")]:
        assert comparison.status[mine] == ["COMPLETED"] * 4
        for name, values in comparison.history[other].items():
            found = torch.from_numpy(comparison.history[mine][name])
            torch.testing.assert_close(found, torch.from_numpy(values), rtol=1e-9, atol=1e-12)
    assert (comparison.history["mine"]["objective"] != comparison.history["faster"]["objective"])[
        1:
    ].all()
    assert comparison.gradients_per_step["mine"] == 1
    assert comparison.gradients_per_step["again"] == 2
    assert all(seconds > 0 for seconds in comparison.seconds_per_step.values())
    assert "0x" not in "".join(comparison.strategies.values())  # names, no addresses


def test_strategies_of_one_loop_are_stacked_only_if_they_cost_the_same():
    structure = bilevel.core.parts.structure
    assert structure(OwnLoop(in_place)) == structure(OwnLoop(in_place, gradients=1))
    assert structure(OwnLoop(in_place)) != structure(OwnLoop(in_place, gradients=1.5))
    assert structure(OwnLoop(in_place)) != structure(OwnLoop(simultaneous))
    assert OwnLoop(in_place, gradients=1.1).cost == bilevel.Cost(gradients=1.1)


@dataclasses.dataclass(frozen=True)
class Descent:
    """A loop with settings, which must stay plain numbers."""

    alpha: float

    def __call__(self, problem, body, head, batches):
        assert isinstance(self.alpha, float)
        yield from in_place(problem, body, head, batches, alpha=self.alpha)


@pytest.mark.usefixtures("untimed")
def test_numbers_of_a_callable_dataclass_are_left_to_it():
    strategies = {"a": OwnLoop(Descent(ALPHA)), "b": OwnLoop(Descent(2 * ALPHA)), "two": TWO}
    comparison = bilevel.compare(
        Smooth(), strategies, seeds=2, steps=10, batch_size=6, dtype=torch.float64
    )
    a, b, two = (comparison.history[name]["objective"] for name in strategies)
    torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(two))
    assert (a[1:] != b[1:]).all()
    assert comparison.strategies["b"] == "OwnLoop(Descent(alpha=0.04), gradients=1)"


def test_a_state_does_not_change_when_the_loop_goes_on():
    problem, strategy = Smooth(), OwnLoop(in_place)
    rows = sampler(problem, SEEDS, 6, ("train",))
    body = rows.data.initial(problem.init_body, "body")
    head = rows.data.initial(problem.init_head, "head")
    kept = trees.tree_map(torch.clone, (body, head))
    oracles = Oracles(problem)
    states = [strategy.init(oracles, body, head, rows.rows(0))]
    copies = [kept]
    for k in range(3):
        states.append(strategy.step(oracles, states[-1], rows.rows(k), k))
        copies.append(trees.tree_map(torch.clone, (states[-1].body, states[-1].head)))
    for state, expected in zip(states, copies, strict=True):
        assert trees.equal((state.body, state.head), expected)
        assert not any(leaf.requires_grad for leaf in trees.leaves((state.body, state.head)))
    assert trees.equal((body, head), kept)
    assert not trees.equal(copies[1], copies[2])


def test_the_loop_is_given_what_one_run_sees():
    seen = []

    def spy(problem, body, head, batches):
        assert all(leaf.is_leaf and not leaf.requires_grad for leaf in trees.leaves((body, head)))
        for batch in batches:
            assert torch.is_grad_enabled()
            seen.append((batches.seed, batch))
            with torch.no_grad():  # left open while the library works
                yield body, head

    problem = TrueBilevel()
    with torch.no_grad():
        solution = train(problem, OwnLoop(spy), 3, seeds=[5, 2], batch_size={"train": 6})
        assert not torch.is_grad_enabled()
    assert solution.state.step == 3
    assert [seed for seed, _ in seen] == [5, 2] * 3
    rows = sampler(problem, [5, 2], {"train": 6})
    for i, (_, batch) in enumerate(seen):
        expected = rows.rows(i // 2).groups
        assert set(batch) == {"train", "validation"}
        assert trees.equal(batch["train"], trees.take(expected["train"], i % 2))
        assert trees.equal(batch["validation"], expected["validation"])


def test_any_iterator_will_do():
    class Stepper:
        def __init__(self, problem, body, head, batches):
            self.loop = in_place(problem, body, head, batches)

        def __iter__(self):
            return self

        def __next__(self):
            return [*next(self.loop)]

    assert_equal(train(Smooth(), OwnLoop(Stepper)), train(Smooth(), TWO))
    undecorated = train(Smooth(), OwnLoop(lambda *given: simultaneous(*given)))
    assert_equal(undecorated, train(Smooth(), TWO))


def overflowing(problem, body, head, batches):
    """Seed 2 overflows at its third step, and would not survive its own numbers."""
    for k, _ in enumerate(batches):
        assert head.isfinite()
        head = head / (0.0 if batches.seed == 2 and k == 2 else 2.0)
        yield body, head


def test_a_run_that_diverges_is_a_status_and_harms_no_other():
    found = train(ScalarProduct(), OwnLoop(overflowing), 20, seeds=[0, 2, 5])
    assert [s.name for s in found.status] == ["COMPLETED", "DIVERGED", "COMPLETED"]
    alone = train(ScalarProduct(), OwnLoop(overflowing), 20, seeds=[0, 5])
    assert torch.equal(found.head[[0, 2]], alone.head)
    with pytest.raises(AllRunsFailedError):
        train(ScalarProduct(), OwnLoop(overflowing), 20, seeds=[2])


def test_loops_are_closed_with_the_solution():
    closed = []

    def careful(problem, body, head, batches):
        try:
            for _ in batches:
                yield body, head
        finally:
            closed.append(batches.seed)

    solution = train(Smooth(), OwnLoop(careful), 3, seeds=3)
    assert closed == []
    stored = pickle.loads(pickle.dumps(solution.state))
    assert trees.equal(stored.strategy.body, copy.deepcopy(solution.state).strategy.body)
    kept = weakref.ref(solution.state.strategy.loops)
    del solution
    gc.collect()
    assert kept() is None
    assert sorted(closed) == [0, 1, 2]


def test_solutions_are_stored_without_their_loops(tmp_path):
    solution = train(Smooth(), OwnLoop(in_place), 3)
    loaded = bilevel.Solution.load(solution.save(tmp_path / "solution"), Smooth())
    assert trees.equal((loaded.body, loaded.head), (solution.body, solution.head))
    for other in (solution, loaded):
        with pytest.raises(ArgumentError, match="OwnLoop cannot go on from a `state`"):
            train(Smooth(), OwnLoop(in_place), 3, state=other.state)


@pytest.mark.usefixtures("untimed")
def test_compare_takes_the_function_itself_and_keeps_what_is_finished(tmp_path):
    options = {"seeds": 2, "steps": 20, "batch_size": 6, "checkpoint": tmp_path / "kept"}
    first, again = (
        bilevel.compare(Smooth(), {"mine": in_place, "two": TWO}, **options) for _ in range(2)
    )
    assert first.strategies["mine"] == "OwnLoop(in_place, gradients=1)"
    for name in ("mine", "two"):
        for metric, values in first.history[name].items():
            assert (again.history[name][metric] == values).all()


def test_it_says_what_it_cannot_do():
    assert TWO.resumable
    assert not OwnLoop(in_place).resumable
    assert not OwnLoop(in_place).compilable


def test_a_dict_in_another_order_is_the_same_tree():
    def turned(problem, body, head, batches):
        for made, answer in simultaneous(problem, body, head, batches):
            yield {name: made[name] for name in reversed(made)}, answer

    assert_equal(train(Smooth(), OwnLoop(turned)), train(Smooth(), TWO))


def test_names_have_no_addresses():
    assert repr(OwnLoop(in_place)) == "OwnLoop(in_place, gradients=1)"
    partial = functools.partial(in_place, beta=0.5)
    assert repr(OwnLoop(partial, 1.5)) == "OwnLoop(partial(in_place, beta=0.5), gradients=1.5)"
