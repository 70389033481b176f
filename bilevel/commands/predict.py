"""`bilevel predict`."""

import dataclasses
from pathlib import Path

import tyro

from bilevel.commands.exit_codes import OK

SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict the rows of a CSV file, in their own units, by a model of `compare --csv`."""

    model: tyro.conf.Positional[Path]
    """A results folder of `bilevel compare --csv`, or the file of a model."""
    file: tyro.conf.Positional[Path]
    """A CSV file with the columns of the training; the target is not needed."""
    output: Path | None = None
    """A new CSV file; FILE-predictions.csv beside FILE by default."""
    extrapolate: bool = False
    """Predict although a column seems to be of another unit than that of the training."""

    def run(self) -> int:
        """Predict, write, print."""
        from bilevel.errors import counted
        from bilevel.report.tables import aligned
        from bilevel.storage.folder import located, reserve
        from bilevel.tables.model import Model
        from bilevel.tables.predicting import Predicted

        model, file = Model.load(self.model), located(self.file)
        default = file.with_name(f"{file.stem}-predictions.csv")
        output = reserve(default if self.output is None else self.output, "file")
        found = Predicted.of(model, file, extrapolate=self.extrapolate)
        found.write(output)
        targets = ", ".join(target.name for target in model.targets)
        origin = model.about.get("said", model.about.get("estimator", ""))
        print(f"{targets} from {counted(len(model.columns), 'column')}, by {origin}\n")
        columns = found.columns
        rows = list(zip(*(map(shown, x) for x in columns.values()), strict=True))
        print(aligned(list(columns), rows[:SHOWN]))
        if len(rows) > SHOWN:
            print(f"... and {counted(len(rows) - SHOWN, 'more row')}")
        for sentences in filter(None, (found.judged(), found.remarks())):
            print("", *sentences, sep="\n")
        print(f"\nPredictions: {output}")
        return OK


def shown(value: object) -> str:
    """A cell of the printed table: short."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:30]
