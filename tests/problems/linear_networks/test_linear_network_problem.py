"""Deep linear networks as a body and a head, and the command that draws their curves."""

import csv

import pytest
import torch
from command_line import run

import bilevel
from bilevel import trees
from bilevel.core.generators import generator
from bilevel.data import sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, UnknownNameError
from bilevel.report.svg import to_svg
from problems.linear_networks import (
    LinearNetwork,
    command,
    three_layer_orthogonal,
    two_layer_orthogonal,
)
from problems.linear_networks.share_curves import ShareCurves, usual_budgets

OPTIONS = [
    {"depth": 2, "width": 5, "inputs": 7, "rows": 23, "noise": 0.3},
    {"depth": 3, "width": 4, "rows": 9, "outputs": 3, "design": "gaussian"},
    {"depth": 4, "width": 4, "inputs": 6, "ridge": 0.2},
]


def point(problem, seed=3):
    """A body and a head that are not at the start: no factor is orthogonal."""
    source = torch.Generator().manual_seed(seed)
    body, head = problem.init_body(source), problem.init_head(source)

    def moved(leaf):
        return leaf + 0.3 * torch.randn(leaf.shape, generator=source, dtype=torch.float64)

    return trees.tree_map(moved, body), moved(head)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_those_of_the_formula(options):
    problem = LinearNetwork(**options)
    body, head = point(problem)
    seed = 3
    data = TrainingData(problem, [seed], torch.float64, "cpu")
    oracles = Oracles(problem)
    rows = sampler.Sampler(data, None, oracles.sampled_groups).full
    single = trees.tree_map(lambda leaf: leaf.unsqueeze(0), body)
    found_body, found_head = oracles.joint_gradient(single, head.unsqueeze(0), rows)
    network = problem.at(body, head, seed)
    *expected, last = network.gradients()
    for layer, gradient in enumerate(expected, start=1):
        found = found_body[f"weight{layer}"][0]
        assert (found - gradient).abs().max() <= 1e-12 * gradient.abs().max()
    last = last.reshape(head.shape) + problem.ridge * head
    assert (found_head[0] - last).abs().max() <= 1e-12 * last.abs().max()
    train = problem.data(seed)["train"]
    targets = train.targets if problem.outputs else train.targets[:, None]
    objective = problem.head_objective(body, head, {"train": train})
    fit = network.train_loss(train.inputs, targets)
    assert float(objective - 0.5 * problem.ridge * head.square().sum()) == pytest.approx(float(fit))


@pytest.mark.parametrize("options", OPTIONS)
def test_test_mse_is_the_population_loss(options):
    problem = LinearNetwork(**options)
    body, head = point(problem)
    metrics = problem.metrics(body, head, problem.data(3))
    loss = problem.at(body, head, 3).loss()
    assert float(metrics["test_mse"]) == pytest.approx(float(loss), rel=1e-12)
    exact = problem.row_design == "whitened" and problem.noise_variance == 0
    assert (float(metrics["train_mse"]) == pytest.approx(float(loss), rel=1e-3)) == exact


def test_training_is_the_exact_descent():
    """Simultaneous SGD with two rates follows the closed form of the paper's three layers."""
    problem = LinearNetwork(depth=2, width=6, inputs=9)
    strategy = bilevel.TwoTimescale(0.5, 1.5, optimizer=bilevel.SGD(), order="simultaneous")
    solution = bilevel.solve(
        problem, strategy, steps=3, seeds=[4], batch_size=None, every=1, dtype=torch.float64
    )
    body = problem.init_body(generator(4, "body"))
    head = problem.init_head(generator(4, "head"))
    network = problem.at(body, head, 4)
    expected, _ = network.gd([(0.5, 1.5)] * 3)
    assert torch.allclose(solution.history["test_mse"][:, 0], expected, rtol=1e-10)
    w, beta = network.weights[0], network.beta
    inside = (w.T @ beta).square().sum()
    a, b, c = (head**2).sum(), beta.square().sum(), (beta.T @ w @ head).sum()
    # the rate of W_2 in the paper's parametrisation is that of the head over |a|^2
    lrs = [(0.5, 1.5 / float(a))] * 3
    closed = three_layer_orthogonal.conditional_loss(6, a, b, c, lrs, outside=b - inside)
    assert torch.allclose(closed, expected, rtol=1e-10)


