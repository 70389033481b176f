"""Fixed points, thresholds and simulations of the expected updates of linear methods."""

import pytest
import torch
from processes import PROCESSES

import bilevel
from bilevel.errors import ArgumentError, UnknownNameError
from problems.mspbe import LinearEvaluation, baird, exact, methods, stability, two_state

ALL = ("td", "gtd2", "tdc", "tdrc")
CONVERGING = [name for name in PROCESSES if name not in ("two-state", "baird")]


def moments_of(process):
    return exact.moments(process.inputs, process.model, process.discount)


@pytest.mark.parametrize("name", PROCESSES)
def test_fixed_points_have_no_projected_error(name):
    found = moments_of(PROCESSES[name])
    head = exact.lstd(found, singular="least norm")
    assert float(exact.mspbe(found, head)) < 1e-20
    for method in ALL:
        update = stability.expected_update(found, method, eta=0.7, beta=0.3)
        point = head if method == "td" else torch.cat([head, torch.zeros_like(head)])
        assert torch.allclose(update.matrix @ point, update.right, atol=1e-10)


@pytest.mark.parametrize("name", CONVERGING)
@pytest.mark.parametrize("method", ALL)
def test_methods_converge_where_their_spectrum_says_so(name, method):
    """(I - alpha G)^(2^30) f: a thousand million steps, by squaring."""
    found = stability.reduced(moments_of(PROCESSES[name]))
    update = stability.expected_update(found, method)
    assert stability.spectral_abscissa(found, method) < 0
    size = len(update.right)
    fixed = torch.linalg.solve(update.matrix, update.right)
    step = torch.eye(size, dtype=torch.float64) - 0.05 * update.matrix
    for _ in range(30):
        step = step @ step
    assert (step @ fixed).norm() < 1e-6 * fixed.norm() + 1e-12


def test_td_diverges_where_it_must():
    for process in (two_state(), baird()):
        assert stability.spectral_abscissa(moments_of(process), "td") > 0
    for discount in (5 / 6 - 1e-4, 5 / 6 + 1e-4):
        found = moments_of(two_state(discount))
        assert (stability.spectral_abscissa(found, "td") > 0) == (discount > 5 / 6)
        assert stability.spectral_abscissa(found, "gtd2") < 0


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_thresholds_of_the_two_states(discount):
    found = moments_of(two_state(discount))
    eta = stability.threshold(found, "tdc", "eta", 1e-3, 2.0)
    assert abs(eta - (3 * discount - 2.5) / 2.5) < 1e-6
    beta = stability.threshold(found, "tdrc", "beta", 1e-3, 2.0)
    assert abs(beta - (3 * discount - 2.5)) < 1e-6
    assert stability.spectral_abscissa(found, "tdrc", beta=1.0) > 0  # the usual beta diverges
    assert stability.spectral_abscissa(found, "gtd2", eta=1e-3) < 0


def test_threshold_of_the_star():
    found = moments_of(baird())
    assert abs(stability.threshold(found, "tdc", "eta", 1e-3, 2.0) - 0.1424) < 1e-4
    assert stability.spectral_abscissa(found, "tdrc") < 0


CASES = {
    "two-state, TDC": (two_state(), "tdc", "eta", 0.188, 4000, 0.1),
    "two-state, TDRC": (two_state(), "tdrc", "beta", 0.47, 6000, 0.1),
    "star, TDC": (baird(), "tdc", "eta", 0.1424265, 30_000, 0.01),
}


@pytest.mark.slow  # pytest -m slow tests/test_mspbe_stability.py, a minute
@pytest.mark.parametrize("name", CASES)
def test_simulations_on_both_sides_of_a_threshold(name):
    """Two runs of the library's own updates, at 0.9 and 1.1 times the threshold."""
    process, _, parameter, threshold, steps, lr = CASES[name]
    values = threshold * torch.tensor([0.9, 1.1], dtype=torch.float64)
    if parameter == "eta":
        strategy = bilevel.SingleLoop(0.0, lr, lr * values, directions=methods.TDC())
    else:
        strategy = methods.tdrc(lr, beta=values)
    solution = bilevel.solve(
        LinearEvaluation(process),
        strategy,
        steps=steps,
        batch_size=None,
        seeds=2,
        every=steps,
        dtype=torch.float64,
    )
    first, last = solution.history["test_rmspbe"]
    stable = 1 if parameter == "eta" else 0  # TDC wants a large eta, TDRC a small beta
    assert last[stable] < 0.2 * first[stable]
    assert last[1 - stable] > 5 * first[1 - stable]


def test_simulated_thresholds_by_matrix_powers():
    """The same by powers of I - alpha G, which are quick: the library's steps equal them."""
    for process, method, parameter, threshold, steps, lr in CASES.values():
        found = moments_of(process)
        start = float(exact.mspbe(found, process.initial_head)) ** 0.5
        for factor, grows in ((0.9, parameter == "eta"), (1.1, parameter == "beta")):
            update = stability.expected_update(found, method, **{parameter: factor * threshold})
            assert not update.right.any()  # all rewards are 0
            step = torch.eye(len(update.right), dtype=torch.float64) - lr * update.matrix
            made = torch.linalg.matrix_power(step, steps)[: len(found.b), : len(found.b)]
            end = float(exact.mspbe(found, made @ process.initial_head)) ** 0.5
            assert end > 5 * start if grows else end < 0.2 * start


def test_mistakes_are_named():
    found = moments_of(two_state())
    with pytest.raises(UnknownNameError, match=r"no method 'tdx'\. Did you mean 'td"):
        stability.expected_update(found, "tdx")
    with pytest.raises(UnknownNameError, match="no parameter 'lambda'"):
        stability.threshold(found, "tdc", "lambda", 0.1, 1.0)
    with pytest.raises(ArgumentError, match=r"tdc converges at 0\.5 and at 1"):
        stability.threshold(found, "tdc", "eta", 0.5, 1.0)
