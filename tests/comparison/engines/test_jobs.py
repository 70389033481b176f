"""What is sent: names where they suffice, and checks that a worker has what was meant."""

import hashlib

import cloudpickle
import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel.comparison.budget import Budget
from bilevel.comparison.engines import jobs
from bilevel.comparison.engines.jobs import ByName, Job, Packed, check_data, fingerprint, sent
from bilevel.comparison.engines.processor import processor
from bilevel.comparison.side_by_side import Options, SideBySide
from bilevel.data.training_data import TrainingData
from bilevel.errors import DataError, EngineError


def test_a_registered_problem_is_sent_by_name_unless_it_was_changed():
    problem = bilevel.load_problem("friedman1", width=4)
    assert sent(problem) == ByName("friedman1", {"width": 4})
    assert type(sent(problem).made()) is type(problem)
    problem.ridge = 0.5
    assert sent(problem) is problem
    own = Smooth()
    assert sent(own) is own


def test_data_that_every_worker_can_load_are_not_sent():
    by_name = sent(bilevel.load_problem("digits"))
    assert isinstance(by_name, ByName)
    assert len(cloudpickle.dumps(by_name)) < 500


def job(problem=None):
    data = TrainingData(problem or Smooth(), [0, 1], torch.float64, "cpu")
    made = SideBySide(
        {"two": bilevel.TwoTimescale(0.01, 0.1)}, data, Options(6, "iid", False, None, print)
    )
    return Job.of(made, Budget("steps", 4, 2, 2.0), problem or Smooth())


def test_a_large_job_lies_in_the_folder_and_is_checked_there(tmp_path, monkeypatch):
    whole = Packed.of(job())
    assert whole.beside(tmp_path) == whole
    monkeypatch.setattr(jobs, "LARGE", 10)
    small = whole.beside(tmp_path)
    assert small.content is None
    (path,) = tmp_path.rglob("job-*")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == small.digest
    jobs._kept.cache_clear()
    assert small.unpacked(None) is None
    path.write_bytes(cloudpickle.dumps("something else"))  # is not run
    assert small.unpacked(tmp_path) is None
    path.write_bytes(whole.content)
    assert small.unpacked(tmp_path).job.strategies.keys() == {"two"}
    jobs._kept.cache_clear()


def test_other_versions_are_named():
    packed = Packed.of(job())
    other = packed._replace(versions={**packed.versions, "torch": "1.0"})
    with pytest.raises(EngineError, match=r"other versions .*: torch .* there and 1\.0 here"):
        other.unpacked(None)


def test_other_data_are_refused_and_rounded_ones_are_not():
    def of(scale):
        groups = {k: type(b)(b.inputs * scale, b.targets) for k, b in Smooth().data().items()}
        return fingerprint(TrainingData(Smooth(groups=groups), [0], torch.float64, "cpu"))

    check_data(of(1.0), of(1.0 + 1e-9))
    with pytest.raises(DataError, match="other data on a worker"):
        check_data(of(1.0), of(1.01))
    fewer = tuple((place, (1, *shape[1:]), *rest) for place, shape, *rest in of(1.0))
    with pytest.raises(DataError, match="other data on a worker"):
        check_data(of(1.0), fewer)


def test_settings_of_torch_go_along_and_come_back():
    settings = jobs.surroundings() | {"dtype": torch.float64}
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    with jobs.surrounded(settings, 1):
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_num_threads() == 1
    assert torch.get_default_dtype() == before != torch.float64
    assert torch.get_num_threads() == threads


def test_a_processor_is_what_it_was():
    found = processor("cpu")
    processor.cache_clear()
    assert processor("cpu") == found
    assert found["kind"]
    assert len(found["bits"]) == 16
