"""From a CSV file to predictions: `compare --csv` keeps its best run, `predict` asks it."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import bilevel
from bilevel.commands.main import main
from bilevel.comparison.best_run import best_run
from bilevel.comparison.result import Comparison
from bilevel.tables.model import Model
from bilevel.tables.predicting import Predicted
from problems.table import table

ROWS, NEW = 60, 8
RANDOM = np.random.default_rng(1)
AREA = RANDOM.uniform(20, 120, ROWS + NEW).round(1)
CITY = np.array(["Rome", "Oslo", "Paris"])[np.arange(ROWS + NEW) % 3]
FLOOR = RANDOM.integers(0, 6, ROWS + NEW).astype(float)
FLOOR[[4, 30, ROWS + 2]] = np.nan
RENT = 12 * AREA + 200 * (CITY == "Rome") + 10 * RANDOM.normal(size=ROWS + NEW)
OPTIONS = ["encode=onehot", "impute=median", "drop=id", "width=8"]
NAMES = ["id", "area [m2]", "city", "floor", "rent"]
CELLS = [
    [f"R{k}", str(AREA[k]), CITY[k], "" if np.isnan(FLOOR[k]) else str(FLOOR[k]), str(RENT[k])]
    for k in range(ROWS + NEW)
]


def written(path, rows, names=NAMES, without=()):
    kept = [place for place, name in enumerate(names) if name not in without]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[row[k] for k in kept] for row in (names, *rows)])
    return path


def read(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The results folder of a comparison, and the file it was made of."""
    folder = tmp_path_factory.mktemp("compared")
    file = written(folder / "rents.csv", CELLS[:ROWS])
    command = ["compare", "--csv", str(file), "--target", "rent", "--seeds", "3", "--steps", "60"]
    command += ["--every", "20", "--strategies", "uniform slow", "two-timescale", "--tune", "1"]
    command += ["10", "--output", str(folder / "results"), "--set", *OPTIONS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "report", lambda self, folder: _results_alone(self, folder))
        assert main(command) == 0
    return folder / "results", file


def _results_alone(comparison, folder):
    from bilevel.storage.results import write_results

    folder.mkdir()
    write_results(folder, comparison.content())
    return folder / "report.html"


@pytest.fixture
def new(tmp_path):
    return written(tmp_path / "new.csv", CELLS[ROWS:], without=["rent"])


def test_the_best_run_is_chosen_by_validation_rows(compared):
    found = Comparison.load(compared[0])
    run = best_run(found)
    metric = {name: table["validation_mse"] for name, table in found.history.items()}
    assert len(metric) == 4
    means = {name: values[1:].min(0).mean() for name, values in metric.items()}
    assert run.strategy == min(means, key=means.get)
    values = metric[run.strategy][1:]
    assert run.value == values.min()
    record, seed = np.unravel_index(values.argmin(), values.shape)
    assert (run.step, run.seed) == (20 * (record + 1), found.settings["seeds"][seed])


def test_test_rows_have_no_say(compared):
    found = Comparison.load(compared[0])
    changed = {name: dict(table) for name, table in found.history.items()}
    for values in changed.values():
        values["test_mse"] = values["test_mse"][::-1, ::-1] * np.linspace(1, 9, 3)
    assert best_run(dataclasses.replace(found, history=changed)) == best_run(found)
    for values in changed.values():
        del values["validation_mse"], values["validation_r2"]
    assert best_run(dataclasses.replace(found, history=changed)) is None


def test_the_model_is_that_run(compared):
    """Its error on its validation rows is what the comparison recorded."""
    folder, file = compared
    run, model = best_run(Comparison.load(folder)), Model.load(folder)
    options = {"encode": "onehot", "impute": "median", "drop": "id", "width": 8}
    problem = table(file, "rent", **options)
    inputs, targets = problem.drawn(run.seed)["validation"]
    deviation = problem.drawn(run.seed)["train"][1].std()
    error = np.mean((model.predict(inputs) - targets) ** 2) / deviation**2
    np.testing.assert_allclose(error, run.value, rtol=1e-4)


def test_predictions_are_in_units_of_the_file(compared, new, capsys):
    folder, file = compared
    assert main(["predict", str(folder), str(new)]) == 0
    printed, found = capsys.readouterr().out, read(new.with_name("new-predictions.csv"))
    assert list(found) == ["id", "predicted rent"]
    assert found["id"] == [row[0] for row in CELLS[ROWS:]]
    # by hand: the run once more, and its rows in other words
    run = best_run(Comparison.load(folder))
    options = {"encode": "onehot", "impute": "median", "drop": "id", "width": 8}
    problem = table(file, "rent", **options)
    train, aims = problem.drawn(run.seed)["train"]
    medians = np.nanmedian(train, axis=0)
    filled = np.where(np.isnan(train), medians, train)
    rows = np.column_stack(
        [AREA[ROWS:], *(CITY[ROWS:] == name for name in ("Oslo", "Paris", "Rome")), FLOOR[ROWS:]]
    )
    z = (np.where(np.isnan(rows), medians, rows) - filled.mean(0)) / filled.std(0)
    model = Model.load(folder)
    body = {name: leaf.numpy() for name, leaf in model.body.items()}
    hidden = np.maximum(z @ body["weight1"] + body["bias1"], 0)
    expected = (hidden @ model.head[:-1].numpy() + model.head[-1].numpy())[:, 0]
    expected = expected * aims.std() + aims.mean()
    np.testing.assert_allclose([float(x) for x in found["predicted rent"]], expected, rtol=1e-12)
    said = f"rent from 3 columns, by {run.strategy} (seed {run.seed}, step {run.step}, chosen by"
    assert printed.startswith(said)
    assert "R60" in printed
    assert "... and 3 more rows" in printed
    assert "1 missing number of 'floor': the medians of the training are taken." in printed


