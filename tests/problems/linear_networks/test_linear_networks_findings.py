"""What the reference experiments found about equal and unequal rates, in numbers."""

import dataclasses

import pytest
import torch

from problems.linear_networks import (
    best_equal,
    cumulative_balance,
    equal_window,
    paper_network,
    three_layer_orthogonal,
    two_layer_orthogonal,
)
from problems.linear_networks.share_curves import ShareCurves, expected_loss

SHARES = torch.linspace(0, 1, 201, dtype=torch.float64)
TABLE = [  # depth, budget, after one step: equal, endpoint; after two: equal, endpoint
    (2, 27000, 0.948419, 0.947676, 0.884237, 0.897192),
    (2, 45000, 0.915130, 0.912937, 0.773739, 0.832621),
    (2, 63000, 0.883558, 0.878847, 0.629087, 0.771600),
    (3, 30, 0.942279, 0.941841, 0.864582, 0.886178),
    (3, 65, 0.877083, 0.875099, 0.573955, 0.765034),
    (3, 100, 0.815336, 0.810810, 0.164565, 0.656756),
]


def along_shares(budget, steps, module=two_layer_orthogonal, h=1000, **options):
    pair = (SHARES * budget, (1 - SHARES) * budget)
    return module.expected_loss(h, [pair] * steps, **options)[-1]


@pytest.mark.parametrize(("depth", "budget", *"abcd"), TABLE)
def test_the_table_of_the_paper_s_figures(depth, budget, a, b, c, d):
    """The endpoint is best after one step, equal rates after two with the same pair."""
    curves = ShareCurves.of(depth, 1000, budget)
    found = [curves.exact[step, place] for step in (0, 1) for place in (100, 0)]
    assert [float(value) for value in found] == pytest.approx([a, b, c, d], abs=5.1e-7)
    assert curves.best_share(1) == 1.0
    assert int(curves.exact[0].argmin()) in (0, 200)
    assert curves.best_share(2) == 0.5


@pytest.mark.parametrize(("depth", "budget"), [row[:2] for row in TABLE])
def test_alternating_is_better_when_the_pair_may_change(depth, budget):
    curves = ShareCurves.of(depth, 1000, budget)
    equal, (one, other) = float(curves.exact[1, 100]), curves.alternating()
    assert max(one, other) < equal - 0.01
    first, second, best = curves.best_pairs()
    assert best <= min(one, other)
    assert (first, second > 0.7) == (0.0, True)
    if depth == 2:
        assert one == pytest.approx(other, rel=1e-13)
    else:
        assert other < one  # the second layer first


def test_numbers_of_the_alternation():
    curves = ShareCurves.of(2, 1000, 45000)
    assert curves.alternating()[0] == pytest.approx(0.700529, abs=5e-7)
    budget = 45000.0
    for share, best in [(0.0, 0.970), (0.1, 0.885), (0.25, 0.7475), (0.5, 0.5)]:
        first = (share * budget, (1 - share) * budget)
        pairs = [first, (SHARES * budget, (1 - SHARES) * budget)]
        losses = two_layer_orthogonal.expected_loss(1000, pairs)[-1]
        assert float(SHARES[losses.argmin()]) == pytest.approx(best, abs=0.0051)
        rule = cumulative_balance(first, budget)[0] / budget
        assert float(rule) == pytest.approx(1 - share)
    joint = [(0.0, budget), (0.9707 * budget, 0.0293 * budget)]
    assert float(two_layer_orthogonal.expected_loss(1000, joint)[-1]) == pytest.approx(
        0.700418, abs=5e-7
    )


def test_ten_steps():
    s = 30000.0
    half, body, head = (s / 2, s / 2), (s, 0.0), (0.0, s)
    schedules = {
        "equal": [half] * 10,
        "one, then equal": [body] + [half] * 9,
        "alternating": [body, head] * 5,
        "quarter": [(0.25 * s, 0.75 * s)] * 10,
        "one": [body] * 10,
    }
    found = {name: float(two_layer_orthogonal.expected_loss(1000, lrs)[-1])
             for name, lrs in schedules.items()}  # fmt: skip
    assert found["equal"] == pytest.approx(0.0483, abs=5e-5)
    assert found["quarter"] == pytest.approx(0.0018, abs=5e-5)
    assert found["one"] == pytest.approx(0.544, abs=5e-4)
    assert max(found["one, then equal"], found["alternating"]) < 1e-5


@pytest.mark.parametrize(
    ("budget", "steps", "share"), [(45000, 4, 0.38), (63000, 4, 0.79), (63000, 7, 0.915)]
)
def test_unequal_wins_again_after_more_steps(budget, steps, share):
    losses = along_shares(budget, steps)
    best = float(SHARES[losses.argmin()])
    assert min(abs(best - share), abs(1 - best - share)) < 0.0051
    assert float(losses.min()) < float(losses[100])


def test_the_best_equal_pair_is_outside_of_the_window():
    pair = best_equal(1000, 2)
    budget = 2 * pair.rate
    assert budget > equal_window(1000, signal_only=False).high
    losses = along_shares(budget, 2)
    assert float(losses[100]) == pytest.approx(pair.loss)
    assert float(losses.min()) == pytest.approx(0.29082, abs=5e-6)
    assert float(SHARES[losses[:101].argmin()]) == pytest.approx(0.265, abs=0.0051)


