"""The public names: what the package gives, and what its stub promises to type checkers."""

import ast
import importlib
from pathlib import Path

import bilevel

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
