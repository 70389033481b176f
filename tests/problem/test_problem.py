"""Linear head problems as users meet them: bad input is named, metrics are in users' units."""

import numpy as np
import pytest
import torch
from linear_heads import ONE, build, normal
from sklearn.metrics import mean_squared_error, r2_score

import bilevel
from bilevel.errors import BilevelError, DataError, FinalMethodError, ProblemError, ShapeError

N, M, K = 13, 4, 2
Z, Y, YK = normal(1, N, M), normal(2, N), normal(3, N, K)


def head_of(problem):
    return bilevel.best_response(problem, ONE)


ENTRIES = {
    "best_response": head_of,
    "hypergradient": lambda problem: bilevel.hypergradient(problem, ONE),
    "solve": lambda problem: bilevel.solve(problem, bilevel.uniform(0.01), steps=2, seeds=2),
    "solve exactly": lambda problem: bilevel.solve(
        problem, bilevel.BestResponse(0.01), steps=2, seeds=2
    ),
    "compare": lambda problem: bilevel.compare(
        problem, {"a": bilevel.uniform(0.01), "b": bilevel.BestResponse(0.01)}, seeds=2, steps=2
    ),
}


def spoiled(array, value):
    copy = array.copy()
    copy[2] = value
    return copy


def with_data(groups):
    problem = build(Z, Y, ridge=0.1)
    problem.data = lambda seed=None: groups
    return problem


def group(inputs, targets):
    return bilevel.Batch(torch.as_tensor(inputs), torch.as_tensor(targets))


GOOD = group(Z, Y)

# what is wrong -> a problem that has it, the error, words of the message
BAD = {
    "targets (n, 1)": (lambda: with_data({"train": group(Z, Y[:, None])}), ShapeError,
                       r"\(13, 1\).*`outputs = None` means \(13,\).*Drop the second axis"),
    "targets (n,) for K": (lambda: build(Z, Y, ridge=0.1, outputs=1,
                                         start=np.zeros((M, 1))), ShapeError,
                           r"Targets have shape \(13,\).*means \(13, 1\)"),
    "test targets (n, 1)": (lambda: with_data({"train": GOOD, "test": group(Z, Y[:, None])}),
                            ShapeError, r"\(13, 1\)"),
    "constant target": (lambda: build(Z, np.full(N, 3.0), ridge=0.1), DataError, "all equal"),
    "NaN input": (lambda: build(spoiled(Z, np.nan), Y, ridge=0.1), DataError,
                  r'data\["train"\].*inputs.*4 values that are NaN or infinite'),
    "infinite target": (lambda: build(Z, spoiled(Y, np.inf), ridge=0.1), DataError,
                        r"targets.*1 values that are NaN or infinite"),
    "NaN in test rows": (lambda: with_data({"train": GOOD, "test": group(spoiled(Z, np.nan), Y)}),
                         DataError, r'data\["test"\]'),
    "int targets": (lambda: build(Z, np.arange(N), ridge=0.1), DataError,
                    r"floating point, got torch.int64.*\.float\(\)"),
    "empty": (lambda: with_data({"train": group(Z[:0], Y[:0])}), DataError, "is empty"),
    "no train": (lambda: with_data({"test": GOOD}), DataError, '"train"'),
    "nothing": (lambda: with_data({}), ProblemError, '"train"'),
    "unknown group": (lambda: with_data({"train": GOOD, "valid": GOOD}), DataError, "valid"),
    "no dict": (lambda: with_data(GOOD), DataError, "dict of row groups, got Batch"),
    "no Batch": (lambda: with_data({"train": (GOOD.inputs, GOOD.targets)}), ProblemError,
                 r"bilevel.Batch\(inputs, targets\)"),
    "rows differ": (lambda: with_data({"train": group(Z, Y[:-1])}), ShapeError, "differ in their"),
    "head too short": (lambda: build(Z, Y, ridge=0.1, start=np.zeros(M - 1)), ShapeError,
                       r"`init_head` must return \(4,\)"),
    "head without the bias": (lambda: build(Z, Y, ridge=0.1, fit_bias=True, start=np.zeros(M)),
                              ShapeError, r"4 features and a bias.*must return \(5,\)"),
    "head (M, 1)": (lambda: build(Z, Y, ridge=0.1, start=np.zeros((M, 1))), ShapeError,
                    r"`outputs = None` means \(M,\)"),
    "head not finite": (lambda: build(Z, Y, ridge=0.1, start=np.full(M, np.nan)), ProblemError,
                        r"`init_head\(\)` holds values that are not finite"),
    "penalty (M + 1,)": (lambda: build(Z, Y, penalty=lambda w: torch.ones(M + 1).double()),
                         ShapeError, r"`penalty` must return a scalar.*got \(5,\)"),
    "penalty of the bias": (lambda: build(Z, Y, fit_bias=True,
                                          penalty=lambda w: torch.ones(M + 1).double()),
                            ShapeError, "With `penalize_bias` it has a row for the bias"),
    "penalty (1, M)": (lambda: build(Z, Y, penalty=lambda w: torch.ones(1, M).double()),
                       ShapeError, "`penalty` must return"),
    "features of too few rows": (lambda: build(Z, Y, ridge=0.1, features=lambda w, x: w * x[1:]),
                                 ShapeError, r"`features` must return \(n, M\)"),
    "features (n,)": (lambda: build(Z, Y, ridge=0.1, features=lambda w, x: w * x[:, 0],
                                    start=np.zeros(M)), ShapeError, "`features` must return"),
    "weights (n, 1)": (lambda: build(Z, Y, ridge=0.1, row_weights=lambda w, b: w * torch.ones(
        len(b["train"].targets), 1)), ShapeError, "`row_weights` must return shape"),
    "one weight": (lambda: build(Z, Y, ridge=0.1, row_weights=lambda w, b: w), ShapeError,
                   "one weight for each"),
    "body penalty (1,)": (lambda: build(Z, Y, ridge=0.1, body_penalty=lambda w: w.reshape(1)),
                          ShapeError, "`head_objective`.*0-dim tensor"),
    "body penalty NaN": (lambda: build(Z, Y, ridge=0.1, body_penalty=lambda w: w * np.nan),
                         ProblemError, "nan at the first initial point"),
}  # fmt: skip


