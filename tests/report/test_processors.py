"""What the report says of shards on several kinds of processors."""

import dataclasses

import comparison_example
import pytest

from bilevel import Comparison
from bilevel.report import processors


def shards(*of):
    told = {"stage": "training", "strategies": ["two"], "seeds": [0]}
    return [{**told, "kind": kind, "bits": bits} for kind, bits in of]


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ([], ""),
        ([("old", "a")] * 3, ""),
        ([("old", "a"), ("new", "a")], "old (1 shard) and new (1 shard). They make the same bits"),
        (
            [("old", "a"), ("new", "b"), ("old", "a")],
            "old (2 shards) and new (1 shard). Bits differ between old and new: the same run",
        ),
        ([("old", "a"), ("old", "b")], "old (2 shards). Bits differ between processors of that"),
    ],
)
def test_kinds_of_processors_are_told_where_there_are_several(of, said):
    found = processors.kinds({"environment": {"shards": shards(*of)}})
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert processors.kinds({"environment": {}}) == ""


def test_the_page_says_it_and_the_folder_keeps_it(tmp_path, undrawn):
    made = comparison_example.small()
    noted = shards(("old", "a"), ("new", "b"))
    found = dataclasses.replace(made, environment={**made.environment, "shards": noted})
    page = found.report(tmp_path / "report").read_text()
    assert "Bits differ between old and new" in page
    assert "processors of the shards" in page
    assert Comparison.load(tmp_path / "report").environment["shards"] == noted
    made.report(tmp_path / "plain")
    assert "processors of the shards" not in (tmp_path / "plain" / "report.html").read_text()
