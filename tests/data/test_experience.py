"""Rows that depend on what was learned: the door for experiences, by a small one."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import bilevel
from bilevel import trees
from bilevel.comparison import checkpoint as checkpoint_module
from bilevel.errors import (
    ArgumentError,
    BilevelError,
    IncompatibleError,
    ProblemError,
    ResultsError,
    ShapeError,
)
from bilevel.training.cohort import Cohort

B, SGD = 4, bilevel.SGD()


class Walk(bilevel.AbstractExperience):
    """Inputs that drift towards the body: x <- x / 2 + w + seed."""

    def __init__(self, seeds, like, scale=1.0):
        self.seed = torch.tensor(seeds, dtype=like.dtype)[:, None, None]
        self.at, self.asked, self.scale = like.new_zeros(len(seeds), B, 2), [], scale

    @property
    def description(self):
        return f"Walk(scale={self.scale})"

    def rows(self, k, body, head):
        self.asked.append(k)
        ramp = torch.arange(1.0, B + 1).to(body)[:, None]
        self.at = self.at / 2 + self.scale * (body.mT * ramp + self.seed / 10)
        return self.evaluated(body, head)

    def evaluated(self, body, head):
        return {"train": bilevel.Batch(self.at, self.at.sum(2) + 1), "prior": head}

    def recorded(self):
        return {"distance": self.at.flatten(1).norm(dim=1)}

    def more(self, size, j):
        rows = self.at[:, :1].expand(-1, size, -1) + j
        return {"train": bilevel.Batch(rows, rows.sum(2)), "prior": rows[:, 0] * 0}

    def snapshot(self):
        return {"at": self.at.clone()}

    def go_on_from(self, snapshot):
        self.at = snapshot["at"].clone()


class Online(bilevel.LinearHeadProblem):
    """A head that is drawn to where it was."""

    ridge = 0.5

    def __init__(self, made=Walk, **options):
        self.made, self.options, self.latest = made, options, None

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return torch.rand(2, 1, generator=generator)

    def init_head(self, generator):
        return torch.rand(2, generator=generator)

    def features(self, body, inputs):
        return torch.tanh(inputs * body[:, 0])

    def prior(self, body, batch):
        return batch["prior"]

    def experience(self, seeds, body, head):
        self.latest = self.made(seeds, body, **self.options)
        return self.latest


TWO = bilevel.TwoTimescale(0.05, 0.2, SGD, "simultaneous")


def test_rows_are_asked_for_once_a_step_at_the_body_and_head_before_it():
    problem = Online()
    solution = bilevel.solve(problem, TWO, steps=7, every=3, seeds=3, dtype=torch.float64)
    assert problem.latest.asked == list(range(7))
    w, theta, x = (problem.init_body, problem.init_head), [], None
    from bilevel.core.generators import generator

    for run in range(3):
        w = problem.init_body(generator(run, "body")).double()
        theta = problem.init_head(generator(run, "head")).double()
        x = torch.zeros(B, 2, dtype=torch.float64)
        for _ in range(7):
            x = x / 2 + w.T * torch.arange(1.0, B + 1)[:, None] + run / 10
            z = torch.tanh(x * w[:, 0])
            error = z @ theta - (x.sum(1) + 1)
            slope = ((1 - z**2) * x * theta * error[:, None]).mean(0)
            w, theta = w - 0.05 * slope[:, None], theta - 0.2 * (z.T @ error) / B
        assert torch.allclose(solution.body[run], w, rtol=1e-12)
        assert torch.allclose(solution.head[run], theta, rtol=1e-12)
        assert float(solution.history["distance"][-1, run]) == pytest.approx(float(x.norm()))


def test_records_ask_for_rows_and_change_nothing():
    one, other = (
        bilevel.solve(Online(), TWO, steps=8, every=every, seeds=2, dtype=torch.float64)
        for every in (1, 8)
    )
    assert torch.equal(one.head, other.head)
    # g at the head that is its own prior: the loss alone, and theta* is drawn to it
    assert float(one.history["head_gap"][-1].min()) > 0
    assert torch.isfinite(one.history["phi"]).all()


def test_a_saved_state_goes_on_and_runs_may_take_turns(tmp_path):
    options = {"seeds": 3, "every": 5, "dtype": torch.float64}
    whole = bilevel.solve(Online(), TWO, steps=20, **options)
    half = bilevel.solve(Online(), TWO, steps=9, max_runs_at_once=2, **options)
    read = bilevel.Solution.load(half.save(tmp_path / "half"), Online())
    rest = bilevel.solve(Online(), TWO, steps=11, max_runs_at_once=2, state=read.state, **options)
    assert torch.equal(rest.head, whole.head)
    assert trees.equal(rest.state.experience, whole.state.experience)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_comparison_that_is_interrupted_goes_on_with_the_same_numbers(
    stop, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint_module, "SECONDS", 0)
    exact = bilevel.BestResponse(0.05, bilevel.ClosedForm(bilevel.BatchData()))
    pair = {"two": TWO, "exact": exact}
    options = {"seeds": 3, "steps": 12, "every": 4}
    whole = bilevel.compare(Online(), pair, **options)
    true, left = Cohort.advance, iter(range(12 * stop, -1, -1))

    def advance(self, count):
        if next(left, None) == 0:
            raise KeyboardInterrupt
        true(self, count)

    with monkeypatch.context() as patch:
        patch.setattr(Cohort, "advance", advance)
        bilevel.compare(Online(), pair, checkpoint=tmp_path / "kept", **options)
    again = bilevel.compare(Online(), pair, checkpoint=tmp_path / "kept", **options)
    for name, table in whole.history.items():
        for metric, values in table.items():
            assert values.tobytes() == again.history[name][metric].tobytes(), (name, metric)
    with pytest.raises(ResultsError, match="differs in experience"):
        bilevel.compare(Online(scale=2.0), pair, checkpoint=tmp_path / "kept", **options)


class Empty(Walk):
    """Rows of weight zero before the first step."""

    def evaluated(self, body, head):
        weights = self.at.new_full(self.at.shape[:2], float(bool(self.asked)))
        return {**super().evaluated(body, head), "weights": weights}


class Weighed(Online):
    def row_weights(self, body, batch):
        return batch["weights"]


def test_no_run_has_converged_before_there_are_rows():
    options = {"steps": 40, "every": 4, "seeds": 2, "dtype": torch.float64}
    found = bilevel.solve(Weighed(Empty), TWO, tolerance=1e-9, **options)
    norm = found.history["phi_gradient_norm"]
    assert not norm[0].any()
    assert norm[1].min() > 0
    assert [at.name for at in found.status] == ["NOT_STATIONARY"] * 2
    found = bilevel.solve(Weighed(Empty), TWO, tolerance=1.0, **options)
    assert (found.steps.tolist(), found.status[0].name) == ([0, 4], "CONVERGED")


def test_what_is_recorded_of_a_run_that_ended_stays():
    """Its experience goes on with the steps of the others."""
    rates = torch.tensor([0.05, 1e200], dtype=torch.float64)
    both = bilevel.TwoTimescale(rates, 0.2, SGD, "simultaneous")
    options = {"steps": 12, "every": 4, "dtype": torch.float64}
    found = bilevel.solve(Online(), both, seeds=2, **options)
    assert [at.name for at in found.status] == ["COMPLETED", "DIVERGED"]
    alone = bilevel.solve(Online(), TWO, seeds=1, **options)
    distance = found.history["distance"]
    assert torch.allclose(distance[:, 0], alone.history["distance"][:, 0])
    assert distance[1:, 1].nan_to_num(7.0).unique().numel() == 1
    assert found.history["head_residual"][:, 0].isfinite().all()


@pytest.mark.parametrize(
    ("other", "changed", "match"),
    [
        (Online(scale=2.0), {}, "does not fit: it comes from another problem"),
        (Online(), {"experience": None}, "does not hold that. Pass the whole `.state`"),
    ],
)
def test_a_state_is_of_one_experience(other, changed, match):
    state = bilevel.solve(Online(), TWO, steps=2, seeds=2).state._replace(**changed)
    with pytest.raises(ArgumentError, match=match):
        bilevel.solve(other, TWO, steps=2, seeds=2, state=state)


def test_data_that_are_redrawn_are_none_either():
    problem = Online()
    problem.redraws_data = True
    one = bilevel.solve(problem, TWO, steps=3, seeds=2, batch_size={"train": 2})  # its own, 4
    other = bilevel.solve(Online(), TWO, steps=3, seeds=2)
    assert torch.equal(one.head, other.head)
    problem.tasks = True
    with pytest.raises(IncompatibleError, match="has `tasks` and `experience`"):
        bilevel.solve(problem, TWO, steps=3, seeds=2)


def test_room_is_asked_for_where_it_is_trained():
    """By other machines, whose memory is not known here, each shard where it is computed."""
    asked = []
    problem = Online()
    problem.room = lambda runs: asked.append(runs) or ""
    pair = {"two": TWO, "alternating": bilevel.TwoTimescale(0.05, 0.2, SGD)}
    options = {"seeds": 2, "steps": 2}
    bilevel.compare(problem, pair, **options)
    assert asked == [4]
    asked.clear()
    with ThreadPoolExecutor(2) as executor:
        problem.room = lambda runs: "" if runs < 4 else pytest.fail("asked for all runs")
        found = bilevel.compare(problem, pair, engine=executor, **options)
    assert all(seconds > 0 for seconds in found.seconds_per_step.values())


def test_what_cannot_be_explained_is_said_before_it_is_trained():
    from bilevel.analysis.why import check_explainable

    with pytest.raises(IncompatibleError, match="Online has `experience`"):
        check_explainable(Online())


def test_the_settings_say_what_was_experienced():
    found = bilevel.compare(Online(), {"two": TWO, "slow": bilevel.uniform(0.01)}, seeds=2, steps=3)
    assert found.settings["experience"] == "Walk(scale=1.0)"
    assert "sampling" not in found.settings
    assert "batch_size" not in found.settings


def test_steps_are_not_compiled_and_say_so():
    with pytest.warns(UserWarning, match="rows that depend on each of its steps"):
        bilevel.solve(Online(), TWO, steps=2, seeds=2, compile=True)


def test_more_rows_are_drawn_on_request_alone():
    """FastSGD draws rows of its own."""
    strategy = bilevel.BestResponse(0.05, bilevel.FastSGD(0.1, 2, batch_size=3))
    bilevel.solve(Online(), strategy, steps=3, seeds=2)

    class Bare(Walk):
        more = bilevel.AbstractExperience.more

    with pytest.raises(IncompatibleError, match="Bare has no more rows than those of a step"):
        bilevel.solve(Online(Bare), strategy, steps=3, seeds=2)


class Short(Walk):
    def evaluated(self, body, head):
        return {"train": bilevel.Batch(self.at[0], self.at[0].sum(1))}


class Groupless(Walk):
    def evaluated(self, body, head):
        return {"rows": self.at}


class Telling(Walk):
    def recorded(self):
        return {"distance": self.at}


class Repeating(Walk):
    def recorded(self):
        return {"objective": self.at[:, 0, 0]}


class Nameless(Walk):
    def recorded(self):
        return {3: self.at[:, 0, 0]}


class Doubled(Walk):
    def rows(self, k, body, head):
        return trees.cast(super().rows(k, body, head), torch.float64)


class Whole(Walk):
    def snapshot(self):
        return {"at": self.at[0]}


@pytest.mark.parametrize(
    ("made", "error", "match"),
    [
        (Short, ShapeError, r"`evaluated` of Short .* leading axis of the 1 run, got \(4, 2\)"),
        (Groupless, ProblemError, "must return a dict of groups"),
        (Telling, ProblemError, "a number for each of the . runs, but 'distance'"),
        (Repeating, ProblemError, "'objective', the name of another record"),
        (Nameless, ProblemError, "must return a dict of tensors by names"),
        (Doubled, ProblemError, r"`rows` of Doubled .*, got torch.float64, not torch.float32, at"),
        (Whole, ShapeError, r"`snapshot` of Whole .* axis of the 3 runs, got \(4, 2\) at"),
        (lambda *_: None, ArgumentError, "experience of Online"),
    ],
)
def test_what_an_experience_gives_is_checked(made, error, match):
    with pytest.raises(error, match=match):
        bilevel.solve(Online(made), TWO, steps=2, seeds=3)


def test_a_problem_with_experience_has_no_data_of_its_own():
    rows = {"train": bilevel.Batch(torch.ones(3, 2), torch.arange(3.0))}
    for name, match in (("data", "`data` must return"), ("noise", "has `noise` and `experience`")):
        both = type("Both", (Online,), {name: lambda *_: rows})
        with pytest.raises((ProblemError, IncompatibleError), match=match):
            bilevel.solve(both(), TWO, steps=2, seeds=2)


@pytest.mark.parametrize(
    "asked",
    [
        lambda problem: bilevel.best_response(problem, torch.ones(2, 1)),
        lambda problem: bilevel.check_problem(problem),
        lambda problem: bilevel.minimize(problem),
        lambda problem: bilevel.advise(problem, steps=10),
    ],
)
def test_what_looks_at_all_rows_says_that_there_are_none(asked):
    with pytest.raises(BilevelError, match="Train it by `solve` or `compare`"):
        asked(Online())


def test_at_a_single_point_rows_can_be_given():
    rows = bilevel.Batch(torch.rand(5, 2), torch.rand(5))
    problem = Online()
    problem.prior = lambda body, groups: None
    found = bilevel.best_response(problem, torch.ones(2, 1), batch={"train": rows})
    z, t = torch.tanh(rows.inputs).double(), rows.targets.double()
    expected = torch.linalg.solve(z.T @ z / 5 + 0.5 * torch.eye(2), z.T @ t / 5)
    assert torch.allclose(found.head.double(), expected, atol=1e-6)
