"""The tables of which the default run takes a sample are there."""

import ast

import pytest

from tests.project.layers import ROOT
from tests.support.sampled import EVERY, in_sample


@pytest.mark.parametrize("file", EVERY)
def test_sampled_tables_are_there(file):
    functions = {
        node.name: node
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    for test in EVERY[file]:
        decorators = [ast.unparse(decorator) for decorator in functions[test].decorator_list]
        assert any("parametrize" in decorator for decorator in decorators)


def test_a_sample_is_the_same_every_time_and_other_tables_are_run_whole():
    file, (test, *_) = next(iter(EVERY.items()))
    taken = in_sample(f"{file}::{test}", 12)
    assert taken == in_sample(f"{file}::{test}", 12)
    assert len(taken) == -(-12 // EVERY[file][test])
    assert in_sample(f"{file}::test_of_no_table", 12) == set(range(12))
