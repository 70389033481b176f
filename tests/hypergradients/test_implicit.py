"""Implicit gradients: what they need, and how they say that they did not get it."""

import pytest
import torch
from linear_heads import build, normal
from points import Custom, Known, Point, gradient, number

import bilevel
from bilevel import CG, Ball, Box, ClosedForm, Dense, FastSGD, Implicit, Neumann, Status, trees
from bilevel.errors import ArgumentError, IncompatibleError, InexactHeadError, ProblemError
from problems.analytic import RandomQuadratic, analytic

# what it needs


def test_a_6_is_wrong_without_the_implicit_term():
    problem, w = analytic("A6"), number(0.0)
    point = Point(problem, [w])
    head = point.solved(ClosedForm()).head
    assert float(point.oracles.direct_gradient(point.body, head, point.rows)) == 0.0
    assert float(gradient(problem, Implicit(), at=w).body) == pytest.approx(-0.5, rel=1e-14)
    with pytest.raises(IncompatibleError, match=r"leads to a wrong point\. Use `Implicit`"):
        gradient(problem, bilevel.Envelope(), at=w)


def test_a_12_takes_one_step_of_cg():
    problem = analytic("A12")
    point, products = Point(problem, [problem.start]), []
    product = point.oracles.head_hvp
    point.oracles.head_hvp = lambda *given: products.append(1) or product(*given)
    found = point.gradient(Implicit(CG(max_steps=1)), ClosedForm())
    torch.testing.assert_close(found.body[0], problem.start_gradient, rtol=1e-15, atol=1e-15)
    assert len(products) == 2  # the step, and the check of its residual
    assert found.status.tolist() == [Status.CONVERGED]


@pytest.mark.parametrize("linear_solver", [None, CG(), Dense(), Neumann(50)])
def test_heads_and_bodies_without_axes(linear_solver):
    found = gradient(analytic("A8"), Implicit(linear_solver), at=number(0.0))
    assert found.body.shape == ()
    assert float(found.body) == pytest.approx(-2.0, rel=1e-12)
    assert found.value == 0.5


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("rows", [13, 4], ids=["n > M", "n < M"])
def test_the_factor_of_any_linear_head_is_its_hessian(rows, outputs):
    """With row weights, a bias and a penalty of each coefficient, against the matrix itself."""
    m = 6
    shape = (m + 1,) if outputs is None else (m + 1, outputs)
    problem = build(
        normal(1, rows, 3), normal(2, rows) if outputs is None else normal(2, rows, outputs),
        features=lambda w, x: torch.tanh(x @ w),
        row_weights=lambda w, batch: 1 + torch.sigmoid(w.sum() * torch.arange(rows)),
        penalty=lambda w: 0.1 + torch.arange(1.0, m * shape[-1] + 1).double()[: m + 1]
        if outputs is None else 0.1 + torch.arange(1.0, (m + 1) * 2 + 1).double().reshape(shape),
        body=number(*normal(3, 3, m).tolist()), fit_bias=True, penalize_bias=True,
    )  # fmt: skip

    class Validated(type(problem)):
        def body_objective(self, body, head, batch):
            return (head**3).sum() + head.sum() * body.sum()

    point = Point(Validated(), [problem.init_body(None), 0.5 * problem.init_body(None)])
    found = point.gradient(Implicit(), ClosedForm())
    expected = point.gradient(Implicit(Dense()), ClosedForm())
    torch.testing.assert_close(found.adjoint, expected.adjoint, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found.body, expected.body, rtol=1e-11, atol=1e-13)
    solved = point.solved(ClosedForm())
    memory = torch.zeros_like(solved.head)
    for factor in (solved.factor, None):  # handed on, and made anew
        answer = bilevel.Answer(solved.head, ClosedForm(), point.head, 0, factor)
        again = Implicit().gradient(point.oracles, point.body, answer, point.rows, memory)
        torch.testing.assert_close(again.body, found.body, rtol=1e-12, atol=1e-14)
        right = point.oracles.body_gradients(point.body, solved.head, point.rows)[1]
        assert (again.residual <= 1e-13 * trees.norm(right)).all()


