"""Memory that runs out is said as such, wherever it happens, and not as an error of shapes."""

import numpy as np
import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel.core.memory import at_once
from bilevel.errors import BilevelError, NotEnoughMemoryError, ProblemError

HUGE = 10**15


def of_the_allocator():
    torch.empty(HUGE)


def of_numpy():
    np.ones((HUGE, 10))


def of_an_accelerator():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words.")


def of_windows():
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ...")


def of_python():
    raise MemoryError


def too_large_to_count():
    torch.empty(HUGE, HUGE)


SHORTAGES = [of_the_allocator, of_numpy, of_an_accelerator, of_windows, of_python,
             too_large_to_count]  # fmt: skip


class Greedy(Smooth):
    """Runs short of memory in one of its functions, at the first call or a later one."""

    where, after, shortage = "features", 0, staticmethod(of_the_allocator)
    calls = 0

    def _take(self, where):
        if where == self.where:
            self.calls += 1
            if self.calls > self.after:
                self.shortage()

    def data(self, seed=None):
        self._take("data")
        return super().data(seed)

    def init_body(self, generator):
        self._take("init_body")
        return super().init_body(generator)

    def features(self, body, inputs):
        self._take("features")
        return super().features(body, inputs)

    def body_penalty(self, body):
        self._take("body_penalty")
        return super().body_penalty(body)

    def metrics(self, body, head, data):
        self._take("metrics")
        return super().metrics(body, head, data)


def train(problem, strategy=None):
    strategy = strategy or bilevel.TwoTimescale(0.01, 0.1)
    return bilevel.solve(problem, strategy, steps=4, every=2, seeds=3, batch_size=6)


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_every_shortage_is_known(shortage):
    with pytest.raises(NotEnoughMemoryError, match=r"Memory ran out.*max_runs_at_once.*chunk_rows"):
        train(Greedy(shortage=shortage))


LATER = {"features": 12, "body_penalty": 3, "metrics": 1}


@pytest.mark.parametrize("where", LATER)
@pytest.mark.parametrize("later", [False, True])
def test_it_is_said_wherever_it_happens(where, later):
    problem = Greedy(where=where, after=LATER[where] * later)
    with pytest.raises(NotEnoughMemoryError, match="you tried to allocate"):
        train(problem)


@pytest.mark.parametrize("where", ["data", "init_body"])
def test_it_is_said_before_the_training(where):
    with pytest.raises(NotEnoughMemoryError, match="Memory ran out"):
        train(Greedy(where=where))


def test_it_is_said_of_comparisons_and_single_points():
    strategies = {"two": bilevel.TwoTimescale(0.01, 0.1), "exact": bilevel.BestResponse(0.01)}
    body = Smooth().init_body(torch.Generator().manual_seed(0))
    calls = [
        lambda: bilevel.compare(Greedy(), strategies, steps=4, seeds=2, batch_size=6),
        lambda: bilevel.best_response(Greedy(), body),
        lambda: bilevel.hypergradient(Greedy(), body),
        lambda: bilevel.GramAccumulator().add(torch.ones(2, 10**6), torch.ones(2)),
    ]
    for call in calls:
        with pytest.raises(NotEnoughMemoryError, match="Memory ran out"):
            call()


def test_it_is_an_error_of_ours_and_of_python():
    with pytest.raises(MemoryError) as caught:
        train(Greedy())
    assert isinstance(caught.value, BilevelError)
    assert "shapes" not in str(caught.value).lower()


def test_other_errors_keep_their_names():
    def shapes():
        torch.ones(2) @ torch.ones(3)

    with pytest.raises(ProblemError, match="Shapes must fit"):
        train(Greedy(shortage=shapes))

    def own():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        train(Greedy(shortage=own))


@pytest.mark.parametrize(("free", "most"), [(2**36, 2**34), (2**29, 2**29)])
def test_a_device_says_what_is_free_and_a_processor_is_not_asked(free, most, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: asked.append(d) or (free, 2**37))
    assert at_once(2**29, "cpu") == at_once(2**29, torch.device("cpu")) == 2**29
    assert asked == []
    assert at_once(2**29, "cuda:0") == most
    assert asked == ["cuda:0"]