def test_a_target_that_is_there_is_compared_and_not_used(compared, new, tmp_path, capsys):
    folder, _ = compared
    both = written(tmp_path / "both.csv", CELLS[ROWS:])
    assert main(["predict", str(folder), str(new)]) == 0
    assert main(["predict", str(folder), str(both), "--output", str(tmp_path / "out.csv")]) == 0
    printed, found = capsys.readouterr().out, read(tmp_path / "out.csv")
    assert list(found) == ["id", "rent", "predicted rent"]
    assert found["predicted rent"] == read(new.with_name("new-predictions.csv"))["predicted rent"]
    errors = np.array([float(x) for x in found["predicted rent"]]) - RENT[ROWS:]
    size, r2 = np.sqrt(np.mean(errors**2)), 1 - np.mean(errors**2) / RENT[ROWS:].var()
    assert (
        f"Column 'rent' is there too, in 8 of 8 rows: typical error (RMSE) {size:.4g}, mean "
        f"absolute error {np.abs(errors).mean():.4g}, R2 {r2:.3f}."
    ) in printed


def changed(place, cell):
    return [[cell if k == place else x for k, x in enumerate(row)] for row in CELLS[ROWS:]]


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        (
            changed(2, "Roma"),
            NAMES,
            "Column 'city' holds 'Roma' in line 2, which the model was not trained on (8 of 8 rows "
            "hold such texts). Known: 'Oslo', 'Paris', 'Rome'. Did you mean 'Rome'?",
        ),
        (
            changed(2, "7"),
            NAMES,
            "Column 'city' holds numbers, such as 7 in line 2: the model was trained on text "
            "there, 'Oslo', 'Paris', 'Rome'.",
        ),
        (
            changed(2, ""),
            NAMES,
            "Column 'city' lacks a value in line 2: the model knows 'Oslo', 'Paris', 'Rome'.",
        ),
        (
            changed(1, "large"),
            NAMES,
            "Column 'area [m2]' holds text, such as 'large' in line 2: the model was trained on "
            "numbers there.",
        ),
        (
            CELLS[ROWS:],
            ["id", "area [ft2]", "city", "floor", "rent"],
            " lacks the column 'area [m2]', which the model needs. It has 'area [ft2]': if only "
            "the unit differs, convert the numbers and call the column 'area [m2]'; if none does, "
            "rename it.",
        ),
        (
            CELLS[ROWS:],
            ["id", "area [m2]", "ctiy", "flor", "rent"],
            " lacks the columns 'city', 'floor', which the model needs. Did you mean 'ctiy'? Then "
            "rename that column.",
        ),
        (
            changed(1, "650000"),
            NAMES,
            "Column 'area [m2]' holds numbers such as 650000, all of them outside of LOW to HIGH, "
            "where the model was trained. Is that another unit? Convert it, or predict all the "
            "same with --extrapolate.",
        ),
        ([], NAMES, " holds no rows below the names of its columns."),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(compared, tmp_path, capsys, rows, names, said):
    file = written(tmp_path / "new.csv", rows, names)
    assert main(["predict", str(compared[0]), str(file)]) == 2
    low, high, _ = Model.load(compared[0]).spans[:, 0]
    said = said.replace("LOW", f"{low:g}").replace("HIGH", f"{high:g}")
    place = f"{file}:" if said[0] != " " else f"{file}"
    assert capsys.readouterr().err == f"bilevel: {place} {said.strip()}\n"
    assert not (tmp_path / "new-predictions.csv").exists()


def test_other_units_can_be_meant(compared, tmp_path, capsys):
    file = written(tmp_path / "new.csv", changed(1, "650000"))
    assert main(["predict", str(compared[0]), str(file), "--extrapolate"]) == 0
    assert (
        "Column 'area [m2]' lies outside of the range of the training in 8 of 8 rows, the first in "
        "line 2.\nPredictions there are extrapolations."
    ) in capsys.readouterr().out