def test_large_heads_take_products_instead_of_a_matrix():
    problem = RandomQuadratic(3, 600, 1.0, 4.0)
    point = Point(problem, [problem.start], [problem.best_response(problem.start)])
    point.oracles.head_hessian = lambda *given: pytest.fail("formed a matrix")
    found = point.gradient(Implicit(), Known())
    error = (found.body[0] - problem.phi_gradient(problem.start)).norm()
    assert error <= 1e-8 * problem.phi_gradient(problem.start).norm()


# the body must reach g


CUT = {
    "detach": lambda w, theta: (theta - w.detach()) ** 2,
    "round": lambda w, theta: (theta - torch.round(100 * w)) ** 2,
    "sign": lambda w, theta: (theta - (w - 1.01).sign()) ** 2 + (theta - (w - 0.99).sign()) ** 2,
}


@pytest.mark.parametrize("cut", CUT)
def test_a_body_that_is_cut_off_from_autograd_is_an_error(cut):
    problem = Custom(lambda w, theta: theta**2, CUT[cut], [0.0])
    with pytest.raises(ProblemError, match="Custom depends on the body, but its derivative"):
        gradient(problem, Implicit())
    with pytest.raises(ProblemError, match="something cuts the body off from autograd"):
        bilevel.solve(problem, bilevel.BestResponse(0.1), steps=2, seeds=2)


ZERO = {
    "A3": analytic("A3"),  # F does not depend on the head
    "B7": analytic("B7"),  # g does not depend on the body
    "at a saddle": Custom(lambda w, t: (t - 1) ** 2, lambda w, t: (t - w**2) ** 2, [0.0], 0.0),
    "one of two": Custom(
        lambda w, t: (t**2).sum(), lambda w, t: (t[0] - w.detach()) ** 2 + (t[1] - w) ** 2, [0, 1]
    ),
}


@pytest.mark.parametrize("name", ZERO)
def test_an_implicit_term_that_is_zero_for_good_reason_is_none(name):
    problem = ZERO[name]
    at = problem.start if name[1:].isdigit() else None
    found = gradient(problem, Implicit(), Known() if name == "B7" else None, at)
    assert found.status <= Status.CONVERGED
    if name[1:].isdigit():
        assert torch.equal(found.body, problem.phi_gradient(problem.start))


# numerical trouble


def flat_g(w, theta):
    return (theta.sum() - w) ** 2


def hill(w, theta):
    return (theta**2 - 1) ** 2 / 4 + w * theta**3


