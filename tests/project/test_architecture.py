"""The shape of the code: sizes, import directions, public names, where differentiation happens."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "bilevel").rglob("*.py"))
SOURCES = [
    path
    for folder in ("bilevel", "problems", "tests", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
DIFFERENTIATION_ALLOWED = {"oracles.py", "features.py", "reverse.py", "graph.py", "split.py"}
LONGEST_FILE = 350


def relative(path):
    return str(path.relative_to(ROOT))


def run(code):
    """Run a line of Python in a fresh interpreter; return what it printed."""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    return output.stdout


def imported_modules(tree):
    """The absolute names that a module imports, at any depth of nesting."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_file_is_long():
    assert len(SOURCES) > 30
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert output.returncode == 0, output.stdout + output.stderr
    assert "0 broken" in output.stdout


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_library_knows_neither_problems_nor_sklearn(path):
    roots = {name.split(".")[0] for name in imported_modules(ast.parse(path.read_text()))}
    assert not roots & {"problems", "sklearn"}


def differentiation(tree):
    """Lines where a module names vmap, torch.func or autograd, or calls backward."""
    for name in imported_modules(tree):
        if name.startswith(("torch.func", "torch.autograd", "functorch")):
            yield name
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if name in {"vmap", "autograd", "functorch", "backward", "requires_grad_"}:
            yield f"{name} in line {node.lineno}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.func"):
            yield f"torch.func in line {node.lineno}"


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_differentiation_has_one_place(path):
    found = set(differentiation(ast.parse(path.read_text())))
    if path.name == "oracles.py":
        assert found  # the search finds what it looks for
    elif path.name not in DIFFERENTIATION_ALLOWED:
        assert not found


def test_public_names_are_documented():
    assert len(bilevel.__all__) >= 25
    for name in bilevel.__all__:
        public = getattr(bilevel, name)
        if not callable(public):  # a constant or a type alias has no docstring of its own
            continue
        doc = public.__dict__.get("__doc__") if inspect.isclass(public) else public.__doc__
        assert doc, f"bilevel.{name} has no docstring"
        # dataclasses without a docstring are given their signature
        assert not doc.startswith(f"{name}("), f"bilevel.{name} has no docstring"


def test_public_names_are_listed():
    assert sorted(bilevel.__all__) == sorted(set(bilevel.__all__))
    assert set(bilevel.__all__) <= set(dir(bilevel))


def test_public_functions_are_not_hidden_by_modules_of_the_same_name():
    code = (
        "import pkgutil, importlib, types, bilevel\n"
        "for module in pkgutil.walk_packages(bilevel.__path__, 'bilevel.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print([n for n in bilevel.__all__ if isinstance(getattr(bilevel, n), types.ModuleType)])"
    )
    assert run(code).strip() == "['errors']"  # the one module among the public names


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="two_timescale"):
        _ = bilevel.two_timescale


def test_import_does_not_import_torch():
    assert run("import sys, bilevel; print('torch' in sys.modules)").strip() == "False"


def test_a_comparison_waits_for_no_figures_and_no_statistics():
    code = (
        "import sys, bilevel\n"
        "from problems.toy import ScalarProduct\n"
        "pair = {'slow': bilevel.uniform(0.01), 'two': bilevel.TwoTimescale(0.01, 0.1)}\n"
        "bilevel.compare(ScalarProduct(), pair, seeds=2, steps=2)\n"
        "print({'matplotlib', 'jinja2', 'scipy.stats'} & set(sys.modules))"
    )
    assert run(code).strip() == "set()"


def test_results_are_read_without_torch():
    code = "import sys, bilevel.comparison.result; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_import_torch(option):
    code = (
        "import sys\n"
        "from bilevel.commands.main import main\n"
        f"sys.argv = ['bilevel', '{option}']\n"
        "try: main()\n"
        "except SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "print('torch' in sys.modules)"
    )
    assert run(code).splitlines()[-1] == "False"
