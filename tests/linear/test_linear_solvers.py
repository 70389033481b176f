"""Linear solvers x families of matrices against dense algebra."""

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_heads import normal
from linear_systems import (
    EPS,
    RUNS,
    SIZE,
    Counted,
    assert_residual_is_true,
    codes,
    errors,
    reference,
    spread,
    tensor,
    with_spectrum,
)

from bilevel import CG, Dense, Neumann, trees
from bilevel.core import parts
from bilevel.linear import Operator
from bilevel.linear.neumann import largest_seen

SHAPES = {
    "vector": (SIZE,),
    "matrix": (3, 3),
    "tree": {"slope": (2, 3), "offset": (), "more": (2,)},
}


def ridge_regression():
    """Z'Z/n + 0.05 I with fewer rows than columns, and two equal columns."""
    z = tensor(5, shape=(RUNS, 4, SIZE))
    z[..., 1] = z[..., 0]
    return z.mT @ z / 4 + 0.05 * torch.eye(SIZE).double()


FAMILIES = {  # the matrices, and a bound on their condition
    "random 1": (lambda: with_spectrum(spread(1)), 1.01),
    "random 1e2": (lambda: with_spectrum(spread(1e2)), 101),
    "random 1e4": (lambda: with_spectrum(spread(1e4)), 1.01e4),
    "isotropic": (lambda: 3 * torch.eye(SIZE).double().expand(RUNS, -1, -1), 1),
    "diagonal": (lambda: torch.diag_embed(spread(51).expand(RUNS, -1)), 51),
    "n < d": (ridge_regression, 300),
}
SOLVERS = [  # solver, tolerance of the value relative to v*, largest condition
    pytest.param(CG(), 1e-6, 1e5, id="CG"),
    pytest.param(CG(rtol=1e-13), 1e-8, 1e5, id="CG-accurate"),
    pytest.param(Dense(), 1e-11, 1e5, id="Dense"),
    pytest.param(Neumann(1100), 1e-8, 51, id="Neumann"),
]


def as_head(vectors, shape):
    shape = shape if isinstance(shape, dict) else {"only": shape}
    like = {name: torch.zeros(len(vectors), *s).double() for name, s in shape.items()}
    tree = trees.unflatten(vectors, like)
    return tree.get("only", tree)


CELLS = [
    pytest.param(row.values[0], row.values[1], family, id=f"{row.id}-{family}")
    for row in SOLVERS
    for family, (_, condition) in FAMILIES.items()
    if condition <= row.values[2]
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("solver", "tolerance", "family"), CELLS)
def test_against_dense_algebra(solver, tolerance, family, shape):
    make, condition = FAMILIES[family]
    matrix, b = make(), as_head(tensor(7, shape=(RUNS, SIZE)), SHAPES[shape])
    assert (torch.linalg.cond(matrix) <= condition * (1 + 1e-9)).all()
    solution = solver.solve(Operator.from_matrix(matrix, b), b)
    assert trees.same_structure(solution.value, b)
    assert (errors(solution, reference(matrix, b)) <= tolerance).all()
    assert_residual_is_true(solution, matrix, b)
    assert codes(solution) == ["COMPLETED" if isinstance(solver, Neumann) else "CONVERGED"] * RUNS


@pytest.mark.parametrize(("solver", "tolerance", "largest"), SOLVERS)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "one number"])
def test_heads_of_one_number(solver, tolerance, largest, shape):
    b = torch.tensor([3.0, -4.0, 5.0]).double().reshape(3, *shape)
    numbers = torch.tensor([0.5, 1e-3, 7.0]).double().reshape(3, *shape)
    counted = Operator(lambda v: numbers * v, lambda: numbers.reshape(3, 1, 1))
    solution = solver.solve(counted, b)
    torch.testing.assert_close(solution.value, b / numbers, rtol=1e-14, atol=0)
    assert solution.residual.shape == solution.status.shape == (3,)


def test_an_isotropic_hessian_takes_one_step():
    matrix, b = 0.37 * torch.eye(SIZE).double().expand(RUNS, -1, -1), tensor(1, shape=(RUNS, SIZE))
    counted = Counted(matrix, b)
    solution = CG(max_steps=1).solve(counted(), b)
    torch.testing.assert_close(solution.value, b / 0.37, rtol=1e-15, atol=0)
    assert counted.products == 2  # the step, and the check of its residual
    assert codes(solution) == ["CONVERGED"] * RUNS


