"""Closed forms for orthogonal layers: against matrices, draws, formulas and stated numbers."""

import pytest
import torch

from bilevel.errors import ArgumentError, ShapeError
from problems.linear_networks import (
    best_equal,
    cumulative_balance,
    equal_window,
    paper_network,
    three_layer_orthogonal,
    two_layer_orthogonal,
)
from problems.linear_networks.quadrature import beta_rule, chi_square_rule

STEPS = [(7.0, 11.0), (4.0, 9.0), (13.0, 2.0)]
SHORT = [(0.7, 1.1), (0.4, 0.9), (1.3, 0.2)]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def near(found, expected, tolerance=1e-12):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize("h", [4, 7])
def test_two_layers_equal_matrix_descent(h, signal_only):
    net = paper_network(2, h, source(h))
    rotation = h**0.5 * net.beta.T @ net.weights[0] @ net.weights[1]  # Q' W_1 W_2
    expected, _ = net.gd(STEPS, signal_only)
    for spectrum in (rotation, torch.linalg.eigvals(rotation).angle()):
        found = two_layer_orthogonal.conditional_loss(spectrum, STEPS, signal_only=signal_only)
        near(found, expected)


def scalars(net):
    """|a|^2, |beta|^2, c, and the part of beta outside of the range of W_1."""
    first, second, a = net.weights
    outside = net.beta - first @ (first.T @ net.beta)
    values = (a.square().sum(), net.beta.square().sum(), (net.beta.T @ first @ second @ a).sum())
    return [float(value) for value in (*values, outside.square().sum())]


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize(("d", "h"), [(4, 4), (7, 7), (9, 5)])
def test_three_layers_equal_matrix_descent(d, h, signal_only):
    net = paper_network(3, h, source(h), d=d)
    *scale, outside = scalars(net)
    assert (outside > 0.1) == (d > h)
    outside = outside if d > h else 0.0
    expected, _ = net.gd([(*step, 0.0) for step in SHORT], signal_only)
    options = {"signal_only": signal_only, "outside": outside}
    near(three_layer_orthogonal.conditional_loss(h, *scale, SHORT, **options), expected)
    if d == h:
        written = three_layer_orthogonal.surrogate if signal_only else (
            three_layer_orthogonal.closed_form)  # fmt: skip
        near(written(h, *scale, SHORT[0]), expected[1])
        near(written(h, *scale, SHORT[0], SHORT[1]), expected[2])


def test_the_stated_expectation():
    found = two_layer_orthogonal.expected_loss(5, STEPS[:2])
    stated = torch.tensor([1.2, 0.405371904, 0.277647063494], dtype=torch.float64)
    near(found, stated, 1e-12)
    near(two_layer_orthogonal.expected_one_step(5, STEPS[0]), found[1])


@pytest.mark.parametrize("h", [1, 3, 8])
def test_surrogates_are_the_expectations_of_signal_only_descent(h):
    found = two_layer_orthogonal.expected_loss(h, STEPS[:2], signal_only=True)
    near(two_layer_orthogonal.surrogate(h, STEPS[0]), found[1])
    near(two_layer_orthogonal.surrogate(h, STEPS[0], STEPS[1]), found[2])


@pytest.mark.parametrize("h", [3, 10, 1000])
def test_formulas_of_the_scripts_and_what_they_leave_out(h):
    """Step 2 is the surrogate; step 1 lacks a cross term."""
    for formulas, pair, power, signal in [
        (two_layer_orthogonal, (0.7 * h**1.5, 1.1 * h**1.5), 5,
         two_layer_orthogonal.expected_loss),
        (three_layer_orthogonal, (0.7 * h**0.5, 1.1 * h**0.5), 3,
         three_layer_orthogonal.expected_loss),
    ]:  # fmt: skip
        _, first, second = signal(h, [pair, pair], signal_only=True)
        near(formulas.script_formula(h, *pair, 2), second, 1e-13)
        missing = 2 * pair[0] * pair[1] / h**power
        near(formulas.script_formula(h, *pair, 1) + missing, first, 1e-13)
        assert missing > 1e-7


def test_the_missing_term_is_seen_in_numbers():
    h, pair = 3, (0.7 * 3**1.5, 1.1 * 3**1.5)
    assert float(two_layer_orthogonal.surrogate(h, pair)) == pytest.approx(0.7036, abs=5e-5)
    written = two_layer_orthogonal.script_formula(h, *pair, 1)
    assert float(written) == pytest.approx(0.5325, abs=5e-5)


