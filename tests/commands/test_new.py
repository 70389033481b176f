"""`bilevel new`: a problem to start from, and its test, which passes."""

import ast
import re
import subprocess
import sys

import pytest

import bilevel
from bilevel.commands.main import main
from bilevel.commands.new import KINDS

BASES = {
    "features": bilevel.LinearHeadProblem,
    "validation": bilevel.LinearHeadProblem,
    "general": bilevel.StackelbergProblem,
}


def written(folder, kind, name):
    path = folder / name
    assert main(["new", str(path), "--kind", kind]) == 0
    return path, path.with_name(f"test_{path.name}")


def test_what_is_written_passes_its_test(tmp_path, capsys):
    """All kinds in one process of pytest, as a user starts it; the last one in a package."""
    tests = []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    for kind in KINDS:
        name = "mine/of_a_package.py" if kind == "general" else f"my_{kind}.py"
        path, test = written(tmp_path, kind, name)
        printed = capsys.readouterr().out
        assert KINDS[kind] in printed
        assert f"python {test}" in printed
        assert f"python {path}" in printed
        assert not re.search(r"@\w+@", path.read_text() + test.read_text())
        assert max(map(len, path.read_text().splitlines())) <= 100
        tests.append(str(test))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run([*command, *tests], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
    alone = [sys.executable, "-W", "error", tests[0]]  # where pytest is not installed
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "strong convexity" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_comparison_to_start_from(kind, tmp_path, monkeypatch):
    """Whose test fails where the problem is wrong: here a sum in the place of a mean."""
    path, _ = written(tmp_path, kind, f"first_{kind}.py")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(path.stem)
    monkeypatch.delitem(sys.modules, path.stem)
    problem = getattr(module, "First" + kind.capitalize())
    assert issubclass(problem, BASES[kind])
    real = bilevel.compare
    small = {"seeds": 2, "steps": 4, "progress": False}
    monkeypatch.setattr(
        bilevel, "compare", lambda *given, **options: real(*given, **options | small)
    )
    found = module.compare()
    assert all(status == ["COMPLETED"] * 2 for status in found.status.values())
    hook = "body_objective" if kind == "validation" else "head_objective"
    if kind != "features":
        mean = getattr(problem, hook)
        monkeypatch.setattr(
            problem,
            hook,
            lambda self, body, head, batch: (
                mean(self, body, head, batch) * len(next(iter(batch.values())).targets)
            ),
        )
        with pytest.raises(AssertionError, match="mean"):
            bilevel.check_problem(problem())


def test_every_line_that_is_no_code_is_a_comment_for_the_reader(tmp_path):
    """Each hook says what it is for."""
    for kind in KINDS:
        tree = ast.parse(written(tmp_path, kind, f"said_{kind}.py")[0].read_text())
        hooks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert len(hooks) >= 5
        assert all(ast.get_docstring(hook) for hook in hooks)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("waves", "module's name with .py"),
        ("two words.py", "module's name with .py"),
        ("class.py", "module's name with .py"),
        ("7.py", "module's name with .py"),
        ("__.py", "letters of a to z"),
        ("_1.py", "letters of a to z"),
        ("none.py", "None is no name for a class"),
        ("torch.py", "Python has a module 'torch'"),
        ("random.py", "Python has a module 'random'"),
        ("bilevel.py", "Python has a module 'bilevel'"),
    ],
)
def test_names_that_cannot_be_imported_are_refused(name, message, tmp_path, capsys):
    assert main(["new", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["waves.py", "test_waves.py"])
def test_nothing_is_written_over(there, tmp_path, capsys):
    (tmp_path / there).write_text("mine")
    assert main(["new", str(tmp_path / "waves.py")]) == 2
    assert f"{there} exists and is left alone" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["new", str(tmp_path / "file" / "waves.py")]) == 2
    assert "file/waves.py cannot be written" in capsys.readouterr().err