@given(
    size=st.integers(1, 8), exponent=st.floats(0, 4), scale=st.integers(-9, 9),
    seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_random_quadratics(size, exponent, scale, seed):
    matrix = 10.0**scale * with_spectrum(spread(10**exponent, size), runs=2, seed=seed)
    b = tensor(seed, shape=(2, size))
    operator, expected = Operator.from_matrix(matrix, b), reference(matrix, b)
    for solver in (CG(rtol=1e-12), Dense()):
        solution = solver.solve(operator, b)
        assert (errors(solution, expected) <= 1e-8).all()
        assert codes(solution) == ["CONVERGED"] * 2
        assert_residual_is_true(solution, matrix, b)


def test_cg_agrees_with_scipy():
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(12, 12))
    eye = scipy.sparse.eye_array(12)
    plane = (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line)).tocsr()
    b = normal(3, 144)
    expected, failed = scipy.sparse.linalg.cg(plane, b, rtol=1e-12)
    assert not failed
    operator = Operator(
        lambda v: torch.from_numpy(plane @ v.numpy().T).T, lambda: pytest.fail("formed a matrix")
    )
    solution = CG(rtol=1e-12).solve(operator, torch.from_numpy(b).unsqueeze(0))
    np.testing.assert_allclose(solution.value[0], expected, rtol=1e-9)


@pytest.mark.parametrize("solver", [CG(), CG(rtol=1e-13), Dense(), Neumann(200)])
def test_runs_together_equal_runs_alone(solver):
    matrix = torch.cat([with_spectrum(spread(10.0**k), runs=1) for k in range(5)])
    b = tensor(2, shape=(5, SIZE)) * torch.tensor([1, 1e9, 1e-9, 3, 1]).double().unsqueeze(1)
    together = solver.solve(Operator.from_matrix(matrix, b), b)
    for run in range(5):
        one = slice(run, run + 1)
        alone = solver.solve(Operator.from_matrix(matrix[one], b[one]), b[one])
        torch.testing.assert_close(together.value[one], alone.value, rtol=1e-12, atol=0)
        assert together.status[run] == alone.status


@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(5)])
def test_a_zero_right_hand_side_gives_zero(solver):
    matrix, b = with_spectrum(spread(1e2)), tensor(4, shape=(RUNS, SIZE))
    b[1] = 0
    start = torch.ones(RUNS, SIZE).double() if isinstance(solver, CG) else None
    solution = solver.solve(Operator.from_matrix(matrix, b), b, start)
    assert (solution.value[1] == 0).all()
    assert solution.residual[1] == 0
    assert codes(solution)[1] == ("COMPLETED" if isinstance(solver, Neumann) else "CONVERGED")


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3])
@pytest.mark.parametrize("steps", [1, 7, 300])
@pytest.mark.parametrize("step_size", [None, 0.5, 0.99])
def test_neumann_meets_its_rate(condition, steps, step_size):
    values, b = spread(condition), tensor(8, shape=(RUNS, SIZE))
    matrix = with_spectrum(values)
    mu, largest = float(values[-1]), float(values[0])
    eta = step_size or 1 / (1.1 * largest)  # at least: the estimate of L is not above it
    assert eta <= 2 / (mu + largest) or step_size == 0.99
    rate = max(abs(1 - eta * mu), abs(1 - eta * largest) if step_size else 0)
    expected = reference(matrix, b)
    for start in (None, expected + tensor(9, shape=b.shape)):
        solution = Neumann(steps, step_size).solve(Operator.from_matrix(matrix, b), b, start)
        first = expected if start is None else start - expected
        bound = rate**steps * first.norm(dim=1)
        rounding = 100 * EPS * (condition * expected.norm(dim=1) + first.norm(dim=1))
        assert ((solution.value - expected).norm(dim=1) <= bound + rounding).all()
        assert codes(solution) == ["COMPLETED"] * RUNS


def test_the_rate_of_neumann_is_attained():
    values = spread(100.0)
    matrix, b = torch.diag(values).unsqueeze(0), torch.zeros(1, SIZE).double()
    b[0, -1] = 1.0  # along the smallest eigenvalue
    solution = Neumann(40, step_size=0.25).solve(Operator.from_matrix(matrix, b), b)
    error = errors(solution, reference(matrix, b))
    np.testing.assert_allclose(error, (1 - 0.25 * float(values[-1])) ** 40, rtol=1e-12)


