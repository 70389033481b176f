"""The zoo: every registered problem, its data, its network, its known answers."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from torch.nn import functional

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, UnknownNameError
from bilevel.problem import registry
from bilevel.problem.network.hidden_layers import ACTIVATIONS, Network
from problems.regression import diabetes, friedman1, friedman2, friedman3
from problems.toy import ScalarProduct

TINY = {
    "diabetes": {"width": 5},
    "friedman1": {"width": 5, "train": 21, "validation": 6, "test": 9},
    "friedman2": {"width": 5, "train": 21, "validation": 6, "test": 9},
    "friedman3": {"width": 5, "train": 21, "validation": 6, "test": 9},
    "scalar-product": {"noise_scale": 0.3},
    "linear-network": {"rows": 21},
    "analytic": {},  # A13, whose F is g; the others have tests of their own
}
REGRESSION = [name for name in TINY if name not in {"scalar-product", "analytic", "linear-network"}]
COLUMNS = {"diabetes": 10, "friedman1": 10, "friedman2": 4, "friedman3": 4}


NEED_A_FILE = {"boston", "table", "transitions"}  # tested in files of their own
CLASSIFICATION = {"digits", "breast-cancer", "mnist", "fashion-mnist", "cifar10"}  # likewise
EVALUATION = {"policy-evaluation", "neural-policy-evaluation"}  # likewise
FEW_SHOT = {"sinusoid", "episodes"}  # likewise
TEACHER = {"teacher"}  # likewise
TRUE_BILEVEL = {"group-ridge", "logistic-penalties", "hyper-cleaning"}  # likewise
ONLINE = {"atari", "cartpole"}  # likewise


def test_every_registered_problem_is_tested():
    elsewhere = NEED_A_FILE | CLASSIFICATION | EVALUATION | FEW_SHOT | TEACHER | TRUE_BILEVEL
    elsewhere |= ONLINE
    assert sorted(elsewhere | set(TINY)) == registry.names()


def start(problem, seed=0):
    return problem.init_body(generator(seed, "body")), problem.init_head(generator(seed, "head"))


def equal(a, b):
    return trees.same_structure(a, b) and all(
        torch.equal(x, y) for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True)
    )


@pytest.mark.parametrize("name", TINY)
def test_problems_train(name):
    """Each strategy of the presets makes finite steps on it, and the head's bound is proven."""
    problem = registry.load_problem(name, **TINY[name])
    for strategy in (bilevel.TwoTimescale(1e-3, 1e-2), bilevel.BestResponse(1e-3)):
        solution = bilevel.solve(problem, strategy, steps=3, batch_size=4, seeds=2)
        assert not any(status.failed for status in solution.status)
        assert all(values.isfinite().all() for values in solution.history.values())
        assert solution.bound_kind == "proven"
        gap, bound = solution.history["head_gap"], solution.history["head_bound"]
        assert (gap <= bound + 1e-12).all()


@pytest.mark.parametrize("name", TINY)
def test_seeds_are_reproducible_and_different(name):
    problem, again = (
        registry.load_problem(name, **TINY[name]),
        registry.load_problem(name, **TINY[name]),
    )
    for first, second in zip(start(problem, 3), start(again, 3), strict=True):
        assert equal(first, second)
    for first, second in zip(start(problem, 3), start(problem, 4), strict=True):
        assert not equal(first, second)
    if problem.redraws_data:
        assert equal(problem.data(3), again.data(3))
        assert not equal(problem.data(3), problem.data(4))
        assert trees.same_structure(problem.data(3), problem.data(4))
        assert equal(problem.data(), problem.data(0))


