"""Ctrl-C in a training that is looked at ends the analysis: half of it would be something else."""

import pytest

import bilevel
from bilevel import analysis
from problems.regression import friedman1
from problems.toy import ScalarProduct

STRATEGY = bilevel.TwoTimescale(1e-2, 1e-2)


def interrupted(problem, name, at):
    """A problem of which a call raises what Ctrl-C does, once, after `at` others."""
    plain, left = getattr(problem, name), [at]

    def function(*arguments):
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        return plain(*arguments)

    setattr(problem, name, function)
    return problem, left


def small():
    return friedman1(width=4, train=40, validation=20, test=20)


@pytest.mark.parametrize("at", [30, 60, 120])  # in each stretch between two of the steps
def test_iterates(at):
    problem, _ = interrupted(small(), "features", at)
    with pytest.raises(KeyboardInterrupt):
        analysis.iterates(problem, STRATEGY, at=(0, 20, 40, 60), seeds=2, batch_size=16)


def test_convergence():
    problem, _ = interrupted(ScalarProduct(noise_scale=0.3), "head_objective", 200)
    options = {"steps": 60, "seeds": 2, "after": 10, "envelope_runs": 0, "compile": False}
    with pytest.raises(KeyboardInterrupt):
        analysis.convergence(problem, **options)


def test_the_explanation_of_an_advice():
    problem, left = interrupted(small(), "features", 10**9)

    def callback(words):
        if words == "explanation":
            left[0] = 30

    with pytest.raises(KeyboardInterrupt):
        bilevel.advise(problem, steps=20, seeds=2, held_out_seeds=3, callback=callback)
