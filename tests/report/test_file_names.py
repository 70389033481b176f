"""Any name of a metric gives files that every system takes, and is read back as it was."""

import numpy as np
import pytest
import torch
from comparison_example import small
from small_problems import Smooth

import bilevel
from bilevel import Comparison
from bilevel.errors import ProblemError
from bilevel.report import html

ODD = ["../../x", "CON", "same", "Same", "head-gap-fast", "step", "x" * 400, r"$\frac$"]
NAMES = ["a/b", "a\\b", "..", ".", "nul", "SAME", "a:b", "a*b", "a_b", "seed", "", "x" * 400 + "y",
         "\N{SNOWMAN}" * 99, "\u00e4" * 200, "two words", "$x$", "<b>", '"', "'", "a,b", "-", "-rf",
         "_", "final", "paired", "report", "%s", "{0}", "=1+1", "#", "a\0b", "\ud800"]  # fmt: skip


def named(names):
    values = {name: np.array([[8.0] * 3, [4.0] * 3, [1.0 + i] * 3]) for i, name in enumerate(names)}
    return small(history={"fast": dict(values), "slow": dict(values)}, headline=names[0],
                 status={"fast": ["COMPLETED"] * 3, "slow": ["COMPLETED"] * 3})  # fmt: skip


def assert_safe(files):
    assert len({name.casefold() for name in files}) == len(files)
    for name in files:
        assert len(name.encode()) < 200
        assert not set(name) & set("<>:\"/\\|?*\0 $%{}'#=,")
        assert not name.startswith((".", "-"))
        assert name.partition(".")[0].upper() not in {"CON", "NUL"}


def test_files_of_curves_are_safe_and_all_different():
    content = {**small().content(), "headline": "", "history": {"a": dict.fromkeys(ODD + NAMES)}}
    places = ("steps", "seconds")
    assert_safe([html._curve_file(content, name, at) for name in ODD + NAMES for at in places])


@pytest.mark.usefixtures("unrendered")
def test_files_of_any_metric_are_safe_and_all_different(tmp_path):
    comparison = named(ODD)
    folder = tmp_path / "run"
    comparison.report(folder)
    files = [path.name for path in folder.rglob("*")]
    assert all(path.parent == folder for path in folder.rglob("*"))
    assert len({name.casefold() for name in files}) == len(files)
    figures = [name for name in files if name.endswith("-steps.svg")]
    assert len(figures) == len(ODD)
    assert_safe(files)
    loaded = Comparison.load(folder)
    assert loaded.metrics == ODD
    assert loaded.table() == comparison.table()


def test_names_of_metrics_are_drawn_as_they_are():
    """Dollars are no formulas, which would be errors where they are none."""
    figure = named([r"a $\frac$ b", "c"]).plot()
    figure.canvas.draw()
    assert figure.axes[0].get_title(loc="left") == r"a $\frac$ b"


def test_metrics_with_plain_names_keep_their_files(unrendered, tmp_path):
    named(["test_mse", "validation_mse"]).report(tmp_path / "run")
    assert (tmp_path / "run" / "test_mse-steps.svg").exists()


class Named(Smooth):
    """A metric under any name."""

    key = ""

    def metrics(self, body, head, data):
        return {self.key: torch.zeros(())}


def train(key, **options):
    strategies = {"two": bilevel.TwoTimescale(0.01, 0.1)}
    return bilevel.compare(Named(key=key), strategies, seeds=2, steps=4, every=2, batch_size=6,
                           **options)  # fmt: skip


@pytest.mark.parametrize("key", ["", "a\nb", "a\rb", "a\0b", "\ud800", 3, None, ("a", "b")])
def test_names_that_fit_on_no_line_are_refused(key):
    with pytest.raises(ProblemError, match=r"metrics.*names to print on a line"):
        train(key)


@pytest.mark.parametrize("key", ["a/b", "..", "x" * 400, "strategy", "codes", "__metadata__"])
def test_checkpoints_keep_metrics_of_any_name(key, tmp_path, untimed):
    kept = tmp_path / "kept"
    first = train(key, checkpoint=kept)
    again = train(key, checkpoint=kept)
    assert np.array_equal(again.history["two"][key], first.history["two"][key])
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json", ".safetensors"}
