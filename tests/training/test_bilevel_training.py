"""Trainings where F is not g: they reach known optima, and keep the promises of all trainings."""

import pytest
import torch
from analytic_cases import CASES
from points import Custom, number

import bilevel
from bilevel import (
    CG,
    SGD,
    BestResponse,
    ClosedForm,
    Dense,
    FastSGD,
    Implicit,
    Neumann,
    Polynomial,
    Solution,
    Status,
    Unrolled,
    trees,
)
from bilevel.data.sampler import Sampler
from bilevel.data.training_data import TrainingData
from problems.analytic import FeatureRegression, LogPenalties, RandomQuadratic, analytic

OPTIONS = {"batch_size": None, "seeds": 3, "every": 50, "dtype": torch.float64}


def train(problem, strategy, steps=20, **options):
    return bilevel.solve(problem, strategy, steps=steps, **(OPTIONS | options))


RATES = {  # about 1 / Phi''
    "A1": 0.2, "A2": 1 / 5002, "A3": 0.4, "A4": 0.2, "A5": 0.4, "A6": 3.0, "A7": 2.0, "A8": 0.5,
    "A9": 2.0, "A10": 20.0, "A11": 0.15, "A12": 0.6, "A14-two": None, "A14-tree": None, "B2": 0.2,
    "B7": 0.4,
}  # fmt: skip
STEPS = {"A11": 250, "A12": 60, "A14-two": 60, "A14-tree": 160}  # to a tenth of the tolerance
PROBLEMS = CASES | {"A14-two": RandomQuadratic(2, 2, 0.3, 3.0, seed=8, tree=True)}
SQUARE = RandomQuadratic(3, 5, 0.5, 4.0, seed=1)
WIDE = FeatureRegression(train=23, features=4, validation=11)


def newton_like(problem):
    """1 / |Phi''| of a quadratic Phi."""
    eye = torch.eye(len(problem.start)).double()
    base = problem.phi_gradient(0 * problem.start)
    bend = torch.stack([problem.phi_gradient(e) - base for e in eye])
    return 1 / float(torch.linalg.eigvalsh(bend)[-1])


EXACT_BOX = FastSGD(0.5, 2)  # 1 / L where H is L times the identity


@pytest.mark.parametrize("name", RATES)
def test_known_optima_are_reached(name):
    problem = PROBLEMS[name]
    rate = RATES[name] or newton_like(problem)
    solver = {"A9": FastSGD(0.3, 40), "B2": EXACT_BOX, "B7": EXACT_BOX}.get(name)
    momentum = 0.8 if name == "A14-tree" else 0.0
    strategy = BestResponse(rate, solver, optimizer=SGD(momentum))
    solution = train(problem, strategy, STEPS.get(name, 40), every=1000)
    best, value = problem.solution
    errors = trees.norm(trees.tree_map(torch.sub, solution.body, best.expand(solution.body.shape)))
    assert (errors <= 1e-5 * (1 + float(best.norm()))).all()
    assert all(status <= Status.CONVERGED for status in solution.status)
    if "phi" in solution.history:
        reached = solution.history["phi"][-1]
        assert ((reached - value).abs() <= 1e-9 * (1 + abs(value))).all()


@pytest.mark.parametrize("name", ["A1", "A8", pytest.param("A11", marks=pytest.mark.slow)])
def test_the_optimum_is_noticed_by_a_tolerance(name):
    problem = analytic(name)
    strategy = BestResponse(RATES[name], optimizer=SGD())
    solution = train(problem, strategy, 2000, every=20, tolerance=1e-7)
    assert solution.status == (Status.CONVERGED,) * 3
    assert len(solution.steps) < 30
    assert (trees.norm(solution.body - problem.solution.body) <= 1e-5).all()
    assert train(problem, strategy, 1, tolerance=1e-7).status == (Status.NOT_STATIONARY,) * 3


@pytest.mark.slow  # thousands of steps that fall like a polynomial
@pytest.mark.parametrize("name", ["B1", "B5"])
def test_optima_on_kinks_are_reached(name):
    problem = analytic(name)
    strategy = BestResponse(Polynomial(0.5, 1.0), EXACT_BOX, optimizer=SGD())
    solution = train(problem, strategy, 600, every=600)
    gap = solution.body - problem.solution.body
    assert (gap.abs() <= 1e-3).all()


def test_a_5_needs_the_implicit_term():
    """Liu et al. 2019, figure 2: (1, 1) with it, (2, 2) when both levels take their own slopes."""
    problem = analytic("A5")
    solution = train(problem, BestResponse(0.4, optimizer=SGD()), 100)
    torch.testing.assert_close(solution.body, torch.ones(3).double(), rtol=1e-8, atol=0)
    torch.testing.assert_close(solution.head, torch.ones(3).double(), rtol=1e-8, atol=0)

    def alternation(problem, body, head, batches):
        for batch in batches:
            body, head = body.detach().requires_grad_(), head.detach().requires_grad_()
            upper = problem.body_objective(body, head, batch)
            body_next = body.detach() - 0.2 * torch.autograd.grad(upper, body)[0]
            lower = problem.head_objective(body_next, head, batch)
            head = head.detach() - 0.2 * torch.autograd.grad(lower, head)[0]
            body = body_next
            yield body, head

    astray = train(problem, bilevel.OwnLoop(alternation), 400)
    torch.testing.assert_close(astray.body, 2 * torch.ones(3).double(), rtol=1e-8, atol=0)
    torch.testing.assert_close(astray.head, 2 * torch.ones(3).double(), rtol=1e-8, atol=0)