def stacked_rotations(count, h, generator):
    q, r = torch.linalg.qr(torch.randn(count, h, h, generator=generator, dtype=torch.float64))
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def simulate(factors, beta, kappa, lrs, signal_only):
    """Losses of many networks at once, whitened inputs, by matrix descent; (T + 1, draws)."""
    losses, factors = [], list(factors)
    for rates in [*lrs, None]:
        reached = factors[0] @ factors[1] @ factors[2]
        losses.append((kappa * reached - beta).square().sum((-2, -1)))
        if rates is None:
            return torch.stack(losses)
        pull = kappa * (-beta if signal_only else kappa * reached - beta)
        first = pull @ (factors[1] @ factors[2]).mT
        second = factors[0].mT @ pull @ factors[2].mT
        factors[:2] = [factors[0] - rates[0] * first, factors[1] - rates[1] * second]


def agree(found, losses):
    """Within 4 standard errors of the mean of the draws."""
    for k, drawn in enumerate(losses):
        error = float(drawn.std()) / len(drawn) ** 0.5
        assert abs(float(found[k]) - float(drawn.mean())) < 4 * error + 1e-12
        assert error < 0.1 * float(found[k])


MANY = pytest.param(100_000, marks=pytest.mark.slow)


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize("h", [3, 5])
@pytest.mark.parametrize("draws", [2_000, MANY])
def test_two_layer_expectations_equal_the_mean_of_draws(draws, h, signal_only):
    lrs = [(0.7 * h**1.5, 1.1 * h**1.5), (0.3 * h**1.5, 0.6 * h**1.5), (0.4 * h**1.5, 0.1)]
    generator = source(h)
    one, two, target = (stacked_rotations(draws, h, generator) for _ in range(3))
    eye = torch.eye(h, dtype=torch.float64).expand_as(one)
    losses = simulate([one, two, eye], target / h**0.5, 1 / h, lrs, signal_only)
    agree(two_layer_orthogonal.expected_loss(h, lrs, signal_only=signal_only), losses)


@pytest.mark.parametrize("signal_only", [False, True])
@pytest.mark.parametrize("ensemble", ["unit", "gaussian"])
@pytest.mark.parametrize(("d", "h"), [(3, 3), (5, 5), (5, 3)])
@pytest.mark.parametrize("draws", [2_000, MANY])
def test_three_layer_expectations_equal_the_mean_of_draws(draws, d, h, ensemble, signal_only):
    unit = h**0.5 * (1.0 if ensemble == "unit" else 0.2)  # larger: the mean is that of rare draws
    lrs = [(0.5 * unit, 0.3 * unit), (0.2 * unit, 0.4 * unit)]
    generator = source(h)
    one = stacked_rotations(draws, d, generator)[..., :h]
    two = stacked_rotations(draws, h, generator)
    a = torch.randn(draws, h, 1, generator=generator, dtype=torch.float64) / h**0.5
    beta = torch.randn(draws, d, 1, generator=generator, dtype=torch.float64) / h**0.5
    if ensemble == "unit":
        a, beta = (vector / vector.norm(dim=1, keepdim=True) for vector in (a, beta))
    losses = simulate([one, two, a], beta, h**-0.5, lrs, signal_only)
    options = {"ensemble": ensemble, "signal_only": signal_only, "inputs": d}
    agree(three_layer_orthogonal.expected_loss(h, lrs, **options), losses)


def test_rates_are_broadcast_and_rows_are_those_of_single_calls():
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)
    for module, budget in [(two_layer_orthogonal, 20.0), (three_layer_orthogonal, 2.0)]:
        pair = (shares * budget, (1 - shares) * budget)
        found = module.expected_loss(6, [pair, (0.1 * budget, pair[1])])
        assert found.shape == (3, 5)
        for k, share in enumerate(shares):
            alone = [(float(share) * budget, float(1 - share) * budget)]
            alone.append((0.1 * budget, alone[0][1]))
            near(module.expected_loss(6, alone), found[:, k], 1e-13)
        tensor = torch.tensor(alone, dtype=torch.float64)
        near(module.expected_loss(6, tensor), found[:, -1], 1e-13)
    phases = torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64)
    assert two_layer_orthogonal.conditional_loss(phases, [pair]).shape == (2, 5)
    assert three_layer_orthogonal.conditional_loss(6, 1.0, 1.0, shares / 2, [pair]).shape == (2, 5)


@pytest.mark.parametrize("module", [two_layer_orthogonal, three_layer_orthogonal])
def test_expectations_are_differentiable_in_the_rates(module):
    unit = 6**1.5 if module is two_layer_orthogonal else 6**0.5
    lrs = unit * torch.tensor([[0.5, 0.3], [0.2, 0.7]], dtype=torch.float64)
    variables = lrs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module.expected_loss(6, variables)[-1], variables)
    step = 1e-4 * unit
    for k in (0, 1):
        for layer in (0, 1):
            shifted = [lrs.clone() for _ in range(2)]
            shifted[0][k, layer] += step
            shifted[1][k, layer] -= step
            high, low = (module.expected_loss(6, one)[-1] for one in shifted)
            expected = float((high - low) / (2 * step))
            assert float(slope[k, layer]) == pytest.approx(expected, rel=1e-6)


