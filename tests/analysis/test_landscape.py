"""Landscapes against single evaluations, and their directions."""

import numpy as np
import pytest
import torch
from small_problems import General, Scalar, Smooth, TrueBilevel
from tasks import Tasks

import bilevel
from bilevel import analysis, trees
from bilevel.analysis import landscapes
from bilevel.analysis.points import Iterates
from bilevel.errors import ArgumentError, BilevelError, IncompatibleError
from problems.toy import scalar_product

STRATEGY = bilevel.TwoTimescale(0.01, 0.05)


def points(problem, at=(0, 3), seeds=3):
    strategy = STRATEGY if problem.is_stackelberg else bilevel.BestResponse(0.01)
    return analysis.iterates(
        problem, strategy, at=at, seeds=seeds, batch_size=None, dtype=torch.float64
    )


@pytest.mark.parametrize(
    "make",
    [lambda: Smooth(redraws_data=True), lambda: General(power=2), lambda: TrueBilevel(power=2),
     Scalar, lambda: Smooth(criterion=bilevel.HuberLoss(0.5))],
)  # fmt: skip
def test_every_point_is_that_of_a_single_evaluation(make):
    at = points(make())
    found = analysis.landscape(at, run=2, size=4, span=0.6)
    assert found.joint.shape == found.phi.shape == (2, 4, 4)
    assert found.places.tolist() == pytest.approx([-0.6, -0.2, 0.2, 0.6])
    batch = at.problem.data(at.seeds[2] if at.problem.redraws_data else None)
    batch.pop("test", None)
    for number, i, j in ((0, 0, 3), (1, 2, 1)):
        a, b = found.places[i], found.places[j]
        body = trees.tree_map(
            lambda leaf, way, a=a, b=b: leaf[2] + a * way[0] + b * way[1],
            at.bodies[number], found.directions[number],
        )  # fmt: skip
        head = trees.take(at.heads[number], 2)
        exact = bilevel.hypergradient(at.problem, body, batch=batch)
        joint = at.problem.body_objective(body, head, batch)
        assert float(found.phi[number, i, j]) == pytest.approx(exact.value, rel=1e-9)
        assert float(found.joint[number, i, j]) == pytest.approx(float(joint), rel=1e-12)
    assert len(found.phi.unique()) >= 16  # on the plane of a single number lines coincide
    if at.problem.is_stackelberg:
        assert bool((found.phi <= found.joint).all())


def test_a_grid_in_parts_is_the_same(monkeypatch):
    at = points(Smooth(redraws_data=True))
    whole = analysis.landscape(at, size=5)
    monkeypatch.setattr(landscapes, "STEP_BYTES", 7 * 2**10)
    parts = analysis.landscape(at, size=5)
    torch.testing.assert_close(parts.phi, whole.phi, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.joint, whole.joint, rtol=1e-12, atol=0)


def test_filters_are_as_long_as_those_of_the_body():
    at = points(Smooth(redraws_data=True))
    found = analysis.landscape(at, run=1, size=2)
    for number in range(2):
        body, ways = trees.take(at.bodies[number], 1), found.directions[number]
        for way in range(2):
            for axis_kept, axis_summed in ((1, 0),):
                mine = ways["weight"][way].norm(dim=axis_summed)
                torch.testing.assert_close(mine, body["weight"].norm(dim=axis_summed))
                assert mine.shape == (body["weight"].shape[axis_kept],)
            torch.testing.assert_close(ways["bias"][way].norm(), body["bias"].norm())
    first, last = (ways["weight"][0] / ways["weight"][0].norm(dim=0) for ways in found.directions)
    torch.testing.assert_close(first, last)  # the same numbers, scaled anew
    rows = analysis.landscape(at, run=1, size=2, unit_axis=0).directions[1]["weight"][0]
    weight = trees.take(at.bodies[1], 1)["weight"]
    torch.testing.assert_close(rows.norm(dim=1), weight.norm(dim=1))


def test_a_norm_is_that_of_the_body():
    at = points(Smooth(redraws_data=True))
    found = analysis.landscape(at, size=2, normalise="norm")
    size = trees.norm(trees.part(at.bodies[1], slice(0, 1)))
    torch.testing.assert_close(trees.norm(found.directions[1]), size.expand(2))
    other = analysis.landscape(at, size=2, normalise="norm", seed=1)
    assert not trees.equal(other.directions, found.directions)
    again = analysis.landscape(at, size=2, normalise="norm")
    assert trees.equal(again.directions, found.directions)
    assert bool((again.phi == found.phi).all())


def test_directions_of_a_body_of_zeros_are_finite():
    at = points(Smooth(redraws_data=True), seeds=1)
    still = trees.tree_map(torch.zeros_like, at.bodies[0])
    flat = Iterates(at.problem, at.seeds, (0,), (still,), at.heads[:1], at.status)
    assert bool(trees.finite(analysis.landscape(flat, size=2).directions[0]).all())
    assert bool(analysis.landscape(flat, size=2).phi.isfinite().all())
    norm = analysis.landscape(flat, size=2, normalise="norm").directions[0]
    torch.testing.assert_close(trees.norm(norm), torch.ones(2).double())


def test_outside_of_the_set_nothing_is_known():
    at = points(scalar_product(), at=(0,))  # W = [.6, 3]
    found = analysis.landscape(at, size=9, span=1.0)
    w = at.bodies[0][0] + (found.directions[0][0] * found.places[:, None]) + (
        found.directions[0][1] * found.places[None, :]
    )  # fmt: skip
    outside = (w < 0.6) | (w > 3.0)
    assert 0 < int(outside.sum()) < 81
    assert bool((found.joint[0].isnan() == outside).all())
    assert bool((found.phi[0].isnan() == outside).all())
    exact = 1 / (2 * (w**2 + 1)) + 0.05 * w**2
    torch.testing.assert_close(found.phi[0][~outside], exact[~outside])


def test_tasks_and_runs_that_diverged_are_refused():
    with pytest.raises(IncompatibleError, match="a head for each task"):
        analysis.landscape(points(Tasks(), at=(0,)))
    at = points(Scalar(), at=(0,))
    lost = (torch.where(torch.arange(3) == 1, torch.nan, at.bodies[0]),)
    broken = Iterates(at.problem, at.seeds, at.steps, lost, at.heads, at.status)
    with pytest.raises(ArgumentError, match=r"Run 1 \(seed 1\) had diverged by step 0"):
        analysis.landscape(broken, run=1)
    assert bool(analysis.landscape(broken, run=2, size=2).phi.isfinite().all())


@pytest.mark.parametrize(
    "options",
    [{"run": 3}, {"run": -1}, {"size": 1}, {"size": 10**4}, {"span": 0.0}, {"span": np.inf},
     {"normalise": "layer"}, {"unit_axis": 1}, {"unit_axis": True}, {"seed": 0.5}],
)  # fmt: skip
def test_foolish_arguments_are_refused(options):
    with pytest.raises(BilevelError):
        analysis.landscape(points(Scalar(), at=(0,)), **options)
