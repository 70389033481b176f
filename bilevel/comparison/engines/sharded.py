"""The trainings of a comparison in shards, by an engine."""

import contextlib
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from bilevel.comparison.budget import Budget
from bilevel.comparison.checkpoint import Checkpoint
from bilevel.comparison.engines import work
from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.dispatch import Dispatch
from bilevel.comparison.engines.flights import Flights
from bilevel.comparison.engines.inline import Inline
from bilevel.comparison.engines.jobs import ByName, Job, Packed, sent
from bilevel.comparison.engines.merging import Known, merged
from bilevel.comparison.engines.named import engine_of
from bilevel.comparison.engines.shards import Pieces, Shard, pieces, shards
from bilevel.comparison.engines.stage import Place, Stage
from bilevel.comparison.kept import CUT, RESULT
from bilevel.comparison.side_by_side import Outcome, SideBySide
from bilevel.data.training_data import TrainingData
from bilevel.errors import ResultsError
from bilevel.problem.base import StackelbergProblem
from bilevel.storage.folder import HeldFolder, held, write_json, writing
from bilevel.storage.reading import read_json
from bilevel.storage.schema import NATURAL, Schema
from bilevel.storage.tensors import read_tensors, write_tensors

SCHEMA: Schema = {"seal": str, "pieces": {"*": [[NATURAL]]}}
"""Of the file that says how the work was cut."""
PATIENCE = 600.0
"""Seconds that the measurement of times is waited for."""


@contextlib.contextmanager
def used(
    engine: Any, checkpoint: str | os.PathLike[str] | None
) -> Iterator[tuple[AbstractEngine | None, HeldFolder | None]]:
    """The engine that is meant, None where this process is to train as ever; and the folder.

    What another engine left in shards, this process goes on with in shards.
    """
    with contextlib.ExitStack() as stack:
        made = None if engine is None else engine_of(engine)
        if checkpoint is None and made is not None and made.same_machine:
            # a worker that was not waited for may be writing to it
            folder_of_it = tempfile.TemporaryDirectory(
                prefix="bilevel-", ignore_cleanup_errors=True
            )
            checkpoint = stack.enter_context(folder_of_it)
        if made is not None and made is not engine:
            stack.callback(made.close)
        folder = None if checkpoint is None else stack.enter_context(held(checkpoint))
        if made is None and folder is not None and (folder.path / CUT).is_file():
            made = Inline()
        yield made, folder


class Sharded:
    """Training by an engine.

    Args:
        engine: which one.
        kept: where it is kept.
    """

    def __init__(self, engine: AbstractEngine, kept: Checkpoint | None) -> None:
        self._engine, self._kept = engine, kept
        self._place = Place(None, "", "", uuid.uuid4().hex)
        self._cut: dict[str, Pieces] = {}
        if kept is not None:
            folder, seal = kept.folder.absolute(), uuid.uuid4().hex
            if (path := folder / CUT).is_file():
                stored = read_json(path, SCHEMA, "Delete it to cut anew.")
                seal, self._cut = stored["seal"], stored["pieces"]
            self._place = self._place._replace(folder=folder, seal=seal, digest=kept.digest)
        self._problem: StackelbergProblem | ByName | None = None
        self._packed: Packed | None = None
        self._notes: list[dict[str, Any]] = []

    @property
    def threads(self) -> int:
        """Of torch, in every worker."""
        return self._engine.threads

    def train(self, side_by_side: SideBySide, budget: Budget) -> Outcome:
        """Have all strategies trained: what is missing, if there is something already."""
        if self._kept is not None:
            self._kept.describe()  # before anything else: to go on, it must be known what it is
        if self._problem is None:
            self._problem = sent(side_by_side.problem)
        self._packed = Packed.of(Job.of(side_by_side, budget, self._problem))
        made = shards(side_by_side, budget, self._pieces(side_by_side, budget))
        known = Known(list(side_by_side.trainings), side_by_side.bound, side_by_side.alike())
        stage = Stage(self._engine, self._place, side_by_side, budget, made, self._packed)
        self._adopt(stage, side_by_side, made)
        side_by_side.release()
        missing = stage.missing()
        stage.tell({})
        whole = Dispatch(self._engine, stage, missing, self._place.session).run()
        self._notes += [
            {
                "stage": shard.stage,
                "strategies": list(shard.strategies),
                "seeds": list(shard.seeds),
                **stage.results[shard].processor,
            }
            for shard in made
            if shard in stage.results
        ]
        return merged(made, stage.results, known, interrupted=not whole)

    def _pieces(self, side_by_side: SideBySide, budget: Budget) -> Pieces:
        """How a stage is cut: as it was, or else for the workers that there are."""
        stage, groups = side_by_side.stage, side_by_side.trainings
        if stage not in self._cut:
            cut = pieces(side_by_side, budget, self._engine.workers)
            if self._kept is not None:
                for number, names in enumerate(groups):
                    if (self._kept.folder / f"{stage}-{number}.safetensors").is_file():
                        cut[number] = [len(names), side_by_side.seeds]  # this process began it
            self._cut[stage] = cut
        elif [len(piece) for piece in self._cut[stage]] != [2] * len(groups) or not all(
            map(math.prod, self._cut[stage])
        ):
            raise ResultsError(
                f"{self._place.folder} has a file {CUT} that does not fit its comparison. Put back "
                "a copy of it, or delete it to cut anew."
            )
        return self._cut[stage]

    def _adopt(self, stage: Stage, side_by_side: SideBySide, made: list[Shard]) -> None:
        """Give shards what this process began without an engine; then say how all was cut."""
        if self._kept is None:
            return
        folder, name = self._kept.folder, side_by_side.stage
        for number, names in enumerate(side_by_side.trainings):
            path = folder / f"{name}-{number}.safetensors"
            whole = [shard for shard in made if shard.strategies == names]
            if not path.is_file() or len(whole) != 1:
                continue
            files = self._place.files(whole[0])
            assert files is not None
            adopted = files.folder / f"{name}-0.safetensors"
            if adopted.is_file() or (files.folder / RESULT).is_file():
                continue
            tensors, content = read_tensors(path)
            if content.get("comparison") == self._kept.digest:
                with writing(files.folder):
                    files.folder.mkdir(parents=True, exist_ok=True)
                content |= {"comparison": stage.digest(whole[0]), "training": f"{name}-0"}
                write_tensors(adopted, tensors, content)
        write_json(folder / CUT, {"seal": self._place.seal, "pieces": self._cut})

    def seconds(
        self, names: Sequence[str], side_by_side: SideBySide, data: TrainingData
    ) -> dict[str, float]:
        """See `seconds_per_step`: one worker measures them; NaN where it cannot."""
        unknown = dict.fromkeys(names, math.nan)
        if self._packed is None:
            return unknown
        place = self._place
        task = work.Task(
            self._packed, "", "", "", "", tuple(names), tuple(data.seeds), (), "", place.session,
            self._engine.threads,
        )  # fmt: skip
        flights = Flights()
        future: Any = None
        try:
            future = self._engine.submit(work.time_steps, task)
            flights.add(Shard("timing", 0, tuple(names), tuple(data.seeds), 0.0), "", future)
            if flights.next_over(PATIENCE) is not None:
                measured: dict[str, float] = future.result()
                return unknown | measured
        except Exception:  # the trainings are worth more than the times
            return unknown
        finally:
            if future is not None and flights:
                self._engine.stop(future, None)
        return unknown

    def noted(self) -> dict[str, Any]:
        """What processor computed every shard."""
        return {"shards": self._notes}
