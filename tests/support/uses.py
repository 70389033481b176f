"""What is done with a part after it was made: what was let in must not fail later on."""

import functools

import torch
from class_heads import Classes

import bilevel
from bilevel import trees
from bilevel.estimators import (
    GroupLogistic,
    GroupRidge,
    StackelbergClassifier,
    StackelbergRegressor,
)
from bilevel.heads.rows_used import AbstractHeadData
from bilevel.strategies.single_loop import AbstractDirections
from problems.linear_networks import linear_network
from problems.mspbe.bodies import Layers, Module
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.process import MarkovRewardProcess
from problems.mspbe.random_walk import random_walk
from problems.mspbe.sources import AbstractSource
from problems.toy import ScalarProduct
from tests.support import legal_arguments as legal

ONE = torch.ones((), dtype=torch.float64)
FEW = {"steps": 2, "seeds": 2, "every": 2}


@functools.singledispatch
def use(made):
    """Nothing."""


@use.register
def _(made: bilevel.AbstractOptimizer):
    bilevel.solve(ScalarProduct(), bilevel.uniform(0.01, made), **FEW)


@use.register
def _(made: bilevel.AbstractSchedule):
    bilevel.solve(ScalarProduct(), bilevel.uniform(made, bilevel.SGD()), **FEW)


@use.register
def _(made: bilevel.ConvexSet):
    class Inside(ScalarProduct):
        body_set = head_set = made

    bilevel.solve(Inside(), bilevel.uniform(0.01), **FEW)


@use.register
def _(made: bilevel.AbstractHeadSolver):
    strategy = bilevel.BestResponse(0.1, made)
    bilevel.solve(legal.Linear(), strategy, batch_size=4, **FEW)


@use.register
def _(made: bilevel.AbstractHypergradient):
    bilevel.hypergradient(legal.Judged(), ONE, made, solver=bilevel.FastSGD(0.1, 3))


@use.register
def _(made: bilevel.AbstractLinearSolver):
    bilevel.hypergradient(legal.Judged(), ONE, bilevel.Implicit(made))


@use.register
def _(made: bilevel.AbstractCriterion):
    class Measured(legal.Linear):
        criterion = made

    if isinstance(made, bilevel.LogisticLoss | bilevel.SoftmaxLoss):
        use_labels(made)
    else:
        bilevel.best_response(Measured(), ONE)


def use_labels(made):
    """A head of the criterion, with as many classes as it has weights."""
    classes = 2 if made.class_weights is None else len(made.class_weights)
    softmax = isinstance(made, bilevel.SoftmaxLoss)
    problem = Classes(criterion=made, outputs=classes if softmax else None)
    bilevel.best_response(problem, problem.init_body(legal.random()))


@use.register
def _(made: bilevel.AbstractStrategy):
    directions = getattr(made, "directions", None) or made
    fixed = type(directions).__module__.startswith("problems.mspbe")
    problem = LinearEvaluation(random_walk()) if fixed else legal.Linear()
    if isinstance(made, bilevel.BalancedRates):  # of a body with a matrix
        problem = linear_network(width=3, rows=8)
    bilevel.solve(problem, made, batch_size=None, **FEW)


@use.register
def _(made: bilevel.StackelbergProblem):
    strategy = bilevel.uniform(0.01) if made.is_stackelberg else bilevel.BestResponse(0.01)
    bilevel.solve(made, strategy, batch_size=None, steps=1, seeds=1)


@use.register
def _(made: bilevel.Tuning):
    bilevel.compare(legal.Linear(), {"one": bilevel.uniform(0.01)}, tune=made, **FEW)


@use.register
def _(made: AbstractHeadData):
    bilevel.solve(legal.Linear(), bilevel.BestResponse(0.1, bilevel.ClosedForm(made)), **FEW)


@use.register
def _(made: AbstractDirections):
    use(bilevel.SingleLoop(0.1, 0.1, 0.1, directions=made))


@use.register
def _(made: AbstractSource):
    bilevel.solve(LinearEvaluation(made), bilevel.uniform(0.01), batch_size=None, **FEW)


@use.register
def _(made: MarkovRewardProcess):
    bilevel.solve(LinearEvaluation(made), bilevel.uniform(0.01), batch_size=None, **FEW)


@use.register(Layers)
@use.register(Module)
def _(made):
    body = made.init_body(legal.random())
    made.features(body, torch.ones(2, 3, dtype=trees.leaves(body)[0].dtype))


@use.register
def _(made: dict):
    for part in made.values():
        use(part)


@use.register
def _(made: GroupRidge | StackelbergRegressor):
    made.fit(legal.X, legal.Y)


@use.register
def _(made: GroupLogistic | StackelbergClassifier):
    made.fit(legal.X, legal.Y.mean() < legal.Y)