def test_where_f_is_not_g_the_default_gradient_is_the_implicit_one():
    for problem in (SQUARE, WIDE):
        default = train(problem, BestResponse(0.05), 8)
        explicit = train(problem, BestResponse(0.05, ClosedForm(), Implicit()), 8)
        assert torch.equal(default.body, explicit.body)
        dense = train(problem, BestResponse(0.05, gradient=Implicit(Dense())), 8)
        torch.testing.assert_close(default.body, dense.body, rtol=1e-8, atol=1e-10)
    # the matrix too is the one of all rows, on which the head is solved
    sampled, dense = (
        train(WIDE, BestResponse(0.05, gradient=method), 5, **SAMPLED)
        for method in (Implicit(), Implicit(Dense()))
    )
    torch.testing.assert_close(sampled.body, dense.body, rtol=1e-8, atol=1e-10)


STRATEGIES = {
    "factor": BestResponse(0.02),
    "CG": BestResponse(0.02, gradient=Implicit(CG())),
    "Dense": BestResponse(0.02, gradient=Implicit(Dense())),
    "Neumann": BestResponse(0.02, gradient=Implicit(Neumann(5)), optimizer=SGD()),
    "refine": BestResponse(0.02, FastSGD(0.2, 2), Implicit(on_inexact="refine")),
    "Unrolled": BestResponse(0.02, FastSGD(0.2, 4), Unrolled(4)),
    "Unrolled rows": BestResponse(0.02, FastSGD(0.2, 4, batch_size=5), Unrolled(4, 2)),
}
SAMPLED = {"batch_size": {"train": 7, "validation": 4}, "seeds": [4, 1]}


@pytest.mark.parametrize("name", STRATEGIES)
def test_many_runs_equal_single_runs(name):
    problem, options = (SQUARE, {"seeds": [4, 1]}) if name == "refine" else (WIDE, SAMPLED)
    together = train(problem, STRATEGIES[name], 4, **options)
    turns = train(problem, STRATEGIES[name], 4, max_runs_at_once=1, **options)
    torch.testing.assert_close(turns.body, together.body, rtol=1e-10, atol=1e-12)
    for i, seed in enumerate([4, 1]):
        alone = train(problem, STRATEGIES[name], 4, **(options | {"seeds": [seed]}))
        torch.testing.assert_close(alone.body[0], together.body[i], rtol=1e-8, atol=1e-10)
        assert alone.status[0] == together.status[i]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_training_goes_on_bit_for_bit(name, tmp_path):
    strategy = STRATEGIES[name]
    whole, half = (train(WIDE, strategy, steps, **SAMPLED) for steps in (5, 2))
    rest = train(WIDE, strategy, 3, state=half.state, **SAMPLED)
    loaded = Solution.load(half.save(tmp_path / "half.safetensors"), WIDE)
    later = train(WIDE, strategy, 3, state=loaded.state, **SAMPLED)
    for found in (rest, later):
        assert torch.equal(found.body, whole.body)
        assert torch.equal(found.head, whole.head)
        assert found.status == whole.status
    kept = whole.state.strategy
    assert bool(trees.leaves(kept.factor)) == (name == "factor")
    assert bool(trees.leaves(kept.start)) == name.startswith("Unrolled")
    assert bool(trees.leaves(kept.gradient)) == (not name.startswith("Unrolled"))


@pytest.mark.slow  # 200 steps of each
@pytest.mark.parametrize("name", ["factor", "CG", "Unrolled"])
def test_no_graph_is_kept_and_states_do_not_grow(name):
    sizes = []
    for steps in (3, 200):
        leaves = trees.leaves(train(WIDE, STRATEGIES[name], steps, every=200, **SAMPLED).state)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        assert not any(leaf.requires_grad or leaf.grad_fn is not None for leaf in tensors)
        sizes.append(sum(leaf.untyped_storage().nbytes() for leaf in tensors))
    assert sizes[0] == sizes[1]


def test_adjoints_start_from_those_of_the_step_before():
    """Near the optimum they hardly change, and CG takes fewer products."""
    problem, counts = RandomQuadratic(3, 60, 0.05, 4.0, seed=2), []

    class Counting(CG):
        def solve(self, operator, right, start=None):
            seen = []
            product = operator.product
            operator = bilevel.linear.Operator(
                lambda v: seen.append(1) or product(v), operator.matrix
            )
            found = super().solve(operator, right, start)
            counts.append(len(seen))
            return found

    strategy = BestResponse(newton_like(problem), gradient=Implicit(Counting()), optimizer=SGD())
    train(problem, strategy, 30, seeds=1, every=200)
    assert counts[-1] < 0.5 * counts[0]


