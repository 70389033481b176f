"""Mistakes that `check_problem` must find, each by a message with its remedy; and no others."""

import random
import re

import pytest
import torch
from drawn_heads import KINDS, Drawn, Held
from small_problems import Smooth, doubles

import bilevel
from bilevel import testing
from bilevel.errors import CheckError
from bilevel.testing.bench import directions
from problems.analytic import analytic
from problems.regression import diabetes, friedman1
from problems.toy import ScalarProduct

N = 24
NEW = ("repeated calls", "rows")
DOUBTS = ("head in use", "F and g", "names", "digits")


def told(problem):
    return {finding.what: finding.found for finding in testing.check_problem(problem)}


class Plain(bilevel.StackelbergProblem):
    """Ridge regression on features of a body, F on rows of validation."""

    def data(self, seed=None):
        x = doubles(1, 2 * N, 3)
        y = torch.sin(x).sum(1)
        return {
            "train": bilevel.Batch(x[:N], y[:N]), "validation": bilevel.Batch(x[N:], y[N:])
        }  # fmt: skip

    def init_body(self, generator):
        return torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.randn(5, generator=generator, dtype=torch.float64)

    def fit(self, body, head, rows):
        return torch.tanh(rows.inputs @ body) @ head

    def loss(self, body, head, rows):
        return 0.5 * (self.fit(body, head, rows) - rows.targets).square().mean()

    def head_objective(self, body, head, batch):
        return self.loss(body, head, batch["train"]) + 0.05 * head.square().sum()

    def body_objective(self, body, head, batch):
        return self.loss(body, head, batch["validation"])


class Linear(Smooth):
    """A linear head; heads of zeros would hide mistakes."""

    def init_head(self, generator):
        return torch.randn(self.head_shape(4), generator=generator, dtype=torch.float64)


def planted(base=Plain, **methods):
    return type("Planted", (base,), methods)()


def summed(self, body, head, rows):
    return 0.5 * (self.fit(body, head, rows) - rows.targets).square().sum()


def summed_F(self, body, head, batch):
    return (self.fit(body, head, batch["validation"]) - batch["validation"].targets).square().sum()


def column(self, body, head, rows):
    return torch.tanh(rows.inputs @ body) @ head.unsqueeze(1)


def by_mse_loss(self, body, head, rows):
    fit = torch.tanh(rows.inputs @ body) @ head.unsqueeze(1)
    return torch.nn.functional.huber_loss(fit, rows.targets)


def detached(self, body, head, rows):
    return torch.tanh(rows.inputs @ body.detach()) @ head


def drawn(self, body, head, batch):
    return Plain.head_objective(self, body, head, batch) + 0.01 * random.random() * head[0]


def dropout(self, body, head, rows):
    return torch.nn.functional.dropout(torch.tanh(rows.inputs @ body), 0.5) @ head


def counted(self, body, head, batch):
    self.calls = getattr(self, "calls", 0) + 1
    return Plain.head_objective(self, body, head, batch) * (1 + 1 / self.calls)


def body_in_place(self, body, head, rows):
    body /= body.norm()
    return torch.tanh(rows.inputs @ body) @ head


def batch_in_place(self, body, head, rows):
    return torch.tanh(rows.inputs.sub_(rows.inputs.mean(0)) @ body) @ head


def unpenalised(self, body, head, batch):
    return self.loss(body, head[:4].sum() + 0 * head, batch["train"])


def concave(self, body, head, batch):
    return self.loss(body, head, batch["train"]) - head.square().sum()


def of_place(self, body, batch):
    count = len(batch["train"].targets)
    return 0.1 + torch.sigmoid(
        torch.linspace(-1, 1, count).to(body["weight"]) * body["weight"].sum()
    )


