"""Linear systems that cannot be solved: every such run says why, and harms no other."""

import math

import pytest
import torch
from linear_systems import (
    RUNS,
    SIZE,
    assert_residual_is_true,
    codes,
    errors,
    spread,
    tensor,
    with_spectrum,
)

from bilevel import CG, Dense, Neumann, Status, trees
from bilevel.errors import ArgumentError, IncompatibleError, ShapeError
from bilevel.linear import Operator
from bilevel.report import words


@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(900)])
def test_a_solution_that_overflows_is_no_number(solver):
    matrix, b = with_spectrum(spread(10.0)), tensor(4, shape=(RUNS, SIZE))
    matrix[1] *= 1e-9
    b[1] *= 1e303
    solution = solver.solve(Operator.from_matrix(matrix, b), b)
    assert codes(solution)[1] == "DIVERGED"
    assert solution.value[1].isnan().all()
    assert solution.value[[0, 2]].isfinite().all()


SINGULAR = torch.cat([spread(1e2, SIZE - 2), torch.zeros(2)])
INDEFINITE = torch.cat([spread(1e2, SIZE - 1), torch.tensor([-0.3])])
BEYOND = torch.tensor([0.2, 1.02, 0.2]).double()  # L is 2


@pytest.mark.parametrize("part", ["matrix", "right"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("solver", [CG(), Dense(), Neumann(50), Neumann(50, step_size=0.4)])
def test_a_bad_run_harms_no_other(solver, bad, part):
    matrix, b = with_spectrum(spread(1e2)), tensor(4, shape=(RUNS, SIZE))
    good = solver.solve(Operator.from_matrix(matrix, b), b)
    (matrix if part == "matrix" else b)[1, 2] = bad
    mixed = solver.solve(Operator.from_matrix(matrix, b), b)
    assert codes(mixed) == [codes(good)[0], "DIVERGED", codes(good)[2]]
    assert mixed.value[1].isnan().all()
    others = torch.tensor([0, 2])
    torch.testing.assert_close(mixed.value[others], good.value[others], rtol=1e-13, atol=0)


def test_a_singular_system_with_solutions_has_its_shortest_found():
    matrix = with_spectrum(SINGULAR)
    b = torch.einsum("rij,rj->ri", matrix, tensor(6, shape=(RUNS, SIZE)))
    solution = CG(rtol=1e-12).solve(Operator.from_matrix(matrix, b), b)
    expected = (torch.linalg.pinv(matrix, hermitian=True) @ b.unsqueeze(2)).squeeze(2)
    assert (errors(solution, expected) <= 1e-9).all()
    assert codes(solution) == ["CONVERGED"] * RUNS
    assert codes(Dense().solve(Operator.from_matrix(matrix, b), b)) == ["SINGULAR"] * RUNS


@pytest.mark.parametrize(
    ("solver", "values", "status"),
    [
        (CG(), SINGULAR, "SINGULAR"),
        (CG(), torch.zeros(SIZE), "SINGULAR"),
        (CG(), INDEFINITE, "INDEFINITE"),
        (CG(), -spread(1e2), "INDEFINITE"),
        (CG(max_steps=3), spread(1e2), "ADJOINT_NOT_CONVERGED"),
        (CG(), spread(1e14), "ADJOINT_NOT_CONVERGED"),
        (Dense(), SINGULAR, "SINGULAR"),
        (Dense(), torch.zeros(SIZE), "SINGULAR"),
        (Dense(), INDEFINITE, "INDEFINITE"),
        (Dense(), -spread(1e2), "INDEFINITE"),
        (Dense(), spread(1e13), "ADJOINT_NOT_CONVERGED"),
        (Neumann(50), torch.zeros(SIZE), "SINGULAR"),
        (Neumann(50), INDEFINITE, "NOT_CONTRACTING"),
        (Neumann(1, step_size=BEYOND), spread(1e2), "NOT_CONTRACTING"),
        (Neumann(50, step_size=BEYOND), spread(1e2), "NOT_CONTRACTING"),
        (Neumann(900, step_size=4 * BEYOND), spread(1e2), "NOT_CONTRACTING"),
    ],
)
def test_what_cannot_be_solved_says_so(solver, values, status):
    good, b = with_spectrum(spread(10.0)), tensor(6, shape=(RUNS, SIZE))
    matrix = good.clone()
    matrix[1] = with_spectrum(values)[1]
    solution = solver.solve(Operator.from_matrix(matrix, b), b)
    assert codes(solution)[1] == status
    if solution.value[1].isfinite().all():
        assert solution.residual[1] > 1e-10 * b[1].norm()
        assert_residual_is_true(trees.part(solution, slice(1, 2)), matrix[1:2], b[1:2])
    nothing = status in {"SINGULAR", "INDEFINITE"} if isinstance(solver, Dense) else False
    overflow = getattr(solver, "steps", 0) == 900
    assert bool(solution.value[1].isnan().all()) == (nothing or overflow)
    without = solver.solve(Operator.from_matrix(good, b), b)
    torch.testing.assert_close(solution.value[0], without.value[0], rtol=1e-12, atol=0)
    assert len(Status[status].message) > 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CG(0.0), "`rtol`"),
        (lambda: CG(1.0), "below 1"),
        (lambda: CG(torch.tensor([1e-3, 2.0])), "below 1"),
        (lambda: CG(max_steps=0), "`max_steps`"),
        (lambda: CG(max_steps=True), "`max_steps`"),
        (lambda: Neumann(0), "`steps`"),
        (lambda: Neumann(True), "`steps`"),
        (lambda: Neumann(3, step_size=-0.1), "`step_size`"),
    ],
)
def test_arguments_that_cannot_work(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_operators_that_do_not_fit():
    b, eye = torch.ones(2, 3).double(), torch.eye(3).double().expand(2, -1, -1)
    operator = Operator.from_matrix(eye, b)
    for solver in (CG(), Neumann(2)):
        with pytest.raises(ShapeError, match="`start`"):
            solver.solve(operator, b, b[:1])
        with pytest.raises(ShapeError, match="`product`"):
            solver.solve(Operator(lambda v: v[:, :2], operator.matrix), b)
    with pytest.raises(ShapeError, match="`matrix`"):
        Dense().solve(Operator(operator.product, lambda: eye[:1]), b)
    with pytest.raises(IncompatibleError, match=r"4,097 numbers.*CG\(\)"):
        Dense().solve(Operator(lambda v: v, lambda: pytest.fail("formed")), torch.ones(1, 4097))


def test_every_status_has_its_own_words():
    names = {status.name for status in Status}
    assert set(words.STATUSES) == names  # reports look them up
    assert len({status.message for status in Status}) == len(names)
    failed = [status.name for status in Status if status.failed]
    heads = ["NO_MINIMISER", "INFEASIBLE", "UNBOUNDED", "SOLVER_FAILED", "NOT_QUADRATIC"]
    assert failed == ["DIVERGED", "SINGULAR", "INDEFINITE", *heads]
