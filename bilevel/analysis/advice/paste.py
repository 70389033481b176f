"""Lines that train at advised rates, to paste."""

from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.optimizers import SGD, AbstractOptimizer, Adam, AdamW, RMSProp
from bilevel.problem.criteria import SquaredError


def strategy_line(setting: Setting, rates: Pair) -> str:
    """The strategy, for `solve` and `compare`."""
    body, head = rates
    name, numbers = "TwoTimescale", f"{body:.6g}, {head:.6g}"
    if body == head:
        name, numbers = "uniform", f"{body:.6g}"
    optimizer = f"optimizer=bilevel.{setting.optimizer!r}"
    return f'bilevel.{name}({numbers}, {optimizer}, order="{setting.order}")'


def torch_lines(setting: Setting, rates: Pair, layer: str) -> str:
    """The optimiser of torch for a `model` with the head `layer`, and its import.

    It makes the same steps where these are "simultaneous". An optimiser that torch has not is named
    in a comment; so is the factor for `nn.MSELoss` where steps grow with the loss: it is the mean
    of K squares, and `SquaredError` half their sum.
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
    if body == head:
        call = _torch(setting.optimizer, f"model.parameters(), lr={body:.6g}")
        return f"optimizer = torch.optim.{call}"
    numbers = f"body_lr={body:.6g}, head_lr={head:.6g}"
    groups = f'loops.param_groups(model, head="{layer}", {numbers})'
    return f"from bilevel import loops\noptimizer = torch.optim.{_torch(setting.optimizer, groups)}"


def _torch(optimizer: AbstractOptimizer, groups: str) -> str:
    """The call of torch's optimiser."""
    if isinstance(optimizer, RMSProp):
        return f"RMSprop({groups}, alpha={optimizer.smoothing}, eps={optimizer.eps})"
    if isinstance(optimizer, SGD):
        return f"SGD({groups}, momentum={optimizer.momentum})"
    if isinstance(optimizer, Adam | AdamW):
        betas = f"betas=({optimizer.beta1}, {optimizer.beta2}), eps={optimizer.eps}"
        if isinstance(optimizer, AdamW):
            return f"AdamW({groups}, {betas}, weight_decay={optimizer.weight_decay})"
        return f"Adam({groups}, {betas})"
    return f"...({groups})  # as {optimizer!r}"
