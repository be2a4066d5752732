"""When the uncertainty of a frame is a reason for doubt: how much of what the reference shows may be how far off.

The limits were chosen on simulated and moved series of development; the concept page on uncertainty has their table.
"""

from __future__ import annotations

from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.uncertainty.features import Features

__all__ = ["APART", "MOST_APART", "MOST_UNCERTAIN", "UNCERTAIN", "reasons_for_uncertainty"]

UNCERTAIN = APART = 0.04
"""Radius, and distance from where one started, that are large: NORMALISED, 2 % of the longer side."""
MOST_UNCERTAIN = MOST_APART = 0.25
"""Share of what the reference shows that may be so far off."""


def reasons_for_uncertainty(radius: Tensor, features: Features, grid: Grid) -> list[tuple[str, ...]]:
    """For every frame why it is to be looked at, each reason the end of "because ..."; none where all looks well.

    Parameters
    ----------
    radius
        (B, *lattice.shape) NORMALISED.
    features
        Of the same frames.
    grid
        Of the frames.
    """
    uncertain = _share(radius > UNCERTAIN, features.counts)
    disagreement = features.values.get("disagreement")
    apart = [0.0] * len(radius) if disagreement is None else _share(disagreement > APART, features.counts)
    found: list[tuple[str, ...]] = []
    for here, there in zip(uncertain, apart, strict=True):
        reasons = []
        if here > MOST_UNCERTAIN:
            limit = f"{UNCERTAIN * grid.unit_mm:.2g} mm"
            reasons.append(f"the position of {100 * here:.0f} % of what the reference shows is uncertain by more than {limit}")
        if there > MOST_APART:
            limit = f"{APART * grid.unit_mm:.2g} mm"
            reasons.append(f"there and back again, {100 * there:.0f} % of what the reference shows ends more than {limit} off")
        found.append(tuple(reasons))
    return found


def _share(chosen: Tensor, counts: Tensor) -> list[float]:
    """Share (B,) of what counts that is chosen; 0 where nothing counts."""
    axes = tuple(range(1, counts.ndim))
    return ((counts * chosen).sum(axes) / counts.sum(axes).clamp_min(1e-6)).tolist()
