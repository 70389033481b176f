"""Modes of torch around a call change nothing of what is computed."""

import contextlib

import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.core.graph import ordinary
from problems.table import from_arrays
from tests.support import legal_arguments as legal

ONE = torch.tensor(1.0, dtype=torch.float64)
FEW = {"steps": 3, "seeds": 2, "every": 2, "batch_size": 4}


@contextlib.contextmanager
def default(name, value, before):
    """A global setting of torch for a while."""
    getattr(torch, name)(value)
    try:
        yield
    finally:
        getattr(torch, name)(before)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "default device": lambda: default("set_default_device", "meta", None),
    "device": lambda: torch.device("meta"),
    "default dtype": lambda: default("set_default_dtype", torch.float64, torch.float32),
    "deterministic": lambda: default("use_deterministic_algorithms", True, False),
}


class Accurate(legal.Linear):
    """Starts that say their type: what a default makes of others is their author's wish."""

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.randn(3, generator=generator, dtype=torch.float64)


class Judged(Accurate):
    """A true bilevel problem."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return ((rows.inputs * body) @ head - rows.targets).square().mean()


def solved():
    return bilevel.solve(Judged(), bilevel.BestResponse(0.1), **FEW)


def network():
    parts = bilevel.split(legal.Net, example=torch.ones(2, 3))
    return parts.init_body(legal.random())


CALLS = {
    "solve": lambda: solved().head,
    "records": lambda: solved().history,
    "compare": lambda: bilevel.compare(Accurate(), {"a": bilevel.uniform(0.1)}, **FEW).final(
        "objective"
    )["a"],
    "best_response": lambda: bilevel.best_response(Accurate(), ONE.clone()).head,
    "hypergradient": lambda: bilevel.hypergradient(Judged(), ONE.clone()).body,
    "unrolled": lambda: (
        bilevel.hypergradient(
            Judged(), ONE.clone(), bilevel.Unrolled(3), solver=bilevel.FastSGD(0.1, 3)
        ).body
    ),
    "accumulator": lambda: legal.accumulator().solve(0.1).head,
    "predict": lambda: legal.solution().predict(legal.X),
    "split": network,
    "made within": lambda: bilevel.best_response(made(), made().init_body(legal.random())).head,
    "check": lambda: [f.what for f in bilevel.check_problem(Judged())],
}
EXPECTED = {}


def made():
    """A problem that is made where it is used."""
    return from_arrays(legal.X, legal.Y, width=2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", CALLS)
def test_a_mode_around_a_call_changes_nothing(call, mode):
    legal.solution()
    if call not in EXPECTED:
        EXPECTED[call] = CALLS[call]()
    if (call, mode) in {
        ("made within", "device"),
        ("made within", "default device"),
        ("split", "default dtype"),
    }:
        return  # the call's own tensors: of the meta device, or of another network
    with MODES[mode]():
        found = CALLS[call]()
    pairs = zip(leaves(found), leaves(EXPECTED[call]), strict=True)
    assert all(same(a, b) for a, b in pairs)


def leaves(tree):
    return tree if isinstance(tree, list) else trees.leaves(tree)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return not a.is_inference() and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    return bool((a == b).all()) if hasattr(a, "all") else a == b


def test_modes_are_as_before_afterwards():
    with torch.no_grad(), torch.device("meta"):
        with ordinary():
            assert torch.is_grad_enabled()
            assert torch.ones(1).device.type == "cpu"
        assert not torch.is_grad_enabled()
        assert torch.ones(1).is_meta
