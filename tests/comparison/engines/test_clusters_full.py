"""Seven strategies on twelve seeds of two problems, rates tuned: the same on every engine.

python -m pytest -m slow -n 0 tests/comparison/engines/test_clusters_full.py
"""

import csv
import os
import sys

import numpy as np
import pytest
import torch
from small_problems import ROUNDING
from test_clusters_compare import assert_same_report

import bilevel
from bilevel import compare
from bilevel.strategies.presets import BALANCED, PRESETS, RUNNING

pytestmark = pytest.mark.slow

OPTIONS = {"seeds": 12, "dtype": torch.float64, "tune": bilevel.Tuning((0.5, 2.0), seeds=2)}
SIZES = {"friedman1": {"width": 16}, "digits": {"width": 8}}
STEPS = {"friedman1": 100, "digits": 20}
SEVENTH = {"friedman1": RUNNING, "digits": BALANCED}


@pytest.fixture(scope="module")
def engines(cluster, tmp_path_factory):
    """What to pass as `engine`, by name."""
    folder = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield {
            "processes": "processes:2",
            "dask": f"dask:{cluster.scheduler_address}",
            "local": "local:2",
        }


def run(name, **more):
    problem = bilevel.load_problem(name, **SIZES[name])
    names = [*PRESETS, SEVENTH[name]]
    assert len(names) == 7
    strategies = bilevel.preset_strategies(5e-4, 5e-3, names=names)
    return compare(problem, strategies, steps=STEPS[name], **OPTIONS, **more)


@pytest.fixture(scope="module", params=SIZES)
def expected(request):
    """In this process."""
    return request.param, run(request.param)


@pytest.mark.parametrize("kind", ["processes", "dask", "local"])
def test_numbers_and_report_are_those_of_one_process(kind, expected, engines, tmp_path):
    name, one = expected
    found = run(name, engine=engines[kind], checkpoint=tmp_path / "kept")
    assert found.status == one.status
    tables = []
    for number, comparison in enumerate((one, found)):
        comparison.report(tmp_path / f"{number}")
        with (tmp_path / f"{number}" / "history.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1])
    for ours, theirs in zip(*tables, strict=True):
        assert ours.keys() == theirs.keys()
        for column, value in ours.items():
            if value == theirs[column]:
                continue
            far = 1e-12 if column in ROUNDING else 0.0  # these are rounding themselves
            np.testing.assert_allclose(float(theirs[column]), float(value), rtol=1e-12, atol=far)
    assert_same_report(found, one, tmp_path)
