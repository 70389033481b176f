"""The checks pass on the library's own parts and problems, and fail on problems that are wrong."""

import re

import pytest
import torch
from small_problems import Smooth

import bilevel
from bilevel import testing
from bilevel.commands.main import main
from bilevel.errors import CheckError
from bilevel.testing.quadratics import IsotropicHead, ScalarHead
from problems.analytic import NAMES, analytic
from problems.classification import digits

EXAMPLE = pytest.mark.slow  # by default an example of the documentation says the same
FAST = bilevel.FastSGD(0.1, 300, tolerance=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_known_problems_pass(name):
    found = {finding.what for finding in bilevel.check_problem(analytic(name))}
    assert {"initial points", "derivatives of g", "strong convexity"} <= found


@pytest.mark.parametrize("options", [{}, {"redraws_data": True}, {"fit_bias": True, "outputs": 2}])
def test_small_problems_pass(options):
    class Problem(Smooth):
        def init_head(self, generator):
            shape = self.head_shape(4 + self.fit_bias)
            return torch.randn(shape, generator=generator, dtype=torch.float64)

    assert len(bilevel.check_problem(Problem(**options))) == 18


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (bilevel.CG(), {}),
        (bilevel.Dense(), {}),
        (bilevel.Neumann(300), {"condition": 10}),
        (bilevel.Neumann(3), {"tolerance": 1}),
        (bilevel.CG(max_steps=4), {"tolerance": 1}),
    ],
)
def test_linear_solvers_pass(solver, options):
    found = {finding.what for finding in testing.check_linear_solver(solver, **options)}
    assert {"condition 1", "0-dim head", "tree", "runs", "singular systems"} <= found


@pytest.mark.parametrize(
    ("solver", "count"),
    [
        pytest.param(bilevel.ClosedForm(), 6, marks=EXAMPLE),
        (bilevel.ClosedForm(bilevel.BatchData()), 6),
        (bilevel.ClosedForm(bilevel.RunningData()), 2),
        (bilevel.FastSGD(0.1, 20), 6),
    ],
)
def test_head_solvers_pass(solver, count):
    assert len(testing.check_head_solver(solver)) == count


def test_iterative_head_solvers_pass():
    (found,) = testing.check_head_solver(FAST, IsotropicHead())
    assert found.found.startswith("CONVERGED")


@pytest.mark.parametrize(
    ("method", "solver", "count"),
    [
        pytest.param(bilevel.Envelope(), None, 1, marks=EXAMPLE),
        pytest.param(bilevel.Implicit(), None, 6, marks=EXAMPLE),
        pytest.param(bilevel.Implicit(bilevel.Dense()), None, 6, marks=pytest.mark.slow),
        pytest.param(bilevel.Implicit(bilevel.CG()), None, 6, marks=EXAMPLE),
    ],
)
def test_hypergradients_pass(method, solver, count):
    assert len(testing.check_hypergradient(method, solver)) == count


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        (bilevel.Implicit(bilevel.Neumann(80)), None),
        pytest.param(bilevel.Implicit(), FAST, marks=pytest.mark.slow),
        (bilevel.Unrolled(80), bilevel.FastSGD(0.1, 80)),
    ],
)
@pytest.mark.parametrize(
    "problem", [IsotropicHead(), pytest.param(ScalarHead(), marks=pytest.mark.slow)]
)
def test_iterative_hypergradients_pass(method, solver, problem):
    assert testing.check_hypergradient(method, solver, problems=[problem])


@pytest.mark.parametrize(
    "method",
    [
        bilevel.PenaltyMethod(1e5),
        pytest.param(bilevel.PenaltyMethod(1e5, 2000), marks=pytest.mark.slow),
    ],
)
def test_hypergradients_with_a_bias_pass_with_room_for_it(method):
    problem = IsotropicHead()
    assert testing.check_hypergradient(method, problems=[problem], tolerance=1e-4)
    with pytest.raises(CheckError, match="central differences"):
        testing.check_hypergradient(method, problems=[problem], tolerance=1e-8)


@pytest.mark.parametrize("name", ["A1", "A6", "A8", "A12", "A15-log", "A16"])
def test_hypergradients_pass_on_problems_of_others(name):
    problem = analytic(name)
    assert testing.check_hypergradient(bilevel.Implicit(), problems=[problem])
    assert testing.check_head_solver(bilevel.ClosedForm(), problem)


@pytest.mark.parametrize(
    "optimizer",
    [
        bilevel.SGD(),
        bilevel.SGD(0.9),
        bilevel.RMSProp(),
        bilevel.Adam(),
        bilevel.AdamW(),
        bilevel.Clipped(1.0, bilevel.Adam()),
    ],
)
def test_optimizers_pass(optimizer):
    assert len(testing.check_optimizer(optimizer)) == 4


# problems that are wrong


