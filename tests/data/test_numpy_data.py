"""Problems whose `data` returns NumPy arrays, in every layout that NumPy has."""

import numpy as np
import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.errors import DataError


class Rows(bilevel.LinearHeadProblem):
    """tanh features of 3 inputs; 31 training rows, 9 test rows."""

    ridge = 1e-3
    fit_bias = True

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def data(self, seed=None):
        return {
            "train": bilevel.Batch(self.inputs[:31], self.targets[:31]),
            "test": bilevel.Batch(self.inputs[31:], self.targets[31:]),
        }

    def init_body(self, generator):
        return torch.randn(3, 5, generator=generator)

    def init_head(self, generator):
        return torch.randn(6, generator=generator)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body)


RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(40, 3)).astype(np.float32)
TARGETS = INPUTS.sum(1) + RANDOM.normal(size=40).astype(np.float32)
STRATEGIES = {
    "two-timescale": bilevel.TwoTimescale(1e-2, 1e-1),
    "best response": bilevel.BestResponse(1e-2),
}


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "other byte order": lambda x: x.astype(">f4"),
    "column-major": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "read-only": read_only,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_train_as_tensors_do(layout, strategy):
    change = LAYOUTS[layout]
    tensors = Rows(torch.from_numpy(INPUTS), torch.from_numpy(TARGETS))
    expected, found = (
        bilevel.solve(problem, STRATEGIES[strategy], steps=7, batch_size=4, seeds=2)
        for problem in (tensors, Rows(change(INPUTS), change(TARGETS)))
    )
    for name, values in expected.history.items():
        torch.testing.assert_close(found.history[name], values, rtol=0, atol=0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(trees.leaves(found.body), trees.leaves(expected.body), strict=True)
    )
    torch.testing.assert_close(found.predict(INPUTS), expected.predict(torch.from_numpy(INPUTS)))


def test_arrays_at_a_single_point():
    body = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double()
    tensors = Rows(torch.from_numpy(INPUTS).double(), torch.from_numpy(TARGETS).double())
    arrays = Rows(INPUTS.astype(">f8"), read_only(TARGETS.astype(float)))
    expected, found = (bilevel.hypergradient(problem, body) for problem in (tensors, arrays))
    assert torch.equal(found.body, expected.body)
    assert torch.equal(found.response.head, expected.response.head)


def test_integer_inputs_stay_integers():
    """They may be indices; what the features make of them is theirs to say."""

    class Table(Rows):
        def features(self, body, inputs):
            return torch.tanh(body[inputs % 3])

    seven = np.random.default_rng(1).integers(0, 7, size=40)
    problem = Table(seven.astype(">i4"), TARGETS)
    solution = bilevel.solve(problem, bilevel.BestResponse(1e-2), steps=3, batch_size=4, seeds=2)
    assert not any(status.failed for status in solution.status)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS.astype(object), TARGETS, r'data\["train"\].inputs must be .* array of object'),
        (INPUTS, TARGETS.astype(str), r'data\["train"\].targets must be .* array of <U'),
        (INPUTS, TARGETS.astype(complex), "targets must be .* array of complex128"),
        (INPUTS, TARGETS.tolist(), "targets.* must be .* got float"),
        (INPUTS, TARGETS.astype(int), r"floating point, got torch.int64.*`.astype\(float\)`"),
        (INPUTS, TARGETS > 0, "floating point, got torch.bool"),
        (INPUTS, np.where(TARGETS > 2, np.nan, TARGETS), "NaN or infinite. Drop those rows"),
    ],
)
def test_arrays_of_other_things_are_refused_by_name(inputs, targets, message):
    with pytest.raises(DataError, match=message):
        bilevel.solve(Rows(inputs, targets), bilevel.BestResponse(1e-2), steps=3, seeds=1)
