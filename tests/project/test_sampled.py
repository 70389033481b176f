"""The tables of which the default run takes a sample are there."""

import ast

import pytest

from tests.project.layers import ROOT
from tests.support.sampled import EVERY


@pytest.mark.parametrize("name", EVERY)
def test_a_sampled_table_is_there(name):
    file, test = name.split("::")
    functions = {
        node.name: node
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    decorators = [ast.unparse(decorator) for decorator in functions[test].decorator_list]
    assert any("parametrize" in decorator for decorator in decorators)
