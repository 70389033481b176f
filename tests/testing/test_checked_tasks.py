"""Problems with tasks: checks for third parties, criteria and modules of users."""

import pytest
import torch
from tasks import D, LearnedQuery, M, Query, Tasks, close, drawn, first_body, separate

import bilevel
from bilevel import testing
from bilevel.errors import CheckError
from bilevel.problem.criteria import AbstractCriterion

NEW = {"test": {"train": drawn(None, 77, 4, 6), "test": drawn(None, 77, 4, 7)}}
OPTIONS = {"steps": 2, "every": 2, "batch_size": 2, "seeds": 2, "dtype": torch.float64}


def test_a_problem_with_tasks_is_checked():
    found = dict(testing.check_problem(LearnedQuery(extra=NEW)))
    assert found["data"].startswith("24 rows of 3 tasks in train, 18 rows of 3 tasks in validation")
    assert found["data"].endswith('24 rows of 4 tasks in test"]["train, 28 rows of 4 tasks in '
                                  'test"]["test')  # fmt: skip
    assert "test_mse" in found["metrics"]
    assert "many runs at once" in found


def test_mistakes_of_a_problem_with_tasks_are_found():
    class Wrong(Query):
        def body_objective(self, body, head, batch):
            return super().body_objective({"weight": body["weight"].detach()}, head, batch)

    with pytest.raises(CheckError, match="central differences"):
        testing.check_problem(Wrong())
    rows = drawn(None, 0, 3, 8)
    alike = Tasks(extra={"train": rows._replace(inputs=torch.ones_like(rows.inputs))})
    with pytest.raises(CheckError, match="inputs of data"):
        testing.check_problem(alike)


def test_parts_are_checked_on_tasks():
    problem = Query(kind=2)
    assert len(testing.check_head_solver(bilevel.ClosedForm(), problem)) == 1
    assert len(testing.check_head_solver(bilevel.ProjectedNewton(), problem)) == 1
    assert len(testing.check_hypergradient(bilevel.Implicit(), problems=[problem])) == 1


class Cosh(AbstractCriterion):
    """log cosh of the residual, whose derivatives the library does not know."""

    def rows(self, predictions, targets):
        return (predictions - targets).cosh().log()

    def metrics(self, predictions, targets):
        return {"loss": self.rows(predictions, targets).mean()}

    def check_targets(self, targets, outputs):
        bilevel.SquaredError().check_targets(targets, outputs)


@pytest.mark.parametrize("cell", [pytest.param("g", marks=pytest.mark.slow), "query"])
def test_a_criterion_of_ones_own(cell):
    problem = (Tasks if cell == "g" else Query)(criterion=Cosh(), fit_bias=True)
    strategy = bilevel.BestResponse(0.3, optimizer=bilevel.SGD())
    found = bilevel.solve(problem, strategy, **OPTIONS | {"batch_size": None, "steps": 1})
    body = first_body(problem)
    point = bilevel.hypergradient(problem, body)
    alone = [bilevel.hypergradient(task, body) for task in separate(problem)]
    close(point.body["weight"], torch.stack([each.body["weight"] for each in alone]).mean(0))
    close(found.body["weight"][0], body["weight"] - 0.3 * point.body["weight"])
    phi = sum(each.value for each in alone) / len(alone)
    assert float(found.history["phi"][0, 0]) == pytest.approx(phi, rel=1e-10)
    assert bool((found.history["head_gap"] < 1e-7).all())


class Split(Tasks):
    """Features of a module of torch."""

    def __init__(self, **attributes):
        super().__init__(fit_bias=True, **attributes)

        def make():
            return torch.nn.Sequential(
                torch.nn.Linear(D, M), torch.nn.Tanh(), torch.nn.Linear(M, 1)
            ).double()

        self.parts = bilevel.split(make, head="2")

    def init_body(self, generator):
        return self.parts.init_body(generator)

    def features(self, body, inputs):
        return self.parts.features(body, inputs)


def test_features_may_be_those_of_a_module():
    problem = Split()
    body = problem.init_body(torch.Generator().manual_seed(0))
    found = bilevel.hypergradient(problem, body)
    alone = [bilevel.hypergradient(task, body) for task in separate(problem)]
    for name, slope in found.body.items():
        close(slope, torch.stack([each.body[name] for each in alone]).mean(0))
    solution = bilevel.solve(problem, bilevel.BestResponse(0.1), **OPTIONS)
    assert solution.head.shape == (2, 3, M + 1)