@pytest.mark.parametrize("condition", [1.0, 2.0, 1e2, 1e4])
@pytest.mark.parametrize("size", [1, 2, 40])
def test_the_estimate_of_the_largest_eigenvalue(size, condition):
    matrix = with_spectrum(spread(condition, size), runs=50)
    found = largest_seen(Operator.from_matrix(matrix, matrix[:, 0]).on_vectors(matrix[:, 0]),
                         matrix[:, 0])  # fmt: skip
    assert (found <= 2 * (1 + 100 * EPS)).all()
    assert (1.1 * found >= 2).all()


def test_warm_starts():
    matrix, b = with_spectrum(spread(1e2, 40)), tensor(4, shape=(RUNS, 40))
    exact = reference(matrix, b)
    counts = []
    for start in (exact, exact + 1e-6, None, 1e3 * b, torch.full_like(b, math.nan)):
        counted = Counted(matrix, b)
        solution = CG().solve(counted(), b, start)
        assert (errors(solution, exact) <= 1e-8).all()
        counts.append(counted.products)
    assert counts[0] == 1
    assert counts[1] < counts[2]
    assert counts[3] == counts[2] + 1  # worse than zeros, so dropped
    assert counts[4] == counts[2]


def test_each_run_has_its_own_tolerance():
    matrix, b = with_spectrum(spread(1e4)), tensor(4, shape=(RUNS, SIZE))
    rtol = torch.tensor([1e-1, 1e-6, 1e-10])
    solution = CG(rtol).solve(Operator.from_matrix(matrix, b), b)
    relative = solution.residual / b.norm(dim=1)
    assert (relative <= rtol).all()
    assert relative[0] > 1e-6
    assert codes(solution) == ["CONVERGED"] * RUNS
    stacked = parts.stack([CG(1e-4), CG(1e-8)], 2)
    assert stacked.rtol.tolist() == [1e-4, 1e-4, 1e-8, 1e-8]


@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(1100)])
def test_float32(solver):
    matrix, b = with_spectrum(spread(50)).float(), tensor(4, shape=(RUNS, SIZE)).float()
    solution = solver.solve(Operator.from_matrix(matrix, b), b)
    assert solution.value.dtype == solution.residual.dtype == torch.float32
    assert (errors(solution, reference(matrix.double(), b.double())) <= 2e-5).all()
    assert codes(solution) == ["COMPLETED" if isinstance(solver, Neumann) else "CONVERGED"] * RUNS


@pytest.mark.parametrize("scale", [2.0**-900, 2.0**900])
@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(50)])
def test_the_scale_of_the_right_hand_side_changes_nothing(solver, scale):
    matrix, b = with_spectrum(spread(1e2)), tensor(4, shape=(RUNS, SIZE))
    plain, scaled = (solver.solve(Operator.from_matrix(matrix, x), x) for x in (b, scale * b))
    torch.testing.assert_close(scaled.value / scale, plain.value, rtol=1e-14, atol=0)
    assert codes(scaled) == codes(plain)


@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(3)])
def test_no_graph_comes_out(solver):
    matrix, b = with_spectrum(spread(1e2)), tensor(4, shape=(RUNS, SIZE))
    plain = solver.solve(Operator.from_matrix(matrix, b), b, b)
    matrix.requires_grad_()
    b.requires_grad_()
    solution = solver.solve(Operator.from_matrix(matrix, b), b, b)
    assert not any(x.requires_grad for x in (solution.value, solution.residual, solution.status))
    assert trees.equal(tuple(solution), tuple(plain))


def test_what_a_solve_costs():
    assert CG().cost.products == 2
    assert CG(max_steps=7).cost.products == 9
    assert Dense().cost == (0, 0, 1, 0)
    counted = Counted(with_spectrum(spread(10.0)), torch.ones(RUNS, SIZE).double())
    Neumann(6).solve(counted(), torch.ones(RUNS, SIZE).double(), torch.ones(RUNS, SIZE).double())
    assert Neumann(6).cost.products == counted.products


def test_dense_uses_the_symmetric_part():
    matrix, b = with_spectrum(spread(10.0)), tensor(4, shape=(RUNS, SIZE))
    skew = 1e-3 * tensor(5, shape=matrix.shape)
    solution = Dense().solve(Operator.from_matrix(matrix + skew - skew.mT, b), b)
    torch.testing.assert_close(solution.value, reference(matrix, b), rtol=1e-12, atol=1e-14)
