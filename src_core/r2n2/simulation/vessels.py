"""Random branching trees of vessels, in anatomical mm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from r2n2.simulation.texture import FloatArray

__all__ = ["Tree", "grow_tree"]

_STEP_MM = 3.0
_MURRAY = 0.7937  # radius of each of two equal daughters: r^3 is shared


@dataclass(frozen=True, eq=False)
class Tree:
    """Tubes and branchings of a tree.

    Parameters
    ----------
    segments
        (N, 6): y, x, radius in mm of both ends.
    branchings
        (M, 3): y, x, radius in mm where a vessel splits.
    """

    segments: FloatArray
    branchings: FloatArray


def grow_tree(
    rng: np.random.Generator,
    roots: list[tuple[float, float, float, float]],
    inside: Callable[[float, float], bool],
    *,
    smallest_mm: float,
    length_per_radius: float,
) -> Tree:
    """Grow vessels from their roots until they leave the organ or become too thin.

    Parameters
    ----------
    roots
        y, x, direction in radians from +y (down) towards +x, radius in mm.
    inside
        Whether a vessel may lie at (y, x).
    smallest_mm
        Radius at which a vessel ends.
    length_per_radius
        Mean length of a vessel between branchings over its radius.
    """
    segments: list[tuple[float, ...]] = []
    branchings: list[tuple[float, float, float]] = []
    pending = list(roots)
    while pending:
        y, x, angle, radius = pending.pop()
        length = radius * length_per_radius * rng.uniform(0.6, 1.4) + 3
        end_radius = radius * 0.9
        bend = rng.normal(0, 0.05)
        steps = max(round(length / _STEP_MM), 1)
        left = False
        for step in range(steps):
            angle += bend + rng.normal(0, 0.07)
            there = (y + _STEP_MM * np.cos(angle), x + _STEP_MM * np.sin(angle))
            if not inside(*there):
                left = True
                break
            start_radius, stop_radius = (radius + (end_radius - radius) * k / steps for k in (step, step + 1))
            segments.append((y, x, start_radius, *there, stop_radius))
            y, x = there
        if left or end_radius < smallest_mm:
            continue
        branchings.append((y, x, end_radius))
        share = rng.uniform(0.25, 0.75)
        side = rng.choice((-1.0, 1.0))
        for part, turn in ((share, side), (1 - share, -side)):
            daughter = end_radius * part ** (1 / 3)
            # The thinner daughter turns further aside.
            turned = angle + turn * (0.25 + 0.75 * (1 - part)) * rng.uniform(0.7, 1.3)
            if daughter >= smallest_mm * _MURRAY:
                pending.append((y, x, turned, daughter))
    return Tree(np.array(segments).reshape(-1, 6), np.array(branchings).reshape(-1, 3))