def central(function, tree, index, entry, step):
    """d function / d (one entry of one leaf), error of order step^4."""

    def at(shift):
        leaves = [leaf.clone() for leaf in trees.leaves(tree)]
        leaves[index][entry] += shift
        return float(function(trees.rebuild(tree, leaves)))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_autograd_against_central_differences(name, activation):
    options = dict(TINY[name])
    if "width" in options:
        options["activation"] = activation
        options["depth"] = 2
    problem = registry.load_problem(name, **options)
    batch = {key: rows for key, rows in problem.data(1).items() if key != "test"}
    if "noise_scale" in options:
        batch["noise"] = problem.noise(generator(0, "noise"), 1)[0]
    levels = start(problem, 1)
    for level in (0, 1):

        def value(tree, level=level):
            pair = [tree, levels[1]] if level == 0 else [levels[0], tree]
            return problem.head_objective(*pair, batch)

        variables = trees.tree_map(lambda leaf: leaf.clone().requires_grad_(), levels[level])
        slopes = torch.autograd.grad(value(variables), trees.leaves(variables))
        assert all(slope.abs().max() > 1e-6 for slope in slopes)
        # a step that seldom crosses the kink of relu
        step, tolerance = (1e-6, 1e-7) if activation == "relu" else (1e-3, 1e-10)
        for index, slope in enumerate(slopes):
            entries = list(itertools.product(*map(range, slope.shape)))
            for entry in entries[:: max(1, len(entries) // 5)]:
                expected = central(value, levels[level], index, entry, step)
                assert float(slope[entry]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", REGRESSION)
def test_shapes(name):
    problem = registry.load_problem(name, **TINY[name])
    groups, (body, head) = problem.data(0), start(problem)
    assert list(groups) == ["train", "test", "validation"]
    for rows in groups.values():
        assert rows.inputs.shape == (len(rows.targets), COLUMNS[name])
        assert rows.targets.ndim == 1
        assert rows.inputs.dtype == rows.targets.dtype == torch.float64
    assert head.shape == (6,)  # five features and a bias
    assert {key: tuple(leaf.shape) for key, leaf in body.items()} == {
        "weight1": (COLUMNS[name], 5),
        "bias1": (5,),
    }
    assert problem.predict(body, head, groups["test"].inputs).shape == groups["test"].targets.shape


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("seed", [0, 5])
def test_standardised_with_training_rows_only(name, seed):
    problem = registry.load_problem(name, **TINY[name])
    raw, groups = problem.draw(seed), problem.data(seed)
    for part in (0, 1):
        train = raw["train"][part]
        mean, deviation = train.mean(0), train.std(0)
        for group, rows in groups.items():
            expected = (raw[group][part] - mean) / deviation
            np.testing.assert_allclose(rows[part], expected, rtol=1e-9, atol=1e-11)
        assert float(groups["train"][part].mean(0).abs().max()) < 1e-12
        assert float((groups["train"][part].std(0, correction=0) - 1).abs().max()) < 1e-12
        for group in ("validation", "test"):
            assert float(groups[group][part].mean(0).abs().max()) > 1e-3
            assert float((groups[group][part].std(0, correction=0) - 1).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("factory", "make", "noise"),
    [
        (friedman1, make_friedman1, 1.0),
        (friedman2, make_friedman2, 125.0),
        (friedman3, make_friedman3, 0.1),
    ],
)
def test_friedman_rows_are_those_of_scikit_learn(factory, make, noise):
    """The documented noise is the default, and no row is used twice."""
    raw = factory(train=11, validation=5, test=7).draw(4)
    inputs, targets = make(n_samples=23, noise=noise, random_state=4)
    order = ("train", "validation", "test")
    assert [len(raw[group][1]) for group in order] == [11, 5, 7]
    np.testing.assert_array_equal(np.concatenate([raw[group][0] for group in order]), inputs)
    np.testing.assert_array_equal(np.concatenate([raw[group][1] for group in order]), targets)
    quiet = factory(train=11, validation=5, test=7, noise=0.0).draw(4)
    assert not np.array_equal(quiet["train"][1], raw["train"][1])


@pytest.mark.parametrize("seed", [0, 1, 9])
def test_diabetes_splits_are_disjoint_and_complete(seed):
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    raw = diabetes().draw(seed)
    assert {group: len(y) for group, (_, y) in raw.items()} == {
        "train": 266, "test": 88, "validation": 88,
    }  # fmt: skip
    rows = np.concatenate([np.column_stack([x, y]) for x, y in raw.values()])
    whole = np.column_stack([inputs, targets])

    def ordered(table):
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(ordered(rows), ordered(whole))
    assert not np.array_equal(rows, whole)  # shuffled


def test_diabetes_fractions_are_options():
    raw = diabetes(validation=0.1, test=0.3).draw(0)
    assert {group: len(y) for group, (_, y) in raw.items()} == {
        "train": 442 - 133 - 44, "test": 133, "validation": 44,
    }  # fmt: skip


@pytest.mark.parametrize(("depth", "width"), [(1, 50), (3, 40)])
def test_initial_values_fill_the_range_of_linear_layers(depth, width):
    """Uniform in +-1/sqrt(fan-in), biases too: torch's default."""
    problem = diabetes(width=width, depth=depth)
    body, head = start(problem, 2)
    assert list(body) == [f"{kind}{layer}" for layer in range(1, depth + 1)
                          for kind in ("weight", "bias")]  # fmt: skip
    for layer, fan_in in enumerate([10] + [width] * (depth - 1), start=1):
        for leaf in (body[f"weight{layer}"], body[f"bias{layer}"]):
            scaled = leaf * fan_in**0.5
            assert float(scaled.abs().max()) <= 1
            assert float(scaled.max()) > 0.8
            assert float(scaled.min()) < -0.8
            assert abs(float(scaled.mean())) < 0.3
    assert 0.8 < float(head.abs().max()) * width**0.5 <= 1


SIGMAS = {
    "relu": lambda x: x.clamp(min=0),
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "softplus": lambda x: torch.log(1 + torch.exp(x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": functional.gelu,
}


@pytest.mark.parametrize("activation", SIGMAS)
@pytest.mark.parametrize("depth", [1, 3])
def test_features_are_those_of_the_network(activation, depth):
    assert set(SIGMAS) == set(ACTIVATIONS)
    problem = diabetes(width=4, depth=depth, activation=activation)
    (body, _), hidden = start(problem), problem.data(0)["test"].inputs
    found = problem.features(body, hidden)
    for layer in range(1, depth + 1):
        hidden = SIGMAS[activation](hidden @ body[f"weight{layer}"] + body[f"bias{layer}"])
    torch.testing.assert_close(found, hidden, rtol=1e-12, atol=1e-14)


def test_an_unknown_activation_shows_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'rellu'.*Did you mean 'relu'"):
        diabetes(activation="rellu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network(width=0), "a positive integer"),
        (lambda: Network(depth=0), "a positive integer"),
        (lambda: Network(width=2.5), "a positive integer"),
        (lambda: Network(width=True), "a positive integer"),
        (lambda: diabetes(ridge=-1e-9), "`ridge` must be at least 0"),
        (lambda: diabetes(ridge=float("nan")), "`ridge` must be at least 0"),
        (lambda: diabetes(test=0.0), "fractions"),
        (lambda: diabetes(test=0.5, validation=0.45), "fractions"),
        (lambda: diabetes(test=1e-4), "2 rows each"),
        (lambda: friedman1(train=1), "at least 2 rows"),
        (lambda: friedman2(noise=-1.0), "`noise` must be at least 0"),
        (lambda: ScalarProduct(ridge=0.0), "`ridge` must be positive"),
        (lambda: ScalarProduct(curvature=-0.1), "`curvature` must be at least 0"),
        (lambda: ScalarProduct(noise_scale=-0.1), "`noise_scale` must be at least 0"),
    ],
)
def test_bad_options_are_refused_when_the_problem_is_made(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


BEST, LEAST = 1.470468517231, 0.2662277660168


def double(w):
    return torch.tensor(w, dtype=torch.float64)


def test_lemma_4_1_states_its_optimum():
    found = bilevel.hypergradient(ScalarProduct(), double(BEST))
    assert abs(float(found.body)) < 1e-12
    assert found.value == pytest.approx(LEAST, abs=1e-13)
    assert float(found.response.head) == pytest.approx(BEST / (BEST**2 + 1), abs=1e-14)
    metrics = ScalarProduct().metrics(double(BEST), found.response.head, {})
    assert all(float(value) < 1e-24 for value in metrics.values())
    assert ScalarProduct(ridge=0.5).metrics(double(1.0), double(0.0), {}) == {}


@pytest.mark.parametrize(("ridge", "curvature"), [(1.0, 0.1), (0.4, 0.0)])
@pytest.mark.parametrize("w", [0.65, 1.0, 2.9])
def test_lemma_4_1_second_derivative(ridge, curvature, w):
    """Phi'' = m + l (3 w^2 - l)/(w^2 + l)^3, from differences of the hypergradient."""

    def slope(at):
        return float(bilevel.hypergradient(ScalarProduct(ridge, curvature), double(at)).body)

    step = 1e-3
    near, far = slope(w + step) - slope(w - step), slope(w + 2 * step) - slope(w - 2 * step)
    second = curvature + ridge * (3 * w**2 - ridge) / (w**2 + ridge) ** 3
    assert (8 * near - far) / (12 * step) == pytest.approx(second, abs=1e-10)
    assert second > 0  # W was chosen so that Phi is strongly convex on it


def test_lemma_4_1_joint_objective_is_not_convex():
    pair = torch.tensor([0.6, 0.0], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(
        lambda x: ScalarProduct().head_objective(x[0], x[1], {}), pair
    )
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -0.1


def test_lemma_4_1_noise_is_a_slope_in_each_level_and_off_in_evaluations():
    problem = ScalarProduct(noise_scale=0.5)
    noise = problem.noise(generator(0, "noise"), 4000)
    assert noise.shape == (4000, 2)
    assert noise.mean(0).abs().max() < 0.03
    assert (noise.std(0) - 0.5).abs().max() < 0.02
    w, theta = double(1.2), double(0.4)
    still = problem.head_objective(w, theta, {})
    moved = problem.head_objective(w, theta, {"noise": noise[0]})
    assert float(moved - still) == pytest.approx(float(noise[0, 0] * w + noise[0, 1] * theta))
    assert ScalarProduct().noise(generator(0), 3) is None
    assert (
        bilevel.hypergradient(problem, w).value == bilevel.hypergradient(ScalarProduct(), w).value
    )
