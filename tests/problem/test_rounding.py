"""Rounding is told from differences."""

import pytest
import torch
from small_problems import doubles

from bilevel.problem.network.rounding import apart, copies_apart, nudged, same

Z = doubles(4, 6, 3) * torch.tensor([1e6, 1.0, 1e-3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_difference_and_a_ten_thousandth_is_one(dtype):
    z = Z.to(dtype)
    assert apart([z], [nudged(z)]) == 0
    assert float((nudged(z) - z).abs().max()) > 0
    for column, size in ((0, 1e6), (1, 1.0)):
        moved = z.clone()
        moved[2, column] += 1e-3 * z[:, column].abs().max() + (50 if column else 0)
        assert apart([z], [moved]) > 1e-4 * size


def test_a_column_of_rounding_is_no_difference():
    """Zero beside a column of size one million, with what rounding leaves there."""
    one, other = Z.clone(), Z.clone()
    one[:, 2], other[:, 2] = 1e-10, -1e-10
    assert apart([one], [other]) == 0
    assert apart([one[:, 2:]], [other[:, 2:]]) == pytest.approx(2e-10)
    assert apart([one[:, 2:]], [other[:, 2:]], [Z]) == 0


def test_what_is_not_finite_is_equal_on_both_sides_only():
    one, other = Z.clone(), Z.clone()
    one[0, 0], other[0, 0] = torch.nan, torch.inf
    assert apart([one], [other]) == 0
    assert apart([one], [Z]) > 1e300
    assert same(one, one)
    assert not same(one, other)


@pytest.mark.parametrize("each", [1, 2])
def test_vectors_of_a_row_are_found_in_either_order(each):
    z = doubles(5, 4, each, 3)
    alone = z[2].expand(5, each, 3)
    assert copies_apart(alone.reshape(-1, 3), z.reshape(-1, 3), 2, 4) == 0
    turned = (x.transpose(0, 1).reshape(-1, 3) for x in (alone, z))
    assert copies_apart(*turned, 2, 4) == 0
    assert copies_apart(alone.reshape(-1, 3), z.reshape(-1, 3), 1, 4) > 0.1
    assert copies_apart(alone.reshape(-1, 3), z.reshape(-1, 3)[:-1], 2, 4) == torch.inf


def test_integers_have_no_last_digit():
    whole = torch.arange(4)
    assert torch.equal(nudged(whole), whole)
