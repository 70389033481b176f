"""Groups of tasks: which of them a step sees and moves, padding, and what is refused."""

import pytest
import torch
from tasks import Learned, N, Q, Query, T, Tasks, close, drawn, first_body, separate, tasks_drawn

import bilevel
from bilevel.errors import (
    ArgumentError,
    BilevelError,
    DataError,
    IncompatibleError,
    ShapeError,
)

OPTIONS = {"steps": 1, "seeds": 1, "every": 1, "dtype": torch.float64}
FAST = bilevel.FastSGD(0.3, 2)
MOVING = {
    "two-timescale": bilevel.TwoTimescale(0.1, 0.1, bilevel.Adam()),
    "steps": bilevel.BestResponse(0.1, FAST, bilevel.Envelope()),
    "newton": bilevel.BestResponse(0.1, bilevel.Newton(), bilevel.Implicit()),
}


def of_heads(state):
    """All tensors (R, T, ...) of the state of a strategy."""
    return [x for x in bilevel.trees.leaves(state.strategy) if x.shape[:2] == (1, 7)]


@pytest.mark.parametrize("kind", MOVING)
def test_only_the_heads_of_the_tasks_of_a_step_move(kind):
    problem, strategy = Tasks(count=7, kind="signs"), MOVING[kind]
    start = bilevel.solve(problem, strategy, batch_size=2, **OPTIONS)
    for k in range(1, 3):
        state = start.state
        start = bilevel.solve(problem, strategy, batch_size=2, state=state, **OPTIONS)
        seen = set(tasks_drawn(problem, [0], 2, 3)[k].flatten().tolist())
        pairs = zip(of_heads(state), of_heads(start.state), strict=True)
        moved = [(old != new)[0].reshape(7, -1).any(1) for old, new in pairs]
        assert all(set(which.nonzero().flatten().tolist()) <= seen for which in moved)
        assert set(moved[0].nonzero().flatten().tolist()) == seen


@pytest.mark.parametrize("sampling", ["epochs", "sequential"])
def test_tasks_are_visited_like_rows(sampling):
    problem, rate = Query(), 0.2
    strategy = bilevel.BestResponse(rate, optimizer=bilevel.SGD())
    options = OPTIONS | {"steps": 3}
    found = bilevel.solve(problem, strategy, batch_size=2, sampling=sampling, **options)
    drawn_tasks = tasks_drawn(problem, [0], 2, 3, sampling)[:, 0]
    counts = torch.bincount(drawn_tasks.flatten(), minlength=T)
    assert counts.tolist() == [2, 2, 2]
    body, tasks = first_body(problem), separate(problem)
    for which in drawn_tasks.tolist():
        slopes = [bilevel.hypergradient(tasks[t], body).body["weight"] for t in which]
        body = {"weight": body["weight"] - rate * torch.stack(slopes).mean(0)}
    close({"weight": found.body["weight"][0]}, body)


def test_more_tasks_than_there_are_may_be_drawn():
    strategy = bilevel.BestResponse(0.1, FAST, bilevel.Unrolled(2))
    whole = bilevel.solve(Query(), strategy, batch_size=T, sampling="epochs", **OPTIONS)
    twice = bilevel.solve(Query(), strategy, batch_size=2 * T, sampling="sequential", **OPTIONS)
    close(twice.head, whole.head)
    close(twice.body["weight"], whole.body["weight"])


def padded(group, kept, value):
    """The rows of tasks, of which only the first ones of each are kept."""
    inputs, targets = (leaf.clone() for leaf in group)
    for task, rows in enumerate(kept):
        inputs[task, rows:] = value
        targets[task, rows:] = 0
    exists = torch.arange(inputs.shape[1]) < torch.tensor(kept).unsqueeze(1)
    flags = exists.unsqueeze(2).to(inputs.dtype)
    return bilevel.Batch(torch.cat([inputs, flags], 2), targets)


ROWS, QUERIES = (4, N, 6), (Q, 3, 5)


class Ragged(Query):
    """Tasks of fewer rows: the last input says whether a row exists."""

    def features(self, body, inputs):
        return super().features(body, inputs[:, :-1])

    def row_weights(self, body, batch):
        exists = batch["train"].inputs[:, -1]
        return exists * len(exists) / exists.sum()

    def body_objective(self, body, head, batch):
        query, exists = batch["validation"], batch["validation"].inputs[:, -1]
        losses = self.criterion.rows(self.predict(body, head, query.inputs), query.targets)
        return (exists * losses).sum() / exists.sum()

    def data(self, seed=None):
        groups, kept = super().data(seed), {"train": ROWS, "validation": QUERIES}
        if self.own is None:
            return {name: padded(group, kept[name], 3.0) for name, group in groups.items()}
        found = {}
        for name, group in groups.items():
            rows = kept[name][self.own]
            inputs = torch.cat([group.inputs, torch.ones_like(group.inputs[:, :1])], 1)
            found[name] = bilevel.Batch(inputs[:rows], group.targets[:rows])
        return found