CAUGHT = {
    "a sum for a mean": (planted(loss=summed), r"`head_objective` .* sum over the rows.*the mean"),
    "a sum for a mean in F": (
        planted(body_objective=summed_F), r'`body_objective` .* sum over .*"validation".*the mean',
    ),
    "a column against rows": (planted(fit=column), r"broadcast to \(n, n\).*`\.squeeze\(1\)`"),
    "the same in a loss of torch": (
        planted(loss=by_mse_loss), r"`huber_loss` of shapes|Using a target size",
    ),
    "a detached tensor": (planted(fit=detached), r"cut off from autograd.*`\.detach\(\)`"),
    "a random number": (planted(head_objective=drawn), r"for the same arguments.*`noise`"),
    "dropout": (planted(fit=dropout), r"draws random numbers.*`split`"),
    "a count of calls": (planted(head_objective=counted), r"do not keep anything"),
    "a body changed in place": (planted(fit=body_in_place), r"`body` of .* changed in place"),
    "rows changed in place": (planted(fit=batch_in_place), r"`batch` of .* changed in place"),
    "no penalty": (
        planted(head_objective=unpenalised),
        "not strongly convex.*add a ridge",
    ),
    "a concave head": (
        planted(head_objective=concave),
        "not strongly convex.*check a sign",
    ),
    "weights by place": (planted(Linear, row_weights=of_place), r"other rows.*row_numbers"),
    "an accuracy in per cent": (
        planted(metrics=lambda self, w, t, data: {"test_accuracy": torch.tensor(87.0)}),
        "accuracy is a fraction.*rename it",
    ),
    "a negative error": (
        planted(metrics=lambda self, w, t, data: {"test_mse": torch.tensor(-0.1)}),
        "cannot be negative.*rename it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", CAUGHT)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_planted_mistakes_are_refused(mistake):
    problem, message = CAUGHT[mistake]
    with pytest.raises(CheckError, match=f"(?s){message}"):
        bilevel.check_problem(problem)


def halved(self, body, head, data):
    found = bilevel.LinearHeadProblem.metrics(self, body, head, data)
    return {name: value / 2 if name.endswith("mse") else value for name, value in found.items()}


def far(self, seed=None):
    x = doubles(1, N, 3)
    x = torch.cat([x[:, :2], 1.7e9 + 1e3 * x[:, 2:]], 1)
    return {"train": bilevel.Batch(x, torch.sin(x[:, 0]))}


def with_zeros(self, body, inputs):
    z = Smooth.features(self, body, inputs)
    return torch.cat([z[:, :3], 0 * z[:, 3:]], 1)


def more_body(self, generator):
    return {**Smooth.init_body(self, generator), "more": torch.randn(3, generator=generator)}


def of_body(self, body, head, batch):
    return self.head_objective(body, head, batch) + 0.1 * body.square().sum()


def in_pairs(self, body, head, rows):
    fit = self.fit(body, head, rows)
    return 0.5 * (fit[1:] - fit[:-1] - rows.targets[1:]).square().mean()


TOLD = {
    "a part of the body that nothing uses": (
        planted(Linear, init_body=more_body), "parameters in use", r"3 of .*'more'.*Leave out",
    ),
    "features that are zero": (
        planted(Linear, features=with_zeros), "head in use", r"1 of the 4 numbers.*Leave them out",
    ),
    "a kink": (
        planted(fit=lambda self, w, t, rows: torch.relu(rows.inputs @ w) @ t),
        "differentiability", "relu.*take softplus",
    ),
    "an F that is g": (
        planted(body_objective=lambda self, w, t, batch: 1.0 * self.head_objective(w, t, batch)),
        "F and g", "F equals g.*Leave it out",
    ),
    "an F that is g and a term of the body": (
        planted(body_objective=of_body), "F and g", "term of the body alone.*`body_penalty`",
    ),
    "a hook with another name": (
        planted(Linear, row_weight=lambda self, body, batch: None),
        "names", "did you mean `row_weights`",
    ),
    "an F that nothing calls": (
        planted(Linear, body_objectives=lambda self, w, t, batch: t.sum()),
        "names", "did you mean `body_objective`",
    ),
    "columns without digits": (planted(Linear, data=far), "digits", "1 columns.*Subtract"),
    "half a squared error": (
        planted(Linear, metrics=halved), "metrics", "'train_mse' is .*other units: rename",
    ),
    "rows that know their neighbours": (
        planted(loss=in_pairs), "rows", "same rows in reverse.*`batch_size=None`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TOLD)
def test_planted_mistakes_are_told(mistake):
    problem, what, message = TOLD[mistake]
    found = told(problem)
    assert what in found
    assert re.search(f"(?s){message}", found[what]), found[what]


CLEAN = {
    "plain": Plain,
    "linear": Linear,
    **{f"drawn: {kind}": lambda kind=kind: Drawn(kind) for kind in KINDS},
    "held": lambda: Held("squared", "penalised"),
    "tasks": lambda: Held("squared", tasks=3),
    "diabetes": lambda: diabetes(width=6),
    "friedman": lambda: friedman1(width=6),
    "toy": ScalarProduct,
    **{name: lambda name=name: analytic(name) for name in ("A5", "A10", "A15-log", "A16", "B1")},
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_problems_raise_no_doubts(name):
    found = told(CLEAN[name]())
    assert "give the same values" in found["repeated calls"]
    assert "means over them" in found.get("rows", "means over them")
    assert not set(DOUBTS) & set(found)
    assert "other units" not in found["metrics"]


def test_directions_of_large_bodies_take_no_square_of_their_size():
    made = directions(torch.zeros(10**6, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert made.shape == (6, 10**6)


def test_runs_that_see_others_are_refused():
    """By values under `vmap`: what only looks at shapes cannot tell how many runs there are."""

    class Mixing(torch.autograd.Function):
        """Mean over runs, as a custom operation with a rule of its own may take."""

        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad

        @staticmethod
        def vmap(info, in_dims, x):
            return x + 0.1 * x.mean(in_dims[0], keepdim=True), in_dims[0]

    problem = planted(fit=lambda self, w, t, rows: Mixing.apply(torch.tanh(rows.inputs @ w) @ t))
    with pytest.raises(CheckError, match=r"under `torch\.func\.vmap` than alone"):
        bilevel.check_problem(problem)
