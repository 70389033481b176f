"""`softmax_head`, `logistic_head` and `constrained_head`."""

import functools

import pytest
import torch
from plain_heads import PlainHead, arguments, normal

import bilevel
from bilevel.errors import (
    ArgumentError,
    DataError,
    IncompatibleError,
    ShapeError,
    SingularHeadError,
)
from bilevel.exact import constrained_head, logistic_head, ridge_head, softmax_head

LABELS = torch.arange(8) % 3
BOX = bilevel.Box(-0.1, 0.1)
BIASES = {
    "none": {},
    "free": {"fit_bias": True},
    "penalised": {"fit_bias": True, "penalize_bias": True},
}


def case(kind, bias="none", lead=(), rows=8):
    """Differentiable arguments, the function of them, and the problem that says the same."""
    more, options = bias == "penalised", BIASES[bias]
    z, t, p, s = arguments(rows, 2, lead, 2 if kind == "two outputs" else None, more)
    labels = LABELS[:rows].expand(*lead, rows).clone()
    body = {"features": z, "ridge": p, "weights": s}
    if kind == "softmax":
        settings = {"criterion": bilevel.SoftmaxLoss(), "outputs": 3}

        def head(z, p, s):
            return softmax_head(z, labels, p, row_weights=s, classes=3, **options)

    elif kind == "logistic":
        labels, settings = labels.clamp(max=1), {"criterion": bilevel.LogisticLoss()}

        def head(z, p, s):
            return logistic_head(z, labels, p, row_weights=s, **options)

    else:
        settings, labels = {"head_set": BOX}, t

        def head(z, t, p, s):
            return constrained_head(z, t, p, BOX, row_weights=s, **options)

    given = (z, p, s) if "outputs" in settings or kind == "logistic" else (z, t, p, s)
    plain = {name: leaf.detach() for name, leaf in body.items()}
    problem = PlainHead(plain, labels.detach(), **settings, **options) if not lead else None
    return given, head, problem


KINDS = ["softmax", "logistic", "one output", "two outputs"]


@pytest.mark.parametrize(("bias", "lead"), [("none", (2,)), ("free", ()), ("penalised", ())])
@pytest.mark.parametrize("kind", KINDS)
def test_first_derivatives_of_every_argument(kind, bias, lead):
    given, head, _ = case(kind, bias, lead, rows=4)
    assert torch.autograd.gradcheck(head, given)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_best_response(kind, bias):
    given, head, problem = case(kind, bias)
    response = bilevel.best_response(problem, problem.body)
    torch.testing.assert_close(head(*given).detach(), response.head, rtol=1e-12, atol=1e-12)
    # and so are their gradients
    leaf = problem.body["features"].clone().requires_grad_()
    other = bilevel.best_response(problem, {**problem.body, "features": leaf}).head
    along = normal(*other.shape, seed=9)
    slopes = [
        torch.autograd.grad((h * along).sum(), x)[0]
        for h, x in ((other, leaf), (head(*given), given[0]))
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-11)


def test_bounds_hold_some_numbers_and_not_others():
    given, head, _ = case("two outputs", "free")
    theta = head(*given)
    held = theta.abs() == 0.1
    assert 0 < int(held.sum()) < held.numel()
    wide = constrained_head(
        *(x.detach() for x in given[:3]), bilevel.Box(-99.0, 99.0), fit_bias=True
    )
    free = ridge_head(*(x.detach() for x in given[:3]), fit_bias=True)
    torch.testing.assert_close(wide, free, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_of_torch(kind):
    given, head, _ = case(kind, "free", (3,))
    one = case(kind, "free")[1]
    plain = [x.detach() for x in given]
    rest = plain[1:]
    if kind in {"softmax", "logistic"}:
        heads = torch.func.vmap(one)(*plain)
        torch.testing.assert_close(heads, head(*plain), rtol=1e-11, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacrev(one))(*plain)
    alone = torch.autograd.functional.jacobian(lambda z: one(z, *(x[1] for x in rest)), plain[0][1])
    torch.testing.assert_close(jacobian[1], alone, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", ["softmax", pytest.param("one output", marks=pytest.mark.slow)])
def test_compiled_without_a_break_and_under_autocast(kind):
    given, head, _ = case(kind, "free")
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    slopes = []
    for function in (head, compiled):
        theta = function(*given)
        slopes.append((theta.detach(), *torch.autograd.grad(theta.square().sum(), given)))
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12)
    torch.compiler.reset()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(*given), slopes[0][0])


def test_a_start_saves_time_and_changes_nothing_else():
    given, head, _ = case("softmax")
    theta = head(*given).detach()
    z, p, s = (x.detach() for x in given)
    again = softmax_head(z, LABELS, p, row_weights=s, start=theta.requires_grad_())
    torch.testing.assert_close(again, theta, rtol=1e-12, atol=1e-12)
    assert not again.requires_grad
    with pytest.raises(ShapeError, match=r"`start` must have the shape of the head, \(2, 3\)"):
        softmax_head(z, LABELS, p, start=theta.T, classes=3)
    far = logistic_head(z, LABELS % 2, p, start=normal(2) * 50)
    torch.testing.assert_close(far, logistic_head(z, LABELS % 2, p), rtol=1e-10, atol=1e-11)


