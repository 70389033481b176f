"""Heads of new tasks: at a point, of a solution, and at records."""

import dataclasses

import pytest
import torch
from tasks import M, Query, Tasks, drawn, first_body, separate

import bilevel
from bilevel.errors import (
    ArgumentError,
    BilevelError,
    DataError,
    IncompatibleError,
    ProblemError,
    ShapeError,
)
from bilevel.exact import ridge_head

OPTIONS = {"steps": 1, "seeds": 2, "batch_size": 2, "dtype": torch.float64}
KINDS = {"labels": Query(kind="labels", fit_bias=True), "outputs": Query(kind=2), "one": Query()}


def trained(problem, **options):
    """A short training by exact heads."""
    return bilevel.solve(problem, bilevel.BestResponse(0.1), **(OPTIONS | options))


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_a_new_task_is_that_of_a_problem_of_its_own(kind):
    problem = KINDS[kind]
    found, new = trained(problem), drawn(problem.kind, 9, 2, 7)
    heads = found.adapt(*new)
    body = {name: leaf[1] for name, leaf in found.body.items()}
    for task in range(2):
        rows = bilevel.Batch(*(leaf[task] for leaf in new))
        own = bilevel.best_response(separate(problem)[0], body, batch={"train": rows})
        torch.testing.assert_close(heads[1, task], own.head, rtol=1e-10, atol=1e-11)
    one = bilevel.adapt(problem, body, *(leaf.numpy() for leaf in rows))
    torch.testing.assert_close(one.head, own.head, rtol=1e-10, atol=1e-11)
    assert one.bound == pytest.approx(own.bound, rel=1e-3, abs=1e-11)
    several = bilevel.adapt(problem, body, *new).head
    torch.testing.assert_close(several, heads[1], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(found.adapt(*(leaf[1] for leaf in new)), heads[:, 1])


def test_adapted_heads_are_differentiable():
    problem, rows = Query(), drawn(None, 9, 1, 7)
    body = {name: leaf.requires_grad_() for name, leaf in first_body(problem).items()}
    gradients = []
    for find in (
        lambda: bilevel.adapt(problem, body, *(leaf[0] for leaf in rows)).head,
        lambda: bilevel.best_response(problem, body, batch={"train": rows}).head[0],
        lambda: ridge_head(problem.features(body, rows.inputs[0]), rows.targets[0], problem.ridge),
    ):
        (gradient,) = torch.autograd.grad(find().square().sum(), [body["weight"]])
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-11)