def test_rates_at_zero_have_a_gradient():
    rates = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(two_layer_orthogonal.expected_loss(4, rates)[-1], rates)
    expected = -2 * (1 + 1 / 4) / 16  # of (1 + 1/h) g^2, g = (1 - eta_1 / h^2)(1 - eta_2 / h^2)
    near(slope, torch.full((1, 2), expected, dtype=torch.float64))


@pytest.mark.parametrize("degrees", [1, 4])
def test_the_error_of_the_surrogate_is_of_order_one_over_h(degrees):
    """h (exact - surrogate) tends to 4 P, and 4P^3 + 8P^2 + 20P + 6P sigma^2 + 2 sigma^2."""
    mu1, mu2 = 0.3 * degrees, 0.4
    p, sigma = mu1 * mu2, mu1 + mu2
    limits = [4 * p, 4 * p**3 + 8 * p**2 + 20 * p + 6 * p * sigma**2 + 2 * sigma**2]
    for h in (10**6, 10**8):
        pair = (mu1 * h**1.5, mu2 * h**1.5)
        exact = two_layer_orthogonal.expected_loss(h, [pair, pair])
        surrogate = [two_layer_orthogonal.surrogate(h, pair),
                     two_layer_orthogonal.surrogate(h, pair, pair)]  # fmt: skip
        for step, limit in enumerate(limits):
            error = h * float(exact[step + 1] - surrogate[step])
            assert error == pytest.approx(limit, rel=20 / h**0.5)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_one_step_within_the_budget_is_best_at_the_ends(share):
    """d E L_1 / dP > 0 for S <= h^2: the least P, 0, is best."""
    for h in (3, 30):
        shares = torch.linspace(0, 1, 201, dtype=torch.float64)
        budget = share * h**2
        losses = two_layer_orthogonal.expected_loss(h, [(shares * budget, (1 - shares) * budget)])
        half = losses[1][:101]
        assert (half[1:] > half[:-1]).all()


def test_the_window_of_equal_rates():
    low, high = equal_window(1000)
    assert low / 1000**1.5 == pytest.approx(0.031838, abs=5e-7)
    assert high / 1000**1.5 == pytest.approx(2.806622, abs=5e-7)
    for budget, equal_wins in [(0.99 * low, False), (1.01 * low, True),
                               (0.99 * high, True), (1.01 * high, False)]:  # fmt: skip
        near_equal = [two_layer_orthogonal.surrogate(1000, (share * budget, (1 - share) * budget),
                                                     (share * budget, (1 - share) * budget))
                      for share in (0.5, 0.47)]  # fmt: skip
        assert (float(near_equal[0]) < float(near_equal[1])) == equal_wins
    low, high = equal_window(1000, signal_only=False)
    assert (low, high) == pytest.approx((6.13526 * 1000, 2.97957 * 1000**1.5), rel=1e-5)
    assert equal_window(10**6, signal_only=False).low == pytest.approx(6e6, rel=1e-4)
    assert equal_window(10**6).low == pytest.approx(1e6, rel=1e-4)
    for signal_only in (True, False):
        with pytest.raises(ArgumentError, match="no budget"):
            equal_window(5, signal_only)


@pytest.mark.parametrize(
    ("steps", "signal_only", "rate", "loss"),
    [
        (1, True, 2.951687, None),
        (1, False, 2.795941, 0.765405),
        (2, True, 1.5394, 0.33723),
        (2, False, 1.7197, 0.32303),
    ],
)
def test_the_best_equal_pair(steps, signal_only, rate, loss):
    found = best_equal(1000, steps, signal_only=signal_only)
    assert found.rate / 1000**1.5 == pytest.approx(rate, abs=5e-7 if steps == 1 else 5e-5)
    if loss is not None:
        assert found.loss == pytest.approx(loss, abs=5e-6)
    for factor in (0.999, 1.001):
        lrs = [(factor * found.rate, factor * found.rate)] * steps
        near_it = two_layer_orthogonal.expected_loss(1000, lrs, signal_only=signal_only)[-1]
        assert float(near_it) > found.loss