def test_classes_are_counted():
    z = normal(8, 2)
    assert softmax_head(z, LABELS, 0.1).shape == (2, 3)
    assert softmax_head(z, LABELS, 0.1, classes=4).shape == (2, 4)
    assert softmax_head(z.float(), LABELS, 0.1).dtype == torch.float32


def test_second_derivatives_are_refused():
    given, head, _ = case("logistic")
    (slope,) = torch.autograd.grad(head(*given).square().sum(), given[0], create_graph=True)
    with pytest.raises(IncompatibleError, match="first derivatives only"):
        slope.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(kind, dtype):
    given, head, _ = case(kind, "free")
    given = [x.detach().to(dtype).requires_grad_() for x in given]
    theta = head(*given)
    slopes = torch.autograd.grad(theta.square().sum(), given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = head(*given)
        assert torch.equal(cast, theta)
        assert all(map(torch.equal, torch.autograd.grad(cast.square().sum(), given), slopes))


@pytest.mark.parametrize("kind", KINDS)
def test_penalties_below_zero(kind):
    given, head, _ = case(kind, "none", (2,))
    plain = [x.detach().clone() for x in given]
    index = -2 if len(plain) < 5 else 2
    plain[index][1, 0] = -1e-3  # the head would be determined all the same
    with pytest.raises(ArgumentError, match="`ridge` must be at least 0"):
        head(*plain)
    one = case(kind)[1]
    if kind in {"softmax", "logistic"}:  # those of both are the same rows
        mapped = torch.func.vmap(one)(*plain)
        assert mapped[0].isfinite().all()
        assert mapped[1].isnan().all()


def test_labels_are_looked_at_under_transforms():
    z, y = normal(2, 8, 2), LABELS.expand(2, 8)
    for head in (logistic_head, functools.partial(softmax_head, classes=2)):
        with pytest.raises(DataError, match="between 0 and 1"):
            torch.func.vmap(lambda z, y, head=head: head(z, y, 0.1))(z, y)
        with pytest.raises(DataError, match="between 0 and 1"):
            torch.compile(head, fullgraph=True, backend="aot_eager")(z, y, 0.1)
        torch.compiler.reset()
    with pytest.raises(ArgumentError, match=r"`classes` is missing.*Pass their number"):
        torch.func.vmap(lambda z, y: softmax_head(z, y, 0.1))(z, y)


def test_bounds_get_no_gradients():
    z, t, high = normal(8, 2), normal(8), torch.tensor(0.1, requires_grad=True)
    with pytest.raises(IncompatibleError, match="bounds of the set require gradients"):
        constrained_head(z, t, 0.1, bilevel.Box(-high, high))
    with torch.no_grad():
        assert constrained_head(z, t, 0.1, bilevel.Box(-high, high)).shape == (2,)
    with pytest.raises(IncompatibleError, match="bounds of the set require gradients"):
        torch.func.grad(lambda h: constrained_head(z, t, 0.1, bilevel.Box(-h, h)).sum())(high)


def test_heads_without_a_minimiser():
    z, y = normal(2, 8, 2), (torch.arange(8) % 2).expand(2, 8)
    z[1, :, 0] = y[1] - 0.5  # it separates the classes
    z[1, :, 1] = normal(8, seed=3)
    with pytest.raises(SingularHeadError, match=r"Head 1 \(of 2, .*Set `ridge`"):
        logistic_head(z, y, 0.0)
    mapped = torch.func.vmap(lambda z, y: logistic_head(z, y, 0.0))(z, y)
    assert mapped[1].isnan().all()
    z[1, :, 1] = 2 * z[1, :, 0]  # and depends on another feature
    with pytest.raises(SingularHeadError):
        logistic_head(z, y, 0.0)
    mapped = torch.func.vmap(lambda z, y: logistic_head(z, y, 0.0))(z, y)
    assert mapped[1].isnan().all()
    torch.testing.assert_close(mapped[0], logistic_head(z[0], y[0], 0.0), rtol=1e-9, atol=1e-10)
    t = normal(2, 8)
    bounded = functools.partial(constrained_head, ridge=0.0, set=bilevel.Nonnegative())
    mapped = torch.func.vmap(lambda z, t: bounded(z, t))(z, t)
    assert mapped[1].isnan().all()
    assert mapped[0].isfinite().all()
    with pytest.raises(SingularHeadError, match="not finite"):
        logistic_head(z * torch.nan, y, 0.1)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (DataError, lambda z: softmax_head(z, normal(8), 0.1), "class labels of type int64"),
        (DataError, lambda z: softmax_head(z, LABELS, 0.1, classes=2), "between 0 and 1"),
        (DataError, lambda z: logistic_head(z, LABELS, 0.1), "between 0 and 1"),
        (ShapeError, lambda z: logistic_head(z, LABELS[:5], 0.1), "`targets` must be"),
        (
            IncompatibleError,
            lambda z: constrained_head(z, normal(8), 0.1, bilevel.Ball(1.0)),
            "Ball has no bounds",
        ),
        (
            ShapeError,
            lambda z: constrained_head(z, normal(8), 0.1, bilevel.Box(torch.zeros(3), 1.0)),
            "does not broadcast",
        ),
    ],
)
def test_mistakes_are_named(error, call, message):
    with pytest.raises(error, match=message):
        call(normal(8, 2))
