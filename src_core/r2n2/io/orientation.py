"""How the axes of a volume run in the patient, in words."""

from __future__ import annotations

import math

import numpy as np

from r2n2.geometry import Grid

__all__ = ["orientation_text"]

_ENDS = (("S", "I"), ("P", "A"), ("L", "R"))
"""Where the world's axes (z, y, x) of LPS run to, and where they come from."""

_PLAIN_DEGREES = 0.1


def orientation_text(grid: Grid) -> str:
    """Where the axes z, y, x of a volume run to, such as ``S P L``, and by how much they are turned from there.

    Parameters
    ----------
    grid
        3D, in LPS.
    """
    direction = np.array(grid.direction)
    # The largest component of the axis that has the largest, then of what is left: no end is named twice.
    left = np.abs(direction)
    ends = [""] * 3
    for _ in range(3):
        world, axis = np.unravel_index(int(left.argmax()), left.shape)
        ends[axis] = _ENDS[world][0 if direction[world, axis] > 0 else 1]
        left[world, :] = left[:, axis] = -1
    turned = math.degrees(max(math.acos(min(float(column.max()), 1.0)) for column in np.abs(direction).T))
    return " ".join(ends) + (f", oblique by {turned:.1f} deg" if turned > _PLAIN_DEGREES else "")
