"""The teacher network: its targets are what it computes; students start in two ways."""

import pytest
import torch

import bilevel
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError
from problems.teacher import teacher


def test_the_teacher_itself_has_no_loss():
    problem = teacher(rows=40, inputs=3, width=7, ridge=0.0, test=11)
    rows = problem.data(5)
    source = generator(5, "teacher")
    body, head = (
        torch.randn(shape, generator=source, dtype=torch.float64) for shape in ((3, 7), 7)
    )
    assert rows["train"].inputs.shape == (40, 3)
    assert rows["test"].targets.shape == (11,)
    assert float(problem.head_objective(body, head, rows)) < 1e-28
    assert float(rows["train"].targets.var()) > 1
    assert not torch.equal(rows["train"].targets, problem.data(6)["train"].targets)
    found = bilevel.best_response(teacher(rows=40, inputs=3, width=7), body, batch=rows)
    assert float((found.head - head).norm()) < 0.1  # but for the penalty


@pytest.mark.parametrize(("start", "widest"), [("default", 1.0), ("unit", 5.0)])
def test_starts(start, widest):
    problem = teacher(start=start)
    body, head = problem.init_body(generator(0, "a")), problem.init_head(generator(0, "b"))
    assert body.shape == (10, 20)
    assert head.shape == (20,)
    deviation = 1.0 if start == "unit" else (3 * 10) ** -0.5
    assert float(body.std()) == pytest.approx(deviation, rel=0.15)
    assert float(body.abs().max()) < widest
    other = problem.init_body(generator(1, "a"))
    assert not torch.equal(body, other)


@pytest.mark.parametrize("options", [{"rows": 0}, {"width": 2.5}, {"ridge": -1}, {"start": "none"}])
def test_foolish_options_are_refused(options):
    with pytest.raises(ArgumentError):
        teacher(**options)
