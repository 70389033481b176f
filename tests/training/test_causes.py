"""A run that ends without numbers says why."""

import pytest
import torch

from bilevel import (
    CG,
    SGD,
    BestResponse,
    Dense,
    FastSGD,
    Implicit,
    StackelbergProblem,
    Status,
    solve,
)
from bilevel.errors import AllRunsFailedError


class Flattened(StackelbergProblem):
    """The first curvature of the head is the body's: F drives it to `floor`."""

    floor = 0.0

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return 0.5 + torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.rand(2, generator=generator, dtype=torch.float64)

    def head_objective(self, w, theta, batch):
        curvature = torch.clamp(w, min=self.floor)
        return 0.5 * curvature * (theta[0] - 1) ** 2 + 0.5 * (theta[1] - w) ** 2

    def body_objective(self, w, theta, batch):
        return theta[0] ** 2 + w


class Bent(Flattened):
    floor = -1.0


def train(problem, linear_solver):
    inner = FastSGD(0.3, 50)
    strategy = BestResponse(0.2, inner, Implicit(linear_solver), SGD())
    return solve(problem, strategy, steps=12, seeds=3, every=4, dtype=torch.float64)


@pytest.mark.parametrize("linear_solver", [Dense(), CG()], ids=repr)
@pytest.mark.parametrize(
    ("problem", "status"), [(Flattened(), Status.SINGULAR), (Bent(), Status.INDEFINITE)]
)
def test_the_cause_is_not_hidden_by_the_divergence_it_leads_to(problem, status, linear_solver):
    with pytest.raises(AllRunsFailedError, match="The Hessian of the head") as caught:
        train(problem, linear_solver)
    assert caught.value.solution.status == (status,) * 3
