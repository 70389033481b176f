"""Training rows in chunks, from memory maps: the same numbers, a few rows at a time."""

import numpy as np
import pytest
import torch
from small_problems import TEST, VALIDATION, D, K, M, N, Smooth, as_maps, grouped

import bilevel
from bilevel import Batch, trees
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError

CHUNK = 5  # 23 rows: four chunks of 5, and 3 rows


class Chunked(Smooth):
    """`Smooth` that writes down how many rows are evaluated at once."""

    seen = None

    def features(self, body, inputs):
        if self.seen is not None:
            self.seen.append(len(inputs))
        return super().features(body, inputs)


class Penalised(Chunked):
    """A penalty of its own for every coefficient."""

    outputs = K

    def penalty(self, body):
        return 0.05 + torch.outer(body["bias"].square(), torch.arange(1.0, K + 1.0).double())


class Validated(Chunked):
    """F on the validation rows."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets).mean()


class Free(Chunked):
    """Features that do not depend on the body, which is the ridge."""

    body_free_features = True
    fit_bias = True

    def init_body(self, generator):
        return torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(D + 1, dtype=torch.float64)

    def features(self, inputs):
        if self.seen is not None:
            self.seen.append(len(inputs))
        return inputs

    def penalty(self, body):
        return torch.exp(body)


class OwnMetrics(Chunked):
    """Metrics that do not go through `predict`."""

    def metrics(self, body, head, data):
        test = data["test"]
        return {"test_own": (super().features(body, test.inputs) @ head - test.targets).mean()}


PROBLEMS = {
    "one output": Chunked,
    "two outputs, bias": lambda **a: Chunked(outputs=K, fit_bias=True, **a),
    "penalties by output": Penalised,
    "F is not g": Validated,
    "body-free": Free,
    "own metrics": OwnMetrics,
    "body penalty": lambda **a: Chunked(
        body_penalty=lambda body: 0.1 * body["weight"].square().sum(), **a
    ),
}


def pair(make, folder, **options):
    """The problem in memory, and from maps in chunks."""
    whole = make()
    groups = grouped(0, whole.outputs)
    whole.groups = groups
    chunked = make(groups=as_maps(folder, groups, **options), chunk_rows=CHUNK)
    chunked.seen = []
    return whole, chunked


def close(found, expected, rtol=1e-10, atol=1e-13):
    for one, other in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def body_of(problem):
    return problem.init_body(torch.Generator().manual_seed(3))


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
def test_a_single_point(make, tmp_path):
    whole, chunked = pair(make, tmp_path)
    body = body_of(whole)
    expected, found = (bilevel.hypergradient(p, body) for p in (whole, chunked))
    close(found.body, expected.body)
    close(found.response.head, expected.response.head)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.response.bound_kind == "proven"
    assert found.response.bound == pytest.approx(expected.response.bound, rel=1e-2)
    error = float(trees.flatten(trees.single(found.response.head - expected.response.head)).norm())
    assert error <= found.response.bound
    assert max(chunked.seen) <= max(CHUNK, VALIDATION if make is Validated else 0)
    assert sum(chunked.seen) >= N


STRATEGIES = {
    "best response": lambda: bilevel.BestResponse(1e-2),
    "fast sgd": lambda: bilevel.BestResponse(1e-2, bilevel.FastSGD(0.1, 3)),
    "implicit": lambda: bilevel.BestResponse(1e-2, gradient=bilevel.Implicit(bilevel.CG())),
    "two-timescale": lambda: bilevel.TwoTimescale(1e-2, 5e-2),
}


@pytest.mark.parametrize("batch_size", [4, None])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trainings_record_the_same_numbers(strategy, batch_size, tmp_path):
    whole, chunked = pair(PROBLEMS["two outputs, bias"], tmp_path)
    expected, found = (
        bilevel.solve(
            p, STRATEGIES[strategy](), steps=4, batch_size=batch_size, seeds=3, every=2,
            dtype=torch.float64,
        )
        for p in (whole, chunked)
    )  # fmt: skip
    assert set(found.history) == set(expected.history)
    for name, values in expected.history.items():
        rounding = strategy != "two-timescale" and name.startswith(("head_", "gradient_"))
        atol = 1e-9 if rounding else 1e-12
        torch.testing.assert_close(found.history[name], values, rtol=1e-9, atol=atol)
    close(found.body, expected.body, rtol=1e-9)
    assert max(chunked.seen) == CHUNK


@pytest.mark.parametrize("make", [Validated, Free, OwnMetrics], ids=lambda m: m.__name__)
def test_trainings_of_other_kinds(make, tmp_path):
    whole, chunked = pair(make, tmp_path)
    expected, found = (
        bilevel.solve(p, bilevel.BestResponse(1e-2), steps=4, batch_size=4, seeds=2, every=2)
        for p in (whole, chunked)
    )
    for name, values in expected.history.items():
        torch.testing.assert_close(found.history[name], values, rtol=1e-5, atol=1e-6)


LAYOUTS = {
    "read-only": {},
    "copy on write": {"mode": "c"},
    "columns first": {"order": "F"},
    "float32": {"dtype": np.float32},
    "other byte order": {"dtype": ">f8"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_types_of_files(layout, tmp_path):
    whole, chunked = pair(Chunked, tmp_path, **LAYOUTS[layout])
    if layout == "float32":
        rounded = trees.cast(trees.cast(whole.data(), torch.float32), torch.float64)
        whole.groups = rounded
    body = body_of(whole)
    expected, found = (bilevel.best_response(p, body) for p in (whole, chunked))
    close(found.head, expected.head)
    every_other = {name: Batch(*(x[::2] for x in g)) for name, g in chunked.groups.items()}
    chunked.groups = every_other
    whole.groups = {name: Batch(*(x[::2] for x in g)) for name, g in whole.groups.items()}
    close(*(bilevel.best_response(p, body).head for p in (chunked, whole)))


def test_a_float32_training_rounds_float64_files_first(tmp_path):
    whole, chunked = pair(Chunked, tmp_path)
    expected, found = (
        bilevel.solve(p, bilevel.BestResponse(1e-2), steps=2, batch_size=4, seeds=2, every=1)
        for p in (whole, chunked)
    )
    torch.testing.assert_close(
        found.history["phi"][0], expected.history["phi"][0], rtol=1e-12, atol=0
    )
    assert found.body["weight"].dtype == torch.float32


@pytest.mark.parametrize("chunk_rows", [None, CHUNK])
def test_maps_are_shared_not_copied(chunk_rows, tmp_path):
    maps = as_maps(tmp_path, grouped(0), dtype=np.float32)
    data = TrainingData(Smooth(groups=maps, chunk_rows=chunk_rows), [0], torch.float32, "cpu")
    for name, group in data.groups.items():
        for leaf, array in zip(group, maps[name], strict=True):
            assert leaf.data_ptr() == array.ctypes.data
    large = Smooth(groups=maps, chunk_rows=CHUNK)
    double = TrainingData(large, [0], torch.float64, "cpu").groups["train"]
    assert double.inputs.data_ptr() == maps["train"].inputs.ctypes.data


def test_rows_that_fit_in_a_chunk_are_evaluated_at_once(tmp_path):
    _, chunked = pair(Chunked, tmp_path)
    chunked.chunk_rows = N
    assert TrainingData(chunked, [0], torch.float64, "cpu").chunks is None


def test_every_oracle_of_g_is_the_sum_over_chunks(tmp_path):
    """Also those that no strategy above asks for."""
    whole, chunked = pair(PROBLEMS["two outputs, bias"], tmp_path)
    found = []
    for problem in (whole, chunked):
        data = TrainingData(problem, [0, 1], torch.float64, "cpu")
        rows = Sampler(data, None, ("train",)).full
        body, head = (data.initial(draw, "x") for draw in (problem.init_body, problem.init_head))
        oracles, vector = Oracles(problem), trees.tree_map(torch.sin, head)
        found.append(
            [
                oracles.head_value(body, head, rows),
                oracles.body_value(body, head, rows),
                oracles.head_gradient(body, head, rows),
                oracles.direct_gradient(body, head, rows),
                oracles.joint_gradient(body, head, rows),
                oracles.body_gradients(body, head, rows),
                oracles.head_hvp(body, head, vector, rows),
                oracles.cross_vjp(body, head, vector, rows),
                oracles.head_products(body, head, vector, rows),
                oracles.head_hessian(body, head, rows),
                oracles.metrics(body, head, data.everything(torch.float64)),
            ]
        )
    close(found[1], found[0], rtol=1e-12)
    assert max(chunked.seen) == CHUNK


def test_progress_counts_rows_of_each_pass(tmp_path):
    """Two passes: the sums, which the certificate uses too, and the gradient at the head."""
    _, chunked = pair(Chunked, tmp_path)
    calls = []
    bilevel.best_response(chunked, body_of(chunked), progress=lambda *c: calls.append(c))
    assert calls == 2 * [(5, N), (10, N), (15, N), (20, N), (N, N)]
    with pytest.raises(ArgumentError, match=r"`progress` must be a function, .* or True or False"):
        bilevel.hypergradient(chunked, body_of(chunked), progress="bar")


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    _, chunked = pair(Chunked, tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bilevel.best_response(chunked, body_of(chunked), progress=True)
    assert "best response" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    bilevel.best_response(chunked, body_of(chunked), progress=True)
    assert capsys.readouterr().err == ""


def test_conformance_checks_read_all_rows(tmp_path):
    _, chunked = pair(Chunked, tmp_path)
    bilevel.check_problem(chunked)


def test_steps_over_chunks_are_not_compiled(tmp_path):
    _, chunked = pair(Chunked, tmp_path)
    with pytest.warns(UserWarning, match="all rows in chunks at every step and is not compiled"):
        bilevel.solve(chunked, bilevel.BestResponse(1e-2), steps=1, seeds=1, compile=True)


def test_sizes_differ():
    assert len({N, VALIDATION, TEST, D, M, K, CHUNK}) == 7
