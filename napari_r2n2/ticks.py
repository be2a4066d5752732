"""Round distances between the ticks of a plot."""

from __future__ import annotations

import math

__all__ = ["nice_step"]


def nice_step(extent: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... (and 0.5, 0.2, ...) that divides ``extent`` into at most ``most`` parts."""
    if extent <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(extent / most))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if extent <= most * power * factor * (1 + 1e-9))
