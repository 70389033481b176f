"""What a report says of |grad Phi|: how far it fell, and whose rate to change."""

import numpy as np
import pytest
import torch
from comparison_example import example, small
from small_problems import Scalar

import bilevel
from bilevel import SGD, BestResponse
from bilevel.report import html, stationarity
from bilevel.report.words import number

RECORDS, RATES = 21, {"good": 2.0, "beyond": 12.0}


def content(strategies, **changes):
    """What a comparison holds: name -> (how it is written, (T, R) sizes of the gradient)."""
    return {
        "strategies": {name: written for name, (written, _) in strategies.items()},
        "history": {name: {stationarity.NORM: v} for name, (_, v) in strategies.items()},
        "status": {name: ["COMPLETED"] * v.shape[1] for name, (_, v) in strategies.items()},
        "runs": next(iter(strategies.values()))[1].shape[1],
    } | changes


def falling(last, runs=3):
    return np.geomspace(1.0, last, RECORDS)[:, None] * np.array([[2.0, 5.0, 1.0]])[:, :runs]


def swinging(level=0.5, runs=3):
    """Falls at once, and then goes up and down."""
    values = falling(1.0, runs)
    values[3:] *= level * np.where(np.arange(RECORDS - 3) % 2, 0.6, 1.0)[:, None]
    return values


def written(rate):
    return f"BestResponse(body_lr=Constant({rate}), solver=None)"


def test_a_rate_with_many_digits_is_rounded():
    strategies = {"sqrt": (written(0.0015811388300841897), falling(2.5))}
    assert "for sqrt (body_lr = 0.00158):" in stationarity.fall(content(strategies))


def test_the_median_over_seeds_of_the_last_over_the_first_is_told():
    values = falling(0.03)
    values[-1] *= [10.0, 1.0, 1.0]
    said = stationarity.fall(content({"exact": (written(0.1), values)}))
    assert said == (
        "Gradient of Φ, its last size over its first (median over seeds): exact 0.0300."
    )
    one = stationarity.fall(content({"exact": (written(0.1), falling(0.03, 1))}))
    assert one == "Gradient of Φ, its last size over its first: exact 0.0300."


def test_names_with_commas_are_told_apart():
    strategies = {"exact": (written(0.1), falling(0.3)), "exact, tuned": (written(1), falling(0.2))}
    assert stationarity.fall(content(strategies)).endswith(": exact 0.300; exact, tuned 0.200.")


def test_what_goes_up_and_down_names_its_rate():
    strategies = {
        "slow": (written(0.001), falling(0.4)),
        "fast": (written(0.25), swinging()),
        "decaying": ("BestResponse(body_lr=Polynomial(initial=0.1))", swinging(0.2)),
        "mine": ("OwnLoop(mine, gradients=1)", swinging(0.3)),
    }
    said = stationarity.fall(content(strategies))
    assert said.endswith(
        " It goes up and down for fast (body_lr = 0.25), decaying and mine: lower the body's "
        "rate, or let it decay."
    )
    assert "slow 0.400, fast 0.300, decaying 0.120 and mine 0.180." in said


def test_what_did_not_fall_names_its_rate():
    strategies = {"up": (written(2.5), falling(3.0)), "down": (written(0.1), falling(0.5))}
    said = stationarity.fall(content(strategies))
    assert said.endswith(
        "It did not fall for up (body_lr = 2.5): lower the body's rate, or let it decay."
    )


@pytest.mark.parametrize(
    "values",
    [
        falling(0.4),
        swinging(0.005),  # far down: rounding, or the noise of batches
        falling(0.5)[-5:] / falling(0.5)[-5:][0] * 0.5,  # too few records to tell
        falling(0.9) * np.where(np.arange(RECORDS) % 2, 1.03, 1.0)[:, None],  # slow, not astray
        np.where(np.arange(RECORDS)[:, None] % 5, falling(0.4), 1.1 * falling(0.4)),  # a bump
    ],
)
def test_what_falls_is_not_blamed(values):
    said = stationarity.fall(content({"good": (written(0.1), values)}))
    assert said
    assert "lower" not in said