class Good(bilevel.StackelbergProblem):
    """Ridge regression on two features of a body."""

    def data(self, seed=None):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64)
        return {"train": bilevel.Batch(x, torch.sin(3 * x))}

    def init_body(self, generator):
        return torch.randn(2, generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.randn(2, generator=generator, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        rows = batch["train"]
        z = torch.tanh(rows.inputs.unsqueeze(1) * self.seen(body))
        return self.bend(((z @ head - rows.targets) ** 2).mean(), head)

    def seen(self, body):
        return body

    def bend(self, fit, head):
        return fit + 0.1 * head.square().sum()


def wrong(**methods):
    return type("Wrong", (Good,), methods)()


def global_draw(self, generator):
    return torch.randn(2, dtype=torch.float64)


class Alone(bilevel.StackelbergProblem):
    """Neither starts nor data depend on the seed."""

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.ones((), dtype=torch.float64)

    def init_head(self, generator):
        return torch.ones(2, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * (head - body).square().sum() + 0.1 * body**2


class Steady(Good):
    """A body that starts anywhere but is the same for every seed, as hyper-parameters are."""

    redraws_data = False

    def data(self, seed=None):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64) + 0.1 * (seed or 0)
        return {"train": bilevel.Batch(x, torch.sin(3 * x))}

    def init_body(self, generator):
        return torch.tensor([1.0, -0.5], dtype=torch.float64)


class SteadyHead(Steady):
    """Nothing but rows to draw."""

    def init_head(self, generator):
        return torch.tensor([0.3, 0.4], dtype=torch.float64)


class Redrawn(SteadyHead):
    """Data to redraw."""

    redraws_data = True


class Shaken(Alone):
    """Noise to draw."""

    def noise(self, generator, steps):
        return torch.randn(steps, 2, generator=generator, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return super().head_objective(body, head, batch) + (batch["noise"] * head).sum()


@pytest.mark.parametrize(
    ("problem", "differ"),
    [
        (Steady(), "the body is the same.*the rows of batches.*may be one"),
        (SteadyHead(), "body and head are the same.*the rows of batches.*may be one"),
        (Redrawn(), "body and head are the same.*only by their data"),
        (Shaken(), "body and head are the same.*only by their noise"),
        (Good(), "body and head differ between seeds"),
    ],
)
def test_seeds_that_start_alike_must_differ_in_something(problem, differ):
    found = {finding.what: finding.found for finding in bilevel.check_problem(problem)}
    assert re.search(differ, found["initial points"])


CONSTANT = torch.ones(12, dtype=torch.float64)
PROBLEMS = {
    "nothing differs": (Alone(), "same points for every seed.*seeds are no repetitions"),
    "global start": (wrong(init_head=global_draw), "two different points|global random state"),
    "concave head": (
        wrong(bend=lambda self, fit, head: fit - 3 * head.square().sum()),
        "not strongly convex",
    ),
    "convex, not strongly": (
        wrong(bend=lambda self, fit, head: (head[0] - 1) ** 2 + 0 * fit),
        "not strongly convex",
    ),
    "detached body": (wrong(seen=lambda self, body: body.detach()), "d_w g .* by autograd"),
    "constant inputs": (
        wrong(data=lambda self, seed=None: {"train": bilevel.Batch(CONSTANT, CONSTANT.cumsum(0))}),
        "inputs of data.* are the same in all 12",
    ),
    "shape": (wrong(bend=lambda self, fit, head: fit + head), "0-dim tensor"),
    "not finite": (
        wrong(bend=lambda self, fit, head: fit + 0.1 * head.square().sum() + head[0].log()),
        "nan|not finite|must be finite",
    ),
    "noise with a mean": (
        wrong(
            noise=lambda self, generator, steps: 0.3 + torch.randn(steps, generator=generator)
        ),
        "standard errors away from zero",
    ),
    "noise of its own": (
        wrong(noise=lambda self, generator, steps: torch.linspace(-1, 1, steps)),
        "ignores its generator",
    ),
    "metrics": (
        wrong(metrics=lambda self, body, head, data: {"test_mse": head}),
        "metric 'test_mse'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_wrong_problems_fail(kind):
    problem, message = PROBLEMS[kind]
    with pytest.raises(CheckError, match=message):
        bilevel.check_problem(problem)


def test_the_same_problem_without_the_mistake_passes():
    assert len(bilevel.check_problem(Good())) == 16
    noisy = wrong(noise=lambda self, generator, steps: torch.randn(steps, generator=generator))
    assert "noise" in {finding.what for finding in bilevel.check_problem(noisy)}
    with pytest.raises(CheckError, match="an instance of your problem"):
        bilevel.check_problem(Good)


def test_the_command(capsys, monkeypatch):
    assert main(["check", "friedman1", "--set", "width=8"]) == 0
    shown = capsys.readouterr().out
    assert "strong convexity" in shown
    assert "keeps the contract" in shown
    assert main(["check", "friedmann1"]) == 2
    assert "Did you mean 'friedman1'?" in capsys.readouterr().err
    concave = PROBLEMS["concave head"][0]
    monkeypatch.setattr("bilevel.problem.registry.load_problem", lambda name, /, **options: concave)
    assert main(["check", "mine"]) == 1
    assert "not strongly convex" in capsys.readouterr().err


def test_kinks_near_a_point_are_no_mistakes():
    """Of 92,000 preactivations one or the other lies within a millionth of its kink."""
    bilevel.check_problem(digits())
