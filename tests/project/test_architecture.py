"""The shape of the code: sizes, import directions, public names, where differentiation happens."""

import ast
import functools
import importlib
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
DIFFERENTIATION_ALLOWED = {"oracles.py", "features.py", "reverse.py", "graph.py", "split.py"} | {
    "curved.py",
    "implicit_head.py",
    "linear_parts.py",
    "over_heads.py",
    "operators.py",
}
LONGEST_FILE = 350
MOST_STATEMENTS = 40
MOST_ARGUMENTS = 10
MOST_ENTRIES = 26
"""Of the package's own folder, without what is in no layer."""
NO_LAYER = {"__pycache__", "py.typed", "__init__.pyi"}
MANY_OPTIONS = {"advise", "solve", "compare", "minimize", "table"}
PUBLIC = """
    AbstractCriterion AbstractExperience AbstractHeadSolver AbstractHypergradient
    AbstractLinearSolver
    AbstractOptimizer AbstractSchedule AbstractStrategy Adam AdamW Advice Answer AuxiliaryProblem
    BalancedRates Ball Batch BatchData BestResponse BodyGradient Box CG Clipped ClosedForm
    Comparison Constant ConvexSet Cosine Cost Curvature Cvxpy Dense Envelope Everywhere FastSGD
    FiniteDifferences FullData GramAccumulator HeadResponse HuberLoss Hypergradient Implicit L1Ball
    LinearHeadProblem Lipschitz LogisticLoss Minimum Neumann Newton Nonnegative NumberedBatch
    OwnLoop PenaltyMethod Piecewise Polynomial Progress ProjectedNewton Pullback RMSProp
    RowCurvature RunningData SGD Simplex SingleLoop SoftmaxLoss Solution SplitModule SquaredError
    StackelbergProblem Status Tuning TwoTimescale Unrolled adapt advise assign best_response
    check_problem compare errors hypergradient load_problem minimize preset_strategies solve split
    uniform
"""
IMPORTED_FROM = [
    "bilevel.analysis",
    "bilevel.errors",
    "bilevel.estimators",
    "bilevel.exact",
    "bilevel.trees",
    "bilevel.heads",
    "bilevel.linear",
    "bilevel.optimizers",
    "bilevel.hypergradients",
    "bilevel.loops",
    "bilevel.strategies",
    "bilevel.strategies.single_loop",
    "bilevel.tables",
    "bilevel.testing",
]
"""What the documentation imports from, beside `bilevel` itself."""


def relative(path):
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


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


def functions():
    """(place, name, node) of every function and method of the library."""
    for path in LIBRARY:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{relative(path)}:{node.lineno} {node.name}", node


def test_no_function_is_long():
    lengths = {
        place: sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
        for place, node in functions()
    }
    assert max(lengths.values()) > 20  # they are counted
    assert {place: n for place, n in lengths.items() if n > MOST_STATEMENTS} == {}


def test_few_functions_have_many_arguments():
    counts = {}
    for place, node in functions():
        given = node.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names += [a.arg for a in (given.vararg, given.kwarg) if a is not None]
        if node.name not in MANY_OPTIONS:
            counts[place] = len(set(names) - {"self", "cls"})
    assert {place: n for place, n in counts.items() if n > MOST_ARGUMENTS} == {}


def test_the_package_can_be_seen_at_a_glance():
    entries = {path.name for path in (ROOT / "bilevel").iterdir()} - NO_LAYER
    assert {"errors.py", "trees.py", "problem"} < entries
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_library_does_not_know_problems_and_only_estimators_know_sklearn():
    roots = {
        relative(path): {name.split(".")[0] for name in imported_modules(parsed(path))}
        for path in LIBRARY
    }
    assert "torch" in roots["bilevel/trees.py"]  # the search finds what it looks for
    assert {path for path, found in roots.items() if "problems" in found} == set()
    with_sklearn = {path for path, found in roots.items() if "sklearn" in found}
    assert {path for path in with_sklearn if "bilevel/estimators/" not in path} == set()


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


def test_differentiation_has_one_place():
    found = {path: sorted(set(differentiation(parsed(path)))) for path in LIBRARY}
    assert found[ROOT / "bilevel" / "derivatives" / "oracles.py"]  # it finds what it looks for
    elsewhere = {
        relative(path): lines
        for path, lines in found.items()
        if lines and path.name not in DIFFERENTIATION_ALLOWED
    }
    assert elsewhere == {}


def test_public_names_are_documented():
    for name in bilevel.__all__:
        public = getattr(bilevel, name)
        if not callable(public):  # a constant or a type alias has no docstring of its own
            continue
        doc = public.__dict__.get("__doc__") if inspect.isclass(public) else public.__doc__
        assert doc, f"bilevel.{name} has no docstring"
        # dataclasses without a docstring are given their signature
        assert not doc.startswith(f"{name}("), f"bilevel.{name} has no docstring"


def test_public_names_are_listed():
    assert sorted(bilevel.__all__) == PUBLIC.split()
    assert set(PUBLIC.split()) <= set(dir(bilevel))


@pytest.mark.parametrize("module", IMPORTED_FROM)
def test_documented_import_paths_are_there(module):
    assert importlib.import_module(module).__doc__


@pytest.fixture(scope="module")
def fresh():
    """What a process says after a comparison, and after it imported every module."""
    return run(
        "import sys, pkgutil, importlib, types, bilevel\n"
        "from problems.toy import ScalarProduct\n"
        "pair = {'slow': bilevel.uniform(0.01), 'two': bilevel.TwoTimescale(0.01, 0.1)}\n"
        "bilevel.compare(ScalarProduct(), pair, seeds=2, steps=2)\n"
        "print({'matplotlib', 'jinja2', 'scipy.stats'} & set(sys.modules))\n"
        "for module in pkgutil.walk_packages(bilevel.__path__, 'bilevel.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "print([n for n in bilevel.__all__ if isinstance(getattr(bilevel, n), types.ModuleType)])"
    ).splitlines()


def test_public_functions_are_not_hidden_by_modules_of_the_same_name(fresh):
    assert fresh[1] == "['errors']"  # the one module among the public names


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="two_timescale"):
        _ = bilevel.two_timescale


def test_import_does_not_import_torch():
    assert run("import sys, bilevel; print('torch' in sys.modules)").strip() == "False"


def test_the_compiler_is_not_imported_by_solve():
    lines = "import sys, bilevel; bilevel.solve; print('torch._dynamo' in sys.modules)"
    assert run(lines).strip() == "False"


def test_a_comparison_waits_for_no_figures_and_no_statistics(fresh):
    assert fresh[0] == "set()"


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