def test_records_without_it_and_runs_that_failed_are_left_out():
    values = falling(0.04)
    values[1:-1:2] = np.nan  # best responses that were dear
    values[10:, 1] = np.nan
    status = {"some": ["COMPLETED", "DIVERGED", "COMPLETED"]}
    said = stationarity.fall(content({"some": (written(0.1), values)}, status=status))
    assert "some 0.0400." in said
    assert "lower" not in said
    none = content({"some": (written(0.1), np.full((RECORDS, 3), np.nan))})
    assert stationarity.fall(none) == ""
    assert stationarity.fall(small().content()) == ""


@pytest.mark.usefixtures("undrawn")
def test_table_and_page_say_it():
    comparison = example()
    said = stationarity.fall(comparison.content())
    assert said.startswith("Gradient of Φ")
    assert said in comparison.table()
    page = html.page(comparison.content(), html.draw(comparison.content()))
    assert said.split(":")[0] in page.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.usefixtures("untimed")
def test_a_rate_beyond_two_over_the_curvature_is_found_out():
    pair = {key: BestResponse(rate, optimizer=SGD()) for key, rate in RATES.items()}
    said = bilevel.compare(Scalar(), pair, seeds=3, steps=40, every=2).table()
    assert said.endswith(
        "It did not fall for beyond (body_lr = 12.0): lower the body's rate, or let it decay."
    )


RISING = np.geomspace(1.0, 4.0, RECORDS)[:, None] * np.ones(3)
ORBIT = np.concatenate([falling(0.4)[:4], np.tile(falling(0.4)[4], (RECORDS - 4, 1))])
DOWN = 10.0 - np.arange(RECORDS)[:, None] * np.array([[0.1, 0.2, 0.3]])
FLAT = np.concatenate([DOWN[:4], np.tile(DOWN[4], (RECORDS - 4, 1))])
LOWER = "lower the body's rate, or let it decay."


@pytest.mark.parametrize(
    ("norm", "phi", "words"),
    [
        (ORBIT, FLAT, f" It no longer falls, nor does Φ, for mine (body_lr = 0.5): {LOWER}"),
        (ORBIT, DOWN, ""),  # a long slope: it gets on
        (falling(0.005), FLAT, ""),  # it has arrived
        (RISING, FLAT, f" It did not fall for mine (body_lr = 0.5): {LOWER}"),
        (RISING, DOWN[::-1], f" It did not fall for mine (body_lr = 0.5): {LOWER}"),
        (
            RISING,  # away from a saddle
            DOWN,
            " It did not fall, though Φ does, for mine (body_lr = 0.5): make more steps, or raise "
            "the body's rate.",
        ),
        (
            np.tile(falling(0.4)[0], (RECORDS, 1)),
            FLAT,
            " It stayed the same for mine (body_lr = 0.5): the rate is too small to get on, or so "
            "large that the body goes to and fro.",
        ),
    ],
)
def test_phi_tells_what_is_wrong_with_a_rate(norm, phi, words):
    one = content({"mine": (written(0.5), norm)})
    one["history"]["mine"][stationarity.PHI] = phi
    known, told = stationarity.fall(one), number(np.median(norm[-1] / norm[0]))
    assert known.partition(f": mine {told}.")[2] == words


class Wells(bilevel.StackelbergProblem):
    """Phi(w) = log cosh w: steps of SGD beyond 2 end on an orbit between w and -w."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return 3.0 + torch.rand((), generator=generator)

    def init_head(self, generator):
        return torch.zeros(())

    def head_objective(self, body, head, batch):
        return body.cosh().log() + 0.5 * (head - body.sin()).square()


@pytest.mark.usefixtures("untimed")
def test_an_orbit_on_which_the_gradient_keeps_its_size_is_found_out():
    """To a record every third step it looks as if all stood still."""
    rates = {"orbit": 2.5, "none": 1e-12}
    strategies = {key: BestResponse(rate, optimizer=SGD()) for key, rate in rates.items()}
    said = bilevel.compare(Wells(), strategies, seeds=2, steps=48, every=3).table()
    assert said.endswith(
        f" It no longer falls, nor does Φ, for orbit (body_lr = 2.5): {LOWER} It stayed the same "
        "for none (body_lr = 1e-12): the rate is too small to get on, or so large that the body "
        "goes to and fro."
    )


def test_a_body_that_stays_has_no_rate_to_change():
    still = np.ones((RECORDS, 3))
    frozen = repr(bilevel.SingleLoop(0.0, 0.1, 0.1))
    told = stationarity.fall(content({"still": (frozen, still), "mine": (written(0.5), still)}))
    assert "stayed the same for mine (body_lr = 0.5):" in told
