"""A package of somebody else: installed by pip, found by name, compared by name."""

import subprocess
import sys

import pytest
from command_line import run

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "wave-problems"
version = "1.0"

[project.entry-points."bilevel.problems"]
waves = "wave_problems.waves:waves"
needs-a-key = "wave_problems.waves:needs_a_key"
"""

WAVES = '''
"""The problem of docs/extend/problem.md, in a package."""

import bilevel
import torch


class Waves(bilevel.LinearHeadProblem):
    criterion = bilevel.SquaredError()

    def __init__(self, units, ridge):
        self.units, self.ridge = units, ridge

    def data(self, seed=None):
        generator = torch.Generator().manual_seed(0)
        inputs = 2 * torch.rand(90, 2, generator=generator) - 1
        targets = torch.sin(3 * inputs).sum(1)
        return {
            "train": bilevel.Batch(inputs[:60], targets[:60]),
            "test": bilevel.Batch(inputs[60:], targets[60:]),
        }

    def init_body(self, generator):
        return torch.randn(2, self.units, generator=generator)

    def init_head(self, generator):
        return torch.zeros(self.units)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body)


def waves(units: int = 16, ridge: float = 1e-3) -> Waves:
    """Sums of sines, fitted by hidden units."""
    return Waves(units, ridge)


def needs_a_key(key: str) -> Waves:
    """Waves that need a key."""
    return Waves(4, 1e-3)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip has installed the package, without the network."""
    project = tmp_path_factory.mktemp("wave-problems")
    (project / "wave_problems").mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "wave_problems/__init__.py").touch()
    (project / "wave_problems/waves.py").write_text(WAVES)
    folder = tmp_path_factory.mktemp("site")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(folder)]
    made = subprocess.run([*command, str(project)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert (folder / "wave_problems-1.0.dist-info" / "entry_points.txt").exists()
    return folder


@pytest.fixture
def installed(site, tmp_path, monkeypatch):
    """The folder among the places where Python looks for packages."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_listed_beside_ours(installed, capsys):
    assert run("problems") == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("waves            Sums of sines, fitted by hidden units.")
    assert lines[place + 1].split() == ["units=16", "ridge=0.001"]
    place = lines.index("needs-a-key      Waves that need a key.")
    assert lines[place + 1].split() == ["key=(needed)"]
    assert any(line.startswith("diabetes ") for line in lines)


@pytest.mark.usefixtures("untimed", "undrawn")
def test_it_is_compared_by_name(installed, capsys):
    options = ["--set", "units=6", "--steps", "4", "--seeds", "2", "--output", "run"]
    assert run("compare", "waves", *options) == 0
    found = capsys.readouterr().out
    assert "final test MSE" in found
    assert found.count("2 completed") == 6
    assert "<h1" in (installed / "run" / "report.html").read_text()
    assert found.endswith("Report: run/report.html\n")
