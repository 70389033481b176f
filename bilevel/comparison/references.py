"""What needs no training: a constant prediction, and a linear one, measured as strategies are."""

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel import trees
from bilevel.data.training_data import TrainingData
from bilevel.problem.base import Batch, Groups
from bilevel.problem.criteria import HuberLoss, LogisticLoss, SoftmaxLoss, SquaredError
from bilevel.problem.linear_head import LinearHeadProblem

MEAN, FREQUENCIES, LINE = "predicting the mean", "class frequencies", "the least-squares line"
References = dict[str, dict[str, list[float]]]
"""Name -> metric -> a value for each seed."""
Predictor = Callable[[Tensor], Tensor]
"""(n, ...) inputs -> (n,) or (n, K) predictions."""
LARGEST = 2**30
"""Of rows times squared columns: a line through more takes longer than some trainings."""


def references(data: TrainingData) -> References:
    """Metrics of validation and test rows, by rules that see a seed's training rows only.

    Of problems with a linear head, a criterion of the library and its metrics: the mean of the
    targets, or for classes their frequencies as probabilities; and least squares of the targets
    on the inputs and a constant, where the inputs are columns of numbers and fewer than the rows.

    Returns:
        Nothing for other problems, and for tasks and rows that are read in chunks.
    """
    problem = data.problem
    if not isinstance(problem, LinearHeadProblem) or problem.overrides("metrics"):
        return {}
    known = isinstance(problem.criterion, SquaredError | HuberLoss | LogisticLoss | SoftmaxLoss)
    if not known or data.tasks or data.online or data.chunks is not None:
        return {}
    found: References = {}
    for place in range(len(data.distinct) if data.per_seed else 1):
        groups = trees.take(data.groups, place) if data.per_seed else data.groups
        for name, values in _of_rows(problem, groups).items():
            for metric, value in values.items():
                found.setdefault(name, {}).setdefault(metric, []).append(value)
    places = data.seed_index.tolist() if data.per_seed else [0] * len(data.seeds)
    return {
        name: {metric: [values[place] for place in places] for metric, values in table.items()}
        for name, table in found.items()
    }


def _of_rows(problem: LinearHeadProblem, groups: Groups) -> dict[str, dict[str, float]]:
    """Name -> metric -> value, for the rows of one seed."""
    measured = [name for name in ("validation", "test") if name in groups]
    criterion = problem.criterion
    train, *others = (
        groups[name]._replace(targets=trees.cast(groups[name].targets, torch.float64))
        for name in ("train", *measured)
    )
    rules: dict[str, Predictor] = {}
    if isinstance(criterion, LogisticLoss | SoftmaxLoss):
        constant = _frequencies(train.targets, problem.outputs)
        rules[FREQUENCIES] = lambda inputs: constant.expand(len(inputs), *constant.shape)
    else:
        mean = train.targets.mean(0)
        rules[MEAN] = lambda inputs: mean.expand(len(inputs), *mean.shape)
        if (line := _line(train)) is not None:
            rules[LINE] = line
    return {
        name: {
            f"{group}_{metric}": float(value)
            for group, rows in zip(measured, others, strict=True)
            for metric, value in criterion.metrics(rule(rows.inputs), rows.targets).items()
        }
        for name, rule in rules.items()
    }


def _frequencies(labels: Tensor, outputs: int | None) -> Tensor:
    """Predictions whose probabilities are the frequencies; half a row for classes without any."""
    counts = torch.bincount(labels, minlength=outputs or 2).double().clamp(min=0.5)
    logs = counts.log() - counts.sum().log()
    return logs[1] - logs[0] if outputs is None else logs


def _line(train: Batch) -> Predictor | None:
    """Least squares with a constant; None where the inputs are not a table, or too wide a one."""
    inputs, targets = train
    if inputs.ndim != 2 or not inputs.is_floating_point():
        return None
    rows, columns = inputs.shape
    if columns + 1 >= rows or rows * (columns + 1) ** 2 > LARGEST:
        return None

    def design(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[:, :1])], 1).double()

    columns_of = targets if targets.ndim == 2 else targets.unsqueeze(1)
    found = torch.linalg.lstsq(design(inputs).cpu(), columns_of.cpu(), driver="gelsd").solution
    found = found.to(inputs.device)
    return lambda x: (design(x) @ found).reshape(len(x), *targets.shape[1:])
