"""The names of engines, right and wrong."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from bilevel.comparison.engines.base import AbstractEngine
from bilevel.comparison.engines.dask import address
from bilevel.comparison.engines.executor import Executor
from bilevel.comparison.engines.named import engine_of
from bilevel.comparison.engines.processes import Processes
from bilevel.errors import ArgumentError, UnknownNameError

WRONG = {
    "": (UnknownNameError, "There is no engine ''"),
    "proceses:4": (UnknownNameError, r"Did you mean 'processes'.*written processes:4, dask:tcp"),
    "processes": (ArgumentError, "'processes' lacks what follows the name: processes:4"),
    "processes:": (ArgumentError, "such as processes:4, with a number from 1 to 1,024"),
    "processes:0": (ArgumentError, "such as processes:4, with a number from 1 to 1,024"),
    "processes:two": (ArgumentError, "such as processes:4, with a number from 1 to 1,024"),
    "dask:": (ArgumentError, r"written dask:tcp://host:8786, or dask:FILE.json.*got 'dask:'"),
    "dask:tcp://host": (ArgumentError, "got 'dask:tcp://host': the port is missing"),
    "dask:tcp://host:99999": (ArgumentError, "written dask:tcp://host:8786"),
    "dask:tcp//host:8786": (ArgumentError, "written dask:tcp://host:8786"),
    "dask:http://host:8787": (ArgumentError, "http:// is no way to reach a scheduler .*dashboard"),
    "dask:no.json": (ArgumentError, "names no.json, which is no file of a Dask scheduler"),
    "slurm:": (ArgumentError, "slurm:PARTITION or slurm:PARTITION,time=60,mem=8.*`sinfo` lists"),
    "slurm:,time=60": (ArgumentError, "PARTITION is one of those that `sinfo` lists"),
    "slurm:a b": (ArgumentError, "PARTITION is one of those that `sinfo` lists"),
    "slurm:a,60": (ArgumentError, "options are key=value, got '60'"),
    "slurm:a,time": (ArgumentError, "options are key=value, got 'time'"),
    "slurm:a,time=": (ArgumentError, "options are key=value, got 'time='"),
    "slurm:a,tme=60": (UnknownNameError, "no option 'tme' of this engine. Did you mean 'time'"),
    "slurm:a,time=1h": (ArgumentError, r"a whole number above 0 for time \(minutes.*got '1h'"),
    "slurm:a,time=0.5": (ArgumentError, "a whole number above 0 for time"),
    "slurm:a,mem=-8": (ArgumentError, r"a number above 0 for mem \(GB.*got '-8'"),
    "slurm:a,mem=nan": (ArgumentError, "a number above 0 for mem"),
    "slurm:a,time=1,time=2": (ArgumentError, "is given time= twice"),
    "local:": (ArgumentError, "such as local:2, with a number of jobs at once"),
    "local:many": (ArgumentError, "such as local:2, with a number of jobs at once"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_spelling_says_how_it_is_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, said = WRONG[name]
    with pytest.raises(kind, match=said):
        engine_of(name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_engine_is_refused():
    for value in (4, None, object(), str):
        with pytest.raises(ArgumentError, match="have a method `submit`, as executors do"):
            engine_of(value)


def test_engines_and_executors_are_taken_as_they_are():
    engine = engine_of("processes:3")
    assert isinstance(engine, Processes)
    assert engine_of(engine) is engine
    engine.close()
    with ThreadPoolExecutor(1) as threads:
        assert isinstance(engine_of(threads), Executor)


def test_addresses_of_dask(tmp_path):
    assert address("tcp://node-1.cluster:8786") == "tcp://node-1.cluster:8786"
    assert address("10.0.0.1:8786") == "tcp://10.0.0.1:8786"
    assert address("tls://[::1]:8786") == "tls://[::1]:8786"
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": "tcp://10.0.0.7:1234", "workers": {}}))
    assert address(str(file)) == "tcp://10.0.0.7:1234"
    file.write_text("{}")
    with pytest.raises(ArgumentError, match="no file of a Dask scheduler: KeyError"):
        address(str(file))


def test_engines_wait_for_nothing_and_tell_no_versions_by_themselves():
    class Own(AbstractEngine):
        name = "own"

        def submit(self, function, /, *args):
            raise NotImplementedError

    assert Own().waits(None, None) is False
    assert Own().versions(["torch"]) == {}
