"""Linear methods: one update by hand, expected updates as recursions, sampled ones on average."""

import pytest
import torch
from processes import PROCESSES

import bilevel
from bilevel.data.rows import Rows
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import IncompatibleError, UnknownNameError
from bilevel.strategies.single_loop import Levels
from problems.mspbe import (
    Known,
    LinearEvaluation,
    Logged,
    NeuralMSPBE,
    Transitions,
    boyan,
    exact,
    experience,
    methods,
    random_walk,
    stability,
)

DOUBLE = torch.float64
DIRECTIONS = {
    "td": methods.TD(),
    "gtd2": methods.GTD2(),
    "tdc": methods.TDC(),
    "tdrc": methods.TDRC(0.6),
}
RUNS, BATCH, WIDTH = 3, 7, 4


def drawn_rows(seed: int = 0) -> Transitions:
    """Random rows of three runs, some of which end an episode; no two sizes are equal."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    return Transitions(
        normal(RUNS, BATCH, WIDTH),
        normal(RUNS, BATCH, WIDTH),
        normal(RUNS, BATCH),
        normal(RUNS, BATCH).square(),
        (torch.arange(BATCH) % 3 > 0).double().expand(RUNS, BATCH),
        normal(RUNS, BATCH).abs(),
    )


def by_hand(method: str, row: dict, head, auxiliary, discount: float):
    """The two updates from one transition, in plain Python."""
    phi, ahead = row["phi"], discount * row["continues"] * row["next"]
    delta = row["reward"] + float(ahead @ head) - float(phi @ head)
    q, rho = float(phi @ auxiliary), row["ratio"]
    theta = {
        "td": rho * delta * phi,
        "gtd2": rho * q * (phi - ahead),
        "tdc": rho * (delta * phi - q * ahead),
        "tdrc": rho * (delta * phi - q * ahead),
    }[method]
    h = (rho * delta - q) * phi
    if method == "td":
        h = 0 * h
    return theta, h - (0.6 * auxiliary if method == "tdrc" else 0)


@pytest.mark.parametrize("method", DIRECTIONS)
def test_a_sampled_update_equals_sums_by_hand(method):
    rows = drawn_rows()
    problem = LinearEvaluation(Logged(trees_of_run(rows, 0), 0.9))
    head, auxiliary = torch.randn(
        2, RUNS, WIDTH, generator=torch.Generator().manual_seed(9), dtype=DOUBLE
    )
    at = Levels(torch.zeros(RUNS, dtype=DOUBLE), head, auxiliary)
    found = DIRECTIONS[method].all(Oracles(problem), at, Rows({"train": rows}, {"train": 0}))
    for run in range(RUNS):
        theta, h = torch.zeros(2, WIDTH, dtype=DOUBLE)
        for i in range(BATCH):
            row = {
                "phi": rows.inputs[run, i],
                "next": rows.next_inputs[run, i],
                "reward": float(rows.rewards[run, i]),
                "ratio": float(rows.ratios[run, i]),
                "continues": float(rows.continues[run, i]),
            }
            parts = by_hand(method, row, head[run], auxiliary[run], 0.9)
            share = float(rows.weights[run, i]) / BATCH
            theta, h = theta + share * parts[0], h + share * parts[1]
        if method == "tdrc":  # the pull to 0 has no rows
            h = h - 0.6 * (1 - float(rows.weights[run].mean())) * auxiliary[run]
        assert torch.allclose(found.head[run], -theta, rtol=1e-12, atol=1e-13)
        assert torch.allclose(found.auxiliary[run], -h, rtol=1e-12, atol=1e-13)
    assert not found.body.any()


def trees_of_run(rows: Transitions, run: int) -> Transitions:
    return Transitions(*(leaf[run] for leaf in rows))


def test_tdc_is_what_the_problem_states():
    """`SingleLoop` on its own follows the problem's directions: those of TDC."""
    rows = drawn_rows(1)
    problem = LinearEvaluation(Logged(trees_of_run(rows, 0), 0.9))
    head, auxiliary = torch.randn(
        2, RUNS, WIDTH, generator=torch.Generator().manual_seed(3), dtype=DOUBLE
    )
    at = Levels(torch.zeros(RUNS, dtype=DOUBLE), head, auxiliary)
    batch = Rows({"train": rows}, {"train": 0})
    ours = methods.TDC().all(Oracles(problem), at, batch)
    theirs = Oracles(problem).directions(*at, batch)
    for level, own in zip(ours, theirs, strict=True):
        assert torch.allclose(level, own, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", DIRECTIONS)
def test_sampled_directions_average_to_the_expected_one(name, method):
    """By enumeration: each outcome as a batch of one row, weighted by its probability."""
    process = PROCESSES[name]
    rows = experience.expected(process)
    n, width = rows.inputs.shape
    generator = torch.Generator().manual_seed(4)
    head, auxiliary = torch.randn(2, width, generator=generator, dtype=DOUBLE)
    single = Transitions(*(leaf.unsqueeze(1) for leaf in rows))._replace(
        weights=torch.ones(n, 1, dtype=DOUBLE)
    )
    runs = Levels(torch.zeros(n, dtype=DOUBLE), head.expand(n, width), auxiliary.expand(n, width))
    oracles = Oracles(LinearEvaluation(process))
    part = DIRECTIONS[method]
    each = part.all(oracles, runs, Rows({"train": single}, {"train": 0}))
    probabilities = (rows.weights / n).unsqueeze(1)
    one = Levels(torch.zeros(1, dtype=DOUBLE), head[None], auxiliary[None])
    found = exact.moments(process.inputs, process.model, process.discount)
    update = stability.expected_update(found, method, eta=1.0, beta=0.6)
    z = head if method == "td" else torch.cat([head, auxiliary])
    moved = update.right - update.matrix @ z
    for group, axis in ((process.model, None), (rows, None)):
        expected = part.all(oracles, one, Rows({"train": group}, {"train": axis}))
        scale = 1 + expected.head.abs().max() + expected.auxiliary.abs().max()
        for sampled, whole in zip(each[1:], expected[1:], strict=True):
            average = (probabilities * sampled).sum(0)
            assert (average - whole[0]).abs().max() < 1e-12 * scale
        assert (-expected.head[0] - moved[:width]).abs().max() < 1e-12 * scale
        if method != "td":
            assert (-expected.auxiliary[0] - moved[width:]).abs().max() < 1e-12 * scale


@pytest.mark.parametrize("name", PROCESSES)
def test_gradient_methods_follow_half_of_the_gradient_at_the_best_auxiliary(name):
    """GTD2 and TDC at omega* move along -1/2 of the derivative of MSPBE; TD does not."""
    process = PROCESSES[name]
    width = process.inputs.shape[1]
    head = torch.randn(width, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)
    found = exact.moments(process.inputs, process.model, process.discount)
    variable = head.clone().requires_grad_()
    (slope,) = torch.autograd.grad(exact.mspbe(found, variable), variable)
    best = exact.best_auxiliary(found, head)
    at = Levels(torch.zeros(1, dtype=DOUBLE), head[None], best[None])
    oracles, batch = (
        Oracles(LinearEvaluation(process)),
        Rows({"train": process.model}, {"train": None}),
    )
    for method in ("gtd2", "tdc"):
        moved = DIRECTIONS[method].all(oracles, at, batch).head[0]
        assert (moved - slope / 2).norm() < 1e-10 * slope.norm() + 1e-13
    assert (
        DIRECTIONS["td"].all(oracles, at, batch).head[0] - slope / 2
    ).norm() > 1e-3 * slope.norm()


@pytest.mark.parametrize("name", ["baird", "boyan", "walk dependent"])
def test_expected_trainings_equal_the_recursion(name):
    process = PROCESSES[name]
    problem = LinearEvaluation(process)
    found = exact.moments(process.inputs, process.model, process.discount)
    width, steps, lr, eta = process.inputs.shape[1], 60, 0.02, 1.5
    strategies = {
        "td": methods.td(lr),
        "gtd2": methods.gtd2(lr, eta),
        "tdc": methods.tdc(lr, eta),
        "tdrc": methods.tdrc(lr, eta, beta=0.6),
    }
    for method, strategy in strategies.items():
        solution = bilevel.solve(
            problem, strategy, steps=steps, batch_size=None, seeds=2, every=steps, dtype=DOUBLE
        )
        update = stability.expected_update(found, method, eta=eta, beta=0.6)
        z = torch.zeros_like(update.right)
        z[:width] = problem.init_head(torch.Generator())
        for _ in range(steps):
            z = z + lr * (update.right - update.matrix @ z)
        assert torch.allclose(solution.head[1], z[:width], rtol=1e-11, atol=1e-12)
        root = solution.history["test_rmspbe"][-1, 0]
        assert torch.allclose(root**2, exact.mspbe(found, z[:width]), rtol=1e-9)


def test_lstd_is_exact_at_once_and_ridged_on_request():
    problem = LinearEvaluation(boyan())
    found = exact.moments(boyan().inputs, boyan().model, 1.0)
    for ridge in (0.0, 0.3):
        solution = bilevel.solve(
            problem, methods.LSTD(ridge), steps=3, batch_size=None, seeds=2, every=3, dtype=DOUBLE
        )
        assert torch.allclose(solution.head[0], exact.lstd(found, ridge), atol=1e-9)
        last = {name: values[-1, 0] for name, values in solution.history.items()}
        assert abs(last["test_lstd_msve"]) < 1e-18
    assert last["test_msve"] > 1e-3


def test_lstd_on_a_stream_uses_every_row_once():
    process = random_walk(features="dependent")
    problem = LinearEvaluation(Known(process, "markovian", 600))
    solution = bilevel.solve(
        problem,
        methods.LSTD(0.01),
        steps=120,
        batch_size=5,
        seeds=[4, 8],
        every=120,
        sampling="sequential",
        dtype=DOUBLE,
    )
    rows = problem.data(8)["train"]
    found = exact.sampled_moments(rows.inputs, rows.next_inputs, rows, 1.0)
    assert torch.allclose(solution.head[1], exact.lstd(found, 0.01), atol=1e-10)


def test_grids_of_methods_are_one_training():
    """Step sizes, eta and beta are numbers of the runs."""
    problem = LinearEvaluation(boyan())
    lrs = torch.tensor([0.1, 0.2], dtype=DOUBLE)
    betas = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    together = bilevel.solve(
        problem,
        methods.tdrc(lrs, 1.0, beta=betas),
        steps=20,
        batch_size=None,
        seeds=2,
        dtype=DOUBLE,
    )
    for run in range(2):
        alone = bilevel.solve(
            problem,
            methods.tdrc(float(lrs[run]), 1.0, beta=float(betas[run])),
            steps=20,
            batch_size=None,
            seeds=[run],
            dtype=DOUBLE,
        )
        assert torch.allclose(alone.head[0], together.head[run], rtol=1e-12)


@pytest.mark.usefixtures("untimed")
def test_comparisons_report_value_errors_and_the_objective():
    strategies = methods.default_methods(0.1)
    comparison = bilevel.compare(
        LinearEvaluation(boyan()), strategies, seeds=2, steps=6, batch_size=None
    )
    for metric in ("test_msve", "test_lstd_msve", "test_mspbe", "test_rmspbe", "test_msbe"):
        assert set(comparison.final(metric)) == set(strategies)
    final = comparison.final("test_msve")
    assert final["LSTD"].max() < 1e-6 < final["TD"].min()
    assert "test MSVE" in comparison.table()


@pytest.mark.parametrize("kind", ["iid", "markovian"])
def test_moments_of_samples_agree_with_the_exact_ones(kind):
    """Every entry of A, b and C lies within 4.5 standard errors, from means of 40 batches."""
    process = random_walk(features="dependent")
    batches, size = 40, 2500
    rows = experience.draw(process, kind, batches * size, seed=11)
    parts = []
    for i in range(batches):
        some = Transitions(*(leaf[i * size : (i + 1) * size] for leaf in rows))
        found = exact.sampled_moments(some.inputs, some.next_inputs, some, 1.0)
        parts.append(torch.cat([leaf.flatten() for leaf in found]))
    drawn = torch.stack(parts)
    error = drawn.std(0) / batches**0.5
    model = exact.moments(process.inputs, process.model, 1.0)
    truth = torch.cat([leaf.flatten() for leaf in model])
    assert error.max() < 0.005
    assert ((drawn.mean(0) - truth).abs() <= 4.5 * error + 1e-12).all()


def test_markovian_and_independent_rows_lead_to_the_same_head():
    """TDRC with falling steps: means over seeds agree within 4 standard errors, and with theta*."""
    process = random_walk(features="dependent")
    found = exact.moments(process.inputs, process.model, 1.0)
    target = exact.lstd(found)
    lr = bilevel.Polynomial(8.0, 0.8, 20.0)
    steps, batch, heads = 900, 12, {}
    for kind in ("iid", "markovian"):
        problem = LinearEvaluation(Known(process, kind, steps * batch))
        solution = bilevel.solve(
            problem,
            methods.tdrc(lr),
            steps=steps,
            batch_size=batch,
            seeds=20,
            every=steps,
            sampling="sequential",
            dtype=DOUBLE,
        )
        heads[kind] = solution.head
    means = {kind: head.mean(0) for kind, head in heads.items()}
    errors = {kind: head.std(0) / 20**0.5 for kind, head in heads.items()}
    both = (errors["iid"].square() + errors["markovian"].square()).sqrt()
    assert both.max() < 0.05
    assert ((means["iid"] - means["markovian"]).abs() < 4 * both).all()
    for kind in heads:
        assert ((means[kind] - target).abs() < 4 * errors[kind] + 0.01).all()
        assert (heads[kind] - target).norm() < 0.4 * target.norm() * 20**0.5


def test_trajectories_walk_and_begin_anew():
    walked = experience.draw(boyan(), "markovian", 4000, seed=3)
    goes_on = walked.continues[:-1] > 0
    assert torch.equal(walked.next_inputs[:-1][goes_on], walked.inputs[1:][goes_on])
    first = torch.tensor([1.0, 0, 0, 0], dtype=DOUBLE)
    assert (walked.inputs[1:][~goes_on] == first).all()
    assert (~goes_on).any()
    assert set(walked.rewards[walked.continues == 0].tolist()) == {-3.0, -2.0}
    again = experience.draw(boyan(), "markovian", 4000, seed=3)
    assert torch.equal(again.inputs, walked.inputs)
    other = experience.draw(boyan(), "markovian", 4000, seed=4)
    assert not torch.equal(other.inputs, walked.inputs)


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'markovian'"):
        Known(boyan(), "markov")
    with pytest.raises(UnknownNameError, match="kind of experience 'all'"):
        experience.draw(boyan(), "all", 10, seed=0)
    with pytest.raises(bilevel.errors.ArgumentError, match="`length` must be a positive"):
        experience.draw(boyan(), "iid", 0, seed=0)
    with pytest.raises(IncompatibleError, match="TDC is a method for fixed features"):
        bilevel.solve(NeuralMSPBE(Known(boyan())), methods.tdc(0.1), steps=2, batch_size=None)
    with pytest.raises(IncompatibleError, match="LSTD is a method for fixed features"):
        bilevel.solve(NeuralMSPBE(Known(boyan())), methods.LSTD(), steps=2, batch_size=None)
    with pytest.raises(bilevel.errors.ArgumentError, match="`beta` must be at least 0"):
        methods.TDRC(-1.0)
