"""Each argument of each public callable gets values that nobody means, one at a time.

The default run tries every `STRIDE`th of them. All of them, in minutes:

    make test ARGS="-m slow tests/project/test_foreign_arguments.py"
"""

import contextlib
import inspect
import warnings

import numpy as np
import pytest

import bilevel
from bilevel import analysis
from bilevel.exact import BayesianHead
from bilevel.loops import HeadRefit
from problems import image_classification
from problems.images.loading import Images
from problems.images.places import places
from problems.linear_networks import DeepLinearProblem, StepPolynomial
from tests.support import (
    legal_advice,
    legal_analysis,
    legal_estimators,
    legal_loops,
    legal_tasks,
)
from tests.support import legal_arguments as legal
from tests.support.foreign_values import FOREIGN, outcome
from tests.support.public_callables import PAGES, arguments, public
from tests.support.uses import use

STRIDE = 37
SUBJECTS = public()
LEGAL = (
    legal.LEGAL
    | legal_advice.LEGAL
    | legal_tasks.LEGAL
    | legal_loops.LEGAL
    | legal_analysis.LEGAL
    | legal_estimators.LEGAL
)
OBJECTS = {
    bilevel.Advice: legal_advice.advice,
    bilevel.Solution: legal.solution,
    bilevel.Comparison: legal.comparison,
    bilevel.GramAccumulator: legal.accumulator,
    BayesianHead: legal.posterior,
    analysis.Landscape: legal_analysis.landscape,
    HeadRefit: legal_loops.refit,
    DeepLinearProblem: lambda: DeepLinearProblem(**legal.deep()),
    StepPolynomial: lambda: StepPolynomial(legal.doubles(0, 3, 3)),
}
"""Whose methods are called."""
OF_TASKS = {"bilevel.Solution.adapt": legal_tasks.solution}
"""Methods of a solution that only those of tasks have."""
CALLED = (
    *("callback", "constraints", "function", "make_model", "make_module", "make_process"),
    *("policy", "progress"),
)
"""Functions of users: what they raise is theirs."""
SLOW = (
    *(("compile", "True"), ("compile", "NumPy bool"), ("problems", "None"), ("ridge", "1e-320")),
    *(("ridge", "-0.0"), ("ridge", "0")),  # of ten classes without a penalty
    ("columns", "NumPy integer"),  # legal, and used with other numbers of them
    *(("folder", value) for value in ("text", "name", "path", "lone surrogate")),  # of a report
)
"""Legal, and takes seconds."""
FUNCTIONS = ("class", "torch layer", "torch optimiser")
DRAWS = [
    (name, argument, value)
    for name, made in SUBJECTS.items()
    for argument in arguments(made)
    for value in FOREIGN
    if (argument, value) not in SLOW and not (argument in CALLED and value in FUNCTIONS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where files are that can be read."""
    place = tmp_path_factory.mktemp("files")
    with contextlib.chdir(place):
        legal.write_files()
    return place


@pytest.fixture(autouse=True)
def few_files(monkeypatch, folder):
    """A folder of these tests, and a few images in the place of files that are not everywhere."""

    def few_images(source, data_dir=None, *, download=True):
        places(data_dir)
        pixels = np.arange(30 * source.pixels).astype(np.uint8).reshape(30, -1)
        return Images((pixels, np.arange(30) % 10), (pixels, np.arange(30) % 10), PAGES)

    monkeypatch.setattr(image_classification, "load", few_images)
    monkeypatch.chdir(folder)


def call(name, given):
    made = SUBJECTS[name]
    function = made
    if isinstance(made, tuple):
        owner, method = made
        instance = OF_TASKS.get(name, OBJECTS.get(owner))
        function = getattr(owner if instance is None else instance(), method)
    values = {**LEGAL.get(name, dict)(), **given}
    parameters = inspect.signature(function).parameters.values()
    first = [values.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    use(function(*first, **values))


def bare(draws):
    """What came out of the draws that was neither a result nor an error of the library."""
    found = []
    for name, argument, value in draws:
        came = outcome(lambda n=name, a=argument, v=value: call(n, {a: FOREIGN[v]()}))
        if came:
            found.append(f"{name}({argument}={value}): {came}")
    return found


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "problem boston"])
def test_legal_arguments_are_taken(name):
    # from what is refused, or lacks its required arguments, nothing could be learned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(name, {})


def test_a_foreign_argument_is_a_result_or_an_error_of_the_library():
    assert len(SUBJECTS) > 130
    assert len(DRAWS) > 25_000
    assert bare(DRAWS[::STRIDE]) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(STRIDE))
def test_all_foreign_arguments(part):
    assert bare(DRAWS[part::STRIDE]) == []
