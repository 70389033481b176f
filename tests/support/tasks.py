"""Problems with tasks, their tasks as problems of their own, and loops written by hand.

Every dimension differs: tasks T = 3, rows n = 8, query rows q = 6, inputs D = 2, features M = 4,
classes K = 5, outputs 2.
"""

import copy
import functools

import torch
from small_problems import doubles

import bilevel
from bilevel.core.generators import generator
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly

T, N, Q, D, M, K = 3, 8, 6, 2, 4, 5


@functools.cache
def drawn(kind, seed, count, rows):
    """Rows of tasks, one smooth function each: leaves (count, rows, ...)."""
    inputs = doubles([seed, rows, 1], count, rows, D)
    columns = {"labels": K, "signs": 1}.get(kind, kind or 1)
    maps = doubles([seed, 2], count, D, columns)
    values = torch.sin(inputs @ maps) + 0.1 * doubles([seed, rows, 3], count, rows, columns)
    if kind == "labels":
        targets = values.argmax(2)
        targets[:, :K] = torch.arange(K)  # every class is there
    elif kind == "signs":
        targets = (values[..., 0] > 0).long()
        targets[:, :2] = torch.arange(2)
    else:
        targets = values if kind else values[..., 0]
    return bilevel.Batch(inputs, targets)


class Tasks(bilevel.LinearHeadProblem):
    """Features tanh(x W), F = g; any attribute can be set by keyword.

    Attributes:
        kind: "labels", "signs", K outputs, or None: one output without an axis.
        learned: whether the body has a penalty for each feature.
        own: the number of a task that is a problem of its own, without `tasks`.
    """

    tasks, ridge, kind, learned, own, count, extra = True, 0.1, None, False, None, T, ()

    def __init__(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)
        if self.kind == "labels":
            self.criterion, self.outputs = bilevel.SoftmaxLoss(), K
        elif self.kind == "signs":
            self.criterion = bilevel.LogisticLoss()
        else:
            self.outputs = self.kind

    def data(self, seed=None):
        first = 0 if seed is None else seed + 1
        sizes = {"train": N, "validation": Q}
        groups = {name: drawn(self.kind, first, self.count, rows) for name, rows in sizes.items()}
        groups |= dict(self.extra)
        if self.own is None:
            return groups
        return {
            name: bilevel.Batch(*(leaf[self.own] for leaf in group))
            for name, group in groups.items()
        }

    def init_body(self, generator):
        body = {"weight": torch.randn(D, M, generator=generator, dtype=torch.float64)}
        if self.learned:
            body["log_penalty"] = doubles(3, M) - 2
        return body

    def init_head(self, generator):
        shape = self.head_shape(M + self.fit_bias)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body["weight"])


class Learned(Tasks):
    """A penalty per feature, learned by the body, and a term of the body alone."""

    learned = True

    def penalty(self, body):
        return body["log_penalty"].exp()

    def body_penalty(self, body):
        return 0.01 * body["weight"].square().sum()


class Query(Tasks):
    """F is the criterion of the query rows."""

    def body_objective(self, body, head, batch):
        query = batch["validation"]
        return self.criterion.rows(self.predict(body, head, query.inputs), query.targets).mean()


class LearnedQuery(Learned, Query):
    """Both."""


def separate(problem):
    """Each of its tasks as a problem of its own."""
    found = []
    for task in range(problem.count):
        one = copy.copy(problem)
        one.tasks, one.own = False, task
        found.append(one)
    return found


def first_body(problem, seed=0):
    """The initial body of a seed."""
    return problem.init_body(generator(seed, "body"))


def mean(trees):
    """The mean of dictionaries of tensors."""
    return {name: torch.stack([tree[name] for tree in trees]).mean(0) for name in trees[0]}


def close(found, expected, rtol=1e-10, atol=1e-11):
    """Assert that dictionaries of tensors, or tensors, agree."""
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol)


def tasks_drawn(problem, seeds, batch_size, steps, sampling="iid"):
    """The tasks that each step of each seed sees, (steps, R, B)."""
    data = TrainingData(problem, seeds, torch.float64, torch.device("cpu"))
    if batch_size is None:
        return torch.arange(problem.count).expand(steps, len(seeds), -1)
    sampler = Assembly.of(data, batch_size, sampling).sampler
    return torch.stack([sampler.rows(k).tasks for k in range(steps)])


def first_heads(problem, seed=0):
    """The initial heads of a seed, one for each task."""
    source, within = generator(seed, "head"), problem.head_set.project
    return [within(problem.init_head(source)) for _ in range(problem.count)]


def exact(problem, body):
    """The head of a problem without tasks, and d_w F(w, theta*(w)), by dense derivatives."""
    groups = problem.data()
    head = torch.zeros_like(problem.init_head(generator(0, "head")))

    def value(at):
        return problem.head_objective(body, at, groups)

    def hessian(at):
        return torch.autograd.functional.hessian(value, at).reshape(at.numel(), at.numel())

    for _ in range(20):
        slope = torch.autograd.functional.jacobian(value, head).flatten()
        head = head - torch.linalg.solve(hessian(head), slope).reshape(head.shape)
        if slope.norm() < 1e-14:
            break
    body, head = tracked(body), head.requires_grad_()
    direct = problem.body_objective(body, head, groups)
    (right,) = torch.autograd.grad(direct, head, retain_graph=True)
    adjoint = torch.linalg.solve(hessian(head.detach()), right.flatten()).reshape(head.shape)
    inner = problem.head_objective(body, head, groups)
    (slope,) = torch.autograd.grad(inner, head, create_graph=True)
    found = torch.autograd.grad(direct - (slope * adjoint).sum(), list(body.values()))
    return head.detach(), dict(zip(body, found, strict=True))


def unrolled(problem, body, head, lr, steps, truncate=None):
    """Gradient steps on g of a problem without tasks, with their graph but for the first ones."""
    groups = problem.data()
    for j in range(steps):
        if truncate is not None and j == steps - truncate:
            head = head.detach()
        head = head if head.requires_grad else head.clone().requires_grad_()
        value = problem.head_objective(body, head, groups)
        (slope,) = torch.autograd.grad(value, head, create_graph=True)
        head = problem.head_set.project(head - lr * slope)
    return head


def slope_of(problem, body, head):
    """d_w of F(body, head(body)), for a head that autograd knows how it came about."""
    value = problem.body_objective(body, head, problem.data())
    found = torch.autograd.grad(value, list(body.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(body.items(), found, strict=True)
    }


def down(body, slopes, lr):
    """A plain step along the mean of the slopes of tasks."""
    return {name: body[name].detach() - lr * slope for name, slope in mean(slopes).items()}


def tracked(body):
    """The body as leaves that require a gradient."""
    return {name: leaf.detach().clone().requires_grad_() for name, leaf in body.items()}
