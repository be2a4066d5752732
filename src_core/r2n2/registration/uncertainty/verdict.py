"""When the uncertainty of a frame is a reason for doubt: how much of what moves may be how far off.

The limits were chosen on simulated and moved series of development; the concept page on uncertainty has their table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.uncertainty.features import Features

__all__ = ["reasons_for_uncertainty"]

# NORMALISED: a radius from which on a position is uncertain, a displacement from which on a place moves.
_UNCERTAIN = 0.04
_MOVES = 0.008
_MOST_UNCERTAIN = 0.25
_APART = 0.04
_MOST_APART = 0.25


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
    moves = features.counts * (features.values["motion"] > _MOVES)
    uncertain = _share(radius > _UNCERTAIN, moves, features.counts)
    found: list[tuple[str, ...]] = []
    disagreement = features.values.get("disagreement")
    apart = None if disagreement is None else _share(disagreement > _APART, features.counts, features.counts)
    for k in range(len(radius)):
        reasons = []
        if uncertain[k] > _MOST_UNCERTAIN:
            limit = _UNCERTAIN * grid.unit_mm
            reasons.append(f"the position of {100 * uncertain[k]:.0f} % of what moves is uncertain by more than {limit:.2g} mm")
        if apart is not None and apart[k] > _MOST_APART:
            limit = _APART * grid.unit_mm
            reasons.append(f"there and back again, {100 * apart[k]:.0f} % of it end more than {limit:.2g} mm from where they were")
        found.append(tuple(reasons))
    return found


def _share(chosen: Tensor, of: Tensor, all_of: Tensor) -> list[float]:
    """Share (B,) of what counts in ``of`` that is chosen; of next to nothing no share is taken."""
    axes = tuple(range(1, of.ndim))
    total = of.sum(axes)
    shares = (of * chosen).sum(axes) / total.clamp_min(1e-6)
    return torch.where(total > 0.02 * all_of.sum(axes), shares, 0).tolist()