def test_one_bad_run_harms_no_other():
    """The body of one seed makes g so flat that nothing is a number."""

    def flat_at_large_bodies(w, theta):
        return torch.where(w > 50, 0.0, 1.0) * (theta - w) ** 2 / 2

    problem = Custom(lambda w, t: (t - 3) ** 2 / 2, flat_at_large_bodies, [0.0])
    problem.init_body = lambda generator: (
        number(1.0) + 0.1 * torch.rand((), generator=generator, dtype=torch.float64)
    )
    rates = torch.tensor([0.5, 500.0, 0.5])
    mixed = train(problem, BestResponse(rates, FastSGD(0.5, 40), optimizer=SGD()), 40)
    assert mixed.status[1].failed or mixed.status[1] > Status.CONVERGED
    assert mixed.status[0] <= Status.CONVERGED
    alone = train(problem, BestResponse(0.5, FastSGD(0.5, 40), optimizer=SGD()), 40)
    torch.testing.assert_close(mixed.body[[0, 2]], alone.body[[0, 2]], rtol=1e-12, atol=0)
    torch.testing.assert_close(alone.body, 3 * torch.ones(3).double(), rtol=1e-8, atol=0)


def test_compiling_is_declined_with_a_warning_and_the_same_numbers():
    for strategy in (BestResponse(0.02, gradient=Implicit(CG())), STRATEGIES["Unrolled"]):
        eager = train(WIDE, strategy, **SAMPLED)
        with pytest.warns(UserWarning, match="runs eagerly, with the same numbers"):
            asked = train(WIDE, strategy, compile=True, **SAMPLED)
        assert torch.equal(asked.body, eager.body)


def test_adjoints_of_free_coordinates_are_not_compiled():
    """Gradients of which none was chosen for the set, on a problem whose heads are in a box."""
    problem = FeatureRegression(train=23, features=4, validation=11)
    problem.head_set = bilevel.Box(-0.1, 0.1)
    strategy = BestResponse(0.02, solver=ClosedForm(), gradient=Implicit())
    eager = train(problem, strategy, **SAMPLED)
    with pytest.warns(UserWarning, match="runs eagerly, with the same numbers"):
        asked = train(problem, strategy, compile=True, **SAMPLED)
    assert torch.equal(asked.body, eager.body)


# rows


@pytest.mark.parametrize(
    "problem", [LogPenalties(), WIDE], ids=["penalties (A15)", "features (A16)"]
)
def test_the_mean_of_stochastic_gradients_is_the_full_one(problem):
    """F on drawn validation rows, d2_{w theta} g on drawn training rows, H on all of them."""
    seeds, steps = list(range(100)), 40
    data = TrainingData(problem, seeds, torch.float64, "cpu")
    sizes = {"train": 6, "validation": 3}
    sampler = Sampler(data, sizes, ("train", "validation"))
    oracles = bilevel.derivatives.oracles.Oracles(problem)
    body = problem.start.expand(len(seeds), *problem.start.shape)
    head = data.initial(problem.init_head, "head")
    solver, method = ClosedForm(), Implicit()
    memory = solver.init(oracles, body, head, sampler.rows(0))
    solved = solver.solve(oracles, body, head, sampler.rows(0), memory, 0)
    state, drawn = method.init(oracles, body, solved.head, sampler.rows(0)), []
    for k in range(steps):
        answer = bilevel.Answer(solved.head, solver, head, k, solved.factor)
        drawn.append(method.gradient(oracles, body, answer, sampler.rows(k), state).body)
    samples = torch.stack(drawn).flatten(2).flatten(0, 1)
    exact = problem.phi_gradient(problem.start).reshape(-1)
    error = samples.mean(0) - exact
    standard = samples.std(0) / len(samples) ** 0.5
    assert (error.abs() <= 4 * standard).all()
    assert (standard > 0).all()
    assert standard.norm() < 0.1 * exact.norm()  # sharp enough to notice a missing term


def test_both_groups_are_drawn():
    plain = train(WIDE, BestResponse(0.02), 1, batch_size=None)
    for group, size in (("train", 7), ("validation", 4)):
        sampled = train(WIDE, BestResponse(0.02), 1, batch_size={group: size})
        assert not torch.equal(sampled.body, plain.body)
    other = train(WIDE, BestResponse(0.02), 1, batch_size=5)
    assert not torch.equal(other.body[0], other.body[1])


def test_f_on_the_validation_rows_of_redrawn_data():
    class Redrawn(FeatureRegression):
        redraws_data = True

        def data(self, seed=None):
            return FeatureRegression(23, 4, validation=11, seed=seed or 0).data()

    problem = Redrawn(23, 4, validation=11)
    solution = train(problem, BestResponse(0.02, optimizer=SGD()), 1, seeds=[0, 5])
    for run, seed in enumerate([0, 5]):
        own = FeatureRegression(23, 4, validation=11, seed=seed)
        generator = bilevel.data.sampler.generator(seed, "body")
        body = problem.init_body(generator)
        moved = body - 0.02 * own.phi_gradient(body)
        torch.testing.assert_close(solution.body[run], moved, rtol=1e-10, atol=1e-12)
