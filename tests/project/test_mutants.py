"""Mistakes that `mutants.py` plants have their places in the code."""

import pytest

from tests.project.mutants import MISTAKES, ROOT


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_each_mistake_has_one_place(mistake):
    assert (ROOT / mistake.file).read_text().count(mistake.text) == 1