TROUBLE = {  # F, g, initial head, head solver, linear solver -> status, words of its message
    "singular": (
        lambda w, t: t[0], flat_g, [0.0, 0.0], FastSGD(0.2, 100), None,
        Status.SINGULAR, "larger ridge",
    ),
    "singular CG": (
        lambda w, t: t[0], flat_g, [0.0, 0.0], FastSGD(0.2, 100), CG(),
        Status.SINGULAR, "not unique",
    ),
    "indefinite": (
        lambda w, t: t, hill, [0.0], FastSGD(0.2, 10), None, Status.INDEFINITE, "not at a minimum",
    ),
    "indefinite CG": (
        lambda w, t: t, hill, [0.0], FastSGD(0.2, 10), CG(), Status.INDEFINITE, "strongly convex",
    ),
    "indefinite Neumann": (
        lambda w, t: t, hill, [0.0], FastSGD(0.2, 10), Neumann(20), Status.NOT_CONTRACTING, "2 / L",
    ),
    "Neumann beyond 2/L": (
        lambda w, t: t, lambda w, t: (t - w) ** 2, [0.0], FastSGD(0.4, 100),
        Neumann(5, step_size=1.01), Status.NOT_CONTRACTING, "exceeds 2 / L",
    ),
    "diverging head": (
        lambda w, t: t**2, lambda w, t: (t - w) ** 2, [0.0], FastSGD(2.0, 700), None,
        Status.DIVERGED, "smaller step size",
    ),
    "inexact head": (
        lambda w, t: t, lambda w, t: (t - w) ** 2, [0.0], FastSGD(0.1, 3), None,
        Status.INEXACT_HEAD, "more steps",
    ),
    "unfinished adjoint": (
        lambda w, t: t[0], lambda w, t: t[0] ** 2 + 9 * (t[1] - w) ** 2 + t.prod(), [0.0, 0.0],
        FastSGD(0.1, 400), CG(max_steps=1), Status.ADJOINT_NOT_CONVERGED, "max_steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLE)
def test_each_trouble_has_its_status(case):
    F, g, head, solver, linear_solver, status, words = TROUBLE[case]
    problem = Custom(F, g, head)
    found = gradient(problem, Implicit(linear_solver), solver)
    assert found.status is status
    assert words in found.status.message
    known = status in (Status.INEXACT_HEAD, Status.ADJOINT_NOT_CONVERGED, Status.NOT_CONTRACTING)
    if linear_solver is None and not known:  # no number where there is none
        assert bool(found.body.isnan().all())
    training = bilevel.BestResponse(1e-3, solver, Implicit(linear_solver), bilevel.SGD())
    solved = bilevel.solve(problem, training, steps=3, seeds=1, dtype=torch.float64, throw=False)
    ended = max(status, Status.DIVERGED) if bool(found.body.isnan()) else status
    assert solved.status == (ended,)


@pytest.mark.parametrize("linear_solver", [None, Dense()])
def test_a_linear_head_with_more_features_than_rows_and_no_penalty(linear_solver):
    """Nothing is added to its Hessian behind the user's back."""
    plain = type(build(normal(1, 4, 6), normal(2, 4), ridge=0.0))
    own = type("Own", (plain,), {"body_objective": lambda self, w, theta, batch: theta.sum()})
    found = gradient(own(), Implicit(linear_solver), FastSGD(0.1, 800))
    assert found.status is Status.SINGULAR
    assert bool(found.body.isnan())


def test_what_to_do_about_an_inexact_head():
    problem, solver, w = analytic("A4"), FastSGD(0.1, 3), number(1.0)
    warned = gradient(problem, Implicit(), solver, w)
    assert warned.status is Status.INEXACT_HEAD
    assert abs(float(warned.body) - 4) > 0.01
    with pytest.raises(InexactHeadError, match=r"head of run 0 .* above `tolerance` = 0.0001. The"):
        gradient(problem, Implicit(on_inexact="raise"), solver, w)
    refined = gradient(problem, Implicit(on_inexact="refine"), solver, w)
    assert float(refined.body) == pytest.approx(4.0, rel=1e-14)
    assert refined.status <= Status.CONVERGED
    loose = gradient(problem, Implicit(tolerance=1.0), solver, w)
    assert loose.status <= Status.CONVERGED
    assert float(loose.body) == float(warned.body)


def test_the_error_shrinks_with_the_error_of_the_head():
    """First order: |error| <= (L_Fw + |v| L_gwt + B L_Ft / mu) e for quadratic heads."""
    problem = RandomQuadratic(4, 6, 0.3, 5.0, seed=3, nonlinear=True)
    w = problem.start
    facts, mu = problem.lipschitz(w, 0.0), problem.mu
    exact, seen = problem.phi_gradient(w), []
    for off in (1e-2, 1e-3, 1e-4):
        point = Point(problem, [w])
        found = point.gradient(Implicit(tolerance=1.0), Known(off))
        e, v = off * 6**0.5, float(found.adjoint.norm())
        error = float((found.body[0] - exact).norm())
        slope = facts.body_gradient + v * facts.cross + facts.cross_norm * facts.head_gradient / mu
        assert error <= slope * e
        seen.append(error)
    assert seen[0] / seen[1] == pytest.approx(10, rel=0.2)
    assert seen[1] / seen[2] == pytest.approx(10, rel=0.02)


def test_heads_of_zero_are_no_trouble():
    """|d_theta g| at the zero head is no scale where that head is the best response."""
    problem, w = analytic("A11"), number(0.0, 0.0)
    for solver in (FastSGD(0.5, 400), Known(1e-3)):
        method = Implicit(on_inexact="refine")
        found = gradient(problem, method, solver, w)
        assert found.status <= Status.CONVERGED
        torch.testing.assert_close(found.body, problem.start_gradient, rtol=1e-10, atol=0)
    assert gradient(problem, Implicit(), FastSGD(0.5, 3), w).status is Status.INEXACT_HEAD


def test_only_inexact_heads_are_refined():
    """What happens to one run depends on that run alone."""
    problem = RandomQuadratic(3, 4, 0.5, 4.0, seed=1, nonlinear=True)
    w = problem.start
    near, far = (trees.tree_map(lambda x, o=o: x + o, problem.best_response(w)) for o in (1e-6, 1))
    method, solver = Implicit(on_inexact="refine"), FastSGD(1e-9, 1)
    together = Point(problem, [w, w], [near, far]).gradient(method, solver)
    for run, head in enumerate((near, far)):
        alone = Point(problem, [w], [head]).gradient(method, solver)
        torch.testing.assert_close(together.body[run], alone.body[0], rtol=1e-13, atol=1e-15)
    exact = problem.phi_gradient(w)
    assert (together.body[1] - exact).norm() <= 1e-10 * exact.norm()
    assert (together.body[0] - exact).norm() > 1e-8 * exact.norm()


@pytest.mark.parametrize("linear_solver", [None, CG(), Dense(), Neumann(40)])
def test_one_bad_run_harms_no_other(linear_solver):
    problem = analytic("A8")
    bodies = [number(0.0), number(float("nan")), number(-900.0), number(0.5)]  # e^-900 = 0
    heads = [problem.best_response(w) for w in bodies]
    mixed = Point(problem, bodies, heads).gradient(Implicit(linear_solver), FastSGD(1e-9, 1))
    good = Point(problem, [bodies[0], bodies[3]], [heads[0], heads[3]])
    alone = good.gradient(Implicit(linear_solver), FastSGD(1e-9, 1))
    torch.testing.assert_close(mixed.body[[0, 3]], alone.body, rtol=1e-13, atol=0)
    assert torch.equal(mixed.status[[0, 3]], alone.status)
    assert (mixed.status[[1, 2]] > Status.CONVERGED).all()
    assert mixed.state.isfinite().all()  # where the next adjoint starts


# sets of heads


def test_heads_in_a_ball_are_refused():
    problem = Custom(lambda w, t: t, lambda w, t: (t - w) ** 2, [0.0], head_set=Ball(2.0))
    solver = FastSGD(0.1, 5)
    with pytest.raises(IncompatibleError, match=r"head on Ball are not available.*Use a Box"):
        gradient(problem, Implicit(), solver)
    with pytest.raises(IncompatibleError, match="Use a Box"):
        bilevel.solve(problem, bilevel.BestResponse(0.1, solver, Implicit()), steps=2, seeds=2)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e3])
