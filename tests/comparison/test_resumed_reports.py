"""A resumed comparison is the uninterrupted one in every name, order, number, figure and word."""

import numpy as np
import pytest
import torch
from interrupts import raise_at
from own_loops import in_place
from small_problems import Smooth, TrueBilevel

import bilevel
from bilevel import (
    BestResponse,
    Comparison,
    Implicit,
    Newton,
    OwnLoop,
    SingleLoop,
    TwoTimescale,
    compare,
    solve,
    uniform,
)
from bilevel.comparison import checkpoint
from bilevel.comparison import compare as compare_module
from bilevel.errors import ResultsError
from bilevel.report import tables
from bilevel.storage.results import write_results

OPTIONS = {"seeds": [4, 0], "steps": 6, "every": 2, "batch_size": 6, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Every step takes a hundredth of a second, and every record is kept."""
    monkeypatch.setattr(
        compare_module,
        "seconds_per_step",
        lambda strategies, *_, **__: dict.fromkeys(strategies, 0.01),
    )
    monkeypatch.setattr(checkpoint, "SECONDS", -1.0)


class Named(Smooth):
    """Metrics in an order that is not that of the alphabet."""

    def metrics(self, body, head, data):
        off = {
            name: self.predict(body, head, rows.inputs) - rows.targets
            for name, rows in data.items()
        }
        return {
            "zeal": head.abs().max(),
            "test_rmse": off["test"].square().mean().sqrt(),
            "validation_rmse": off["validation"].square().mean().sqrt(),
            "test_bias": off["test"].mean(),
        }


class NamedBilevel(TrueBilevel):
    """F is not g; what is shown is its second metric."""

    def metrics(self, body, head, data):
        return {"size": body["scale"].norm(), "validation_loss": self.head_objective(
            body, head, {"train": data["validation"]}), "bend": head["offset"]}  # fmt: skip


IMPLICIT = BestResponse(0.01, Newton(), Implicit())
CASES = {
    "two trainings": (Named(), {"slow": uniform(0.005), "exact": BestResponse(0.005)}, {}),
    "own loop": (
        Named(),
        {"own": OwnLoop(in_place), "two": TwoTimescale(0.005, 0.05), "exact": BestResponse(0.01)},
        {},
    ),
    "F is not g": (
        NamedBilevel(),
        {"soba": SingleLoop(0.005, 0.05, 0.02), "exact": IMPLICIT},
        {"steps": 4},
    ),
    "tuned": (
        Named(),
        {"soba": SingleLoop(0.005, 0.05, 0.02), "two": TwoTimescale(0.005, 0.05)},
        {"tune": (0.5, 2.0), "steps": 4, "every": 4},
    ),
}


class KilledError(Exception):
    """The process is gone: nothing is tidied up."""


def numbers(comparison, folder):
    """Everything but the figures and the page, as text or bytes."""
    content = comparison.content()
    folder.mkdir()
    write_results(folder, content)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = repr(tables.summary(content)), repr(tables.paired(content))  # NaN equals NaN as text
    return written, rows, comparison.table()


@pytest.mark.parametrize("case", CASES)
def test_wherever_it_was_interrupted_nothing_is_another(case, tmp_path):
    problem, strategies, changes = CASES[case]
    options, seen = OPTIONS | changes, []
    whole = compare(problem, strategies, callback=seen.append, **options)
    expected = numbers(whole, tmp_path / "whole")
    assert whole.metrics != sorted(whole.metrics)
    middle = {len(seen) // 2, len(seen)} if case == "two trainings" else set()
    for number in sorted({1, len(seen) - 1} | middle):
        folder = tmp_path / f"kept {number}"
        with pytest.raises(KilledError):
            compare(
                problem,
                strategies,
                checkpoint=folder,
                callback=raise_at(number, KilledError),
                **options,
            )
        again = compare(problem, strategies, checkpoint=folder, **options)
        assert (again.headline, again.metrics) == (whole.headline, whole.metrics)
        assert numbers(again, tmp_path / f"again {number}") == expected
    loaded = Comparison.load(tmp_path / "whole")
    assert numbers(loaded, tmp_path / "loaded") == expected


def files(comparison, folder):
    """Every file of the report, by name: tables, figures and the page."""
    comparison.report(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_whole_report_is_that_of_an_uninterrupted_comparison(tmp_path):
    problem, strategies, _ = CASES["own loop"]
    with pytest.raises(KilledError):
        compare(
            problem,
            strategies,
            checkpoint=tmp_path / "kept",
            callback=raise_at(7, KilledError),
            **OPTIONS,
        )
    again = compare(problem, strategies, checkpoint=tmp_path / "kept", **OPTIONS)
    expected = files(compare(problem, strategies, **OPTIONS), tmp_path / "whole")
    assert len(expected) > 15
    assert files(again, tmp_path / "again") == expected


def test_a_comparison_that_was_ended_by_the_user_is_gone_on_with(tmp_path):
    """Ctrl-C twice: in the first training and in the second."""
    problem, strategies, _ = CASES["two trainings"]
    expected = numbers(compare(problem, strategies, **OPTIONS), tmp_path / "whole")

    def pressed(number):
        seen = []

        def callback(progress):
            seen.append(progress)
            if len(seen) == number:
                raise KeyboardInterrupt

        return callback

    for number in (2, 4):
        kept = {"checkpoint": tmp_path / "kept", "callback": pressed(number)}
        compare(problem, strategies, **kept, **OPTIONS)
    again = compare(problem, strategies, checkpoint=tmp_path / "kept", **OPTIONS)
    assert numbers(again, tmp_path / "again") == expected


def test_a_saved_solution_keeps_the_order_of_its_records(tmp_path):
    solution = solve(Named(), uniform(0.01), steps=2, every=1, seeds=2, batch_size=None)
    path = solution.save(tmp_path / "solution.safetensors")
    loaded = bilevel.Solution.load(path, Named())
    assert list(loaded.history) == list(solution.history) != sorted(solution.history)
    for name, values in solution.history.items():
        assert torch.equal(loaded.history[name], values) or bool(values.isnan().any())


class Weighed(NamedBilevel):
    """An option that shows in F alone."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def body_objective(self, body, head, batch):
        return self.weight * super().body_objective(body, head, batch)


def test_an_option_that_changes_f_alone_is_another_comparison(tmp_path):
    pair = {"exact": IMPLICIT}
    with pytest.raises(KilledError):
        compare(
            Weighed(1.0),
            pair,
            checkpoint=tmp_path / "kept",
            callback=raise_at(2, KilledError),
            **OPTIONS,
        )
    with pytest.raises(ResultsError, match="started elsewhere"):
        compare(Weighed(2.0), pair, checkpoint=tmp_path / "kept", **OPTIONS)


def test_other_records_than_those_that_were_kept_are_refused(tmp_path):
    class More(NamedBilevel):
        def metrics(self, body, head, data):
            return super().metrics(body, head, data) | {"test_more": body["scale"].sum()}

    pair = {"exact": IMPLICIT}
    More.__qualname__ = NamedBilevel.__qualname__  # as if it had been edited since
    with pytest.raises(KilledError):
        compare(
            NamedBilevel(),
            pair,
            checkpoint=tmp_path / "kept",
            callback=raise_at(2, KilledError),
            **OPTIONS,
        )
    with pytest.raises(ResultsError, match="other records: test_more in one of them only"):
        compare(More(), pair, checkpoint=tmp_path / "kept", **OPTIONS)
    assert np.isfinite(
        compare(NamedBilevel(), pair, checkpoint=tmp_path / "kept", **OPTIONS).final()["exact"]
    ).all()
