"""`ridge_head`: values, derivatives of every argument, and what it refuses."""

import functools

import pytest
import torch
from operations import Count
from plain_heads import PlainHead, arguments, by_solve, normal

import bilevel
from bilevel.errors import ArgumentError, DataError, ShapeError, SingularHeadError
from bilevel.exact import ridge_head

BIASES = {
    "none": {},
    "free": {"fit_bias": True},
    "penalised": {"fit_bias": True, "penalize_bias": True},
}
LEADS = [(), (2,), (2, 1)]
ROWS = [2, 3, 5]  # below, at and above M = 3


def head(features, targets, ridge, weights, **bias):
    return ridge_head(features, targets, ridge, row_weights=weights, **bias)


def case(rows, lead=(), bias="none", outputs=None):
    more = bias == "penalised"
    return arguments(rows, 3, lead, outputs, more), functools.partial(head, **BIASES[bias])


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_derivatives_of_every_argument(rows, lead):
    given, function = case(rows, lead, outputs=2)
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=len(lead) > 1)


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("bias", ["free", "penalised"])
def test_derivatives_beside_a_bias(bias, rows):
    given, function = case(rows, (), bias)
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("outputs", [None, 2])
def test_heads_and_two_derivatives_with_rows_that_do_not_count(rows, bias, outputs):
    given, function = case(rows, (2,), bias, outputs)
    with torch.no_grad():
        given[3][:, 0] = 0.0  # no differences there: weights are not negative
    reference = functools.partial(by_solve, **BIASES[bias])
    theta, expected = (f(*given) for f in (function, reference))
    torch.testing.assert_close(theta, expected, rtol=1e-11, atol=1e-12)
    along = normal(*theta.shape, seed=7)
    first = [
        torch.autograd.grad((x * along).sum(), given, create_graph=True) for x in (theta, expected)
    ]
    torch.testing.assert_close(*first, rtol=1e-10, atol=1e-11)
    total = [sum((1 + i) * g.square().sum() for i, g in enumerate(f)) for f in first]
    second = [torch.autograd.grad(x, given) for x in total]
    torch.testing.assert_close(*second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("outputs", [None, 2])
def test_equal_to_best_response(rows, bias, outputs):
    given, function = case(rows, (), bias, outputs)
    z, t, p, s = (x.detach() for x in given)
    body = {"features": z, "ridge": p, "weights": s}
    response = bilevel.best_response(PlainHead(body, t, **BIASES[bias]), body)
    torch.testing.assert_close(function(z, t, p, s), response.head, rtol=1e-12, atol=1e-12)


def test_axes_of_one_are_broadcast():
    z, t, p, s = normal(4, 1, 6, 3), normal(1, 5, 6, 2), normal(3).square(), normal(1, 1, 6).abs()
    z.requires_grad_()
    found = ridge_head(z, t, p, row_weights=s)
    assert found.shape == (4, 5, 3, 2)
    single = ridge_head(z[2, 0], t[0, 4], p, row_weights=s[0, 0])
    torch.testing.assert_close(found[2, 4], single, rtol=1e-12, atol=1e-13)
    found.sum().backward()
    assert z.grad.shape == z.shape
    assert ridge_head(z, t[..., 0], 0.1).shape == (4, 5, 3)


@pytest.mark.parametrize("rows", [2, 6])
def test_one_number_for_all_features(rows):
    z, t, ridge = normal(2, rows, 3), normal(2, rows), torch.tensor([0.1, 0.3]).double()
    one = torch.func.grad(lambda p, z, t: ridge_head(z, t, p).square().sum())
    wanted = torch.stack([one(p, x, y) for p, x, y in zip(ridge, z, t, strict=True)])
    by_feature = torch.func.grad(lambda p: ridge_head(z, t, p).square().sum())
    of_features = by_feature(ridge.unsqueeze(1).expand(2, 3)).sum(1)
    torch.testing.assert_close(wanted, of_features, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(one)(ridge, z, t), wanted, rtol=1e-11, atol=1e-12)
    mapped = torch.func.vmap(one, in_dims=(0, None, None))(ridge, z[0], t[0])
    torch.testing.assert_close(mapped[0], wanted[0], rtol=1e-11, atol=1e-12)
    given = [x.requires_grad_() for x in (z[0].clone(), t[0].clone(), ridge[0].clone())]
    assert torch.autograd.gradgradcheck(ridge_head, given)
    assert torch.autograd.gradgradcheck(ridge_head, [x.requires_grad_() for x in (z, t, given[2])])


@pytest.mark.parametrize("outputs", [None, 5])
def test_a_small_head_takes_few_operations(outputs):
    """It is no slower than its operations are many: about as many as a solve by hand takes."""
    z, t = normal(9, 3), normal(9) if outputs is None else normal(9, outputs)
    given = [x.requires_grad_() for x in (z, t, torch.tensor(0.1).double())]
    with Count() as solving:
        theta = ridge_head(*given)
    with Count() as pulling:
        torch.autograd.grad(theta.square().sum(), given)
    assert solving.made <= 23
    assert pulling.made <= 24


def test_transforms_of_torch():
    z, t = normal(4, 6, 3), normal(6)
    one = functools.partial(ridge_head, targets=t, ridge=0.1, fit_bias=True)
    heads = torch.stack([one(x) for x in z])
    torch.testing.assert_close(torch.func.vmap(one)(z), heads, rtol=1e-12, atol=1e-13)
    jacobian = torch.func.jacrev(one)
    single = torch.autograd.functional.jacobian(one, z[1])
    torch.testing.assert_close(jacobian(z[1]), single, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(torch.func.vmap(jacobian)(z)[1], single, rtol=1e-12, atol=1e-13)
    nested = torch.func.vmap(torch.func.vmap(one, in_dims=2, out_dims=1))(torch.stack([z, z], 3))
    assert nested.shape == (4, 4, 2)
    torch.testing.assert_close(nested[..., 1], heads, rtol=1e-12, atol=1e-13)

    def loss(x):
        return one(x).square().sum()

    hessian = torch.func.jacrev(torch.func.grad(loss))(z[0])
    expected = torch.autograd.functional.hessian(loss, z[0])
    torch.testing.assert_close(hessian, expected, rtol=1e-11, atol=1e-12)
    some = torch.func.vmap(lambda x: ridge_head(z[0], x, 0.1), in_dims=1, out_dims=1)(normal(6, 5))
    torch.testing.assert_close(some, ridge_head(z[0], normal(6, 5), 0.1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("bias", "rows", "ridge"),
    [("none", 2, 0.1), pytest.param("free", 6, normal(3).square(), marks=pytest.mark.slow)],
    ids=["dual", "free bias"],
)
def test_compiled_without_a_break(bias, rows, ridge):
    function = functools.partial(ridge_head, fit_bias=bias == "free")
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = []
    for called in (function, compiled):
        z, t = normal(rows, 3).requires_grad_(), normal(rows, seed=1).requires_grad_()
        theta = called(z, t, ridge)
        theta.square().sum().backward()
        found.append((theta.detach(), z.grad, t.grad))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-11)
    assert compiled(torch.zeros(rows, 3), torch.ones(rows), 0.0).isnan().any()
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler itself
def test_compiled_by_the_default_compiler():
    """`python -m pytest -m slow tests/exact/test_ridge_head.py`."""
    z, t = normal(2, 6, 3).requires_grad_(), normal(2, 6)
    theta = torch.compile(ridge_head, fullgraph=True)(z, t, 0.1, fit_bias=True)
    expected = ridge_head(z, t, 0.1, fit_bias=True)
    torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-13)
    slopes = [torch.autograd.grad(x.square().sum(), z)[0] for x in (theta, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    z, t = normal(6, 3).to(dtype).requires_grad_(), normal(6)[:6].float()
    plain = ridge_head(z, t, 0.1)
    slope = torch.autograd.grad(plain.square().sum(), z)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ridge_head(z, t, 0.1)
        assert cast.dtype == torch.float32
        assert torch.equal(cast, plain)
        assert torch.equal(torch.autograd.grad(cast.square().sum(), z)[0], slope)
    exact = ridge_head(z.double(), t.double(), 0.1)
    torch.testing.assert_close(plain, exact.float(), rtol=1e-6, atol=1e-7)


def test_features_far_from_zero_beside_a_bias():
    z, t = normal(40, 3), normal(40)
    far = (z + 1e7).requires_grad_()  # sums of their squares keep no digit of the spread
    near = (far.detach() - 1e7).requires_grad_()
    heads = [ridge_head(x, t, 0.1, fit_bias=True)[:3] for x in (far, near)]
    torch.testing.assert_close(*heads, rtol=1e-8, atol=1e-9)
    slopes = [
        torch.autograd.grad(h.square().sum(), x)[0] for h, x in zip(heads, (far, near), strict=True)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)


def test_scales_are_no_singularity():
    scales = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
    z, t = normal(9, 3), normal(9)
    found = ridge_head(z * scales, t, 0.0) * scales
    torch.testing.assert_close(found, ridge_head(z, t, 0.0), rtol=1e-9, atol=1e-10)
    # a pivot of 1e-10 of its entry: eigenvalues tell that the head is determined
    close = torch.cat([z, z[:, :1] + 1e-5 * normal(9, 1, seed=5)], 1)
    expected = torch.linalg.lstsq(close, t.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(ridge_head(close, t, 0.0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 5, 4000])
def test_singular_systems_raise_or_are_nan(rows):
    z, t = normal(2, rows, 4), normal(2, rows)
    z[1, :, 3] = z[1, :, :3].sum(1)
    if rows > 4:
        with pytest.raises(SingularHeadError, match=r"of head 1 \(of 2.*Pass a positive `ridge`"):
            ridge_head(z, t, 0.0)
    else:
        with pytest.raises(SingularHeadError, match="no unique minimiser"):
            ridge_head(z, t, 0.0)
    mapped = torch.func.vmap(lambda x, y: ridge_head(x, y, 0.0))(z, t)
    assert mapped[1].isnan().all()
    assert bool(mapped[0].isfinite().all()) == (rows > 4)
    assert torch.func.vmap(lambda x, y: ridge_head(x, y, 0.1))(z, t).isfinite().all()


def test_numbers_that_cannot_be():
    z, t = normal(5, 2), normal(5)
    with pytest.raises(ArgumentError, match=r"`ridge` must be at least 0"):
        ridge_head(z, t, -0.1)
    with pytest.raises(ArgumentError, match=r"`ridge` must be at least 0, got -0\.1"):
        ridge_head(z, t, torch.tensor([0.1, -0.1]))
    mapped = torch.func.vmap(lambda p: ridge_head(z, t, p))(torch.tensor([0.1, -1e-3]))
    assert mapped.isnan().all(1).tolist() == [False, True]
    for bad in ((z * torch.nan, t, None), (z, t * torch.inf, None), (z, t, -torch.ones(5))):
        with pytest.raises(SingularHeadError, match="is not finite"):
            ridge_head(bad[0], bad[1], 0.1, row_weights=bad[2])


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (ShapeError, {"features": torch.ones(3)}, r"`features` must be \(\.\.\., n, M\)"),
        (ShapeError, {"targets": torch.ones(2, 3)}, "`targets` must be"),
        (ShapeError, {"targets": torch.ones(4)}, "`targets` must be"),
        (ShapeError, {"ridge": torch.ones(4)}, r"end in \(3,\) for the 3 features"),
        (ShapeError, {"ridge": torch.ones(2, 3)}, r"`ridge` must be a number"),
        (ShapeError, {"row_weights": torch.ones(3, 1)}, "one weight for each row"),
        (DataError, {"targets": torch.ones(5, dtype=torch.int64)}, "must be floating point"),
        (DataError, {"features": torch.ones(5, 3, dtype=torch.int64)}, "`features` must be fl"),
        (
            DataError,
            {"features": torch.ones(5, 3).to_sparse()},
            r"`features` is a torch.sparse_coo",
        ),
        (DataError, {"targets": torch.ones(5, device="meta")}, "`targets` is a tensor on the dev"),
        (ShapeError, {"ridge": torch.ones(3), "penalize_bias": True, "fit_bias": True}, "the bias"),
    ],
    ids=str,
)
def test_mistakes_are_named(error, changed, message):
    given = {"features": torch.ones(5, 3), "targets": torch.ones(5), "ridge": torch.tensor(0.1)}
    given |= changed
    doubled = {k: x.double() if is_float(x) else x for k, x in given.items()}
    for each in (given, doubled):
        with pytest.raises(error, match=message):
            ridge_head(**each)


def is_float(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def test_leading_axes_must_fit():
    with pytest.raises(ShapeError, match=r"must be the same, or 1"):
        ridge_head(torch.ones(2, 5, 3), torch.ones(3, 5), 0.1)
