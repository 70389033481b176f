"""Lines that train at advised rates, to paste."""

import re

from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSProp
from bilevel.problem.criteria import SquaredError

CLASS = re.compile(r"\b(?=[A-Z]\w*\()")
"""Where the name of a class begins, in the `repr` of an optimiser: `Clipped` holds another one."""


def strategy_line(setting: Setting, rates: Pair) -> str:
    """The strategy, for `solve` and `compare`."""
    body, head = rates
    name, numbers = "TwoTimescale", f"{body:.6g}, {head:.6g}"
    if body == head:
        name, numbers = "uniform", f"{body:.6g}"
    optimizer = f"optimizer={CLASS.sub('bilevel.', repr(setting.optimizer))}"
    return f'bilevel.{name}({numbers}, {optimizer}, order="{setting.order}")'


def torch_lines(setting: Setting, rates: Pair, layer: str) -> str:
    """The optimiser of torch for a `model` with the head `layer`, and its import.

    It makes the same steps where these are "simultaneous". Where torch has no such optimiser there
    are `groups` for another one. Where steps grow with the loss a comment says the factor for
    `nn.MSELoss`: it is the mean of K squares, and `SquaredError` half their sum.
    """
    lines = _lines(setting, rates, layer)
    criterion = getattr(setting.problem, "criterion", None)
    if isinstance(setting.optimizer, SGD) and isinstance(criterion, SquaredError):
        factor = (getattr(setting.problem, "outputs", None) or 1) / 2
        if factor != 1:
            lines += f"  # of half the squared error: with nn.MSELoss() all rates times {factor:g}"
    return lines


def _lines(setting: Setting, rates: Pair, layer: str) -> str:
    """Without what the loss has to do with it."""
    body, head = rates
    known = isinstance(setting.optimizer, RMSProp | SGD | Adam | AdamW)
    if known and body == head:
        return f"optimizer = {_torch(setting.optimizer, f'model.parameters(), lr={body:.6g}')}"
    numbers = f"body_lr={body:.6g}, head_lr={head:.6g}"
    groups = f'loops.param_groups(model, head="{layer}", {numbers})'
    line = f"groups = {groups}  # for an optimiser like {setting.optimizer!r}"
    if known:
        line = f"optimizer = {_torch(setting.optimizer, groups)}"
    return f"from bilevel import loops\n{line}"


def _torch(optimizer: AbstractOptimizer, groups: str) -> str:
    """The call of torch's optimiser, one of those that it has."""
    if isinstance(optimizer, RMSProp):
        return f"torch.optim.RMSprop({groups}, alpha={optimizer.smoothing}, eps={optimizer.eps})"
    if isinstance(optimizer, SGD):
        return f"torch.optim.SGD({groups}, momentum={optimizer.momentum})"
    assert isinstance(optimizer, Adam | AdamW)
    betas = f"betas=({optimizer.beta1}, {optimizer.beta2}), eps={optimizer.eps}"
    if isinstance(optimizer, AdamW):
        return f"torch.optim.AdamW({groups}, {betas}, weight_decay={optimizer.weight_decay})"
    return f"torch.optim.Adam({groups}, {betas})"
