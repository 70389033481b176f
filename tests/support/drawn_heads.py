"""Heads that are drawn to a prior, on rows with weights that differ by output: problems for tables.

`Drawn` has all hooks, each depending on the body; `fit`, `g` and `phi_gradient` are written anew in
plain torch, so that they share nothing with the library.
"""

import torch
from linear_heads import normal
from torch.nn.functional import cross_entropy, huber_loss, softplus

import bilevel

N, D, M = 13, 3, 4
CRITERIA = {
    "squared": bilevel.SquaredError(),
    "huber": bilevel.HuberLoss(0.7),
    "logistic": bilevel.LogisticLoss(),
    "softmax": bilevel.SoftmaxLoss(),
}
KINDS = {
    "squared": ("squared", None, "rows"),
    "squared, outputs": ("squared", 2, "outputs"),
    "squared, outputs, rows": ("squared", 2, "rows"),
    "huber, outputs": ("huber", 2, "outputs"),
    "logistic": ("logistic", None, "rows"),
    "softmax": ("softmax", 3, "rows"),
    "softmax, alike": ("softmax", 3, None),
}
"""Criterion, outputs, and what has weights."""


def entries(criterion, u, t):
    """The losses of rows (n,), or of their outputs (n, K)."""
    if criterion == "squared":
        return 0.5 * (u - t) ** 2
    if criterion == "huber":
        return huber_loss(u, t, reduction="none", delta=0.7)
    if criterion == "logistic":
        return softplus(u) - t * u
    return cross_entropy(u, t, reduction="none")


def rows_for(criterion, k, seed, n=N):
    """Inputs and targets."""
    x = torch.as_tensor(normal([seed, 1], n, D))
    if criterion in ("logistic", "softmax"):
        return bilevel.Batch(x, torch.arange(n) % (k or 2))
    return bilevel.Batch(x, torch.as_tensor(normal([seed, 2], *((n,) if k is None else (n, k)))))


class Drawn(bilevel.LinearHeadProblem):
    """g of `KINDS`; F is g.

    Args:
        kind: a row of `KINDS`.
        bias: "no", "free" or "penalised".
        tasks: how many tasks; None: no tasks.
        free: whether features do not depend on the body.
        n: how many rows.
        **attributes: such as `head_set`.
    """

    def __init__(self, kind, bias="no", *, tasks=None, free=False, n=N, **attributes):
        self.kind, self.outputs, self.weighted = KINDS[kind]
        self.criterion, self.n = CRITERIA[self.kind], n
        self.fit_bias, self.penalize_bias = bias != "no", bias == "penalised"
        self.count, self.tasks = tasks, tasks is not None
        self.body_free_features = free
        rows = (D if free else M) + self.fit_bias
        self.first = torch.as_tensor(normal(8, *self.head_shape(rows)))
        for name, value in attributes.items():
            setattr(self, name, value)

    def data(self, seed=None):
        if self.count is None:
            train = rows_for(self.kind, self.outputs, 3, self.n)
            return {"train": train, "validation": rows_for(self.kind, self.outputs, 4)}
        made = [rows_for(self.kind, self.outputs, 10 + i, self.n) for i in range(self.count)]
        held = [rows_for(self.kind, self.outputs, 20 + i) for i in range(self.count)]
        pairs = [zip(*some, strict=True) for some in (made, held)]
        groups = [bilevel.Batch(*(torch.stack(leaves) for leaves in pair)) for pair in pairs]
        return dict(zip(("train", "validation"), groups, strict=True))

    def init_body(self, generator):
        made = {"w": torch.as_tensor(normal(5, D, M)), "v": torch.as_tensor(normal(6, 2))}
        if generator is not None:
            made["w"] += torch.randn(D, M, generator=generator) / 10
        return made

    def init_head(self, generator):
        rows = (D if self.body_free_features else M) + self.fit_bias
        return torch.as_tensor(normal(7, *self.head_shape(rows)))

    def features(self, *given):
        if self.body_free_features:
            return given[0]
        body, inputs = given
        return torch.tanh(inputs @ body["w"])

    def row_weights(self, body, batch):
        if self.weighted is None:
            return None
        columns = batch["train"].inputs @ body["w"]
        columns = columns[:, 0] if self.weighted == "rows" else columns[:, : self.outputs]
        return 0.1 + torch.sigmoid(columns)

    def penalty(self, body):
        return 0.05 + body["v"][0] ** 2 / 10

    def prior(self, body, batch):
        return self.first * body["v"][1] + batch["train"].inputs.mean()

    def body_penalty(self, body):
        return (body["w"] ** 2).mean()

    # written anew

    def fit(self, body, head, rows):
        """Predictions."""
        z = rows.inputs if self.body_free_features else torch.tanh(rows.inputs @ body["w"])
        return z @ head[:-1] + head[-1] if self.fit_bias else z @ head

    def g(self, body, head, groups):
        """The head's objective."""
        losses = entries(self.kind, self.fit(body, head, groups["train"]), groups["train"].targets)
        weights = self.row_weights(body, groups)
        if weights is not None:
            weights = weights.unsqueeze(1) if weights.ndim < losses.ndim else weights
            losses = weights * losses
        away = head - self.prior(body, groups)
        away = away[:-1] if self.fit_bias and not self.penalize_bias else away
        ridge = 0.05 + body["v"][0] ** 2 / 10
        penalty = 0.5 * ridge * (away**2).sum() + (body["w"] ** 2).mean()
        return losses.sum() / self.n + penalty

    def F(self, body, head, groups):
        """The body's objective."""
        return self.g(body, head, groups)

    def best(self, body, groups, start=None):
        """theta* of one task by Newton steps from zero or from close to it, a graph of the body."""
        head = torch.zeros_like(self.init_head(None)) if start is None else start
        size = head.numel()
        for _ in range(1 if self.criterion.quadratic else 30 if start is None else 3):
            slope = torch.func.grad(self.g, 1)(body, head, groups).reshape(-1)
            bend = torch.func.jacrev(torch.func.grad(self.g, 1), 1)(body, head, groups)
            bend = bend.reshape(size, size)
            head = head - torch.linalg.lstsq(bend, slope).solution.reshape(head.shape)
        return head

    def parts_of(self, groups):
        """The groups of each task."""
        if self.count is None:
            return [groups]
        return [
            {name: bilevel.Batch(*(leaf[i] for leaf in group)) for name, group in groups.items()}
            for i in range(self.count)
        ]

    def phi(self, body):
        """Phi, through theta*."""
        parts = self.parts_of(self.data())
        return sum(self.F(body, self.best(body, one), one) for one in parts) / len(parts)


class Held(Drawn):
    """The same; F is the mean loss on rows of validation."""

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return self.criterion.rows(self.predict(body, head, rows.inputs), rows.targets).mean()

    def F(self, body, head, groups):
        """The body's objective."""
        rows = groups["validation"]
        return entries(self.kind, self.fit(body, head, rows), rows.targets).sum() / N
