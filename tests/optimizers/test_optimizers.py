"""Optimisers against torch.optim, and step sizes per run against separate runs."""

import pytest
import torch
from small_problems import doubles

from bilevel import SGD, Adam, AdamW, Clipped, RMSProp, trees
from bilevel.errors import ArgumentError

STEPS, LONG, R = 25, 100, 3
RATES = (0.03, 0.2, 1e-3)
REFERENCES = {
    "sgd": (SGD(), lambda p, lr: torch.optim.SGD(p, lr)),
    "momentum": (SGD(0.9), lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)),
    "rmsprop": (RMSProp(), lambda p, lr: torch.optim.RMSprop(p, lr)),
    "rmsprop, own numbers": (
        RMSProp(smoothing=0.7, eps=1e-2),
        lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.7, eps=1e-2),
    ),
    "adam": (Adam(), lambda p, lr: torch.optim.Adam(p, lr)),
    "adam, own numbers": (
        Adam(beta1=0.5, beta2=0.9, eps=1e-2),
        lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.9), eps=1e-2),
    ),
    "adamw": (AdamW(), lambda p, lr: torch.optim.AdamW(p, lr)),
    "adamw, own numbers": (
        AdamW(beta1=0.5, beta2=0.9, eps=1e-2, weight_decay=0.3),
        lambda p, lr: torch.optim.AdamW(p, lr, betas=(0.5, 0.9), eps=1e-2, weight_decay=0.3),
    ),
}
OPTIMIZERS = {name: optimizer for name, (optimizer, _) in REFERENCES.items()} | {
    "clipped": Clipped(0.7),
    "clipped, momentum": Clipped(2.0, SGD(0.9)),
}


def start():
    """Leaves of 0, 1 and 2 dimensions of a run."""
    return {"w": doubles(1, R, 2, 4), "b": doubles(2, R, 4), "c": doubles(3, R)}


def gradient(parameters, k):
    """The gradient of functions with a minimum, others at every step and entry; one is 0."""
    slope = {
        name: torch.sin(3 * x) + x * doubles([k, i], *x.shape).abs()
        for i, (name, x) in enumerate(parameters.items())
    }
    slope["b"][:, 0] = 0.0
    return slope


def descend(optimizer, lr, pick=slice(None), steps=STEPS):
    parameters = trees.take(start(), pick)
    state, path = optimizer.init(parameters), []
    for k in range(steps):
        slope = trees.take(gradient(_full(parameters, pick), k), pick)
        parameters, state = optimizer.update(slope, state, parameters, lr)
        path.append(parameters)
    return path


def _full(parameters, pick):
    """Some runs among all R, so that `gradient` sees the same shapes and numbers for them."""
    everything = start()
    for name, leaf in parameters.items():
        everything[name][pick] = leaf
    return everything


