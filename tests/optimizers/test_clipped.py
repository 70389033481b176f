"""Clipped gradients against torch's own clipping, one run at a time."""

import pytest
import torch
from small_problems import Noisy, Smooth, doubles

import bilevel
from bilevel import SGD, Adam, Clipped, RMSProp, Status, TwoTimescale, trees
from bilevel.errors import ArgumentError
from bilevel.training import compiled as compiled_module
from problems.regression import friedman1

R, STEPS = 3, 40
LIMITS = (0.05, 1.5, 40.0)  # every gradient is clipped, some are, none is
INNER = {
    "sgd": (SGD(), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (SGD(0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "rmsprop": (RMSProp(), lambda p: torch.optim.RMSprop(p, 0.1)),
    "adam": (Adam(), lambda p: torch.optim.Adam(p, 0.1)),
}


def start():
    """Leaves of 0, 1 and 2 dimensions of a run."""
    return {"w": doubles(1, R, 2, 4), "b": doubles(2, R, 4), "c": doubles(3, R)}


def slopes():
    """Gradients of all sizes, from 1e-3 to 10, for every step."""
    for k in range(STEPS):
        size = 10 ** (4 * (k * 7 % STEPS) / STEPS - 3)
        yield {
            name: size * doubles([k, i], *x.shape) for i, (name, x) in enumerate(start().items())
        }


def descend(optimizer):
    parameters = start()
    state, path = optimizer.init(parameters), []
    for slope in slopes():
        parameters, state = optimizer.update(slope, state, parameters, 0.1)
        path.append(parameters)
    return path


@pytest.mark.parametrize("name", INNER)
def test_steps_are_those_of_torch_for_every_run(name):
    inner, make = INNER[name]
    ours = descend(Clipped(torch.tensor(LIMITS, dtype=torch.float64), inner))
    clipped = [0, 0, 0]
    for run, limit in enumerate(LIMITS):
        theirs = {key: x[run].clone() for key, x in start().items()}
        reference = make(list(theirs.values()))
        for k, slope in enumerate(slopes()):
            for key, x in theirs.items():
                x.grad = slope[key][run].clone()
            norm = torch.linalg.vector_norm(torch.cat([x.grad.flatten() for x in theirs.values()]))
            clipped[run] += bool(norm > limit)
            # torch multiplies by min(1, limit / (norm + 1e-6)): this undoes the 1e-6
            exact = float(limit * (norm + 1e-6) / norm)
            torch.nn.utils.clip_grad_norm_(theirs.values(), exact)
            reference.step()
            for key, x in theirs.items():
                torch.testing.assert_close(ours[k][key][run], x, rtol=1e-12, atol=1e-12)
    assert clipped[0] > clipped[1] > clipped[2] == 0


def test_the_stated_difference_from_torch_is_all_there_is():
    double = {"dtype": torch.float64}
    gradient = {
        "w": torch.tensor([[3.0], [0.3]], **double),
        "c": torch.tensor([4.0, 0.4], **double),
    }
    zero = trees.tree_map(torch.zeros_like, gradient)
    ours, _ = Clipped(1.0, SGD()).update(gradient, (), zero, 1.0)
    expected = torch.tensor([1.0, 0.5], **double)
    torch.testing.assert_close(trees.norm(ours), expected, rtol=1e-15, atol=0)
    for run, norm in enumerate((5.0, 0.5)):
        theirs = [torch.zeros(1, **double), torch.zeros((), **double)]
        theirs[0].grad, theirs[1].grad = gradient["w"][run].clone(), gradient["c"][run].clone()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        ratio = norm / (norm + 1e-6) if norm > 1 else 1.0
        torch.testing.assert_close(theirs[0].grad, -ours["w"][run] * ratio, rtol=1e-14, atol=0)
        torch.testing.assert_close(theirs[1].grad, -ours["c"][run] * ratio, rtol=1e-14, atol=0)


def test_shorter_gradients_are_passed_on_bit_for_bit():
    plain, wide = descend(RMSProp()), descend(Clipped(1e9))
    assert all(trees.equal(a, b) for a, b in zip(plain, wide, strict=True))


def test_zero_stays_zero_and_what_is_not_finite_ends_its_run_only():
    x = torch.ones(6, 2)
    slope = torch.tensor(
        [[0.0, 0.0], [30.0, 40.0], [torch.nan, 1.0], [1.0, torch.inf], [3e38, 3e38], [1e-45, 0.0]]
    )
    moved, _ = Clipped(5.0, SGD()).update(slope, (), x, 1.0)
    assert moved[0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(moved[1], torch.tensor([-2.0, -3.0]), rtol=1e-6, atol=0)
    assert moved[2:5].isnan().all()  # the last of them is finite, its norm in float32 is not
    assert moved[5].tolist() == [1.0, 1.0]


def test_large_gradients_that_float32_can_hold_are_clipped():
    slope = torch.full((1, 3), 1e38)
    moved, _ = Clipped(3.0**0.5, SGD()).update(slope, (), torch.zeros(1, 3), 1.0)
    torch.testing.assert_close(moved, -torch.ones(1, 3))


def test_levels_are_clipped_separately():
    """One simultaneous step: each level moves by lr times its limit, whatever the other does."""
    problem = Smooth(groups={"train": bilevel.Batch(50 * doubles(1, 9, 3), 50 * doubles(2, 9))})
    step = TwoTimescale(0.5, 0.25, Clipped(1e-6, SGD()), order="simultaneous")
    options = {"steps": 1, "batch_size": None, "seeds": 2, "dtype": torch.float64}
    solution = bilevel.solve(problem, step, **options)
    begin = bilevel.data.training_data.TrainingData(problem, [0, 1], torch.float64, "cpu")
    for end, level, lr in ((solution.body, "body", 0.5), (solution.head, "head", 0.25)):
        first = begin.initial(getattr(problem, f"init_{level}"), level)
        moved = trees.norm(trees.tree_map(torch.sub, end, first))
        torch.testing.assert_close(moved, torch.full((2,), lr * 1e-6).double(), rtol=1e-7, atol=0)


def test_clipping_keeps_a_run_that_would_diverge():
    problem = friedman1(width=3, train=20, validation=5, test=5)
    settings = {"steps": 200, "batch_size": 7, "seeds": 2, "every": 50}
    with pytest.raises(bilevel.errors.BilevelError):
        bilevel.solve(problem, bilevel.uniform(30.0, SGD()), **settings)
    kept = bilevel.solve(problem, bilevel.uniform(30.0, Clipped(1e-3, SGD())), **settings)
    assert set(kept.status) == {Status.COMPLETED}


def test_a_gradient_that_is_not_finite_is_a_diverged_run():
    class Failing(Noisy):
        """The gradient of every other run is infinite at step 7."""

        def noise(self, generator, steps):
            slopes = super().noise(generator, steps)
            if float(slopes["body"][0]) > 0:
                slopes["body"][7] = torch.inf
            return slopes

    strategy = TwoTimescale(1e-3, 1e-2, Clipped(1.0))
    solution = bilevel.solve(Failing(), strategy, steps=20, seeds=8, dtype=torch.float64)
    smooth = bilevel.solve(Noisy(), strategy, steps=20, seeds=8, dtype=torch.float64)
    assert set(solution.status) == {Status.COMPLETED, Status.DIVERGED}
    fine = torch.tensor([status is Status.COMPLETED for status in solution.status])
    assert torch.equal(solution.body[fine], smooth.body[fine])


@pytest.mark.usefixtures("untimed")
def test_limits_train_side_by_side():
    problem = friedman1(width=3, train=20, validation=5, test=5)
    names = {f"{limit}": TwoTimescale(1e-2, 0.1, Clipped(limit, SGD())) for limit in (0.01, 0.1)}
    settings = {"steps": 30, "batch_size": 7, "seeds": 2, "dtype": torch.float64}
    together = bilevel.compare(problem, names, **settings)
    for name, strategy in names.items():
        alone = bilevel.solve(problem, strategy, **settings)
        found = together.history[name]["test_mse"][-1]
        torch.testing.assert_close(
            torch.as_tensor(found), alone.history["test_mse"][-1], rtol=1e-12, atol=0
        )


@pytest.mark.slow  # a compilation
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_equals_eager(monkeypatch):
    monkeypatch.setattr(compiled_module, "STEPS_PER_CALL", 2)  # two steps show what ten would
    problem = friedman1(width=3, train=20, validation=5, test=5)
    limits = torch.tensor([0.01, 0.1, 10.0])
    strategy = TwoTimescale(5e-3, 5e-2, Clipped(limits))
    settings = {"steps": 100, "batch_size": 7, "seeds": 3, "dtype": torch.float64}
    compiled, eager = (
        bilevel.solve(problem, strategy, compile=flag, **settings) for flag in (True, False)
    )
    for name, values in compiled.body.items():
        torch.testing.assert_close(values, eager.body[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(compiled.head, eager.head, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan"), "short", None])
def test_limits_are_positive(limit):
    with pytest.raises(ArgumentError, match="`max_norm` must be"):
        Clipped(limit)


@pytest.mark.parametrize("inner", [None, "adam", Adam], ids=repr)
def test_the_other_optimizer_is_an_object(inner):
    with pytest.raises(ArgumentError, match="`optimizer` must be an object such as RMSProp"):
        Clipped(1.0, inner)