# a single point looks at no test rows
PAIRS = [
    (kind, entry)
    for kind in BAD
    for entry in ENTRIES
    if not (kind == "test targets (n, 1)" and entry in ("best_response", "hypergradient"))
]


@pytest.mark.parametrize(("kind", "entry"), PAIRS)
def test_bad_input_is_named_before_the_first_step(kind, entry, monkeypatch):
    def step(self):
        raise AssertionError("a step was made")

    monkeypatch.setattr("bilevel.training.cohort.Cohort.step", step)
    make, error, message = BAD[kind]
    with pytest.raises(error, match=message) as caught:
        ENTRIES[entry](make())
    assert isinstance(caught.value, BilevelError)


def test_good_input_passes_the_same_entries():
    for entry in ENTRIES.values():
        entry(build(Z, Y, ridge=0.1, start=np.zeros(M)))


def test_a_body_of_another_shape_is_refused_at_a_point():
    problem = build(Z, Y, ridge=0.1)
    with pytest.raises(ShapeError, match=r"`body` has the leaves .*\(2,\).*returns .*\(\)"):
        bilevel.best_response(problem, torch.ones(2).double())
    for body in (torch.tensor(1), torch.tensor(float("nan")), {}, {"w": 1.0}):
        with pytest.raises(ShapeError, match="body"):
            bilevel.best_response(problem, body)


@pytest.mark.parametrize("name", ["head_objective", "predict", "design"])
def test_final_methods_cannot_be_overridden(name):
    def own(self, *arguments):
        return torch.zeros(())

    with pytest.raises(FinalMethodError, match=rf"Own\.{name} overrides a final method"):
        type("Own", (bilevel.LinearHeadProblem,), {name: own})
    with pytest.raises(TypeError, match=name):
        type("Own", (type("Mixin", (), {name: own}), bilevel.LinearHeadProblem), {})
    late = type("Late", (bilevel.LinearHeadProblem,), {})
    with pytest.raises(TypeError, match=name):
        type("Own", (late,), {name: own})
    # another base class has no such promise
    type("Free", (bilevel.StackelbergProblem,), {name: own})


@pytest.mark.parametrize("k", [None, K])
@pytest.mark.parametrize("fit_bias", [False, True])
def test_metrics_are_in_users_units(k, fit_bias):
    """mse without the 1/2 and without the penalty, summed over outputs; r2 of the whole."""
    y = Y if k is None else YK
    test = group(normal(5, 7, M), normal(6, 7) if k is None else normal(6, 7, K))
    problem = build(Z, y, ridge=0.5, fit_bias=fit_bias, extra={"test": test})
    rows = M + fit_bias
    theta = normal(7, rows) if k is None else normal(7, rows, K)
    found = problem.metrics(1.5 * ONE, torch.as_tensor(theta), problem.data())
    assert list(found) == ["train_mse", "train_r2", "test_mse", "test_r2"]
    for name, batch in problem.data().items():
        inputs, targets = 1.5 * batch.inputs.numpy(), batch.targets.numpy()
        predictions = inputs @ theta[:M] + (theta[M] if fit_bias else 0.0)
        mse = mean_squared_error(targets, predictions) * (k or 1)
        assert float(found[f"{name}_mse"]) == pytest.approx(mse, rel=1e-12)
        r2 = r2_score(targets, predictions, multioutput="variance_weighted")
        assert float(found[f"{name}_r2"]) == pytest.approx(r2, rel=1e-12)


