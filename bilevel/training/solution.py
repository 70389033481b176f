"""The result of a training."""

import dataclasses
import math
import os
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.heads import BoundKind
from bilevel.core import parts
from bilevel.core.arrays import tensor_of
from bilevel.core.checks import check_instance
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.html_table import html_lines, html_table
from bilevel.core.status import Status
from bilevel.data.tasks import new_task
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.assembly import Assembly
from bilevel.derivatives.contract import check_contract
from bilevel.derivatives.head_point import HeadPoint
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ArgumentError, IncompatibleError, ResultsError, counted
from bilevel.heads import AbstractHeadSolver
from bilevel.heads.default import default_solver
from bilevel.problem.base import StackelbergProblem
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.storage.folder import located, reserve
from bilevel.storage.schema import Schema
from bilevel.storage.stored_tree import StoredTree
from bilevel.storage.tensors import REMEDY, check_kinds, read_tensors, under, write_tensors
from bilevel.training.new_tasks import heads_at
from bilevel.training.state import TrainingState
from bilevel.trees import Tree

KIND = "bilevel solution 1"
"""What a file says it is, with the version of its format."""
SCHEMA: Schema = {"kind": str, "problem": str, "status": [tuple(Status.__members__)],
                  "history?": [str], "bound_kind": get_args(BoundKind),
                  "bound_note": str}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What `solve` returns: R runs, one for each seed.

    Attributes:
        problem: what was solved.
        seeds: the seed of each run.
        body: the last bodies, leaves (R, ...).
        head: the last heads, leaves (R, ...).
        status: R members of `Status`; each has a `message`.
        steps: the steps of the records, (T,).
        history: name -> (T, R), float64; see `bilevel.training.recorder.Recorder` for the names.
        bound_kind: of `history["head_bound"]`: "proven", "estimated" or "unknown".
        bound_note: where the bound comes from.
        state: pass it as `solve(state=...)` to go on with the numbers of an uninterrupted training.

    Examples:
        >>> import bilevel
        >>> from problems.toy import ScalarProduct
        >>> strategy = bilevel.TwoTimescale(0.01, 0.1)
        >>> solution = bilevel.solve(ScalarProduct(), strategy, steps=20, seeds=3)
        >>> solution.body.shape, solution.steps.tolist(), solution.status[0].name
        (torch.Size([3]), [0, 20], 'COMPLETED')
        >>> solution.history["objective"].shape    # records, runs
        torch.Size([2, 3])
    """

    problem: StackelbergProblem
    seeds: tuple[int, ...]
    body: Tree
    head: Tree
    status: tuple[Status, ...]
    steps: Tensor
    history: dict[str, Tensor]
    bound_kind: BoundKind
    bound_note: str
    state: TrainingState

    @ordinary()
    def predict(self, inputs: Tensor) -> Tensor:
        """Predictions of every run.

        Args:
            inputs: (n, ...), in the scale the problem was trained on. Whole numbers keep their type
                where those of the problem are whole numbers too, such as tokens.

        Returns:
            (R, n), or (R, n, K).

        Raises:
            IncompatibleError: the problem is not a `LinearHeadProblem`, or has heads of tasks.
            DataError: the inputs are no numbers, or hide some, as masked arrays do.
        """
        oracles, like = Oracles(self.problem), trees.leaves(self.head)[0]
        if oracles.tasks:
            raise IncompatibleError(
                f"{type(self.problem).__name__} has a head for each task. `adapt` finds the head "
                "of a new one, and `problem.predict(body, head, inputs)` predicts by it."
            )
        given = tensor_of(inputs, "inputs")
        kept = not given.is_floating_point() and self._takes_whole_numbers()
        moved = given.to(dtype=None if kept else like.dtype, device=like.device)
        return oracles.predictions(self.body, self.head, moved)

    @ordinary()
    def adapt(
        self, inputs: Tensor, targets: Tensor, solver: AbstractHeadSolver | None = None
    ) -> Tree:
        """The heads of a new task, or of several, for the bodies of all runs.

        Args:
            inputs: (n, ...), the rows that are known of the task; (T, n, ...) of several tasks.
            targets: (n,) or (n, K), or labels (n,); likewise.
            solver: None: what is exact for the heads. `FastSGD(lr, steps, restart=True)` starts at
                the problem's `head_start`, or else at a head of `init_head`.

        Returns:
            Leaves (R, ...), or (R, T, ...) for several tasks: `problem.predict(body, head, inputs)`
            predicts by one of them. NaN in runs that diverged, and where a head runs away (of one
            class alone, with a free bias).

        Raises:
            ArgumentError: the solver has numbers for another count of runs.
            IncompatibleError: the problem has no `tasks`, or the solver does not fit it.
            SingularHeadError: a head has no unique minimiser.
        """
        groups, alone = new_task(self.problem, inputs, targets)
        like = trees.leaves(self.body)[0]
        data = TrainingData(self.problem, self.seeds, like.dtype, like.device, groups=groups)
        made = Assembly.of(data)
        check_contract(made, head_only=True)
        solver = default_solver(self.problem) if solver is None else solver
        check_instance(solver, AbstractHeadSolver, "solver", "ClosedForm()")
        solver.check(self.problem)
        runs = len(self.seeds)
        if parts.run_counts(parts.numbers(solver)) - {1, runs}:
            raise ArgumentError(f"A solver has numbers for each of the {runs} runs, got {solver}.")
        usable = trees.finite(self.body)
        body = trees.where(usable, self.body, made.body)  # a run that diverged harms no other
        at = HeadPoint(made.oracles, body, made.heads, made.sampler.full)
        head = trees.nan_where(~usable, trees.unfold(heads_at(at, solver), runs))
        return trees.tree_map(lambda leaf: leaf[:, 0], head) if alone else head

    def _takes_whole_numbers(self) -> bool:
        """Whether the inputs of the problem are whole numbers."""
        groups = self.problem.data(self.seeds[0] if self.problem.redraws_data else None)
        inputs = getattr(groups.get("train"), "inputs", None)
        return inputs is not None and not tensor_of(inputs[:1], "inputs").is_floating_point()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything but the problem to one file, for `load`.

        Args:
            path: a new file; the suffix `.safetensors` is customary. `~` is the home folder.

        Raises:
            ResultsExistError: there is such a file already.
        """
        target = reserve(path, "file")
        levels = {"body": self.body, "head": self.head}
        tensors, content = self.state.pack()
        for level, tree in levels.items():
            stored = StoredTree.of(tree)
            tensors |= {f"{level}{place}": leaf for place, leaf in stored.tensors.items()}
        tensors |= {f"history.{name}": values for name, values in self.history.items()}
        tensors["steps"] = self.steps
        described = {
            "kind": KIND,
            "problem": type(self.problem).__qualname__,
            "status": [status.name for status in self.status],
            "history": list(self.history),  # the file holds them in the order of the alphabet
            "bound_kind": self.bound_kind,
            "bound_note": self.bound_note,
        }
        write_tensors(target, tensors, content | described)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str], problem: StackelbergProblem) -> "Solution":
        """Read what `save` wrote.

        Args:
            path: the file.
            problem: the problem that was solved, made as it was then: files hold no code.

        Returns:
            The solution, on the CPU, with the same bits. Its state goes on as it would have.

        Raises:
            ResultsError: the file is missing, damaged, no solution, or of another problem.

        Examples:
            >>> import bilevel, tempfile
            >>> from problems.toy import ScalarProduct
            >>> solved = bilevel.solve(ScalarProduct(), bilevel.uniform(0.1), steps=5, seeds=2)
            >>> path = solved.save(f"{tempfile.mkdtemp()}/toy.safetensors")
            >>> bool((bilevel.Solution.load(path, ScalarProduct()).body == solved.body).all())
            True
        """
        check_instance(problem, StackelbergProblem, "problem", "an instance of your problem")
        path = located(path)
        tensors, content = read_tensors(path)
        if content.get("kind") != KIND:
            raise ResultsError(f"{path} holds no solution: `Solution.save` writes such files.")
        state = TrainingState.unpack(path, tensors, content, SCHEMA)
        runs, steps = len(state.seeds), tensors.get("steps", torch.empty(0)).flatten().tolist()
        kinds = {"steps": f"int64 {(len(steps),)}", "history.*": f"float64 {(len(steps), runs)}"}
        check_kinds(path, tensors, kinds)
        kept = under("history.", tensors)
        names = content.get("history", list(kept))
        fits = len(content["status"]) == runs and sorted(names) == sorted(kept)
        if not fits or not steps or steps != sorted({*steps}):
            raise ResultsError(f"{path} is malformed: its records do not fit its runs. {REMEDY}")
        levels = {}
        for level in ("body", "head"):
            one = getattr(problem, f"init_{level}")(generator(0, level))
            stored = under(level, tensors)
            fits = all(x.shape[:1] == (runs,) and x.is_floating_point() for x in stored.values())
            levels[level] = StoredTree(stored, {}).fill(one) if fits else None
            points = levels[level]
            if level == "head" and isinstance(problem, LinearHeadProblem) and problem.tasks:
                points = None if points is None else trees.take(points, 0)
            if points is None or not trees.same_structure(trees.take(points, 0), one):
                raise ResultsError(
                    f"{path} holds a {level} of another form than `init_{level}` of "
                    f"{type(problem).__name__} returns. Pass the problem that was solved "
                    f"({content['problem']}), made with the same options."
                )
        return cls(
            problem=problem,
            seeds=state.seeds,
            body=levels["body"],
            head=levels["head"],
            status=tuple(Status[name] for name in content["status"]),
            steps=tensors["steps"],
            history={name: kept[name] for name in names},
            bound_kind=content["bound_kind"],
            bound_note=content["bound_note"],
            state=state,
        )

    def __repr__(self) -> str:
        """One line per outcome."""
        counts = {status: self.status.count(status) for status in sorted(set(self.status))}
        name = type(self.problem).__name__
        runs, steps = counted(len(self.seeds), "run"), counted(self.state.step, "step")
        lines = [f"Solution of {name}: {runs}, {steps}"]
        lines += [f"  {n} {status.name}: {status.message}" for status, n in counts.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks: the outcomes, and first and last values of what was recorded."""
        first, last = (int(self.steps[i]) for i in (0, -1))
        ends = [f"at step {first}", f"at step {last}", "lowest", "highest"]
        rows = [[name, *_spread(values)] for name, values in self.history.items()]
        table = html_table(["mean over runs", *ends], rows, slice(1, 5))
        return html_lines(repr(self).splitlines()) + table


def _spread(values: Tensor) -> list[str]:
    """Means of the first and the last record, and the ends of the last, over finite runs."""
    found = [row[row.isfinite()] for row in (values[0], values[-1])]
    numbers = [float(row.mean()) if len(row) else math.nan for row in found]
    last = found[1].tolist() or [math.nan]
    return [f"{number:.4g}" for number in (*numbers, min(last), max(last))]