def test_the_second_step_balances_the_sums():
    """Among pairs with a given sum it has the largest signal, by brute force."""
    h = 10**9 - 1  # nothing but the signal matters for the surrogate

    def loss(first, second):
        scale = h**1.5
        return two_layer_orthogonal.surrogate(h, [scale * mu for mu in first],
                                              [scale * nu for nu in second])  # fmt: skip

    for first, budget in [((0.5, 0.2), 1.0), ((0.3, 0.3), 0.8), ((0.1, 0.9), 2.0)]:
        best = [float(nu) for nu in cumulative_balance(first, budget)]
        assert first[0] + best[0] == pytest.approx(first[1] + best[1])
        assert sum(best) == pytest.approx(budget)
        shifted = [loss(first, (best[0] + shift, best[1] - shift)) for shift in (-0.05, 0.0, 0.05)]
        assert shifted[1] < min(shifted[0], shifted[2])
    assert [float(nu) for nu in cumulative_balance((3.0, 0.5), 1.0)] == [0.0, 1.0]  # not feasible
    assert [float(nu) for nu in cumulative_balance((0.5, 3.0), 1.0)] == [1.0, 0.0]


def test_gauss_rules_reproduce_moments():
    for p, q in [(0.5, 0.5), (1.0, 1.0), (2.5, 7.0), (499.5, 499.5)]:
        points, weights = beta_rule(p, q, 6)
        moment = 1.0
        for k in range(7):
            assert float((weights * points**k).sum()) == pytest.approx(moment, rel=1e-12)
            moment *= (p + k) / (p + q + k)
    for freedom in (1, 4, 1000):
        points, weights = chi_square_rule(freedom, 6)
        moment = 1.0
        for k in range(7):
            assert float((weights * points**k).sum()) == pytest.approx(moment, rel=1e-12)
            moment *= 1 + 2 * k / freedom


UNIT = [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: two_layer_orthogonal.conditional_loss(2 * torch.eye(3), STEPS), ArgumentError,
         "not orthogonal .* d = h"),
        (lambda: two_layer_orthogonal.conditional_loss(torch.eye(4)[:, :3], STEPS), ShapeError,
         "square"),
        (lambda: two_layer_orthogonal.conditional_loss(torch.zeros(2, 2, 2), STEPS), ShapeError,
         "phases"),
        (lambda: two_layer_orthogonal.conditional_loss(torch.full((3,), torch.inf), STEPS),
         ArgumentError, "finite"),
        (lambda: two_layer_orthogonal.expected_loss(5, [(1.0, -1.0)]), ArgumentError, "at least 0"),
        (lambda: two_layer_orthogonal.expected_loss(5, [(1.0, torch.inf)]), ArgumentError,
         "finite"),
        (lambda: two_layer_orthogonal.expected_loss(5, [(1.0,)]), ShapeError, "2 rates"),
        (lambda: two_layer_orthogonal.expected_loss(0, STEPS), ArgumentError, "`h`"),
        (lambda: two_layer_orthogonal.expected_loss(5, 0.1), ShapeError, "sequence"),
        (lambda: two_layer_orthogonal.expected_loss(5, [(1.0, 1.0)] * 13), ArgumentError,
         "12 steps"),
        (lambda: two_layer_orthogonal.surrogate(5, (1.0, -1.0)), ArgumentError, "step1"),
        (lambda: two_layer_orthogonal.script_formula(5, 1.0, 1.0, 3), ArgumentError, "step"),
        (lambda: three_layer_orthogonal.script_formula(5, 1.0, 1.0, 0), ArgumentError, "step"),
        (lambda: three_layer_orthogonal.conditional_loss(5, 1.0, 1.0, 1.1, SHORT), ArgumentError,
         "c\\^2 <= A"),
        (lambda: three_layer_orthogonal.conditional_loss(5, *UNIT, SHORT, outside=0.9),
         ArgumentError, "c\\^2 <= A"),
        (lambda: three_layer_orthogonal.conditional_loss(5, 1.0, 1.0, torch.nan, SHORT),
         ArgumentError, "c\\^2 <= A"),
        (lambda: three_layer_orthogonal.conditional_loss(5, -1.0, 1.0, 0.0, SHORT), ArgumentError,
         "`A`"),
        (lambda: three_layer_orthogonal.expected_loss(5, SHORT, inputs=4), ArgumentError, "h <= d"),
        (lambda: three_layer_orthogonal.expected_loss(5, SHORT, ensemble="haar"), ArgumentError,
         "ensemble"),
        (lambda: three_layer_orthogonal.expected_loss(5, SHORT * 2, ensemble="gaussian"),
         ArgumentError, "fewer steps"),
        (lambda: three_layer_orthogonal.expected_loss(1, SHORT), ArgumentError, "at least 2"),
        (lambda: best_equal(5, 7), ArgumentError, "at most 6"),
        (lambda: cumulative_balance((1.0, 2.0, 3.0), 1.0), ShapeError, "2 rates"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use()
