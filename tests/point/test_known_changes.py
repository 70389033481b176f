"""What a point knows of an earlier call, where what changed is no attribute of the problem."""

from test_known import ROWS, Penalties, found, same


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
