"""The Moreau envelope of Phi: closed forms, sets, and what it says of a network with kinks."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from small_problems import doubles

import bilevel
from bilevel import analysis
from bilevel.errors import ArgumentError, ShapeError
from problems.analytic import analytic
from problems.toy import ScalarProduct


class Ring(bilevel.StackelbergProblem):
    """Phi(w) = | |w|^2 - 1 |, whose weak convexity is 2."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return {"w": torch.randn(2, generator=generator, dtype=torch.float64), "v": torch.zeros(1)}

    def init_head(self, generator):
        return torch.zeros(())

    def head_objective(self, body, head, batch):
        squares = body["w"].square().sum() + body["v"].square().sum()
        return 0.5 * (head - body["w"].sum()) ** 2 + (squares - 1).abs()


def prox_length(size, reach):
    """|prox| of the ring."""
    if size > 1 + 2 * reach:
        return size / (1 + 2 * reach)
    return size / (1 - 2 * reach) if size < 1 - 2 * reach else 1.0


@pytest.mark.parametrize(("size", "reach"), [(0.3, 0.1), (0.7, 0.3), (3, 0.3)])
def test_the_envelope_of_a_ring(size, reach):
    body = {"w": torch.tensor([1.0, -2.0]).double(), "v": torch.tensor([0.5]).double()}
    body = {name: size * leaf / 5.25**0.5 for name, leaf in body.items()}
    found = analysis.moreau(Ring(), body, reach)
    length = prox_length(size, reach)
    for name, leaf in body.items():
        error = found.prox[name] - leaf * length / size
        assert float(error.norm()) < 1e-8
        torch.testing.assert_close(found.gradient[name], (leaf - found.prox[name]) / reach)
    value = abs(length**2 - 1) + (length - size) ** 2 / (2 * reach)
    assert found.value == pytest.approx(value, abs=1e-8)
    assert found.norm == pytest.approx(abs(size - length) / reach, abs=1e-7)
    assert found.converged
    assert found.l == reach


def test_rho_is_seen_and_decides_l():
    body = {"w": torch.tensor([0.2, 0.1]), "v": torch.tensor([0.0])}
    found = analysis.moreau(Ring(), body)
    assert found.rho == pytest.approx(2, rel=1e-6)
    assert found.l == pytest.approx(0.25, rel=1e-6)
    with pytest.raises(ArgumentError, match=r"`l` must be below 1 / rho = 0\.5"):
        analysis.moreau(Ring(), body, 0.6)
    # who knows better says so
    known = analysis.moreau(ScalarProduct(), torch.tensor(2.0), 0.6, rho=1.0)
    assert (known.rho, known.l) == (1.0, 0.6)


def test_a_body_in_a_box_against_a_scalar_search():
    problem = ScalarProduct()
    for start, reach in ((0.6, 0.1), (0.7, 2.0), (3.0, 20.0)):
        found = analysis.moreau(problem, torch.tensor(start, dtype=torch.float64), reach)

        def envelope(v, start=start, reach=reach):
            phi = 0.5 / (v**2 + 1) + 0.05 * v**2
            return phi + (v - start) ** 2 / (2 * reach)

        best = minimize_scalar(
            envelope, bounds=(0.6, 3.0), method="bounded", options={"xatol": 1e-10}
        )
        assert float(found.prox) == pytest.approx(best.x, abs=1e-6)
        assert found.value == pytest.approx(best.fun, abs=1e-10)


def test_where_F_is_not_g_the_implicit_gradient_leads():
    problem = analytic("A5")
    body = problem.start
    found = analysis.moreau(problem, body, 0.05)
    # optimality of the proximal point: grad Phi(prox) = (w - prox) / l
    torch.testing.assert_close(
        problem.phi_gradient(found.prox), found.gradient, rtol=1e-6, atol=1e-7
    )


class Relu(bilevel.LinearHeadProblem):
    """Eight rectified units on three inputs."""

    criterion = bilevel.SquaredError()
    ridge = 1e-2

    def data(self, seed=None):
        inputs = doubles(0, 60, 3)
        return {"train": bilevel.Batch(inputs, torch.sin(inputs.sum(1)))}

    def init_body(self, generator):
        return torch.randn(3, 8, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(8)

    def features(self, body, inputs):
        return torch.relu(inputs @ body)


def test_it_falls_along_the_training_of_a_network_with_kinks():
    problem, state, start, norms = Relu(), None, None, []
    strategy = bilevel.BestResponse(bilevel.Polynomial(0.03, 0.5))
    for steps in (5, 95, 600):
        options = {"seeds": 1, "dtype": torch.float64, "state": state, "every": 10**6}
        solution = bilevel.solve(problem, strategy, steps=steps, **options)
        found = analysis.moreau(problem, solution.body[0], 0.05, rho=10.0, start=start)
        assert found.converged
        state, start = solution.state, found.prox
        norms.append(found.norm)
    assert np.isfinite(norms).all()
    assert norms[2] < norms[1] < norms[0]
    assert norms[2] < 0.5 * norms[0]


def test_a_start_nearby_saves_steps():
    body = doubles(5, 3, 8)
    cold = analysis.moreau(Relu(), body, 0.05, rho=1.0)
    warm = analysis.moreau(Relu(), body, 0.05, rho=1.0, start=cold.prox)
    assert warm.steps < cold.steps
    torch.testing.assert_close(warm.prox, cold.prox, rtol=0, atol=1e-7)


def test_bodies_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="`start` must have the leaves"):
        analysis.moreau(Relu(), doubles(5, 3, 8), 0.05, start=doubles(5, 3))


def test_where_phi_is_no_number_nothing_is_stationary():
    problem = Ring()
    problem.head_objective = lambda body, head, batch: 0.5 * head**2 + (body["w"] + 9).log().sum()
    body = {"w": torch.tensor([-10.0, 1.0]).double(), "v": torch.zeros(1).double()}
    found = analysis.moreau(problem, body, 0.1)
    assert not found.converged
    assert np.isnan([found.value, found.norm, found.error]).all()