@pytest.mark.parametrize("name", REFERENCES)
def test_steps_are_those_of_torch(name):
    optimizer, make = REFERENCES[name]
    ours = descend(optimizer, torch.tensor(RATES, dtype=torch.float64), steps=LONG)
    for run, lr in enumerate(RATES):  # torch has no step size per run: one optimiser for each
        theirs = {key: x[run].clone() for key, x in start().items()}
        reference = make(list(theirs.values()), lr)
        for k in range(LONG):
            everything = _full({key: x.unsqueeze(0) for key, x in theirs.items()}, [run])
            slope = trees.take(gradient(everything, k), run)
            for key, x in theirs.items():
                x.grad = slope[key]
            reference.step()
            for key, x in theirs.items():
                torch.testing.assert_close(ours[k][key][run], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_size_per_run_is_separate_runs(name):
    optimizer = OPTIMIZERS[name]
    together = descend(optimizer, torch.tensor(RATES, dtype=torch.float64))[-1]
    assert not torch.equal(together["w"][0], together["w"][1])
    for run, lr in enumerate(RATES):
        alone = descend(optimizer, lr, slice(run, run + 1))[-1]
        for key, x in together.items():
            torch.testing.assert_close(x[run : run + 1], alone[key], rtol=1e-13, atol=1e-15)


PER_RUN = {
    "momentum": (lambda m: SGD(m), [(0.0,), (0.5,), (0.9,)]),
    "rmsprop": (
        lambda s, e: RMSProp(smoothing=s, eps=e),
        [(0.0, 1e-8), (0.9, 1e-3), (0.99, 1.0)],
    ),
    "adam": (
        lambda a, b, e: Adam(beta1=a, beta2=b, eps=e),
        [(0.0, 0.0, 1e-8), (0.9, 0.999, 1e-3), (0.5, 0.9, 1.0)],
    ),
    "adamw": (
        lambda e, d: AdamW(eps=e, weight_decay=d),
        [(1e-8, 0.0), (1e-3, 0.1), (1.0, 5.0)],
    ),
    "clipped": (lambda m: Clipped(m, Adam()), [(1e-2,), (0.5,), (1e3,)]),
}


@pytest.mark.parametrize("name", PER_RUN)
def test_other_numbers_per_run_are_separate_runs_too(name):
    make, settings = PER_RUN[name]
    columns = torch.tensor(settings, dtype=torch.float64).T
    together = descend(make(*columns), 0.05)[-1]
    for run, numbers in enumerate(settings):
        alone = descend(make(*numbers), 0.05, slice(run, run + 1))[-1]
        for key, x in together.items():
            torch.testing.assert_close(x[run : run + 1], alone[key], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arguments_are_left_unchanged(name):
    optimizer, parameters = OPTIMIZERS[name], start()
    state = optimizer.init(parameters)
    for k in range(2):
        slope = gradient(parameters, k)
        inputs = [parameters, slope, state]
        kept = [[x.clone() for x in trees.leaves(tree)] for tree in inputs]
        parameters, state = optimizer.update(slope, state, parameters, 0.1)
        for tree, copies in zip(inputs, kept, strict=True):
            assert all(map(torch.equal, trees.leaves(tree), copies))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_a_bad_gradient_does_not_touch_the_others(name):
    optimizer, x = OPTIMIZERS[name], doubles(5, R, 4)
    slope, broken = doubles(6, R, 4), doubles(6, R, 4)
    broken[1, 0], broken[1, 1] = torch.nan, torch.inf
    good, _ = optimizer.update(slope, optimizer.init(x), x, 0.1)
    bad, _ = optimizer.update(broken, optimizer.init(x), x, 0.1)
    assert torch.equal(good[[0, 2]], bad[[0, 2]])
    assert not bad[1].isfinite().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_stays_float32(name):
    optimizer, x = OPTIMIZERS[name], torch.ones(R, 4)
    lr = torch.tensor(RATES)
    for rate in (0.1, lr):
        moved, state = optimizer.update(x, optimizer.init(x), x, rate)
        assert {leaf.dtype for leaf in [moved, *trees.leaves(state)]} == {torch.float32}


BAD = [-0.1, 1.0, 2.0, float("nan"), "much", torch.tensor([0.5, 1.0])]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_fractions_are_in_zero_to_one(value):
    for make, name in [
        (SGD, "momentum"),
        (RMSProp, "smoothing"),
        (Adam, "beta1"),
        (Adam, "beta2"),
        (AdamW, "beta1"),
        (AdamW, "beta2"),
    ]:
        with pytest.raises(ArgumentError, match=f"`{name}` must be"):
            make(**{name: value})


@pytest.mark.parametrize("make", [RMSProp, Adam, AdamW])
@pytest.mark.parametrize("eps", [0.0, -1e-8, float("nan")])
def test_eps_is_positive(make, eps):
    with pytest.raises(ArgumentError, match="`eps` must be positive"):
        make(eps=eps)


@pytest.mark.parametrize("decay", [-0.1, float("inf"), "much", torch.tensor([0.1, -0.1])], ids=repr)
def test_a_decay_is_at_least_zero(decay):
    with pytest.raises(ArgumentError, match="`weight_decay` must be"):
        AdamW(weight_decay=decay)
