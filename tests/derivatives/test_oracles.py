"""Oracles for many runs at once against autograd and differences on single runs."""

import pytest
import torch
from small_problems import (
    D,
    General,
    K,
    M,
    Noisy,
    Scalar,
    Smooth,
    TrueBilevel,
    doubles,
    points,
    sampler,
)

from bilevel import trees
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError
from bilevel.problem.criteria import AbstractCriterion

SEEDS, BATCH = [4, 0, 2], 5


class Weighted(Smooth):
    """Every hook of a linear head: the weights use the batch, the penalty has K columns."""

    def row_weights(self, body, batch):
        return torch.sigmoid(batch["train"].inputs @ body["weight"][:, 0])

    def penalty(self, body):
        shape = (M + (self.fit_bias and self.penalize_bias), self.outputs or 1)
        p = 0.2 + body["bias"][:1] ** 2 + torch.arange(shape[0] * shape[1]).reshape(shape) / 7
        return p if self.outputs else p[:, 0]

    def body_penalty(self, body):
        return 0.3 * (body["weight"] ** 2).sum()


class Decayed(Smooth):
    """A penalty of the body alone."""

    body_penalty = Weighted.body_penalty


class LogCosh(AbstractCriterion):
    """A criterion that is not quadratic."""

    def rows(self, predictions, targets):
        found = torch.log(torch.cosh(predictions - targets))
        return found if found.ndim == 1 else found.sum(-1)

    def metrics(self, predictions, targets):
        return {}

    def check_targets(self, targets, outputs):
        pass


class BodyFree(Smooth):
    """Features of the inputs alone."""

    body_free_features = True

    def features(self, inputs):
        return torch.cos(inputs @ doubles(3, D, M))


class FreePenalties(BodyFree):
    """A penalty of each of its coefficients, of the body."""

    def penalty(self, body):
        p = (body["weight"].mean() + body["bias"]).exp()
        return p.unsqueeze(1) * torch.arange(1, 1 + self.outputs) if self.outputs else p


class IgnoresHead(General):
    """g does not depend on one leaf of the head, nor F on the head at all."""

    def head_objective(self, body, head, batch):
        return (head["slope"] ** 2).sum() * body["scale"].sum()

    def body_objective(self, body, head, batch):
        return (body["scale"] ** 2).sum()


PROBLEMS = {
    "linear": Smooth(),
    "linear, bias": Smooth(fit_bias=True),
    "linear, penalised bias": Smooth(fit_bias=True, penalize_bias=True),
    "linear, outputs": Smooth(outputs=K),
    "linear, outputs and bias": Smooth(outputs=K, fit_bias=True),
    "linear, one output": Smooth(outputs=1, fit_bias=True),
    "linear, redrawn": Smooth(redraws_data=True, fit_bias=True),
    "linear, tensor ridge": Smooth(ridge=torch.tensor([0.1, 0.4, 0.2, 0.7]).double(), outputs=M),
    "linear, all hooks": Weighted(),
    "linear, all hooks, outputs and bias": Weighted(outputs=K, fit_bias=True),
    "linear, all hooks, penalised bias": Weighted(fit_bias=True, penalize_bias=True),
    "linear, penalty of the body": Decayed(fit_bias=True),
    "linear, constant penalty of the body": Decayed(body_penalty=lambda body: 0.5),
    "linear, fixed features": BodyFree(),
    "linear, fixed features, penalty of the body": BodyFree(body_penalty=Decayed().body_penalty),
    "linear, fixed features, penalties of the body": FreePenalties(fit_bias=True),
    "linear, fixed features, penalties of outputs": FreePenalties(outputs=K),
    "other criterion": Smooth(criterion=LogCosh(), fit_bias=True),
    "other criterion, outputs": Smooth(criterion=LogCosh(), outputs=K),
    "tree head": General(),
    "tree head, quadratic": General(power=2),
    "true bilevel": TrueBilevel(),
    "unused leaves": IgnoresHead(),
    "scalar": Scalar(),
    "noisy scalar": Noisy(),
}
HOOKS = [name for name in PROBLEMS if "all hooks" in name]
FREE = [name for name in PROBLEMS if "features, penalties" in name]
ROWS = ["shared", "per run", "mixed"]


def setting(name, kind="per run"):
    """Oracles, bodies, heads and rows of three runs."""
    problem = PROBLEMS[name]
    size = {"shared": None, "per run": BATCH, "mixed": {"train": BATCH}}[kind]
    if isinstance(problem, (Scalar, Noisy)) and kind == "mixed":
        size = None
    rows = sampler(problem, SEEDS, size).rows(3)
    return Oracles(problem), *points(problem, SEEDS), rows


def run_of(tree, run):
    return trees.take(tree, run)


def rows_of(rows, run):
    """The groups of a single run."""
    return {
        name: trees.take(group, run) if rows.axes[name] == 0 else group
        for name, group in rows.groups.items()
    }