@pytest.mark.parametrize(
    ("steps", "best", "loss", "equal", "head"),
    [
        (1, 1.0, 0.5569, 0.6933, 0.7869),
        (2, 0.825, 0.2735, 0.3442, 0.6549),
        (4, 0.775, 0.0038, 0.0073, 0.5452),
    ],
)
def test_with_fewer_units_than_inputs_the_body_comes_first(steps, best, loss, equal, head):
    """d = 64, h = 32: the opposite of a fast head."""
    shares = SHARES[::5]
    budget = 1.5 * 32**0.5
    pair = (shares * budget, (1 - shares) * budget)
    losses = three_layer_orthogonal.expected_loss(32, [pair] * steps, inputs=64)[-1]
    assert float(shares[losses.argmin()]) == pytest.approx(best, abs=1e-6)
    found = [float(losses.min()), float(losses[20]), float(losses[0])]
    assert found == pytest.approx([loss, equal, head], abs=6e-5)


def test_gradient_norms_of_body_and_head():
    """E |G_body|^2 / E |G_head|^2 = (B + A/h) / (A/h + B h/d): about d/h."""
    nets = [paper_network(3, 16, torch.Generator().manual_seed(k), d=48) for k in range(200)]
    norms = torch.tensor([[g.square().sum() for g in net.gradients()] for net in nets])
    # the head is v = W_2 a: its gradient is that of W_2 without the factor a'
    scale = torch.tensor([net.weights[2].square().sum() for net in nets])
    body, head = norms[:, 0].mean(), (norms[:, 1] / scale).mean()
    a, b, h, d = 1.0, 3.0, 16, 48
    assert float(body / a / head) == pytest.approx((b + a / h) / (a / h + b * h / d), rel=0.1)


def simulated(seeds, budget, steps, h=100, **options):
    """Mean losses over draws, one for each of 21 shares."""
    total = torch.zeros(21, dtype=torch.float64)
    for seed in range(seeds):
        net = paper_network(2, h, torch.Generator().manual_seed(seed), **options)
        for k in range(21):
            share = k / 20
            total[k] += net.gd([(share * budget, (1 - share) * budget)] * steps)[0][-1] / seeds
    return total


@pytest.mark.parametrize("weights", ["orthogonal", "gaussian"])
def test_without_whitening_equal_rates_lose(weights):
    """n = h Gaussian rows: the largest eigenvalue of X'X/n is near 4."""
    budget = 1.4 * 100**1.5
    whitened = simulated(2, budget, 2, weights=weights)
    assert abs(int(whitened.argmin()) - 10) <= 2
    rough = simulated(2, budget, 2, weights=weights, design="gaussian")
    assert abs(int(rough.argmin()) - 10) >= 7
    assert float(rough[10]) > float(rough.min()) + 0.1
    diverged = simulated(2, budget, 4, weights=weights, design="gaussian")
    assert float(diverged[10]) > 100 > 1 > float(diverged.min())


def test_the_simulation_of_matrices_agrees_with_the_expectation():
    h = 60
    budget = 0.9 * h**1.5
    found = simulated(4, budget, 2, h=h)
    shares = torch.linspace(0, 1, 21, dtype=torch.float64)
    pair = (shares * budget, (1 - shares) * budget)
    expected = two_layer_orthogonal.expected_loss(h, [pair, pair])[-1]
    assert (found - expected).abs().max() < 5 * h**-1.5 / 2  # of one draw: about h^(-3/2)


def test_unequal_rates_are_no_law():
    """For a generic small network the best pair of a budget is inside."""
    source = torch.Generator().manual_seed(3)
    inside = 0
    for _ in range(20):
        net = paper_network(2, 3, source, n=9, design="gaussian", weights="gaussian")
        best = net.optimal_rates((0, 1), "budget", S=9.0)
        inside += 0 < best.first < 9
    assert inside >= 5


def test_the_second_step_has_its_own_best_rates():
    net = paper_network(3, 8, torch.Generator().manual_seed(5), d=11)
    budget = 1.5 * 8**0.5
    first = net.optimal_rates((0, 1), "budget", S=budget)
    losses, weights = net.gd([(first.first, first.second, 0.0)])
    assert float(losses[1]) == pytest.approx(first.loss)
    second = dataclasses.replace(net, weights=weights).optimal_rates((0, 1), "budget", S=budget)
    assert second.loss < first.loss
    steps = [(first.first, first.second, 0.0), (second.first, second.second, 0.0)]
    assert float(net.gd(steps)[0][2]) == pytest.approx(second.loss)


def test_depth_three_is_not_symmetric_in_its_layers_after_three_steps():
    pairs = [(0.3 * 65, 0.7 * 65)] * 3
    swapped = [pair[::-1] for pair in pairs]
    one, other = (float(expected_loss(3, 1000, lrs)[-1]) for lrs in (pairs, swapped))
    assert one < other - 5e-5
    two = [float(expected_loss(3, 1000, lrs[:2])[-1]) for lrs in (pairs, swapped)]
    assert two[0] == pytest.approx(two[1], rel=1e-13)
