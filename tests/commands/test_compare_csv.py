"""`bilevel compare --csv`: from a file to a report in one command."""

import numpy as np
import pytest

from bilevel.commands.main import main
from bilevel.comparison.result import Comparison


@pytest.fixture
def file(tmp_path):
    random = np.random.default_rng(8)
    rows = np.column_stack([random.normal(size=(50, 3)), np.arange(50.0) ** 1.5])
    path = tmp_path / "homes.csv"
    np.savetxt(path, rows, delimiter=",", header="age,floor area,distance,price", comments="")
    return path


TINY = ["--seeds", "2", "--steps", "3", "--strategies", "uniform slow", "two-timescale"]


@pytest.mark.usefixtures("untimed", "undrawn")
def test_from_a_file_to_a_report_in_one_command(file, tmp_path, capsys):
    output = tmp_path / "results"
    command = ["compare", "--csv", str(file), "--target", "price", *TINY, "--output", str(output)]
    assert main([*command, "--set", "drop=age", "width=4"]) == 0
    page = (output / "report.html").read_text()
    assert "homes.csv: 50 rows, target &#39;price&#39; from 2 columns" in page
    found = Comparison.load(output)
    assert found.problem == "homes"
    assert found.settings["options"] == {
        "file": str(file),
        "target": "price",
        "drop": "age",
        "width": 4,
    }
    again = ["compare", "table", "--set", f"file={file}", "target=price", "drop=age", "width=4"]
    assert main([*again, *TINY, "--output", str(tmp_path / "again")]) == 0
    same = Comparison.load(tmp_path / "again")
    for name in found.strategies:
        np.testing.assert_array_equal(same.final("test_mse")[name], found.final("test_mse")[name])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", "FILE"], "--csv needs --target COLUMN"),
        (["--target", "price"], "give --csv FILE too"),
        (["diabetes", "--target", "bmi"], "give --csv FILE too"),
        (
            ["diabetes", "--csv", "FILE", "--target", "price"],
            "leave out either 'diabetes' or --csv",
        ),
        (["--csv", "FILE", "--target", "pirce"], "Did you mean 'price'"),
        (["--csv", "FILE", "--target", "price", "--set", "target=age"], "contradicts"),
        (["--csv", "FILE", "--target", "price", "--set", "noise=1"], "option of table 'noise'"),
        (["--csv", "no.csv", "--target", "price"], "no.csv does not exist"),
        (["table"], "table cannot do without file and target"),
        (["table", "--set", "file=x.csv"], "table cannot do without target"),
    ],
)
def test_wrong_use_of_the_command(file, tmp_path, capsys, arguments, message):
    arguments = [str(file) if word == "FILE" else word for word in arguments]
    assert main(["compare", *arguments, "--output", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("bilevel: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "new").exists()
