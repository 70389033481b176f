"""The public names: what the package gives, and what its stub promises to type checkers."""

import ast
import importlib
import inspect
import itertools
from pathlib import Path

import bilevel
import bilevel.analysis

ROOT = Path(__file__).parents[2]
STUB = ROOT / "bilevel/__init__.pyi"


def test_the_stub_has_the_public_names_and_their_homes():
    imports = [node for node in ast.parse(STUB.read_text()).body if not isinstance(node, ast.Expr)]
    promised = {
        alias.asname: getattr(importlib.import_module(node.module), alias.name)
        for node in imports
        for alias in node.names
    }
    assert sorted(promised) == sorted(bilevel.__all__)
    for name, value in promised.items():
        assert getattr(bilevel, name) is value, name


SEVERAL = (bilevel.solve, bilevel.compare, bilevel.analysis.iterates, bilevel.analysis.convergence)
"""They train several runs, and take what these share."""
FIRST = ("problem", "steps", "batch_size", "seeds", "every", "sampling")


def test_shared_arguments_have_one_order():
    orders = [list(inspect.signature(one).parameters) for one in SEVERAL]
    for one, other in itertools.combinations(orders, 2):
        common = [name for name in one if name in other and name in FIRST]
        assert {"batch_size", "seeds"} <= set(common)
        assert common == [name for name in other if name in common]


def test_twenty_seeds_by_default():
    found = {one.__name__: inspect.signature(one).parameters["seeds"].default for one in SEVERAL}
    # slopes of means are fitted to more: see the page Stationarity and rates
    assert found == {"solve": 20, "compare": 20, "iterates": 20, "convergence": 400}
    assert inspect.signature(bilevel.advise).parameters["held_out_seeds"].default == 20
