"""What `check_problem` tells of the assumptions of theorems, on problems where it is known."""

import re

import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel.errors import CheckError
from problems.analytic import analytic
from problems.toy import ScalarProduct


def told(problem):
    return {finding.what: finding.found for finding in bilevel.check_problem(problem)}


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", text)]


class Linear(Smooth):
    """Features that are two copies of one: mu is the ridge."""

    def init_head(self, generator):
        return torch.randn(8, generator=generator, dtype=torch.float64)

    def features(self, body, inputs):
        once = super().features(body, inputs)
        return torch.cat([once, once], 1)


def test_mu_of_the_ridge_and_of_features():
    found = told(Linear(ridge=0.05))["where mu comes from"]
    assert numbers(found)[0] == pytest.approx(0.05, rel=0.02)
    assert "comes from the penalty: the features are nearly dependent" in found
    independent = told(Smooth(ridge=1e-6))["where mu comes from"]
    assert "comes from the features" in independent
    assert "raise `ridge`" in told(Linear(ridge=1e-10))["where mu comes from"]


def test_weak_convexity_against_the_formula():
    class Whole(ScalarProduct):
        """Phi'' = mu + (3 w^2 - 1) / (w^2 + 1)^3 is -0.9 at the bodies near 0."""

        body_set = bilevel.Everywhere()

        def init_body(self, generator):
            return 1e-3 * torch.randn((), generator=generator, dtype=torch.float64)

    found = told(Whole())["weak convexity of Phi"]
    assert "rho is at least 0.9." in found
    assert "l below 1.1" in found
    assert "curves downwards nowhere there" in told(ScalarProduct())["weak convexity of Phi"]


def test_noise_has_its_variance():
    found = told(ScalarProduct(noise_scale=0.3))["gradient noise"]
    # 16 squares of one Gaussian number each: the mean is .09, within 4 standard deviations of it
    low, high = numbers(found)[:2]
    assert 0.0 < low <= high < 0.09 * (1 + 4 * (2 / 16) ** 0.5)
    assert "It grows" not in found
    assert told(ScalarProduct())["gradient noise"] == "none: every step sees the same"
    assert "A `head_set` or a ridge" in told(Smooth())["gradient noise"].replace(": a ", ": A ")


def test_lipschitz_constants_are_below_the_true_ones():
    found = numbers(told(analytic("A5"))["Lipschitz constants"])
    assert all(0 < value < 20 for value in found[:2])


class Kinked(Smooth):
    """The same with rectified units, one of which is off for all rows."""

    def init_body(self, generator):
        return torch.randn(3, 4, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.randn(5, generator=generator, dtype=torch.float64)

    def features(self, body, inputs):
        units = torch.relu(inputs @ body)
        return torch.cat([units, torch.relu(-1 - units[:, :1])], 1)


def test_kinks_are_found_and_smooth_activations_have_none():
    assert "no jump" in told(Smooth())["differentiability"]
    found = told(Kinked())
    assert "has a kink, such as relu" in found["differentiability"]


def test_sets():
    assert "reaches 3 from the origin" in told(ScalarProduct())["sets"]
    found = told(Smooth())["sets"]
    assert "W and Theta are not bounded" in found
    assert "`head_set = Ball(...)`" in found


def test_parameters_that_nothing_uses():
    class Unused(ScalarProduct):
        def init_body(self, generator):
            more = torch.randn(3, generator=generator, dtype=torch.float64)
            return {"w": super().init_body(generator), "more": more}

        def head_objective(self, body, head, batch):
            return super().head_objective(body["w"], head, batch)

        def metrics(self, body, head, data):
            return {}

    found = told(Unused())["parameters in use"]
    assert "3 of the 3 numbers of body['more']" in found
    assert told(ScalarProduct())["parameters in use"] == "all"


def test_a_phi_that_is_constant_where_F_is_not_g():
    class Degenerate(ScalarProduct):
        def body_objective(self, body, head, batch):
            return (head * (body**2 + 1) - body) ** 2  # zero at every best response

    assert "Phi is constant" in told(Degenerate())["best response"]
    assert "best response" not in told(analytic("A5"))


class Loss(bilevel.AbstractCriterion):
    """A squared error with formulas that may be wrong."""

    def __init__(self, slope=1.0, bend=1.0):
        self.scale, self.bend = slope, bend

    def rows(self, predictions, targets):
        return 0.5 * (predictions - targets) ** 2

    def slope(self, predictions, targets):
        return self.scale * (predictions - targets)

    def curvature(self, predictions, targets):
        return bilevel.RowCurvature(self.bend * torch.ones_like(predictions))

    def metrics(self, predictions, targets):
        return {"mse": (predictions - targets).square().mean()}

    def check_targets(self, targets, outputs):
        pass


def with_loss(loss):
    class Problem(Smooth):
        criterion = loss

        def init_head(self, generator):
            return torch.randn(4, generator=generator, dtype=torch.float64)

    return Problem(ridge=0.1)


def test_a_criterion_whose_formulas_are_wrong_fails():
    assert "its curvature up to" in told(with_loss(Loss()))["criterion"]
    with pytest.raises(CheckError, match=r"`slope` of Loss differs|central differences"):
        bilevel.check_problem(with_loss(Loss(slope=1.01)))
    with pytest.raises(CheckError, match=r"`curvature` of Loss differs|central differences"):
        bilevel.check_problem(with_loss(Loss(bend=1.01)))


def test_constants_that_do_not_hold_fail():
    class Boasting(ScalarProduct):
        factor = 1.0

        def known_curvature(self, body):
            bend = float(body**2 + self.ridge)
            return bilevel.Curvature(self.factor * bend, bend)

    assert "mu is 100% of" in told(Boasting())["stated curvature"]
    Boasting.factor = 1.01
    with pytest.raises(CheckError, match="`known_curvature` of Boasting states"):
        bilevel.check_problem(Boasting())