@pytest.mark.parametrize("k", [None, K])
@pytest.mark.parametrize("bias", ["none", "free", "penalised"])
@pytest.mark.parametrize("kind", ["scalar", "vector", "matrix"])
def test_the_objective_is_the_formula(k, bias, kind):
    """g = 1/n sum s |z theta - t|^2/2 + theta'diag(p) theta/2 + h, in NumPy."""
    if kind == "matrix" and k is None:
        return
    y = Y if k is None else YK
    rows = M + (bias != "none")
    size = rows - (bias == "free")
    shape = {"scalar": (), "vector": (size,), "matrix": (size, K)}[kind]
    p, s = 0.2 + np.abs(normal(8, *shape)), 0.2 + np.abs(normal(9, N))
    theta = normal(7, rows) if k is None else normal(7, rows, K)
    problem = build(
        Z, y, fit_bias=bias != "none", penalize_bias=bias == "penalised",
        penalty=lambda w: torch.as_tensor(p), body_penalty=lambda w: 3 * w,
        row_weights=lambda w, batch: torch.as_tensor(s),
    )  # fmt: skip
    design = np.column_stack([Z, np.ones(N)]) if bias != "none" else Z
    columns, targets = theta.reshape(rows, -1), y.reshape(N, -1)
    squares = ((design @ columns - targets) ** 2).sum(1)
    weights = np.broadcast_to(p.reshape(size, -1) if shape else p, (size, columns.shape[1]))
    expected = (s * squares).mean() / 2 + (weights * columns[:size] ** 2).sum() / 2 + 3
    found = problem.head_objective(ONE, torch.as_tensor(theta), problem.data())
    assert float(found) == pytest.approx(expected, rel=1e-13)
    assert problem.is_stackelberg


def test_predictions_keep_the_shape_of_the_targets():
    for y in (Y, YK[:, :1], YK):
        problem = build(Z, y, ridge=0.1, fit_bias=True)
        head = head_of(problem).head
        assert problem.predict(ONE, head, torch.as_tensor(Z)).shape == y.shape


def test_numpy_arrays_are_data_too():
    problem = with_data({"train": bilevel.Batch(Z, Y)})
    assert torch.equal(head_of(problem).head, head_of(build(Z, Y, ridge=0.1)).head)


def test_a_batch_replaces_the_rows_at_a_point():
    problem = build(Z, Y, ridge=0.1)
    other = build(Z[:6], Y[:6], ridge=0.1)
    found = bilevel.best_response(problem, ONE, batch={"train": group(Z[:6], Y[:6])})
    assert torch.equal(found.head, head_of(other).head)
    with pytest.raises(ShapeError):
        bilevel.best_response(problem, ONE, batch={"train": group(Z[:6], Y[:6, None])})
    with pytest.raises(DataError):
        bilevel.best_response(problem, ONE, batch={"train": group(spoiled(Z, np.nan), Y)})


def test_hooks_set_on_an_instance_count():
    """A lambda in the place of a hook is obeyed by every part, as a method would be."""
    by_class = build(
        Z, Y, penalty=lambda w: 0.3 * w, body_penalty=lambda w: w**2,
        row_weights=lambda w, batch: w * torch.linspace(1, 2, N).double(),
    )  # fmt: skip
    by_instance = build(Z, Y)
    by_instance.penalty = lambda w: 0.3 * w
    by_instance.body_penalty = lambda w: w**2
    by_instance.row_weights = lambda w, batch: w * torch.linspace(1, 2, N).double()
    expected, found = (bilevel.hypergradient(p, 1.2 * ONE) for p in (by_class, by_instance))
    assert torch.equal(found.response.head, expected.response.head)
    assert torch.equal(found.body, expected.body)
    assert found.value == expected.value
    plain = build(Z, Y, ridge=0.1)
    plain.body_objective = lambda w, head, batch: (head**2).sum()
    with pytest.raises(TypeError, match="`Implicit`"):
        bilevel.hypergradient(plain, ONE, bilevel.Envelope())


def test_features_that_are_free_of_the_body_take_none():
    with pytest.raises(
        ProblemError, match=r"Own has `body_free_features = True`.*features\(self, i"
    ):

        class Own(bilevel.LinearHeadProblem):
            body_free_features = True

            def features(self, body, inputs):
                return inputs

    class Scaled(bilevel.LinearHeadProblem):
        body_free_features = True

        def features(self, inputs, factor=2, *rest, **more):
            return factor * inputs

    assert Scaled.body_free_features
