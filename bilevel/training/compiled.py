"""Compiled steps.

The compiled function is a pure function of tensors: data, rows, state, hyper-parameters and the
step number are arguments, so other numbers of the same shapes compile nothing anew. Each problem
object keeps compiled functions of its own, because its functions, and the Python numbers they
use, are part of the code that is compiled.
"""

import math
import types
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.core import parts
from bilevel.data.sampler import Drawn, Sampler
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.oracles import Oracles
from bilevel.errors import ProblemError
from bilevel.strategies import AbstractStrategy
from bilevel.training import recalled
from bilevel.training.recalled import Recalled, watched
from bilevel.trees import Tree

STEPS_PER_CALL = 10
SMALL = 10_000
"""Numbers per run up to which several steps are compiled into one call; more cost more than they
save."""


class Functions(dict[Hashable, Callable[..., Any]]):
    """The compiled functions of the problem object that they are kept on.

    A copy of the problem, which may have other numbers, begins anew, and files hold none of them.
    """

    def __init__(self, problem: object) -> None:
        super().__init__()
        self.owner = id(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        """What is copied and pickled with a problem: nothing."""
        return dict, ()


class CompiledSteps:
    """Several steps of a strategy as one compiled call.

    Args:
        oracles: of the problem.
        strategy: with numbers on the right device; it must be `compilable`.
        sampler: of the rows.
        state: of the strategy, whose size decides how many steps make a call.
    """

    def __init__(
        self, oracles: Oracles, strategy: AbstractStrategy, sampler: Sampler, state: Any
    ) -> None:
        numbers = sum(leaf.numel() for leaf in trees.leaves((state.body, state.head)))
        runs, self.device = len(sampler.data.seeds), sampler.data.device
        # an exact solve costs more than the overhead that several steps in a call save
        several = numbers / runs <= SMALL and not strategy.cost.solves
        self.at_once = STEPS_PER_CALL if several else 1
        self.oracles, self.sampler = oracles, sampler
        self.eager = strategy
        self.strategy = parts.as_tensors(strategy, self.device)
        self.key = (parts.structure(strategy), runs, self.at_once)
        self._compile(in_cpp=self.at_once > 1 and torch.device(self.device).type == "cpu")

    def run(self, state: Any, k: int, stop: int) -> Iterator[tuple[int, Any]]:
        """As many calls as fit into the steps k, ..., stop - 1: after each its step and state.

        The compiler's guards are asked until the state has settled. Between two calls of this only
        tensors change, so that what was compiled is called with them alone from then on.
        """
        again: Recalled | None = None
        while k + self.at_once <= stop:
            step = torch.full((), float(k), dtype=torch.float64, device=self.device)
            rest = (self.sampler.draws(k, self.at_once), step)
            made = None
            if again is not None:
                with torch.no_grad():
                    made = again(state, rest)
            if made is None:
                with watched() as calls:
                    made = self._guarded(state, *rest)
                again = Recalled.of(calls, state, rest, made)
                calls.clear()  # they hold the old state
            state = self._regular(state, made, k)
            if state is not made:
                again = None  # it was made eagerly, and may be of another kind
            k += self.at_once
            yield k, state

    def _regular(self, state: Any, made: Any, k: int) -> Any:
        """The state that was made of `state`.

        Where a run lost its head the steps are repeated eagerly: compiled code cannot try what a
        singular matrix needs (see `factorise`), nor look which runs need it.
        """
        if not self.eager.cost.solves or _sums_up(made.head):
            return made
        if not bool((trees.finite(state.head) & ~trees.finite(made.head)).any()):
            return made  # it was lost before
        for j in range(k, k + self.at_once):
            state = self.eager.step(self.oracles, state, self.sampler.rows(j), j)
        return state

    def _compile(self, *, in_cpp: bool) -> None:
        self.in_cpp = in_cpp
        self.function = compiled_for(self.oracles.problem, self.key, in_cpp=in_cpp)

    def _guarded(self, state: Any, drawn: Drawn, step: Tensor) -> Any:
        try:
            with torch.no_grad():
                return self.function(
                    self.strategy, self.oracles, self.sampler, state, drawn, step, self.at_once
                )
        except torch._dynamo.exc.TorchDynamoException as error:
            if self.in_cpp and isinstance(error, torch._dynamo.exc.BackendCompilerFailed):
                self._compile(in_cpp=False)  # C++ cannot call all that Python can
                return self._guarded(state, drawn, step)
            reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
            raise ProblemError(
                f"The steps of {type(self.oracles.problem).__name__} cannot be compiled: {reason} "
                "Leave `compile=False`, or write the objective with plain tensor operations."
            ) from error


def _sums_up(heads: Tree) -> bool:
    """Whether heads have a finite sum: an eighth of the time of asking each run.

    There may be none although all numbers are finite, if it is too large.
    """
    return math.isfinite(sum(leaf.sum() for leaf in trees.leaves(heads)))


def can_compile(strategy: AbstractStrategy, data: TrainingData) -> bool:
    """Whether to compile, where asked to; says so if not.

    Args:
        strategy: whose steps.
        data: of the runs. Each chunk of their rows would be compiled anew.
    """
    if data.chunks is not None and strategy.cost.passes:
        why = "goes through all rows in chunks at every step"
    elif data.online:
        why = "sees rows that depend on each of its steps"
    elif not strategy.compiles_on(data.problem.head_set):
        why = "is more than tensor operations"
    else:
        return True
    name = type(getattr(strategy, "inner", strategy)).__name__
    warnings.warn(
        f"{name} {why} and is not compiled: it runs eagerly, with the same numbers.", stacklevel=2
    )
    return False


def compiled_for(problem: object, key: Hashable, *, in_cpp: bool = False) -> Callable[..., Any]:
    """The compiled function of a problem object for a key; made when first asked for.

    With `in_cpp` it calls its kernels from C++.
    Each has a code object of its own: the compiler counts recompilations by code object, and stops.
    """
    functions = vars(problem).get("_compiled")
    if not isinstance(functions, Functions) or functions.owner != id(problem):
        functions = vars(problem)["_compiled"] = Functions(problem)
    key = (key, in_cpp)
    if key not in functions:
        copy = types.FunctionType(_steps.__code__.replace(), _steps.__globals__, _steps.__name__)
        backend = recalled.in_cpp if in_cpp else recalled.in_python
        functions[key] = torch.compile(copy, fullgraph=True, dynamic=False, backend=backend)
    return functions[key]


def _steps(
    strategy: AbstractStrategy,
    oracles: Oracles,
    sampler: Sampler,
    state: Any,
    drawn: Drawn,
    k: Tensor,
    count: int,
) -> Any:
    """`count` steps; what is compiled."""
    for j in range(count):
        rows = sampler.assemble(trees.take(drawn, j))
        state = strategy.step(oracles, state, rows, k + j)  # type: ignore[arg-type]
    return state
