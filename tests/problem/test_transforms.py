"""Tensors inside of torch's transforms are found as they are outside."""

import pytest
import torch
from small_problems import doubles
from torch.func import functionalize, grad, hessian, jvp, vmap

from bilevel.problem.network.transforms import ordinary, outside_transforms

ROWS, MANY = doubles(1, 4, 3), doubles(2, 5, 4, 3)


def look(seen):
    """A function of rows that notes what it finds outside of the transforms around it."""

    def function(rows):
        with outside_transforms():
            found = ordinary(rows)
            torch.rand(1)  # not allowed in `vmap`
            seen.append((type(found), bool((found > 0).any()), found.numpy().copy()))
        return (rows * rows).sum()

    return function


TRANSFORMS = {
    "none": (lambda f: f(ROWS), ROWS),
    "vmap": (lambda f: vmap(f)(MANY), MANY[0]),
    "vmap, last axis": (lambda f: vmap(f, in_dims=2)(MANY), MANY[:, :, 0]),
    "vmap twice": (lambda f: vmap(vmap(f, in_dims=1))(MANY), MANY[0, :, 0]),
    "vmap of others": (lambda f: vmap(lambda other: other.sum() + f(ROWS))(MANY), ROWS),
    "gradient": (lambda f: grad(f)(ROWS), ROWS),
    "vmap of a gradient": (lambda f: vmap(grad(f))(MANY), MANY[0]),
    "gradient of vmap": (lambda f: grad(lambda x: vmap(f)(x).sum())(MANY), MANY[0]),
    "forward": (lambda f: jvp(f, (ROWS,), (ROWS,)), ROWS),
    "second derivatives": (lambda f: hessian(f)(ROWS), ROWS),
    "functionalize": (lambda f: functionalize(f)(ROWS), ROWS),
    "a graph": (lambda f: f(ROWS.clone().requires_grad_()), ROWS),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_numbers_are_seen_inside(name):
    apply, expected = TRANSFORMS[name]
    seen = []
    apply(look(seen))
    kind, positive, found = seen[0]
    assert kind is torch.Tensor
    assert positive
    assert (found == expected.numpy()).all()


def test_the_transform_goes_on_afterwards():
    slopes = vmap(grad(look([])))(MANY)
    torch.testing.assert_close(slopes, 2 * MANY)


def test_derivatives_can_be_taken_in_inference_mode():
    with torch.inference_mode(), outside_transforms(), torch.enable_grad():
        at = torch.ones(2).requires_grad_()
        (slope,) = torch.autograd.grad(at.square().sum(), at)
    assert slope.tolist() == [2.0, 2.0]
