"""What is said of registered problems without importing them."""

import subprocess
import sys
from importlib import metadata

import pytest

from bilevel.errors import ProblemError, UnknownNameError
from bilevel.problem import registry
from bilevel.problem.listing import Listing, _function, _read, listing

PLAIN = '''
"""A module that must not run."""

raise RuntimeError("imported")


def factory(file, *, width=(4, 2), name="x", rate=-0.5):
    """One line.

    More lines.
    """
'''
FACTORIES = {
    "a computed default": "def factory(width=2 * 8):\n    '''One line.'''\n",
    "a decorator": "import functools\n\n@functools.cache\ndef factory(w=16):\n    '''One.'''\n",
    "another value": "import functools\n\ndef factory(w=1):\n    '''One.'''\n\n"
    "factory = functools.partial(factory, w=2)\n",
    "keywords": "def factory(**options):\n    '''One.'''\n",
    "a class": "class factory:\n    '''One.'''\n    def __init__(self, width=16):\n        pass\n",
    "a value": "import functools\n\nfactory = functools.partial(sorted, reverse=True)\n",
}


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A module of these lines with a factory that is registered as `foreign`."""

    def register(lines, value="foreign_problems.inside:factory"):
        folder = tmp_path / "foreign_problems"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "inside.py").write_text(lines)
        (folder / "outside.py").write_text("from foreign_problems.inside import factory as made\n")
        monkeypatch.syspath_prepend(tmp_path)
        entry = metadata.EntryPoint("foreign", value, registry.PROBLEMS)
        monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])

    yield register
    for name in [name for name in sys.modules if name.startswith("foreign_problems")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", registry.names())
def test_what_is_read_is_what_is_imported(name):
    entry, factory = registry.entry(name), registry.load(name)
    imported = Listing(registry.summary(factory), registry.options_of(factory))
    assert listing(name) == imported
    assert _read(_function(entry.module, entry.attr)) == imported
    assert imported.summary


@pytest.mark.parametrize(
    "value", ["foreign_problems.inside:factory", "foreign_problems.outside:made"]
)
def test_a_plain_factory_is_not_imported(value, registered):
    registered(PLAIN, value)
    options = {"file": registry.REQUIRED, "width": (4, 2), "name": "x", "rate": -0.5}
    assert listing("foreign") == Listing("One line.", options)


@pytest.mark.parametrize("lines", FACTORIES.values(), ids=FACTORIES)
def test_what_cannot_be_read_is_imported(lines, registered):
    registered(lines)
    assert _read(_function("foreign_problems.inside", "factory")) is None
    factory = registry.load("foreign")
    assert listing("foreign") == Listing(registry.summary(factory), registry.options_of(factory))


@pytest.mark.parametrize("value", ["foreign_problems.absent:factory", "no_such_package:factory"])
def test_what_is_not_there_is_named(value, registered):
    registered(PLAIN, value)
    with pytest.raises(ProblemError, match=value):
        listing("foreign")
    with pytest.raises(UnknownNameError, match="frieman"):
        listing("frieman")


def test_the_list_needs_no_torch():
    lines = (
        "import sys; from bilevel.commands.main import main; code = main(['problems']);"
        "sys.exit(code or 'torch' in sys.modules or 'problems' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=True
    )
    assert shown.stdout.count("\n") == 2 * len(registry.names())