@pytest.mark.parametrize("unit", [0.01, 10.0])
def test_single_rows_far_away_are_no_other_unit(compared, unit):
    """And neither are numbers of both sizes, nor those near the range."""
    model = Model.load(compared[0])
    rows = np.column_stack([AREA, *np.zeros((3, ROWS + NEW)), np.zeros(ROWS + NEW)])[ROWS:]
    assert model.far(rows) == {}
    far = rows * [unit / 10, 1, 1, 1, 1]
    assert model.far(far).keys() == ({"area [m2]"} if unit == 0.01 else set())
    far[0] = rows[0]
    assert model.far(far) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "new.csv"], "There is no file nowhere."),
        (["FOLDER", "no.csv"], "no.csv does not exist: name a CSV file."),
        (["new.csv", "new.csv"], "new.csv is damaged"),
        ([".", "new.csv"], "holds no model.safetensors: `bilevel compare --csv FILE --target"),
        (
            ["FOLDER", "new.csv", "--output", "new.csv"],
            "new.csv exists already, and results are never overwritten. Name another file (such "
            "as new-2.csv), or move or delete this one first.",
        ),
    ],
)
def test_wrong_use(compared, new, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(new.parent)
    arguments = [str(compared[0]) if word == "FOLDER" else word for word in arguments]
    assert main(["predict", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("untimed", "undrawn")
def test_without_validation_rows_there_is_no_model(tmp_path, capsys):
    file = written(tmp_path / "rents.csv", CELLS[:ROWS], without=["id", "city", "floor"])
    command = ["compare", "--csv", str(file), "--target", "rent", "--seeds", "2", "--steps", "2"]
    command += ["--strategies", "uniform slow", "--output", str(tmp_path / "results")]
    assert main([*command, "--set", "validation=0", "width=2"]) == 0
    said = "No model is kept: without validation rows only test rows could choose it."
    assert said in capsys.readouterr().out
    assert not (tmp_path / "results" / "model.safetensors").exists()


def test_numbers_beyond_float64_are_counted_from_the_first(tmp_path, capsys):
    """The target too: what is added to it again is the first number."""
    start = 2**60
    moments = [start + 10 * k for k in range(ROWS)]
    rows = [[str(x), str(x // 2)] for x in moments]
    file = written(tmp_path / "log.csv", rows, ["time", "half"])
    problem = table(file, "half", width=4)
    solution = bilevel.solve(problem, bilevel.BestResponse(1e-2), steps=200, seeds=[0])
    body = {name: leaf[0] for name, leaf in solution.body.items()}
    path = problem.model(0, body, solution.head[0], {}).save(tmp_path / "model.safetensors")
    new = written(tmp_path / "new.csv", [[str(start + 105)], [str(start + 305)]], ["time"])
    assert main(["predict", str(path), str(new)]) == 0
    found = [float(x) for x in read(tmp_path / "new-predictions.csv")["predicted half"]]
    assert abs(found[1] - found[0] - 100) <= 128  # steps of float64 there
    assert abs(found[0] - start / 2) < 1000
    assert re.search(r"half\s+-+", capsys.readouterr().out)


@pytest.mark.slow
def test_the_tutorial_prints_what_its_page_shows(tmp_path, monkeypatch, capsys):
    """But for digits, which libraries of other machines round otherwise."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "start/your-table.md").read_text()
    commands = re.findall(r"^bilevel ((?:compare|predict) .*rents.*)$", page, re.MULTILINE)[:3]
    assert [command.split()[0] for command in commands] == ["compare", "compare", "predict"]
    monkeypatch.chdir(tmp_path)
    for name in ("rents.csv", "new-rents.csv"):
        (tmp_path / name).write_bytes((docs / "assets" / name).read_bytes())
    assert main(commands[1].split()) == 0
    assert "\n        bilevel predict results/rents NEW.csv\n" in capsys.readouterr().out
    assert main(commands[2].split()) == 0
    printed = capsys.readouterr().out
    shown = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL)
                 if "Predictions:" in block)  # fmt: skip
    digits = re.compile(r"\d+\.\d+|by .*validation rows")
    assert digits.sub("x", printed) == digits.sub("x", shown)


def test_a_text_that_no_training_row_had_is_told(tmp_path):
    """Its input was 0 in training: its weights are those of the start."""
    rows = [["Oslo" if k % 2 else "Rome", str(k % 7), str(k % 7 + k % 2)] for k in range(60)]
    rows[8][0] = rows[9][0] = "Bern"
    problem = table(written(tmp_path / "a.csv", rows, ["city", "a", "b"]), "b", encode="onehot")
    said = "Column 'city' holds 'Bern' in 1 of 2 rows, the first in line 3: no row that the model"
    new = written(tmp_path / "new.csv", [["Rome", "1"], ["Bern", "2"]], ["city", "a"])
    for seed in range(30):
        body, head = (problem.init_body(torch.Generator()), problem.init_head(torch.Generator()))
        model = problem.model(seed, body, head, {})
        there = bool(problem.drawn(seed)["train"][0][:, 0].any())
        remarks = " ".join(Predicted.of(model, new).remarks())
        assert (said in remarks) == (not there)
        if not there:
            return
    raise AssertionError("All training rows have it.")
