"""Rates of two layers from their norms."""

from torch import nn

from bilevel.core.checks import single
from bilevel.errors import ArgumentError, spell
from bilevel.loops.modules import bare, check_model, inner


def balanced_rates(model: nn.Module, lr: float) -> dict[str, float]:
    r"""Rates of two layers from the norms of their weights.

    $$
    \eta_1 = \frac{2 \lVert W_2\rVert}{\lVert W_1\rVert + \lVert W_2\rVert}\,\text{lr},
    \qquad \eta_2 = 2\,\text{lr} - \eta_1
    $$

    The smaller layer moves faster; the rates are `lr` on average. To be asked at every step, as
    `bilevel.BalancedRates` does for problems:

        for group, rate in zip(optimizer.param_groups, balanced_rates(model, lr).values()):
            group["lr"] = rate

    Args:
        model: with two layers that are trained: modules that hold a weight of two axes or more.
            Frozen ones do not count, nor do biases.
        lr: at least 0.

    Returns:
        The name of each layer and its rate, in the order of the model; `lr` for both where both
        weights are zero.

    Raises:
        ArgumentError: the model has another number of layers, or `lr` is negative.

    Source: the scheduler of the authors' code of arXiv 2606.00340. Differs from the source in:
    None. For 4 and 8 layers their code has constant rates, and no such rule.

    Examples:
        >>> import torch
        >>> from bilevel import loops
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.fill_(1.5), model[1].weight.copy_(torch.tensor([[0.6, 0.8]]))
        >>> rates = loops.balanced_rates(model, 0.1)    # norms 3 and 1
        >>> {name: round(rate, 6) for name, rate in rates.items()}
        {'0': 0.05, '1': 0.15}
    """
    check_model(model)
    lr = single(lr, "`lr`", zero_allowed=True)
    norms: dict[str, float] = {}
    for path, module in model.named_modules():
        if inner(module) is module:
            own = module.parameters(recurse=False)
            weights = [p for p in own if p.ndim > 1 and p.requires_grad]
            if weights:
                squares = sum(float(p.detach().double().square().sum()) for p in weights)
                norms[bare(model, path)] = squares**0.5
    if len(norms) != 2:
        raise ArgumentError(
            f"`balanced_rates` is made for two layers that are trained, but the model has "
            f"{len(norms)}: {spell(list(norms))}. No rule for other depths is known; freeze the "
            "others, or use `param_groups`."
        )
    (first, a), (second, b) = norms.items()
    share = b / (a + b) if a + b else 0.5
    return {first: 2 * share * lr, second: 2 * (1 - share) * lr}
