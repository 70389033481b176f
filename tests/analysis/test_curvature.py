"""Curvatures against dense matrices, which autograd makes of the objectives of single runs."""

import dataclasses

import numpy as np
import pytest
import torch
from curved import dense, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import General, Scalar, Smooth, TrueBilevel, grouped
from tasks import Tasks

import bilevel
from bilevel import analysis, trees
from bilevel.analysis.points import Iterates
from bilevel.errors import ArgumentError, BilevelError, IncompatibleError
from problems.teacher import teacher
from problems.toy import scalar_product

STRATEGY = bilevel.TwoTimescale(0.01, 0.05)
NAMES = ("joint", "best", "phi", "full")


def labels(outputs):
    rows = {name: group.inputs for name, group in grouped(0).items()}
    return {name: bilevel.Batch(x, (x[:, 0] > x[:, 1]).long()) for name, x in rows.items()}


def points(problem, at=(3,), seeds=2):
    return analysis.iterates(
        problem, STRATEGY, at=at, seeds=seeds, batch_size=None, dtype=torch.float64
    )


PROBLEMS = {
    "ridge": (lambda: Smooth(redraws_data=True), 1),
    "two outputs and a bias": (lambda: Smooth(outputs=2, fit_bias=True), 1),
    "weights of the body's": (lambda: Weighed(), 1),
    "logistic": (lambda: Smooth(criterion=bilevel.LogisticLoss(), groups=labels(2)), 8),
    "classes": (
        lambda: Smooth(criterion=bilevel.SoftmaxLoss(), outputs=2, groups=labels(2)), 8),
    "quadratic tree": (lambda: General(power=2), 1),
    "0-dim": (Scalar, 1),
    "kinks": (lambda: teacher(rows=30, inputs=3, width=4, ridge=1e-2), 1),
}  # fmt: skip


class Weighed(Smooth):
    """Weights of rows, penalty and a term of the body: all that may depend on the body."""

    def row_weights(self, body, batch):
        return 1 + torch.sigmoid(batch["train"].inputs @ body["weight"][:, 0])

    def penalty(self, body):
        return 0.1 + body["bias"].square()

    def body_penalty(self, body):
        return body["weight"].pow(4).sum()


@pytest.mark.parametrize("name", PROBLEMS)
def test_products_are_those_of_the_dense_matrices(name):
    made, steps = PROBLEMS[name]
    found = points(made())
    wanted = reference(found, 0, 1, steps)
    for matrix in NAMES:
        mine = dense(found, 0, matrix)
        right, scale = wanted[matrix], float(wanted[matrix].abs().max())
        assert float((mine[1] - right).abs().max()) <= 1e-10 * scale
        assert scale > 1e-3


def test_the_lemma_has_its_second_derivative():
    problem = scalar_product()
    at = analysis.iterates(problem, bilevel.uniform(0.01), at=(0,), seeds=5, dtype=torch.float64)
    w = at.bodies[0]
    found = analysis.curvature(at).values["phi_largest"][0]
    torch.testing.assert_close(found, 0.1 + (3 * w**2 - 1) / (w**2 + 1) ** 3, rtol=1e-10, atol=0)


@pytest.mark.parametrize("matrix", NAMES)
def test_eigenvalues_and_traces_are_those_of_the_dense_matrices(matrix):
    at = points(teacher(rows=60, inputs=5, width=8, ridge=1e-3), at=(0, 40), seeds=3)
    found = analysis.curvature(at, of=[matrix], probes=150).values
    for number in range(2):
        values = torch.linalg.eigvalsh(dense(at, number, matrix))
        assert values.shape == (3, 48 if matrix == "full" else 40)
        largest = values.abs().amax(1)
        for end, place in (("largest", -1), ("smallest", 0)):
            off = (found[f"{matrix}_{end}"][number] - values[:, place]).abs()
            assert bool((off <= 1e-6 * largest).all())
            assert bool((off <= found[f"{matrix}_residual"][number] + 1e-12 * largest).all())
        error = found[f"{matrix}_trace_error"][number]
        assert bool(((found[f"{matrix}_trace"][number] - values.sum(1)).abs() <= 3 * error).all())
        assert bool((error < 0.3 * largest * 40**0.5).all())


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 5),
    ridge=st.sampled_from([1e-4, 1e-2, 1.0]),
    start=st.sampled_from(["default", "unit"]),
)
def test_the_reduced_objective_never_curves_more(seed, width, ridge, start):
    """Phi'' <= g_ww(., theta*): what is subtracted is g_wt g_tt^-1 g_tw."""
    problem = teacher(rows=20, inputs=3, width=width, ridge=ridge, start=start)
    at = analysis.iterates(
        problem, STRATEGY, at=(0,), seeds=[seed], batch_size=None, dtype=torch.float64
    )
    best, phi = dense(at, 0, "best")[0], dense(at, 0, "phi")[0]
    assert float((phi - phi.T).abs().max()) <= 1e-9 * float(best.abs().max() + phi.abs().max())
    lowest = torch.linalg.eigvalsh(best - 0.5 * (phi + phi.T))[0]
    assert float(lowest) >= -1e-10 * float(best.abs().max() + phi.abs().max())


