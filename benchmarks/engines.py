"""What engines cost beside the trainings.

    python benchmarks/engines.py                 # all, four minutes
    python benchmarks/engines.py --only many     # a part: pool, many

pool: a comparison in 200 shards of one second each on two processes, against the ideal of 100
seconds. Steps sleep, so that the figure is that of the engine, not of a machine that others use;
all else is what it always is: shards are sent, checked, initialised, kept and put together. Beside
it, what the start of the processes takes, which is mostly the import of torch, and the CPU time
that each shard costs the process that submits it.

many: a comparison in 10,000 shards (100 strategies, 100 seeds, 51 records) by an executor that
answers at once: seconds, CPU time of a shard, and the most memory that the whole process held.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import Future

import numpy as np

import bilevel
from bilevel.comparison.engines import sharded
from bilevel.comparison.engines.answers import Answer, Result
from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.processes import Processes
from bilevel.comparison.engines.worker import introduced
from problems.toy import ScalarProduct

STEPS = 10
PROCESSOR = {"kind": "none", "bits": ""}


def sleeping(seconds):
    """A training loop whose steps do nothing, for so long in all."""

    def loop(problem, body, head, batches):
        for _ in batches:
            time.sleep(seconds / STEPS)
            yield body, head

    return loop


def pool(shards, seconds, workers):
    """Shards that sleep, on processes of this machine."""
    engine = Processes(workers)
    sharded.Sharded.seconds = lambda self, names, *_: dict.fromkeys(names, np.nan)  # no such pass
    options = {"seeds": shards, "steps": STEPS, "every": STEPS, "max_runs_at_once": 1}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for started in [engine.submit(introduced) for _ in range(workers)]:
            started.result()
        starting, began, cpu = time.perf_counter() - began, time.perf_counter(), time.process_time()
        found = bilevel.compare(
            ScalarProduct(), {"sleeping": sleeping(seconds)}, engine=engine, checkpoint=folder,
            **options,
        )  # fmt: skip
        took, spent = time.perf_counter() - began, time.process_time() - cpu
    engine.close()
    assert len(found.environment["shards"]) == shards
    ideal = shards * seconds / workers
    print(
        f"pool: {shards} shards of {seconds:g} s on {workers} processes: {took:.1f} s, "
        f"{took / ideal:.3f} times the ideal; {1e3 * spent / shards:.1f} ms of CPU time a shard. "
        f"The processes had started before, in {starting:.1f} s"
    )


class AtOnce(AbstractEngine):
    """Answers at once, for as many workers as give that many shards."""

    name = "at once"

    def __init__(self, shards, records):
        self.workers = shards // 2
        self.values = np.random.default_rng(0).random((records, 12))
        self.submitted = 0

    def submit(self, function, /, *args):
        """What a worker would have sent that keeps its files itself."""
        future = Future()
        if function.__name__ == "time_steps":
            future.set_result({})
            return future
        task, self.submitted = args[0], self.submitted + 1
        runs = len(task.seeds)
        metrics = ["objective", *(f"metric {i}" for i in range(11))]
        table = {
            metric: np.tile(self.values[:, i : i + 1] + np.random.rand(), (1, runs))  # noqa: NPY002
            for i, metric in enumerate(metrics)
        }
        codes = {name: ["COMPLETED"] * runs for name in task.strategies}
        history = dict.fromkeys(task.strategies, table)
        future.set_result(Answer(Result(history, codes, codes, PROCESSOR), kept=True))
        return future


def many(strategies, seeds):
    """Shards that are answered at once."""
    engine = AtOnce(strategies * seeds, 51)
    entries = {f"rate {i}": bilevel.uniform(0.01 * 1.01**i) for i in range(strategies)}
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), time.process_time()
        bilevel.compare(
            ScalarProduct(), entries, engine=engine, checkpoint=folder, seeds=seeds, steps=50,
            every=1,
        )  # fmt: skip
        took, spent = time.perf_counter() - began, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"many: {engine.submitted:,} shards: {took:.1f} s, {1e3 * spent / engine.submitted:.1f} ms "
        f"of CPU time each; {memory:.0f} MB at most"
    )


def main():
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=["pool", "many"])
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    if asked.only != "pool":  # first: memory is that of the process so far
        many(100, 100)
    if asked.only != "many":
        pool(asked.shards, asked.seconds, asked.workers)


if __name__ == "__main__":
    main()
