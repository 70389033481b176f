"""Where the axis of ratios ends, and which of its ticks have labels."""

import math
from collections.abc import Sequence

# Nice numbers first; each row comes in where the ones before leave room.
NICE = (
    tuple(10.0**power for power in range(-12, 13)),
    tuple(digit * 10.0**power for power in range(-12, 12) for digit in (2.0, 5.0)),
    (0.3, 0.7, 1.5, 3.0, 7.0),
    (0.8, 0.9, 1.1, 1.2),
    (0.95, 1.05),
    (0.98, 0.99, 1.01, 1.02),
)
EVERY_HUNDREDTH = tuple(hundredth / 100 for hundredth in range(1, 1000) if hundredth != 100)
APART = 0.14  # of the axis, the least distance of two labels


def ratio_axis(ends: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """Limits and labelled ticks of a logarithmic axis around 1.

    Args:
        ends: Positive ratios that must be on it; at least one.

    Returns:
        (lowest, highest) value, and the ticks in order: 1, and at least one on each side on which
        there are ratios.

    Examples:
        >>> ratio_axis([0.4, 0.9, 1.02])[1]
        [0.5, 0.7, 1.0, 1.2]
    """
    below, above = -math.log(min([*ends, 0.97])), math.log(max([*ends, 1.03]))
    below_used, above_used = min(ends) < 1, max(ends) > 1
    if below_used:  # room for a label, however far the other side goes
        below = max(below, above / 4)
    if above_used:
        above = max(above, below / 4)
    span, logs = below + above, {0.0: 1.0}
    for row in NICE:
        for value in sorted(row, key=lambda value: abs(math.log(value))):
            place = math.log(value)
            inside = -below <= place <= above
            if inside and min(abs(place - other) for other in logs) >= APART * span:
                logs[place] = value
    for side, used in ((-1, below_used), (1, above_used)):
        if used and not any(side * place > 0 for place in logs):
            wanted = side * 1.2 * APART * span
            value = min(EVERY_HUNDREDTH, key=lambda value: abs(math.log(value) - wanted))
            logs[math.log(value)] = value
    return (math.exp(-below), math.exp(above)), [logs[place] for place in sorted(logs)]
