"""What is recorded about the runs: on all rows, in float64, outside of every budget."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.gradients import GradientCertifier
from bilevel.bounds.heads import Certifier, HeadCertificate
from bilevel.core.checks import check_positive_integer
from bilevel.core.memory import at_once
from bilevel.data.rows import Rows
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.sizes import graph_bytes, hessian_bytes
from bilevel.errors import ArgumentError, BilevelError, ProblemError
from bilevel.heads.projected.solver import has_bounds
from bilevel.heads.quadratic import LARGEST_GENERAL_HEAD
from bilevel.hypergradients.condition import Condition
from bilevel.problem.base import StackelbergProblem
from bilevel.training.best_responses import Answered, BestResponses, response_bytes
from bilevel.training.new_tasks import NewTasks, asked_twice
from bilevel.trees import Tree

MOST_RECORDS = 10**6
"""They are kept in memory, name by name and run by run."""
RECORD_BYTES = 2**27
"""Memory that a record may hold at its peak beside the data; runs that do not fit take turns.

With twice as much, single tensors are mapped and cleared anew at each use, in twice the time."""
HEAD_DISTANCES = ("head_residual", "head_bound", "head_gap")
PEAK = 1.6
"""What a record holds at its peak, as a multiple of what its gradient takes."""


class Recorder:
    """Evaluates all runs at a point.

    Names of what it records, each (R,):

    - `objective`: g(w, theta) on all training rows.
    - `body_objective`: F(w, theta) on all rows but those of "test", where F is not g.
    - `head_residual`: |d_theta g|; `head_bound`: the certified bound on |theta - theta*(w)|.
    - `head_gap`: |theta - theta*(w)| itself; `phi`: Phi(w); `phi_gradient_norm`: |grad Phi(w)|,
      with a set of bodies |w - Proj(w - grad Phi)|. Where theta* can be found to rounding, see
      `BestResponses`; NaN where it was not, or is not unique.
    - `gradient_gap`: |s - grad Phi(w)|, s the gradient at the head as it is: d_w g where F is g,
      else the implicit gradient; known where `phi` is. `gradient_bound`: a bound on it, as proven
      as `head_bound`, where F is not g and the problem states its Lipschitz constants. (Elsewhere
      it would cost more than all other records together, and the gap itself is known.)
    - the problem's metrics.

    With tasks, objectives and metrics are averages over them, and the distance of a run's heads is
    the root of the sum of squares over its tasks, each with its own g. Metrics of the group "test"
    are those of new tasks where it holds such, whose heads the strategy's `adapter` finds.

    Args:
        made: the runs; their initial points decide what can be certified, and how.
        new: tasks that the group "test" holds; None: there are none.
    """

    def __init__(self, made: Assembly, new: NewTasks | None = None) -> None:
        self.oracles, self.sampler = made.oracles, made.sampler
        oracles, data, one = made.oracles, made.data, slice(0, 1)
        self.differentiable = oracles.is_stackelberg or has_bounds(oracles.problem.head_set)
        states = oracles.problem.known_lipschitz
        hook = getattr(states, "__func__", None) is not StackelbergProblem.known_lipschitz
        self.stated = data.own and hook and not data.tasks
        body, head = (trees.cast(x, torch.float64) for x in (made.body, made.head))
        first = trees.part(body, one), self._heads(trees.part(head, one))
        rows = self._rows(self._everything(one, made.body, made.head))
        try:
            with oracles.sharing():  # as in records
                oracles.head_value(*first, rows.first(first[0]))
        except RuntimeError as error:
            raise ProblemError(
                f"`head_objective` of {type(oracles.problem).__name__} fails in float64, in which "
                "records are computed. Tensors it computes with must come from `data`, the body or "
                f"the head; others keep their type. torch says: {error}"
            ) from error
        needed = self._bytes(*first, rows) + response_bytes(oracles, first[1], rows)
        self.parts = turns(len(data.seeds), int(at_once(RECORD_BYTES, data.device) // needed))
        # rows are looked at, those of a part suffice; of quadratic heads where they are few
        if not oracles.quadratic_linear_head or data.per_seed or data.online:
            part = self.parts[0]
            body, head = trees.part(body, part), trees.part(head, part)
            rows = self._rows(self._everything(part, made.body, made.head))
        point = HeadPoint(oracles, body, self._heads(head), rows)
        self.certifier = Certifier.for_problem(point, stated=data.own and not data.tasks)
        self.responses = BestResponses.for_problem(self.certifier, body, point.head, rows)

        self.new = new
        self._measured: list[str] = []  # the names of metrics, once they are known

    def _heads(self, head: Tree) -> Tree:
        """Heads of runs as the oracles take them."""
        return trees.fold(head) if self.oracles.tasks else head

    def _everything(self, part: slice, body: Tree, head: Tree, shared: Rows | None = None) -> Rows:
        """All rows of some of the runs, whose bodies and heads are all given."""
        if self.sampler.data.per_seed:
            return self.sampler.data.part(part).everything(torch.float64)
        return (shared or self.sampler.everything(body, head)).take(part)

    def _rows(self, everything: Rows) -> Rows:
        """The rows of both objectives."""
        return self.sampler.noiseless(everything, torch.float64)

    def _bytes(self, body: Tree, head: Tree, rows: Rows) -> float:
        """What a record of one run holds at its peak, but for its best response."""
        sizes, graph = self.sampler.data.counts, graph_bytes(self.oracles, body, head, rows)
        if rows.chunks is not None:  # all rows at once are in the predictions only, a few times
            outputs = trees.leaves(head)[0].shape[2:].numel()
            return PEAK * (graph + 32 * outputs * sum(sizes.values()))
        # the graph of a gradient on the rows of g, and the metrics' share of further rows
        share = sum(sizes.values()) / max(1, sizes.get("train", 1))
        needed = PEAK * max(1, graph) * (1 + share)
        if trees.flatten(head).shape[1] <= LARGEST_GENERAL_HEAD:
            needed = max(needed, hessian_bytes(self.oracles, body, head, rows))
        return needed

    def record(self, body: Tree, head: Tree, *, respond: bool = True) -> dict[str, Tensor]:
        """The values at a point; NaN for runs that are not finite.

        Args:
            body: leaves (R, ...).
            head: leaves (R, ...), of tasks (R, T, ...).
            respond: whether what needs theta* is computed even if that is dear; NaN otherwise.
        """
        found: dict[str, Tensor] = {}
        shared = None if self.sampler.data.per_seed else self.sampler.everything(body, head)
        for part in self.parts:
            self._record(part, body, head, shared, respond, found)
        return self._told(found, len(trees.leaves(body)[0]))

    def _record(
        self, part: slice, body: Tree, head: Tree, shared: Rows | None, respond: bool,
        found: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Write the values of some of the runs into those of all, where there is NaN else.

        Small tensors that stayed where the large ones of a part were would each leave a hole that
        no large one of the next part fits in: nothing of a part is alive after it.
        """
        data, runs = self.sampler.data, len(trees.leaves(body)[0])
        here, there = (trees.cast(trees.part(x, part), torch.float64) for x in (body, head))
        there = self._heads(there)
        everything = self._everything(part, body, head, shared)
        # nothing is left of a chunk when it is asked for again
        with self.oracles.sharing() if data.chunks is None else nullcontext():
            values = self._values(here, there, everything, respond)
        rows = data.part(part).new_tasks(torch.float64)
        if self.new is not None and rows is not None:
            at = HeadPoint(self.oracles, here, self.new.heads(part), self._rows(rows))
            values |= self.new.metrics(at, rows, part)
        for name, value in values.items():
            if name not in found:
                found[name] = value.new_full((runs,), torch.nan)
            found[name][part] = value

    def _told(self, values: dict[str, Tensor], runs: int) -> dict[str, Tensor]:
        """With what the source of the rows tells of the runs."""
        found = self.sampler.recorded()
        if not isinstance(found, dict) or not all(isinstance(n, str) and n for n in found):
            raise ProblemError(f"`recorded` must return a dict of tensors by names, got {found}.")
        for name, told in found.items():
            if name in values:
                raise ProblemError(f"`recorded` tells {name!r}, the name of another record.")
            if not isinstance(told, Tensor) or told.shape != (runs,):
                got = tuple(told.shape) if isinstance(told, Tensor) else type(told).__name__
                raise ProblemError(
                    f"`recorded` must return a number for each of the {runs} runs, but {name!r} is "
                    f"{got}."
                )
            values[name] = told.detach().double()
        return values

    def _values(self, body: Tree, head: Tree, everything: Rows, respond: bool) -> dict[str, Tensor]:
        """The values of some of the runs, in float64."""
        oracles, certifier = self.oracles, self.certifier
        rows = self._rows(everything)
        values = {"objective": oracles.head_value(body, head, rows)}
        if not oracles.is_stackelberg:
            values["body_objective"] = oracles.body_value(body, head, rows)
        point = HeadPoint(oracles, body, head, rows)
        system = certifier.system(point)
        certificate = certifier.certify(system, point)
        values["head_residual"] = certificate.residual
        if certifier.kind != "unknown":
            values["head_bound"] = certificate.bound
        if self.responses is not None:
            if respond or not self.responses.dear:
                answered = self.responses.solve(system, body, head, rows)
                values |= self._against(answered, body, head, rows, certificate)
            else:
                nothing = torch.full_like(certificate.residual, torch.nan)
                values |= dict.fromkeys(self._of_responses, nothing)
        values.update(self._metrics(body, head, everything, values))
        runs = len(trees.leaves(body)[0])
        return {n: of_runs(n, value.detach().double(), runs) for n, value in values.items()}

    @property
    def _of_responses(self) -> list[str]:
        """Names of what needs theta*."""
        names = ["head_gap", "phi"]
        if self.differentiable:
            names += ["phi_gradient_norm", "gradient_gap"]
            if self.stated and not self.oracles.is_stackelberg:
                names.append("gradient_bound")
        return names

    def _against(
        self, answered: Answered, body: Tree, head: Tree, rows: Rows, certificate: HeadCertificate
    ) -> dict[str, Tensor]:
        """What is known beside the best responses."""
        best, factor = answered
        gap = trees.norm(trees.tree_map(torch.sub, head, best))
        # without a certified mu there may be many minimisers: a distance to one says nothing
        values = {"head_gap": gap.masked_fill(certificate.mu.isnan(), torch.nan)}
        values["phi"] = self.oracles.body_value(body, best, rows)
        if self.differentiable:
            slope = self._slope(body, best, rows, factor)[0]
            moved = trees.tree_map(torch.sub, body, slope)
            landed = self.oracles.problem.body_set.project(moved)
            values["phi_gradient_norm"] = trees.norm(trees.tree_map(torch.sub, body, landed))
            here, adjoint = self._slope(body, head, rows, factor)
            gap = trees.norm(trees.tree_map(torch.sub, here, slope))
            unknown = certificate.mu.isnan().reshape(len(gap), -1).any(1)
            values["gradient_gap"] = gap.masked_fill(unknown, torch.nan)
            if self.stated and adjoint is not None:
                at = (self.certifier, HeadPoint(self.oracles, body, head, rows), certificate)
                bounds = GradientCertifier(*at, stated=True, thorough=False)
                values["gradient_bound"] = bounds.implicit(here, adjoint).bound
        return values

    def _slope(self, body: Tree, head: Tree, rows: Rows, factor: Any) -> tuple[Tree, Tree | None]:
        """The envelope gradient where F is g, else the implicit one and its adjoint."""
        oracles = self.oracles
        if oracles.is_stackelberg:
            return oracles.direct_gradient(body, head, rows), None
        point = HeadPoint(oracles, body, head, rows)
        direct, right = point.body_gradients()
        adjoint = Condition(point).solve(right, factor=factor).value
        return trees.tree_map(torch.sub, direct, point.cross_vjp(adjoint)), adjoint

    def _metrics(
        self, body: Tree, head: Tree, everything: Rows, recorded: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The problem's own metrics, which must be numbers under names of their own."""
        rule = f"`metrics` of {type(self.oracles.problem).__name__} must return a dict of 0-dim"
        try:
            found = self.oracles.metrics(body, head, everything)
        except BilevelError:
            raise
        except KeyError as error:
            if self.new is None:
                raise
            raise asked_twice(self.oracles.problem, error) from error
        except (RuntimeError, TypeError, ValueError) as error:
            fine = trees.finite([*trees.leaves(body), *trees.leaves(head)])
            fine = fine & recorded["objective"].isfinite()
            if self.oracles.tasks or bool(fine.all()):
                raise ProblemError(
                    f"{rule} tensors, made by operations that `torch.func.vmap` knows. torch says: "
                    f"{error}"
                ) from error
            return self._of_finite(fine, body, head, everything, recorded)
        runs = recorded["objective"].shape
        for name, value in found.items():
            if not isinstance(name, str) or not name or not name.isprintable():
                raise ProblemError(f"{rule} tensors by names to print on a line, got {name!r}.")
            wrong = trees.unusable(value)
            if wrong or value.shape != runs:
                wrong = wrong or str(tuple(value.shape[1:]))
                raise ProblemError(f"{rule} tensors, but {name!r} is {wrong}.")
            if name in recorded:
                raise ProblemError(f"{rule} tensors; {name!r} is the name of another record.")
        self._measured = list(found)
        return found

    def _of_finite(
        self, fine: Tensor, body: Tree, head: Tree, everything: Rows, recorded: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The metrics of the runs that are `fine`: singular values, say, of others raise errors."""
        if not bool(fine.any()):
            return {name: torch.full_like(recorded["objective"], torch.nan)
                    for name in self._measured}  # fmt: skip
        first = int(fine.int().argmax())  # it stands in for those that are not

        def stood_in(point: Tree) -> Tree:
            others = trees.tree_map(lambda leaf: leaf[first].expand_as(leaf), point)
            return trees.where(fine, point, others)

        measured = dict.fromkeys(recorded, recorded["objective"].where(fine, 0.0))
        found = self._metrics(stood_in(body), stood_in(head), everything, measured)
        return {name: value.double().where(fine, torch.nan) for name, value in found.items()}


def of_runs(name: str, values: Tensor, runs: int) -> Tensor:
    """What is recorded of a run, from values of each of its heads."""
    if len(values) == runs:
        return values
    values = values.reshape(runs, -1)
    return values.norm(dim=1) if name in HEAD_DISTANCES else values.mean(1)


def turns(runs: int, at_once: int) -> list[slice]:
    """Parts of the runs, of about the same size; each has one run even if none fits."""
    size = math.ceil(runs / math.ceil(runs / min(max(1, at_once), runs)))
    return [slice(i, i + size) for i in range(0, runs, size)]


def record_steps(start: int, steps: int, every: int) -> list[int]:
    """The first and the last of `steps` steps, and the multiples of `every` between them."""
    check_positive_integer(steps, "`steps`")
    check_positive_integer(every, "`every`", endless=True)
    if steps // every > MOST_RECORDS:
        raise ArgumentError(
            f"{steps:,} steps would have {steps // every:,} records: `every` must be at least "
            f"{steps // MOST_RECORDS + 1:,}."
        )
    last = start + steps
    return sorted({start, last, *range(start + -start % every, last, every)})
