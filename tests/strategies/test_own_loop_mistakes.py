"""What breaks the contract of an own loop is named, with the contract."""

import pytest
import torch
from own_loops import in_place, train
from small_problems import M, Smooth

import bilevel
from bilevel import OwnLoop, trees
from bilevel.errors import ArgumentError, ShapeError


def ends(problem, body, head, batches):
    for _ in range(7):
        next(batches)
        yield body, head


def takes_none(problem, body, head, batches):
    yield body, head
    for _ in batches:
        yield body, head


def takes_two(problem, body, head, batches):
    for _ in batches:
        next(batches)
        yield body, head


def takes_all(problem, body, head, batches):
    return [(body, head) for _ in batches]


def returns_nothing(problem, body, head, batches):
    pass


def spoils_rows(problem, body, head, batches):
    for batch in batches:
        batch["train"].inputs.mul_(0.5)
        yield body, head


def leaves_the_set(problem, body, head, batches):
    for _ in batches:
        yield body, head + 10


BROKEN = {
    ends: "ends stopped after 7 steps; it must yield once per batch until it is closed",
    takes_none: "takes_none yields a point without having taken a batch",
    takes_two: "takes_two asks for a second batch in one step",
    takes_all: "takes_all asks for a second batch in one step",
    returns_nothing: "returns_nothing returned NoneType, not an iterator",
    spoils_rows: "spoils_rows changes its batch in place",
    leaves_the_set: "leaves_the_set yields a head outside of the problem's `head_set`",
}


@pytest.mark.parametrize("loop", BROKEN, ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("batch_size", [6, None])
def test_broken_loops_are_named(loop, batch_size):
    problem = Smooth(head_set=bilevel.Ball(5.0))
    if loop is takes_all:
        batch_size = 6
    with pytest.raises(ArgumentError, match=BROKEN[loop]):
        train(problem, OwnLoop(loop), batch_size=batch_size)


def test_data_are_not_spoilt_by_a_loop_that_changes_its_sampled_rows():
    problem = Smooth()
    groups = problem.data()
    problem.groups = trees.tree_map(torch.clone, groups)
    with pytest.raises(ArgumentError, match="in place"):
        train(problem, OwnLoop(spoils_rows))
    assert trees.equal(problem.groups, groups)


WRONG = {
    "one tree": (lambda body, head: head, "it yields one Tensor"),
    "three": (lambda body, head: (body, head, head), "it yields one tuple"),
    "a level is missing": (
        lambda body, head: ({"weight": body["weight"]}, head),
        r"body\['bias'\] \(4,\) torch.float64 cpu, head \(4,\).* it yields body\['weight'\]",
    ),
    "one too many": (lambda body, head: ({**body, "more": head}, head), r"body\['more'\]"),
    "other containers": (lambda body, head: (body, {"theta": head}), r"head\['theta'\]"),
    "shape": (lambda body, head: (body, head.unsqueeze(1)), rf"it yields .*head \({M}, 1\)"),
    "dtype": (lambda body, head: (body, head.float()), "it yields .*torch.float32"),
    "no tensor": (lambda body, head: (body, head.tolist()), "it yields .*head.* a float"),
    "a scalar": (lambda body, head: (body, 1.0), "it yields .*head a float"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_trees_are_refused(case):
    change, message = WRONG[case]

    def loop(problem, body, head, batches):
        for _ in batches:
            yield change(body, head)

    with pytest.raises(ShapeError, match=message):
        train(Smooth(), OwnLoop(loop))


async def coroutine(problem, body, head, batches):
    pass


@pytest.mark.parametrize(
    "function",
    [
        None,
        "descent",
        coroutine,
        in_place(None, {}, {}, None),
        lambda problem: None,
        lambda problem, body, head, batches, steps: None,
        lambda *, problem, body, head, batches: None,
    ],
)
def test_functions_that_cannot_be_loops_are_refused(function):
    with pytest.raises(ArgumentError, match=r"generator function `loop\(problem, body, head, batc"):
        OwnLoop(function)


@pytest.mark.parametrize("gradients", [0, -1, float("nan"), float("inf"), True, "one", None])
def test_costs_that_are_no_numbers_are_refused(gradients):
    with pytest.raises(ArgumentError, match="`gradients` must be a positive number"):
        OwnLoop(in_place, gradients)
