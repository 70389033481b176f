"""Arrays and tensors of others, taken or refused."""

import numpy as np
import pytest
import torch
from foreign_arrays import NO_ARRAYS, REFUSED, ROUNDED, TAKEN

from bilevel import trees
from bilevel.core.arrays import array_of, refusal, tensor_of
from bilevel.data.groups import check_groups
from bilevel.errors import BilevelError, DataError, ProblemError

NUMBERS = np.random.default_rng(3).normal(size=(6, 3))


@pytest.mark.parametrize("kind", TAKEN)
def test_the_same_numbers_are_taken_from_every_layout(kind):
    given = TAKEN[kind](NUMBERS.copy())
    assert refusal(given) == ""
    found = tensor_of(given, "x")
    assert type(found) in (torch.Tensor, type(given))
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.from_numpy(NUMBERS), rtol=0, atol=0)
    np.testing.assert_array_equal(array_of(given, "x"), NUMBERS)
    assert type(array_of(given, "x")) is np.ndarray


@pytest.mark.parametrize("kind", ROUNDED)
def test_short_numbers_are_taken_as_they_are(kind):
    found = ROUNDED[kind](NUMBERS)
    assert tensor_of(found, "x").element_size() == 2
    expected = torch.as_tensor(found).double().numpy()
    np.testing.assert_array_equal(array_of(found, "x").astype(float), expected)


@pytest.mark.parametrize("kind", ["uint16", "uint32"])
def test_whole_numbers_that_torch_hardly_knows_become_wider(kind):
    given = np.array([0, 7, 2**15, 2**16 - 1], kind)
    found = tensor_of(given, "x")
    assert found.tolist() == given.tolist()
    assert found[torch.tensor([3, 1])].index_select(0, torch.tensor([0])).tolist() == [2**16 - 1]


def test_whole_numbers_that_torch_does_not_know_are_refused_as_tensors():
    given = np.array([2**64 - 1], np.uint64)
    assert array_of(given, "x")[0] == given[0]
    with pytest.raises(DataError, match=r"numbers beyond 2\^63 - 1"):
        check_groups({"train": {"x": given}})


@pytest.mark.parametrize("shape", [(6, 3), (6,)])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_numbers_or_hides_them_is_named(kind, shape):
    make, message = REFUSED[kind]
    given = make(NUMBERS.reshape(-1)[: np.prod(shape)].reshape(shape))
    for take in (array_of, tensor_of):
        with pytest.raises(DataError, match=f"`x` must hold numbers, got {message}|{message}"):
            take(given, "x")
    if isinstance(given, torch.Tensor):
        with pytest.raises(ProblemError, match=message):
            trees.check({"a": given}, "point", ProblemError)


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_what_is_no_array_is_refused(kind):
    given = NO_ARRAYS[kind](NUMBERS)
    for take in (array_of, tensor_of):
        with pytest.raises(BilevelError, match="`x`"):
            take(given, "x")


def test_sequences_are_taken():
    for given in (NUMBERS.tolist(), tuple(NUMBERS), list(torch.from_numpy(NUMBERS))):
        np.testing.assert_array_equal(array_of(given, "x"), NUMBERS)
    assert tensor_of([0.1], "x").dtype == torch.float64
