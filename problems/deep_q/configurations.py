"""The eight ways to train a deep Q network that are compared."""

from bilevel import (
    AbstractStrategy,
    BatchData,
    BestResponse,
    ClosedForm,
    RMSProp,
    TwoTimescale,
    preset_strategies,
)
from bilevel.strategies.presets import CONTROLS
from problems.deep_q.refit import Refit
from problems.deep_q.settings import Settings

OPTIMIZER = RMSProp(smoothing=0.95, eps=1e-5)
"""torch adds eps outside of the root, and so do we."""
HEAD_STEPS, REFIT_STEPS, REFIT_ROWS = 5, 500, 4096


def configurations(
    body_lr: float, head_lr: float, settings: Settings
) -> dict[str, AbstractStrategy]:
    """Five pairs of rates, five head steps, and exact heads of two kinds.

    Args:
        body_lr: alpha, the slow rate.
        head_lr: beta, the fast one.
        settings: of the learner.

    Returns:
        uniform slow, uniform fast, two-timescale, swapped, uniform sqrt; "five head steps" at the
        rates of two-timescale; "head refitted", the same with an exact head every 500 agent steps
        on 4,096 transitions; "head exact", body alpha, the head exact on each batch before the
        body's step.
    """
    names = ("two-timescale", *CONTROLS)
    pairs = preset_strategies(
        body_lr, head_lr, order="simultaneous", optimizer=OPTIMIZER, names=_ordered(names)
    )
    two = pairs["two-timescale"]
    refit = max(1, REFIT_STEPS // settings.every)
    return {
        **pairs,
        "five head steps": TwoTimescale(
            body_lr, head_lr, OPTIMIZER, "simultaneous", head_steps=HEAD_STEPS
        ),
        "head refitted": Refit(two, refit, REFIT_ROWS),
        "head exact": BestResponse(body_lr, ClosedForm(BatchData()), optimizer=OPTIMIZER),
    }


def _ordered(names: tuple[str, ...]) -> list[str]:
    """Slow and fast first, then what they are the controls of."""
    first = ["uniform slow", "uniform fast"]
    return [*first, *(name for name in names if name not in first)]