def slopes(function, body, head, groups):
    """Gradients of a single run in both levels, by reverse mode; zeros where nothing depends."""
    leaves = [x.clone().requires_grad_() for x in trees.leaves(body) + trees.leaves(head)]
    count = len(trees.leaves(body))
    value = function(
        trees.rebuild(body, leaves[:count]), trees.rebuild(head, leaves[count:]), groups
    )
    found = torch.autograd.grad(value, leaves, materialize_grads=True)
    return trees.rebuild(body, found[:count]), trees.rebuild(head, found[count:])


def assert_runs(found, expected, rtol=1e-12):
    """`found` has a run axis; `expected` is a list over runs."""
    assert not any(x.requires_grad or x.grad_fn is not None for x in trees.leaves(found))
    for run, one in enumerate(expected):
        assert trees.same_structure(run_of(found, run), one)
        for got, want in zip(trees.leaves(found), trees.leaves(one), strict=True):
            torch.testing.assert_close(got[run], want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_gradients_are_those_of_single_runs(name, kind):
    oracles, body, head, rows = setting(name, kind)
    problem, runs = oracles.problem, range(len(SEEDS))
    singles = [(run_of(body, r), run_of(head, r), rows_of(rows, r)) for r in runs]
    g = [slopes(problem.head_objective, *one) for one in singles]
    big_f = [slopes(problem.body_objective, *one) for one in singles]
    assert_runs(oracles.head_value(body, head, rows), [problem.head_objective(*s) for s in singles])
    assert_runs(oracles.body_value(body, head, rows), [problem.body_objective(*s) for s in singles])
    assert_runs(oracles.head_gradient(body, head, rows), [in_head for _, in_head in g])
    assert_runs(oracles.direct_gradient(body, head, rows), [in_body for in_body, _ in big_f])
    assert_runs(oracles.joint_gradient(body, head, rows), g)
    assert_runs(oracles.body_gradients(body, head, rows), big_f)
    oracles.cross_vjp(body, head, head, rows)
    assert not any(
        x.requires_grad for x in trees.leaves((body, head))
    )  # arguments stay as they are


@pytest.mark.parametrize("level", ["body", "head", "both"])
@pytest.mark.parametrize("name", [name for name in PROBLEMS if isinstance(PROBLEMS[name], Smooth)])
def test_the_structure_of_linear_heads_changes_no_gradient(name, level):
    oracles, body, head, rows = setting(name)
    assert (oracles.features is not None) == (name not in ("linear, tensor ridge", *HOOKS, *FREE))
    g = oracles.problem.head_objective
    found = oracles._gradients(g, body, head, rows, level)
    oracles.features = None
    expected = oracles._gradients(g, body, head, rows, level)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_runs(one, [run_of(other, run) for run in range(len(SEEDS))])


def central(function, at, direction, step=1e-5):
    """Central difference of a function of a run's tree along a direction."""
    plus = trees.tree_map(lambda x, v: x + step * v, at, direction)
    minus = trees.tree_map(lambda x, v: x - step * v, at, direction)
    return trees.tree_map(lambda a, b: (a - b) / (2 * step), function(plus), function(minus))


def random_like(tree, seed):
    return trees.tree_map(lambda x: doubles([seed, x.ndim], *x.shape), tree)


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_are_central_differences_of_values(name):
    oracles, body, head, rows = setting(name)
    in_body, in_head = oracles.joint_gradient(body, head, rows)
    v, u = random_like(body, 1), random_like(head, 2)
    along_body = central(lambda x: oracles.head_value(x, head, rows), body, v)
    along_head = central(lambda x: oracles.head_value(body, x, rows), head, u)
    torch.testing.assert_close(trees.dot(in_body, v), along_body, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(trees.dot(in_head, u), along_head, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_second_derivatives_are_central_differences_of_gradients(name, kind):
    oracles, body, head, rows = setting(name, kind)
    u = random_like(head, 2)
    product = oracles.head_hvp(body, head, u, rows)
    expected = central(lambda x: oracles.head_gradient(body, x, rows), head, u)
    assert_runs(product, [run_of(expected, r) for r in range(len(SEEDS))], 1e-7)
    cross = oracles.cross_vjp(body, head, u, rows)
    expected = central(lambda x: oracles.joint_gradient(body, x, rows)[0], head, u)
    assert_runs(cross, [run_of(expected, r) for r in range(len(SEEDS))], 1e-7)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_hessian_is_that_of_single_runs_and_agrees_with_products(name):
    oracles, body, head, rows = setting(name)
    found = oracles.head_hessian(body, head, rows)
    size = trees.flatten(head).shape[1]
    assert found.shape == (len(SEEDS), size, size)
    assert not found.requires_grad
    for run in range(len(SEEDS)):
        one_body, groups = run_of(body, run), rows_of(rows, run)

        def value(v, one_body=one_body, groups=groups):
            one_head = trees.take(trees.unflatten(v.unsqueeze(0), head), 0)
            return oracles.problem.head_objective(one_body, one_head, groups)

        vector = trees.flatten(head)[run]
        expected = torch.autograd.functional.hessian(value, vector)
        torch.testing.assert_close(found[run], expected, rtol=1e-12, atol=1e-12)
    u = random_like(head, 5)
    flat = (found @ trees.flatten(u).unsqueeze(2)).squeeze(2)
    product = trees.flatten(oracles.head_hvp(body, head, u, rows))
    torch.testing.assert_close(flat, product, rtol=1e-12, atol=1e-12)


LINEAR = [name for name in PROBLEMS if name.startswith("linear")]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_parts_make_up_the_objective(name, kind):
    oracles, body, head, rows = setting(name, kind)
    parts = oracles.linear_parts(body, rows)
    theta = head.unsqueeze(2) if head.ndim == 2 else head
    targets = parts.targets.unsqueeze(2) if head.ndim == 2 else parts.targets
    penalty = parts.penalty.unsqueeze(2) if parts.penalty.ndim == 2 else parts.penalty
    losses = 0.5 * (parts.design @ theta - targets).square().sum(2)
    weights = torch.ones_like(losses) if parts.weights is None else parts.weights
    value = (weights * losses).mean(1) + 0.5 * (penalty * theta**2).sum((1, 2))
    constant = [oracles.problem.body_penalty(trees.take(body, run)) for run in range(len(value))]
    value = value + torch.stack([torch.as_tensor(h, dtype=value.dtype) for h in constant])
    expected = oracles.head_value(body, head, rows)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert not any(x.requires_grad for x in parts if x is not None)
    torch.testing.assert_close(oracles.linear_penalty(body, head), parts.penalty, rtol=0, atol=0)


def test_features_without_a_body_are_not_looked_at_for_cross_products(monkeypatch):
    oracles, body, head, rows = setting("linear, fixed features, penalties of the body")
    vector = random_like(head, 3)
    expected = oracles._second(body, head, vector, rows, "body")
    monkeypatch.setattr(BodyFree, "features", None)
    found = oracles.cross_vjp(body, head, vector, rows)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert float(found["weight"].abs().min()) > 0


def test_unused_leaves_have_zero_derivatives():
    oracles, body, head, rows = setting("unused leaves")
    in_body, in_head = oracles.body_gradients(body, head, rows)
    assert float(in_body["scale"].abs().min()) > 0
    zeros = [in_body["idle"], in_body["nested"]["shift"], *trees.leaves(in_head)]
    zeros += [oracles.head_gradient(body, head, rows)["offset"]]
    zeros += [oracles.head_hvp(body, head, random_like(head, 1), rows)["offset"]]
    zeros += [oracles.cross_vjp(body, head, random_like(head, 1), rows)["idle"]]
    assert all(bool((x == 0).all()) for x in zeros)
    hessian = oracles.head_hessian(body, head, rows)
    assert bool((hessian[:, -1] == 0).all())


def test_predictions_are_those_of_single_runs():
    for name in ("linear, bias", "linear, outputs", "linear, fixed features"):
        oracles, body, head, _ = setting(name)
        inputs = doubles(9, 6, D)
        found = oracles.predictions(body, head, inputs)
        for run in range(len(SEEDS)):
            one = oracles.problem.predict(run_of(body, run), head[run], inputs)
            torch.testing.assert_close(found[run], one, rtol=1e-13, atol=1e-13)
    oracles, body, head, rows = setting("tree head")
    for ask in (
        lambda: oracles.predictions(body, head, doubles(9, 6, D)),
        lambda: oracles.linear_parts(body, rows),
        lambda: oracles.linear_penalty(body, trees.flatten(head)),
    ):
        with pytest.raises(IncompatibleError, match="General"):
            ask()


def test_metrics_are_in_users_units():
    oracles, body, head, _ = setting("linear, bias")
    data = sampler(oracles.problem, SEEDS).data
    found = oracles.metrics(body, head, data.everything())
    assert set(found) == {
        f"{g}_{m}" for g in ("train", "validation", "test") for m in ("mse", "r2")
    }
    for run in range(len(SEEDS)):
        group = data.groups["test"]
        error = oracles.problem.predict(run_of(body, run), head[run], group.inputs) - group.targets
        variance = group.targets.var(correction=0)
        torch.testing.assert_close(found["test_mse"][run], (error**2).mean())
        torch.testing.assert_close(found["test_r2"][run], 1 - (error**2).mean() / variance)


def test_a_bad_run_does_not_touch_the_others():
    for name in ("linear, outputs and bias", "linear, all hooks", "tree head"):
        oracles, body, head, rows = setting(name, "shared")
        good = oracles.joint_gradient(body, head, rows)
        broken = trees.where(
            torch.tensor([False, True, False]), trees.tree_map(lambda x: x * torch.nan, body), body
        )
        bad = oracles.joint_gradient(broken, head, rows)
        for one, other in zip(trees.leaves(good), trees.leaves(bad), strict=True):
            assert torch.equal(one[[0, 2]], other[[0, 2]])