def test_what_does_not_fit_a_new_task_is_refused():
    found, (inputs, targets) = trained(Query()), drawn(None, 9, 2, 7)
    labels, _ = trained(KINDS["labels"]), None
    unknown = bilevel.FastSGD(torch.tensor([0.1, 0.2, 0.3]), 2)
    for call, error, words in (
        (lambda: found.adapt(inputs[0], targets[0, :5]), ShapeError, r"\(7, 2\).*\(5,\)"),
        (lambda: found.adapt(inputs, targets[:1]), ShapeError, "of the same rows"),
        (lambda: found.adapt(inputs[..., :1], targets), ProblemError, "fails"),
        (lambda: found.adapt(inputs[0, :0], targets[0, :0]), ShapeError, "T, n"),
        (lambda: found.adapt(inputs, targets, unknown), ArgumentError, "each of the 2 runs"),
        (lambda: found.adapt(inputs, targets, "Newton"), ArgumentError, "solver"),
        (lambda: labels.adapt(inputs[0], targets[0]), DataError, "int64"),
        (lambda: found.predict(inputs[0]), IncompatibleError, "`adapt`"),
        (
            lambda: bilevel.adapt(separate(Query())[0], first_body(Query()), inputs, targets),
            IncompatibleError,
            "has no tasks",
        ),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert isinstance(caught.value, BilevelError)


def test_targets_of_a_new_task_may_be_all_the_same():
    inputs = drawn(None, 9, 1, 7).inputs[0]
    heads = trained(Query()).adapt(inputs, torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(heads, torch.zeros(2, M, dtype=torch.float64))
    found = trained(Query(kind="labels")).adapt(inputs, torch.zeros(7, dtype=torch.int64))
    assert bool((found[..., 0].norm(dim=1) > found[..., 1].norm(dim=1)).all())


def test_solvers_that_know_no_tasks_find_heads_of_new_ones():
    problem, rows = Tasks(head_set=bilevel.Box(-0.1, 0.1), extra=NEW), drawn(None, 9, 2, 7)
    found = bilevel.solve(problem, bilevel.TwoTimescale(0.1, 0.1), **OPTIONS)
    assert bool(found.history["test_mse"].isfinite().all())
    body = {name: leaf[1] for name, leaf in found.body.items()}
    heads = found.adapt(*rows)
    assert float(heads.abs().amax()) == 0.1
    torch.testing.assert_close(
        heads[1], bilevel.adapt(found.problem, body, *rows, bilevel.ProjectedNewton()).head
    )


def test_a_run_that_diverged_harms_no_other():
    found, rows = trained(Query()), drawn(None, 9, 2, 7)
    body = {"weight": found.body["weight"].clone()}
    body["weight"][0] = torch.nan
    heads = dataclasses.replace(found, body=body).adapt(*rows)
    assert bool(heads[0].isnan().all())
    torch.testing.assert_close(heads[1], found.adapt(*rows)[1])


NEW = {"test": {"train": drawn(None, 77, 4, 6), "test": drawn(None, 77, 4, 7)}}
FAST = bilevel.FastSGD(0.2, 2, restart=True)
ADAPTERS = {
    "exact": (bilevel.BestResponse(0.1), None),
    "steps": (bilevel.BestResponse(0.1, FAST, bilevel.Unrolled(2)), FAST),
    "kept": (bilevel.BestResponse(0.1, bilevel.FastSGD(0.2, 2), bilevel.Unrolled(2)), None),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_records_judge_new_tasks_by_adapted_heads(kind):
    strategy, solver = ADAPTERS[kind]
    problem = Query(extra=NEW)
    found = bilevel.solve(problem, strategy, **OPTIONS)
    names = {name for name in found.history if name.startswith("test")}
    assert names == {"test_mse", "test_r2"}
    train, test = NEW["test"].values()
    heads = found.adapt(*train, solver)
    for run in range(2):
        body = {name: leaf[run] for name, leaf in found.body.items()}
        judged = [
            problem.metrics(body, head, {"test": bilevel.Batch(inputs, targets)})
            for head, inputs, targets in zip(heads[run], *test, strict=True)
        ]
        for name in names:
            expected = torch.stack([each[name] for each in judged]).mean()
            torch.testing.assert_close(found.history[name][-1, run], expected, rtol=1e-9, atol=0)


class Weighed(Tasks):
    """Row weights by the noise of a step."""

    def noise(self, generator, steps):
        return torch.randn(steps, generator=generator, dtype=torch.float64)

    def row_weights(self, body, batch):
        train = batch["train"].targets
        return torch.ones_like(train) * (1 + 0.1 * batch["noise"].tanh())


class Picky(Tasks):
    """Metrics that ask for a group."""

    def metrics(self, body, head, data):
        return {"test_mean": data["test"].targets.mean()}


def test_new_tasks_see_silent_noise():
    found, plain = (trained(problem) for problem in (Weighed(extra=NEW), Tasks(extra=NEW)))
    torch.testing.assert_close(found.history["test_mse"][0], plain.history["test_mse"][0])


def test_a_run_whose_new_heads_are_singular_is_nan_alone():
    class Flat(Tasks):
        def init_body(self, generator):
            body = super().init_body(generator)
            self.made = 1 + getattr(self, "made", 0)
            return body

        def penalty(self, body):
            return (body["weight"].sum() > 0) * 0.1

    few = {"test": {"train": drawn(None, 77, 4, 3), "test": drawn(None, 77, 4, 7)}}
    strategy = bilevel.TwoTimescale(1e-9, 0.1, bilevel.SGD())
    options = {"steps": 1, "dtype": torch.float64}
    free = [float(first_body(Tasks(), seed)["weight"].sum()) <= 0 for seed in range(4)]
    assert len(set(free)) == 2
    found = bilevel.solve(Flat(extra=few), strategy, seeds=4, **options).history["test_mse"][0]
    assert found.isnan().tolist() == free


def new_tasks(**groups):
    """Tasks whose group "test" is changed."""
    return Tasks(extra={"test": NEW["test"] | groups})


def test_new_tasks_that_do_not_fit_are_refused():
    wide, rows = torch.zeros(4, 6, 3), drawn(None, 77, 5, 7)
    lacking = Tasks(extra={"test": {"train": NEW["test"]["train"]}})
    for problem, error, words in (
        (lacking, DataError, '"test", those that judge them'),
        (new_tasks(validation=NEW["test"]["test"]), DataError, "dict of"),
        (new_tasks(test=rows), ShapeError, "differ in their"),
        (new_tasks(train=NEW["test"]["train"]._replace(inputs=wide)), ProblemError, "new tasks"),
        (Picky(extra=NEW), ProblemError, "KeyError"),
    ):
        with pytest.raises(error, match=words):
            trained(problem)