def test_norms_gradients_and_the_scale():
    at = points(Smooth(redraws_data=True), at=(0, 5))
    found = analysis.curvature(at, of=["phi"], probes=1).values
    assert not [name for name in found if name.startswith(("joint", "best_l", "full"))]
    for number in range(2):
        for run, seed in enumerate(at.seeds):
            body, head = (trees.take(level[number], run) for level in (at.bodies, at.heads))
            batch = at.problem.data(seed)
            batch.pop("test")
            exact = bilevel.hypergradient(at.problem, body, batch=batch)
            best = exact.response.head
            wanted = {
                "body_norm": trees.norm(trees.single(body)),
                "head_norm": head.norm(),
                "best_norm": best.norm(),
                "head_gap": (head - best).norm(),
                "phi_gradient_norm": trees.norm(trees.single(exact.body)),
                "scale": best.norm() ** 2 / head.norm() ** 2,
            }
            for name, value in wanted.items():
                assert float(found[name][number, run]) == pytest.approx(float(value), rel=1e-9)
    assert bool(found["phi_trace_error"].isnan().all())
    assert bool((found["body_gradient_norm"] > 0).all())
    assert bool((found["head_gradient_norm"] > 0).all())


def test_a_run_that_diverged_harms_no_other():
    at = points(Smooth(redraws_data=True), at=(0, 2), seeds=3)
    at = dataclasses.replace(at, steps=(2,), bodies=at.bodies[1:], heads=at.heads[1:])
    broken = trees.tree_map(torch.clone, at.bodies[0])
    broken["weight"][1] = torch.nan
    after = dataclasses.replace(at, bodies=(broken,))
    whole, found = (analysis.curvature(some, of=["phi"], probes=3) for some in (at, after))
    for name, values in found.values.items():
        assert values[0].isnan().tolist() == [False, True, False], name
        kept = torch.tensor([0, 2])
        torch.testing.assert_close(
            values[0, kept], whole.values[name][0, kept], rtol=1e-6, atol=1e-9
        )
    assert "n/a" not in found.table()


def test_a_solution_is_the_last_iterate():
    problem = Smooth(redraws_data=True)
    options = {"seeds": 3, "batch_size": 5, "dtype": torch.float64}
    solution = bilevel.solve(problem, STRATEGY, steps=6, **options)
    last = Iterates.of(solution)
    along = analysis.iterates(problem, STRATEGY, at=(6, 2), **options)
    assert (along.steps, last.steps, last.seeds) == ((2, 6), (6,), (0, 1, 2))
    assert trees.equal(along.bodies[1], last.bodies[0])
    assert trees.equal(along.heads[1], last.heads[0])
    assert not trees.equal(along.bodies[0], along.bodies[1])


def test_the_table_and_the_rows():
    found = analysis.curvature(points(Scalar(), at=(0, 4), seeds=8))
    lines = found.table().splitlines()
    headings = "iterate joint joint at theta* reduced |theta*|^2 / |theta|^2"
    assert " ".join(lines[0].split()) == headings
    assert [line.split()[0] for line in lines[1:]] == ["0", "4"]
    assert lines[1].count(" to ") == 4
    rows = list(found.rows())
    assert len(rows) == len(found.values) * 2 * 8
    name, step, seed, value = rows[9]
    assert (name, step, seed) == ("body_norm", 4, 1)
    assert value == float(found.values["body_norm"][1, 1])


def test_medians_have_intervals_between_values():
    from bilevel.analysis.medians import median

    assert median(np.array([np.nan, 3.0]))[0] == 3.0
    assert np.isnan(median(np.arange(5.0)).low)
    assert median(np.array([5.0, 4, 3, 2, 1, 0])) == (2.5, 0.0, 5.0)
    assert np.isnan(median(np.array([np.nan])).value)
    drawn = np.random.default_rng(0).exponential(size=(4000, 20))
    held = [one.low <= np.log(2) <= one.high for one in map(median, drawn)]
    assert 0.95 <= np.mean(held) < 0.97  # 95.9 % for 20 values


@pytest.mark.parametrize(
    ("problem", "words"),
    [(TrueBilevel(power=2), "F is not g"), (Tasks(), "a head for each task")],
)
def test_what_has_no_such_curvature_is_refused(problem, words):
    at = analysis.iterates(problem, bilevel.BestResponse(0.01), at=(0,), seeds=1, batch_size=None)
    with pytest.raises(IncompatibleError, match=words):
        analysis.curvature(at)


@pytest.mark.parametrize(
    "options",
    [{"of": []}, {"of": ["hessian"]}, {"of": "phi"}, {"probes": 0}, {"probes": 10**6},
     {"products": 0}, {"tolerance": -1.0}, {"seed": -1}],
)  # fmt: skip
def test_foolish_arguments_are_refused(options):
    with pytest.raises(BilevelError):
        analysis.curvature(points(Scalar()), **options)


@pytest.mark.parametrize("at", [(), (1, 1), (-1,), 3, "12", (0.5,), None, range(2000)])
def test_steps_that_are_none_are_refused(at):
    with pytest.raises(ArgumentError, match="at"):
        analysis.iterates(Scalar(), STRATEGY, at=at)
