"""Every public object says its formula, shapes, errors and source, and shows an example.

Which sections are due goes by the kind of an object; what they hold is checked by eye, but for
the examples, which run.
"""

import dataclasses
import enum
import inspect
import re
import types

import pytest

import bilevel
from bilevel import analysis, errors, estimators, exact, loops, tables, testing
from bilevel.problem import registry
from bilevel.strategies.single_loop import SOBA

MODULES = (analysis, errors, estimators, exact, loops, tables, testing)
FIELD = """
    Adam AdamW BalancedRates BestResponse CG Clipped ClosedForm Cosine Cvxpy Dense Envelope FastSGD
    FiniteDifferences GramAccumulator HuberLoss Implicit L1Ball LogisticLoss Neumann Newton
    PenaltyMethod Piecewise Polynomial ProjectedNewton RMSProp RunningData SGD SOBA Simplex
    SingleLoop SoftmaxLoss SquaredError TwoTimescale Unrolled minimize uniform
    analysis.convergence analysis.curvature analysis.landscape analysis.moreau
    analysis.theorem_schedules estimators.GroupLogistic estimators.GroupRidge
    estimators.StackelbergClassifier estimators.StackelbergRegressor exact.BayesianHead
    exact.constrained_head exact.logistic_head exact.ridge_head exact.softmax_head
    loops.balanced_rates
"""
"""Methods of the field: a paper, a textbook or a program has them, and the formula is in TeX."""
FORMULA = """
    Ball Box Constant LinearHeadProblem Nonnegative Pullback StackelbergProblem adapt
    best_response hypergradient loops.HeadRefit loops.from_module
"""
"""What has a formula and no source but its definition."""
SHOWN_BY = {
    "Advice": "advise",
    "Comparison": "compare",
    "analysis.Convergence": "analysis.convergence",
}
"""What a function makes in seconds: its own example shows them."""
MADE = {*SHOWN_BY, "SplitModule"}
"""Whose constructors nobody calls but the library."""
INTERNAL = {"errors.check_name", "errors.counted", "errors.spell"}
SECTION = re.compile(
    r"^(Args|Attributes|Examples|Raises|Returns|Options|Source|Warns):", re.MULTILINE
)
SHAPE = re.compile(r"\(|0-dim|shaped? |like ")


def public():
    """Name -> object, "module.name" of what is not at top level."""
    found = {name: getattr(bilevel, name) for name in bilevel.__all__ if name != "errors"}
    known = set(map(id, found.values()))
    found["SOBA"] = SOBA
    for module in MODULES:
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith("bilevel.")
            made = isinstance(value, type | types.FunctionType)
            if own and made and not name.startswith("_") and id(value) not in known:
                found[f"{module.__name__.removeprefix('bilevel.')}.{name}"] = value
    return {name: value for name, value in found.items() if name not in INTERNAL}


PUBLIC = public()


def docstring(value):
    own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
    return inspect.cleandoc(own or "")


def sections(text):
    """Heading -> its text; the first part is called "Summary"."""
    parts = SECTION.split(text)
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def parameters(value):
    try:
        given = inspect.signature(value).parameters.values()
    except ValueError:  # an enumeration
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one for one in given if one.name != "self" and one.kind not in kinds]


def is_contract(value):
    """A base that third parties derive from; its page shows the methods."""
    return inspect.isabstract(value) or value in (bilevel.ConvexSet, bilevel.AbstractStrategy)


def due(name, value):
    """The sections that an object of this kind must have."""
    asked = {"Examples"} if name not in SHOWN_BY else set()
    if isinstance(value, type):
        plain = issubclass(value, enum.Enum | BaseException) or is_contract(value)
        if name.startswith("errors."):
            return set()  # a sentence each: what went wrong
        if not plain and parameters(value):
            record = issubclass(value, tuple) or not hasattr(value, "__post_init__")
            asked |= {"Args or Attributes"}
            asked |= set() if record or name in MADE else {"Raises"}
    else:
        asked |= {"Returns"} if inspect.signature(value).return_annotation is not None else set()
        asked |= {"Args"} if parameters(value) else set()
        asked |= {"Raises"} if parameters(value) and not name.startswith("errors.") else set()
    if name in FIELD.split():
        asked |= {"Source"}
    return asked


@pytest.mark.parametrize("name", PUBLIC)
def test_no_section_is_missing(name):
    value = PUBLIC[name]
    text = docstring(value)
    found = sections(text)
    have = set(found) | ({"Args or Attributes"} if {"Args", "Attributes"} & set(found) else set())
    assert text
    assert due(name, value) - have == set()
    if name in (FIELD + FORMULA).split():
        assert "$" in found["Summary"], "the formula is missing"
    if "Examples" in found:
        assert ">>> " in found["Examples"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_told_and_tensors_by_their_shape(name):
    value = PUBLIC[name]
    found = sections(docstring(value))
    told = found.get("Args", "") + found.get("Attributes", "")
    if not told or (isinstance(value, type) and issubclass(value, enum.Enum)):
        return
    entries = dict(re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", told, re.M))
    missing = [one.name for one in parameters(value) if one.name not in entries]
    assert missing == [] or dataclasses.is_dataclass(value) or name in MADE
    for one in [one for one in parameters(value) if one.name in entries]:
        annotation = str(one.annotation).removeprefix("torch.")
        if re.fullmatch(r"(<class ')?(torch\.)?Tensor('>)?( \| None)?", annotation):
            assert SHAPE.search(entries[one.name]), f"{one.name} has no shape: {entries[one.name]}"


@pytest.mark.parametrize("name", registry.names())
def test_a_problem_says_what_it_is(name):
    factory = registry.load(name)
    found = sections(docstring(factory))
    assert {"Raises", "Examples"} <= set(found)
    assert {"Args", "Options"} & set(found) or not parameters(factory)


def test_the_lists_hold_what_is_public():
    assert set((FIELD + FORMULA).split()) <= set(PUBLIC)
    assert len(PUBLIC) > 120