def test_the_best_response_is_one_newton_step_of_the_head():
    """d = h: the head alone with rate h^2 solves it, and so does the body alone."""
    problem = LinearNetwork(depth=2, width=6, outputs=6)
    body = problem.init_body(generator(0, "body"))
    head = problem.init_head(generator(0, "head"))
    response = bilevel.best_response(problem, body)
    _, moved = problem.at(body, head).gd([(0.0, 36.0)])
    assert torch.allclose(response.head, moved[1], atol=1e-9)
    assert response.bound_kind == "proven"
    assert response.mu == pytest.approx(1 / 36)  # kappa^2
    assert bilevel.hypergradient(problem, body).value < 1e-20
    rotation = 6**0.5 * problem.at(body, head).beta.T @ body["weight1"] @ head
    for lrs in ([(0.0, 36.0)], [(36.0, 0.0)]):
        assert float(two_layer_orthogonal.conditional_loss(rotation, lrs)[1]) < 1e-20


def test_compare_runs(untimed):
    problem = LinearNetwork(depth=3, width=3, inputs=4, rows=9, noise=0.1)
    strategies = {
        "fast head": bilevel.TwoTimescale(0.1, 1.0, optimizer=bilevel.SGD()),
        "fast body": bilevel.TwoTimescale(1.0, 0.1, optimizer=bilevel.SGD()),
        "best response": bilevel.BestResponse(0.1, optimizer=bilevel.SGD()),
    }
    comparison = bilevel.compare(problem, strategies, seeds=2, steps=4)
    finals = comparison.final("test_mse")
    assert set(finals) == set(strategies)
    assert all((values > 0).all() for values in finals.values())
    bilevel.check_problem(problem)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"depth": 1}, ArgumentError, "`depth`.*at least 2"),
        ({"width": 8, "inputs": 6}, ArgumentError, "width <= inputs"),
        ({"width": 8, "outputs": 9}, ArgumentError, "outputs <= width"),
        ({"width": 8, "outputs": 1}, ArgumentError, "outputs"),
        ({"width": 8, "rows": 7}, ArgumentError, "rows >= inputs"),
        ({"noise": -1.0}, ArgumentError, "`noise`"),
        ({"ridge": float("nan")}, ArgumentError, "`ridge`"),
        ({"design": "white"}, UnknownNameError, "Did you mean 'whitened'"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        LinearNetwork(**options)


def test_the_command_prints_its_table_and_draws(tmp_path, capsys):
    folder = tmp_path / "new"
    options = ("--depth", 2, "--width", 1000, "--budget", 45000, "--output", folder)
    assert run("linear-networks", *options) == 0
    printed = capsys.readouterr().out
    for number in ("0.915130", "0.912937", "0.773739", "0.832621", "0.700529"):
        assert number in printed
    assert "1.000, 0.000" in printed  # both ends after one step
    assert sorted(path.name for path in folder.iterdir()) == [
        "budget-45000.png", "budget-45000.svg", "curves.csv"]  # fmt: skip
    assert (folder / "budget-45000.png").read_bytes()[:4] == b"\x89PNG"
    svg = (folder / "budget-45000.svg").read_text()
    for text in ("exact", "signal only", "share of the first layer", "After one step"):
        assert text in svg
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 402
    middle = rows[201 + 100]
    assert (middle["step"], middle["share"]) == ("2", "0.5")
    assert float(middle["exact"]) == pytest.approx(0.773739, abs=5e-7)
    script = two_layer_orthogonal.script_formula(1000, 22500, 22500, 2)
    assert float(middle["script"]) == pytest.approx(float(script))
    assert run("linear-networks", "--output", folder) == 2  # results are never overwritten


def test_the_command_without_budgets_takes_the_usual_ones(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "write", lambda folder, found: drawn.append((folder, found)))
    assert run("linear-networks", "--depth", 3, "--width", 10) == 0
    ((folder, found),) = drawn
    assert [curves.budget for curves in found] == list(usual_budgets(3, 10))
    assert (str(folder.parent), folder.name[:16]) == ("results", "linear-networks-")
    assert usual_budgets(2, 1000) == (27000, 45000, 63000)
    assert usual_budgets(3, 1000) == (30, 65, 100)
    assert "depth 3, width 10" in capsys.readouterr().out


def test_the_figure_is_the_same_every_time():
    curves = ShareCurves.of(2, 10, 20.0)
    assert to_svg(curves.figure()) == to_svg(curves.figure())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--depth", 4), "DeepLinearProblem"),
        (("--width", 1), "`width`"),
        (("--width", 0), "`width`"),
        (("--budget", -5), "at least 0"),
        (("--budget", "nan"), "finite"),
    ],
)
def test_the_command_refuses_bad_arguments(tmp_path, capsys, arguments, message):
    assert run("linear-networks", *arguments, "--output", tmp_path / "new") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_curves_name_the_better_end_of_a_tie():
    curves = ShareCurves.of(2, 50, 300.0)
    assert curves.best_share(1) == 1.0
    assert float(curves.exact[0, 0]) == pytest.approx(float(curves.exact[0, -1]), rel=1e-14)
