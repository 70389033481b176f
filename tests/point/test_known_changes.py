"""What a point knows of an earlier call, where what changed is no attribute of the problem."""

import numpy as np
import pytest
import torch
from test_known import FEATURES, ROWS, Penalties, found, same

import bilevel
from bilevel.data import known
from bilevel.errors import DataError, ProblemError


def test_small_changes_beside_large_numbers_are_seen():
    """As of time stamps, which are counted from their means: sums of them are rounded more."""
    problem = Penalties(fit_bias=True)
    problem.arrays[0][:, 1] += 1.7e9
    found(problem)
    for row in range(ROWS):
        problem.arrays[0][row, 1] += 1e-6
        assert same(problem)
    problem.arrays[0][:2, 1] *= -1  # the top bits of an even number of rows
    assert same(problem)


def test_initial_heads_of_other_numbers_are_seen():
    """Those that `init_head` takes from an array, where nobody counts changes."""
    problem, start = Penalties(), np.zeros(FEATURES)
    problem.init_head = lambda generator: torch.from_numpy(start.copy())
    solver = bilevel.FastSGD(1e-2, 3)
    assert same(problem, solver=solver)
    start[1] = 5.0
    assert same(problem, solver=solver)


@pytest.mark.parametrize("bound", [True, False])
def test_a_body_that_is_cut_off_later_is_refused_as_at_once(bound):
    """By what is no attribute: the gradient would silently be zero."""
    problem, cut = Penalties(), []
    problem.penalty = lambda body: (body.detach() if cut else body).exp()
    found(problem)
    cut.append(True)
    with pytest.raises(ProblemError, match="cuts the body off"):
        found(problem, bound=bound)


class Labels(Penalties):
    """Two classes, in an array."""

    criterion = bilevel.LogisticLoss()

    def rows(self, seed):
        super().rows(seed)
        self.labels = np.arange(ROWS) % 2
        targets = torch.from_numpy(self.labels)
        self.train, self.validation = (
            bilevel.Batch(rows.inputs, targets) for rows in (self.train, self.validation)
        )


def test_labels_that_turn_wrong_are_refused():
    """They would give finite numbers, of another loss."""
    problem = Labels()
    found(problem)
    problem.labels[3] = 2
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        found(problem)


def test_what_another_thread_forgets_at_once_is_returned_all_the_same(monkeypatch):
    keep = known.Known._keep

    def raced(self, *arguments):
        keep(self, *arguments)
        self._made.clear()

    monkeypatch.setattr(known.Known, "_keep", raced)
    assert known.Known().once("one", lambda: 1) == 1
    assert same(Penalties())
