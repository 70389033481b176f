"""Problems and commands by name."""

import importlib
import sys
from importlib import metadata

import pytest

import bilevel
from bilevel.errors import ArgumentError, ProblemError, UnknownNameError
from bilevel.problem import registry


def test_names_are_sorted_and_complete():
    names = registry.names()
    assert names == sorted(names)
    assert {"diabetes", "friedman1", "friedman2", "friedman3", "scalar-product"} <= set(names)
    assert "reproduce" in registry.names(registry.COMMANDS)
    assert registry.names("no.such.group") == []


NEED_FILES = {"boston", "table", "transitions", "mnist", "fashion-mnist", "cifar10"}


def test_every_factory_has_a_summary_and_options():
    for name in registry.names():
        factory = registry.load(name)
        assert len(registry.summary(factory)) > 20
        assert registry.options_of(factory)
        required = {"table": ["file", "target"], "transitions": ["file"]}
        assert registry.required_options(factory) == required.get(name, [])
        if name not in NEED_FILES:
            registry.load_problem(name)


def test_options_reach_the_factory():
    assert registry.load_problem("scalar-product", ridge=2.0, curvature=0.3).curvature == 0.3
    assert registry.load_problem("diabetes", width=7).network.width == 7
    assert registry.options_of(registry.load("diabetes"))["width"] == 64
    assert registry.load_problem("analytic", name="A5").name == "A5"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: registry.load("diabets"), "no problem 'diabets'.*Did you mean 'diabetes'"),
        (lambda: registry.load("friedman"), "Did you mean 'friedman"),
        (lambda: registry.load("reprodce", registry.COMMANDS), "no command.*mean 'reproduce'"),
        (
            lambda: registry.load_problem("diabetes", widht=3),
            "option of diabetes 'widht'.*mean 'width'",
        ),
    ],
)
def test_unknown_names_show_the_nearest(use, message):
    with pytest.raises(UnknownNameError, match=message):
        use()


def test_a_name_like_no_other_shows_what_there_is():
    with pytest.raises(UnknownNameError) as caught:
        registry.load("zzzzzz")
    assert "Did you mean" not in str(caught.value)
    assert "diabetes" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "table cannot do without file and target: .* --set file=... target=..."),
        ({"target": "y"}, "table cannot do without file: .* --set file=..."),
    ],
)
def test_required_options_are_asked_for(options, message):
    with pytest.raises(ArgumentError, match=message):
        registry.load_problem("table", **options)


@pytest.mark.parametrize(
    "options", [{"ridge": -1.0}, {"ridge": "much"}, {"width": 0}, {"width": "wide"}, {"depth": 1.5}]
)
def test_bad_values_are_argument_errors(options):
    with pytest.raises(ArgumentError):
        registry.load_problem("diabetes", **options)


def entry_points(monkeypatch, *entries):
    """Pretend that these entry points are all there are."""
    made = [metadata.EntryPoint(name, value, registry.PROBLEMS) for name, value in entries]
    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [e for e in made if e.group == group]
    )


def test_a_package_registers_its_own(monkeypatch):
    entry_points(monkeypatch, ("mine", "problems.toy:scalar_product"))
    assert registry.names() == ["mine"]
    assert registry.load_problem("mine").ridge == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("problems.nothing:factory", "No module named 'problems.nothing'"),
        ("problems.toy:nothing", "has no attribute 'nothing'"),
        ("no_such_package.toy:nothing", "No module named 'no_such_package'"),
    ],
)
def test_a_broken_entry_point_is_named(monkeypatch, value, message):
    entry_points(monkeypatch, ("mine", value))
    with pytest.raises(ProblemError, match=message) as caught:
        registry.load("mine")
    assert value in str(caught.value)
    if value.startswith("problems"):
        assert "`problems` is imported from" in str(caught.value)


@pytest.fixture
def without_problems(monkeypatch, tmp_path):
    """A folder that comes first, and no module of `problems` imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "problems"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("problems", None)
    importlib.invalidate_caches()


def test_a_file_that_hides_the_problems_is_named_and_not_run(without_problems):
    script = without_problems / "problems.py"
    script.write_text("raise SystemExit('run')")
    with pytest.raises(ProblemError, match="cannot be imported: problems is no package") as caught:
        bilevel.load_problem("diabetes")
    assert f"`problems` is imported from {script}. If that is a file of yours" in str(caught.value)


def test_a_package_that_hides_the_problems_is_named(without_problems):
    script = without_problems / "problems/__init__.py"
    script.parent.mkdir()
    script.touch()
    with pytest.raises(ProblemError, match=r"No module named 'problems\.regression'") as caught:
        bilevel.load_problem("diabetes")
    assert f"imported from {script}." in str(caught.value)