@pytest.mark.parametrize("linear_solver", [None, Dense(), CG(), Neumann(60)])
def test_bounds_that_hold_do_not_spoil_the_scale(linear_solver, scale):
    """H = scale diag(1, 2, 3), the last coordinate held: the others are as without it."""
    bends = number(1.0, 2.0, 3.0)
    problem = Custom(
        lambda w, t: (t * number(1.0, 4.0, 5.0)).sum() + w * t[0],
        lambda w, t: scale * ((bends * t**2).sum() / 2 - w * t[0] - 2 * w * t[1] - 99 * w * t[2]),
        [1.0, 1.0, 9.0], head_set=Box(-9.0, 9.0),
    )  # fmt: skip
    found = gradient(problem, Implicit(linear_solver), FastSGD(1e-9, 1))
    # theta* = (w, w, 9): d_w F = theta_0 = 1, and the implicit term is (1 + w) + 4 = 6
    assert found.status <= Status.CONVERGED
    rate = (1 - 1 / 2.2) ** 60
    assert abs(float(found.body) - 7) <= 10 * rate + 1e-12


# arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Implicit("CG"), r"`linear_solver` must be an object such as CG\(\), got 'CG'"),
        (lambda: Implicit(CG), r"`linear_solver`"),
        (lambda: Implicit(tolerance=0.0), r"`tolerance`"),
        (lambda: Implicit(tolerance=-1e-4), r"`tolerance`"),
        (lambda: Implicit(on_inexact="ignore"), r'must be "warn", "raise" or "refine", got \'ign'),
        (lambda: bilevel.BestResponse(0.1, gradient=Implicit), r"`gradient`"),
        (lambda: bilevel.BestResponse(0.1, gradient="implicit"), r"`gradient`"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        make()


def test_a_float32_body_gives_a_float32_gradient():
    problem = analytic("A16")
    found = gradient(problem, Implicit(), at=problem.start.float())
    assert found.body.dtype == torch.float32
    torch.testing.assert_close(
        found.body.double(), problem.phi_gradient(problem.start), rtol=1e-4, atol=1e-5
    )
