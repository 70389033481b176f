"""Rates from norms, against the same loop written by hand, and where there is no such rule."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import bilevel
from bilevel import errors, loops
from bilevel.strategies.balanced import balanced
from problems.linear_networks import linear_network
from tests.support.legal_tasks import OfTasks

OPTIONS = {"steps": 6, "seeds": [3, 1], "batch_size": None, "dtype": torch.float64}
X = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X.sin().sum(1)


def net():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize("kind", ["linear", "module"])
def test_steps_are_those_of_a_loop_by_hand(kind, order):
    def by_hand(problem, body, head, batches):
        """Gradient steps at the rates of the norms before the step."""
        (weight,) = (leaf for leaf in body.values() if leaf.ndim == 2)
        for batch in batches:
            a = np.linalg.norm(weight.detach().numpy())
            b = np.linalg.norm(head.detach().numpy()[:-1] if problem.fit_bias else head.detach())
            alpha, beta = 2 * b / (a + b) * 0.05, 2 * a / (a + b) * 0.05
            leaves = [leaf.requires_grad_() for leaf in (*body.values(), head)]
            slopes = torch.autograd.grad(problem.head_objective(body, head, batch), leaves)
            with torch.no_grad():
                for leaf, slope in zip(body.values(), slopes, strict=False):
                    leaf -= alpha * slope
            if order == "alternating":
                slopes = torch.autograd.grad(problem.head_objective(body, head, batch), [head])
            with torch.no_grad():
                head -= beta * slopes[-1]
            yield body, head

    if kind == "linear":
        problem = linear_network(width=4, inputs=5, outputs=3)
    else:
        problem = loops.from_module(net, "mse", (X, Y), "2", ridge=0.01)
    strategy = bilevel.BalancedRates(0.05, bilevel.SGD(), order)
    found = bilevel.solve(problem, strategy, **OPTIONS)
    expected = bilevel.solve(problem, bilevel.OwnLoop(by_hand), **OPTIONS)
    torch.testing.assert_close(found.body, expected.body, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.head, expected.head, rtol=1e-12, atol=1e-13)


def test_the_rates_of_a_module_are_those_of_the_strategy():
    model = net().double()
    rates = loops.balanced_rates(model, 0.1)
    norms = [layer.weight.detach().norm().reshape(1) for layer in (model[0], model[2])]
    expected = [rate.item() for rate in balanced(*norms, 0.1)]
    assert list(rates) == ["0", "2"]
    assert list(rates.values()) == pytest.approx(expected, rel=1e-14)
    assert sum(rates.values()) == pytest.approx(0.2, rel=1e-15)
    assert rates["0"] / rates["2"] == pytest.approx((norms[1] / norms[0]).item())
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.zero_()
    assert loops.balanced_rates(model, 0.1) == {"0": 0.1, "2": 0.1}
    zero = torch.zeros(1)
    assert [rate.item() for rate in balanced(zero, zero, 0.1)] == pytest.approx([0.1, 0.1])


def test_frozen_layers_do_not_count_and_other_depths_are_refused():
    deep = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    with pytest.raises(errors.ArgumentError, match=r"has 3.*No rule for other depths"):
        loops.balanced_rates(deep, 0.1)
    deep[2].requires_grad_(False)  # as in the networks of the paper with one output
    assert list(loops.balanced_rates(deep, 0.1)) == ["0", "1"]
    assert list(loops.balanced_rates(nn.DataParallel(deep), 0.1)) == ["0", "1"]
    for problem, text in ((linear_network(depth=3), "2 matrices"), (OfTasks(), "tasks")):
        with pytest.raises(errors.IncompatibleError, match=text):
            bilevel.solve(problem, bilevel.BalancedRates(0.1), steps=1, seeds=1)


def test_it_is_compared_tuned_and_stacked_like_every_other():
    problem = linear_network(width=4, inputs=5)
    names = ["uniform sqrt", "balanced"]
    presets = bilevel.preset_strategies(0.01, 0.04, names=names, optimizer=bilevel.SGD())
    assert float(presets["balanced"].lr(0)) == pytest.approx(0.02)
    tune = bilevel.Tuning(factors=(0.5, 2.0), seeds=2)
    comparison = bilevel.compare(problem, presets, seeds=2, steps=4, every=4, tune=tune)
    assert "balanced, tuned" in comparison.status
    assert all(set(codes) == {"COMPLETED"} for codes in comparison.status.values())
    alone = bilevel.solve(problem, presets["balanced"], steps=4, seeds=[1], dtype=torch.float64)
    both = bilevel.solve(problem, presets["balanced"], steps=4, seeds=[0, 1], dtype=torch.float64)
    torch.testing.assert_close(both.head[1], alone.head[0], rtol=1e-12, atol=0)
    rates = torch.tensor([0.01, 0.02], dtype=torch.float64)
    two = dataclasses.replace(presets["balanced"], lr=rates)
    found = bilevel.solve(problem, two, steps=4, seeds=[0, 1], dtype=torch.float64)
    torch.testing.assert_close(found.head[1], alone.head[0], rtol=1e-12, atol=0)
    assert not torch.equal(found.head[0], both.head[0])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_steps_give_the_same_numbers():
    problem = linear_network(width=4, inputs=5)
    eager, compiled = (
        bilevel.solve(problem, bilevel.BalancedRates(0.02), compile=compiled, **OPTIONS)
        for compiled in (False, True)
    )
    torch.testing.assert_close(eager.body, compiled.body, rtol=1e-10, atol=1e-12)
