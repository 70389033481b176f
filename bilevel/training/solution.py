"""The result of a training."""

import dataclasses
import os
from pathlib import Path

import torch
from torch import Tensor

from bilevel import trees
from bilevel.bounds.heads import BoundKind
from bilevel.core.checks import check_instance
from bilevel.core.generators import generator
from bilevel.core.graph import ordinary
from bilevel.core.status import Status
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import DataError, ResultsError, counted, spell
from bilevel.problem.base import StackelbergProblem
from bilevel.storage.folder import located, reserve
from bilevel.storage.stored_tree import StoredTree
from bilevel.storage.tensors import read_tensors, under, write_tensors
from bilevel.training.state import TrainingState
from bilevel.trees import Tree

KIND = "bilevel solution 1"
"""What a file says it is, with the version of its format."""


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
            IncompatibleError: the problem is not a `LinearHeadProblem`.
        """
        like = trees.leaves(self.head)[0]
        try:
            given = torch.as_tensor(inputs)
            if given.is_meta:
                raise TypeError("it holds no numbers")
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"`inputs` must be numbers, got {spell(inputs)}.") from error
        kept = not given.is_floating_point() and self._takes_whole_numbers()
        moved = given.to(dtype=None if kept else like.dtype, device=like.device)
        return Oracles(self.problem).predictions(self.body, self.head, moved)

    def _takes_whole_numbers(self) -> bool:
        """Whether the inputs of the problem are whole numbers."""
        groups = self.problem.data(self.seeds[0] if self.problem.redraws_data else None)
        inputs = getattr(groups.get("train"), "inputs", None)
        return inputs is not None and not torch.as_tensor(inputs[:1]).is_floating_point()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything but the problem to one file, for `load`.

        Args:
            path: a new file; the suffix `.safetensors` is customary. `~` is the home folder.

        Raises:
            ResultsExistError: there is such a file already.
        """
        target = reserve(path)
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
        levels = {}
        for level in ("body", "head"):
            one = getattr(problem, f"init_{level}")(generator(0, level))
            levels[level] = StoredTree(under(level, tensors), {}).fill(one)
            if levels[level] is None or not trees.same_structure(trees.take(levels[level], 0), one):
                raise ResultsError(
                    f"{path} holds a {level} of another form than `init_{level}` of "
                    f"{type(problem).__name__} returns. Pass the problem that was solved "
                    f"({content['problem']}), made with the same options."
                )
        kept = under("history.", tensors)
        return cls(
            problem=problem,
            seeds=tuple(content["seeds"]),
            body=levels["body"],
            head=levels["head"],
            status=tuple(Status[name] for name in content["status"]),
            steps=tensors["steps"],
            history={name: kept[name] for name in content.get("history", kept)},
            bound_kind=content["bound_kind"],
            bound_note=content["bound_note"],
            state=TrainingState.unpack(tensors, content),
        )

    def __repr__(self) -> str:
        """One line per outcome."""
        counts = {status: self.status.count(status) for status in sorted(set(self.status))}
        name = type(self.problem).__name__
        runs, steps = counted(len(self.seeds), "run"), counted(self.state.step, "step")
        lines = [f"Solution of {name}: {runs}, {steps}"]
        lines += [f"  {n} {status.name}: {status.message}" for status, n in counts.items()]
        return "\n".join(lines)
