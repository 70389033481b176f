"""Every callable that the documentation names, found there: what is new is found by itself."""

import enum
import importlib
import inspect
import re
from pathlib import Path

import bilevel
from bilevel import analysis
from bilevel.estimators import (
    GroupLogistic,
    GroupRidge,
    StackelbergClassifier,
    StackelbergRegressor,
)
from bilevel.exact import BayesianHead
from bilevel.heads.rows_used import AbstractHeadData
from bilevel.linear import Operator
from bilevel.loops.module_problem import ModuleProblem
from bilevel.loops.rates import GroupRates
from bilevel.problem import registry
from bilevel.strategies.single_loop import AbstractDirections
from bilevel.tables import Model, Predicted
from problems.mspbe.bodies import Layers, Module
from problems.mspbe.sources import AbstractSource

PAGES = Path(__file__).parents[2] / "docs" / "api"
EXTENDING = PAGES / "extending.md"
"""What parts of one's own are given and call: the library made it, or they check it themselves."""
PARTS = (
    bilevel.AbstractOptimizer, bilevel.AbstractSchedule, bilevel.ConvexSet,
    bilevel.AbstractHeadSolver, bilevel.AbstractHypergradient, bilevel.AbstractLinearSolver,
    bilevel.AbstractCriterion, bilevel.AbstractStrategy, bilevel.StackelbergProblem,
    bilevel.AbstractExperience,
    AbstractHeadData, AbstractDirections, AbstractSource, Layers, Module, Operator,
    bilevel.Tuning, bilevel.SplitModule,
    GroupLogistic, GroupRidge,  # scikit-learn checks the rows they are given: tests/estimators
    StackelbergClassifier, StackelbergRegressor, Model, Predicted,
)  # fmt: skip
"""What the library calls by its contract: the methods of these are called by nobody else."""
MADE = (bilevel.Advice, bilevel.Solution, bilevel.Minimum, bilevel.Comparison, bilevel.HeadResponse,
        bilevel.Hypergradient, Operator,
        BayesianHead, ModuleProblem, GroupRates, analysis.Iterates, analysis.Curvatures,
        analysis.Landscape, analysis.MoreauEnvelope, analysis.Convergence,
        Model, Predicted)  # fmt: skip
"""Made by the library: nobody calls their constructors."""
FORMULAS = ("problems.mspbe.exact.", "problems.mspbe.experience.")
"""Evaluated on tensors under `vmap`, by problems: they compute, and check nothing."""
POSITIONAL = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def public():
    """Name -> callable: what is exported, documented or registered, and methods of objects."""
    found = {f"bilevel.{name}": getattr(bilevel, name) for name in bilevel.__all__}
    for name in bilevel.testing.__all__:
        found[f"bilevel.testing.{name}"] = getattr(bilevel.testing, name)
    for page in sorted(set(PAGES.glob("*.md")) - {EXTENDING}):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M):
            found |= _members(name, _at(name))
    found |= {f"problem {name}": registry.load(name) for name in registry.names()}
    methods = {}
    for name, made in found.items():
        if inspect.isclass(made) and not issubclass(made, PARTS) and not _is_record(made):
            methods |= {f"{name}.{key}": (made, key) for key, value in vars(made).items()
                        if not key.startswith("_") and callable(getattr(made, key))}  # fmt: skip
    own = {name: made for name, made in found.items() if callable(made) and not _is_record(made)}
    whole = {n: m for n, m in own.items() if m not in MADE and not inspect.isabstract(m)} | methods
    return {name: made for name, made in whole.items()
            if arguments(made) and not name.startswith(FORMULAS)}  # fmt: skip


def arguments(made):
    """Names of the arguments of a function, of a class, or of a method given as (class, name)."""
    bound = inspect.ismethod(getattr(*made)) if isinstance(made, tuple) else True
    function = getattr(*made) if isinstance(made, tuple) else made
    names = [p.name for p in inspect.signature(function).parameters.values()
             if p.kind not in POSITIONAL]  # fmt: skip
    return names if bound else names[1:]


def _at(name):
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def _members(name, made):
    if not inspect.ismodule(made):
        return {name: made}
    return {f"{name}.{key}": value for key, value in vars(made).items()
            if not key.startswith("_") and getattr(value, "__module__", "") == made.__name__
            and name != "bilevel.errors"}  # fmt: skip


def _is_record(made):
    """Tuples with names, enumerations and errors take what they are given."""
    if not inspect.isclass(made):
        return False
    named = issubclass(made, tuple) or getattr(made, "_is_protocol", False)
    plain = made in {bilevel.testing.Finding, bilevel.NumberedBatch}
    return named or plain or issubclass(made, enum.Enum | BaseException)