@pytest.mark.parametrize(
    "problem",
    [Ragged(), Ragged(fit_bias=True), Ragged(kind=2, fit_bias=True, penalize_bias=True),
     Ragged(kind="labels", fit_bias=False)],
    ids=["ridge", "free bias", "outputs", "softmax"],
)  # fmt: skip
def test_padding_changes_nothing(problem):
    body = first_body(problem)
    found = bilevel.hypergradient(problem, body)
    alone = [bilevel.hypergradient(task, body) for task in separate(problem)]
    close(found.response.head, torch.stack([each.response.head for each in alone]))
    close(found.value, sum(each.value for each in alone) / T)
    mean = torch.stack([each.body["weight"] for each in alone]).mean(0)
    close(found.body["weight"], mean)
    record = bilevel.solve(problem, bilevel.BestResponse(0.1), batch_size=None, **OPTIONS).history
    close(float(record["phi"][0, 0]), sum(each.value for each in alone) / T)


def test_seeds_may_have_tasks_of_their_own():
    problem, strategy = Learned(redraws_data=True), bilevel.BestResponse(0.1)
    options = OPTIONS | {"batch_size": 2, "steps": 2}
    found = bilevel.solve(problem, strategy, **options | {"seeds": [1, 4]})
    for run, seed in enumerate([1, 4]):
        own = Learned()
        own.__dict__["data"] = lambda _=None, seed=seed: problem.data(seed)
        alone = bilevel.solve(own, strategy, **options | {"seeds": [seed]})
        close(found.head[run], alone.head[0])
        close(found.history["phi"][:, run], alone.history["phi"][:, 0])


class NotLinear(bilevel.StackelbergProblem):
    """A ridge written by hand, which says that it has tasks."""

    tasks = True

    def data(self, seed=None):
        return {"train": drawn(None, 0, T, N)}

    def init_body(self, generator):
        return torch.ones(2, dtype=torch.float64)

    init_head = init_body

    def head_objective(self, body, head, batch):
        inputs, targets = batch["train"]
        return ((inputs * body) @ head - targets).square().mean() + head.square().sum()


def changed(**groups):
    """Tasks of other groups."""
    problem = Query()
    found = problem.data() | groups
    problem.__dict__["data"] = lambda seed=None: found
    return problem


def refused():
    """Problems, strategies and options that do not fit, what is raised, and what it says."""
    exact, solver = bilevel.BestResponse(0.1), bilevel.BestResponse
    rows = drawn(None, 0, T + 1, Q)
    averages = bilevel.ClosedForm(bilevel.RunningData())
    sampled = bilevel.FastSGD(0.1, 2, batch_size=2)
    known = "does not know heads of tasks"
    for strategy, words in (
        (bilevel.SingleLoop(0.1, 0.1, 0.1), "SingleLoop trains no heads of tasks.*BestResponse"),
        (solver(0.1, bilevel.ProjectedNewton()), f"ProjectedNewton.*{known}"),
        (solver(0.1, averages), f"RunningData.*{known}"),
        (solver(0.1, sampled, bilevel.Unrolled(2)), f"batch_size=2.*{known}"),
        (solver(0.1, None, bilevel.FiniteDifferences()), f"FiniteDifferences.*{known}.*Implicit"),
    ):
        yield Query(), strategy, {}, IncompatibleError, words
    yield Tasks(chunk_rows=4), exact, {}, IncompatibleError, "a head for each task"
    yield Query(), exact, {"batch_size": {"train": 2}}, ArgumentError, "counts tasks: one number"
    yield Query(), exact, {"batch_size": 200_000}, ArgumentError, "at most 100,000"
    for wrong in (1, 3, "yes", None):
        yield Query(tasks=wrong), exact, {}, ArgumentError, "`tasks` must be True or False"
    yield NotLinear(), exact, {}, IncompatibleError, "LinearHeadProblem.*each task"
    flat, few = bilevel.Batch(rows.inputs[:, 0], rows.targets[:, 0]), rows
    yield changed(train=flat), exact, {}, ShapeError, r"\(T, n, ...\), n rows for each of T tasks"
    yield changed(validation=few), exact, {}, ShapeError, "differ in their number of tasks"
    yield changed(test=few), exact, {}, ShapeError, "differ in their number of tasks"
    short = rows._replace(targets=rows.targets[:, :-1])
    yield changed(test=short), exact, {}, ShapeError, "differ in their rows"
    yield changed(train=None), exact, {}, DataError, "train"


@pytest.mark.parametrize(("problem", "strategy", "options", "error", "words"), [*refused()])
def test_what_knows_no_tasks_is_refused_by_name(problem, strategy, options, error, words):
    with pytest.raises(error, match=words) as caught:
        bilevel.solve(problem, strategy, **{"batch_size": 2} | OPTIONS | options)
    assert isinstance(caught.value, BilevelError)
