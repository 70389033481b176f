"""The strategies one compares to learn whether two rates help."""

from collections.abc import Mapping, Sequence

from bilevel.core.checks import check_names, single
from bilevel.errors import ArgumentError
from bilevel.heads import ClosedForm, RunningData
from bilevel.optimizers import AbstractOptimizer, RMSProp
from bilevel.strategies.balanced import BalancedRates
from bilevel.strategies.base import AbstractStrategy
from bilevel.strategies.best_response import BestResponse
from bilevel.strategies.two_timescale import Order, TwoTimescale, uniform

CONTROLS = ("uniform slow", "uniform fast", "swapped", "uniform sqrt")
"""The presets that serve as baselines."""
PRESETS = (*CONTROLS[:2], "two-timescale", *CONTROLS[2:], "best response")
"""The presets that are made unless names are asked for."""
RUNNING, BALANCED = "best response running", "balanced"
"""The presets that are made only where their names are asked for."""


def preset_strategies(
    body_lr: float,
    head_lr: float,
    *,
    order: Order = "alternating",
    optimizer: AbstractOptimizer | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, AbstractStrategy]:
    r"""Two-timescale training, exact best response, and four controls.

    uniform slow $(\alpha, \alpha)$ · uniform fast $(\beta, \beta)$ · two-timescale
    $(\alpha, \beta)$ · swapped $(\beta, \alpha)$ · uniform sqrt, both $\sqrt{\alpha\beta}$ · best
    response, body $\alpha$. By name only: best response running, body $\alpha$, the head from
    `RunningData()`; balanced, for bodies of one layer, `BalancedRates` of $\sqrt{\alpha\beta}$, the
    rate of uniform sqrt.

    The last two controls make the question fair: they have the same pair of rates the other way
    round, and a single rate with the same geometric mean.

    Args:
        body_lr: $\alpha$, positive.
        head_lr: $\beta$, above $\alpha$.
        order: of the two-timescale strategies.
        optimizer: of all; None: `RMSProp()`, as in the paper.
        names: which ones, in this order; None: the first six.

    Returns:
        Name -> strategy, in the order of `names`.

    Raises:
        ArgumentError: If $\alpha$ is not below $\beta$: the names would say what is not so.
        UnknownNameError: If there is no strategy of a name.

    Source: arXiv 2605.15530, section 5. Differs from the source in: 1. the controls swapped and
    uniform sqrt are ours; 2. best response too.

    Examples:
        >>> from bilevel import preset_strategies
        >>> list(preset_strategies(5e-4, 5e-3))[2]
        'two-timescale'
        >>> pair = preset_strategies(5e-4, 5e-3, names=["best response", "best response running"])
        >>> pair["best response running"].solver
        ClosedForm(data=RunningData(decay=0.95, extra_ridge=0.001))
    """
    for name, rate in (("body_lr", body_lr), ("head_lr", head_lr)):
        single(rate, f"`{name}`")
    if body_lr >= head_lr:
        raise ArgumentError(
            f"`body_lr` (alpha) must be below `head_lr` (beta), got {float(body_lr):g} "
            f"and {float(head_lr):g}: the presets are a slow body, a fast head and "
            "their controls, and are named so. For "
            "other rates build the strategies yourself, such as TwoTimescale(body_lr, head_lr) "
            "and uniform(lr), and give them to `compare` under names of your own."
        )
    optimizer = RMSProp() if optimizer is None else optimizer
    middle = (body_lr * head_lr) ** 0.5
    made: dict[str, AbstractStrategy] = {
        "uniform slow": uniform(body_lr, optimizer, order=order),
        "uniform fast": uniform(head_lr, optimizer, order=order),
        "two-timescale": TwoTimescale(body_lr, head_lr, optimizer, order),
        "swapped": TwoTimescale(head_lr, body_lr, optimizer, order),
        "uniform sqrt": uniform(middle, optimizer, order=order),
        "best response": BestResponse(body_lr, optimizer=optimizer),
        RUNNING: BestResponse(body_lr, ClosedForm(RunningData()), optimizer=optimizer),
        BALANCED: BalancedRates(middle, optimizer, order),
    }
    return by_name(made, PRESETS if names is None else names, "strategy")


def by_name(
    strategies: Mapping[str, AbstractStrategy], names: Sequence[str], kind: str
) -> dict[str, AbstractStrategy]:
    """The strategies that are asked for, in the order of `names`; errors call one a `kind`."""
    check_names(names, strategies, kind, "names")
    return {name: strategies[name] for name in names}
