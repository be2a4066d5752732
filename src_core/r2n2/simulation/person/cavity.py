"""The cavity of chest and abdomen, along whose wall lungs and liver slide, at end-expiration in mm of the body.

z points to the head, y to the back, x to the patient's left; 0 is the middle of the chest. At every height the cavity has one
and the same cross-section, scaled: in the section's own coordinates u = (y - centre(z)) / half_depth(z) and
v = x / half_width(z) its wall does not depend on z. Tissue that moves along z while it keeps u and v therefore slides along the
wall without a gap and without an overlap, however far it moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2n2.simulation.person.ramps import rise, rise_slope
from r2n2.simulation.texture import FloatArray

__all__ = ["Cavity"]

_TOP_MM, _BOTTOM_MM = 142.0, -100.0
_SPINE_DEPTH = 0.776  # of the notch that the spine leaves: its front lies at u = 0.55
_SPINE_FRONT = 0.55
_SPINE_WIDTH = 0.17
_SPINE_RISE = 0.5
_KYPHOSIS_PER_MM = 0.0007


@dataclass(frozen=True)
class Cavity:
    """Shape of one person's cavity.

    Parameters
    ----------
    half_width_mm, half_depth_mm
        At its widest.
    """

    half_width_mm: float
    half_depth_mm: float

    def half_axes(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Half depth and half width at heights z, smooth and never below a tenth of the widest."""
        height = np.clip((z - _BOTTOM_MM) / (_TOP_MM - _BOTTOM_MM), 0, None)
        square = height * height
        deep, wide = 1 - square * square * 0.92, 1 - square * height
        # A smooth maximum keeps the square root differentiable above the apex.
        roots = (np.sqrt(0.5 * (part + 0.05 + np.sqrt((part - 0.05) ** 2 + 0.01))) for part in (deep, wide))
        deep, wide = roots
        return self.half_depth_mm * 0.995 * deep, self.half_width_mm * 0.995 * wide

    def spine_front(self, z: FloatArray) -> FloatArray:
        """Position y of the front of the spine, which is bent to the back in the middle of the chest."""
        return np.asarray(48.0 - _KYPHOSIS_PER_MM * (np.clip(z, -260, 210) - 10.0) ** 2)

    def section(self, z: FloatArray, y: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinates u, v in the section of positions."""
        deep, wide = self.half_axes(z)
        return (y - self.spine_front(z)) / deep + _SPINE_FRONT, x / wide

    def place(self, z: FloatArray, u: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Positions y, x of coordinates in the section at heights z."""
        deep, wide = self.half_axes(z)
        return self.spine_front(z) + (u - _SPINE_FRONT) * deep, wide * v

    def level(self, u: FloatArray, v: FloatArray) -> FloatArray:
        """Below 1 inside, 1 on the wall."""
        return np.asarray(_power(u) + _power(v) + _SPINE_DEPTH * np.exp(-((v / _SPINE_WIDTH) ** 2)) * rise(u / _SPINE_RISE))

    def depth_mm(self, z: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        """Distance to the wall in the section, positive inside; to first order, so right near the wall."""
        deep, wide = self.half_axes(z)
        notch = _SPINE_DEPTH * np.exp(-((v / _SPINE_WIDTH) ** 2))
        step = rise(u / _SPINE_RISE)
        root_u, root_v = np.sqrt(np.abs(u)), np.sqrt(np.abs(v))
        level = u * u * root_u + v * v * root_v + notch * step
        slope_u = 2.5 * u * root_u + notch * rise_slope(u / _SPINE_RISE) / _SPINE_RISE
        slope_v = 2.5 * v * root_v - 2 * v / _SPINE_WIDTH**2 * notch * step
        steepness = np.sqrt((slope_u / deep) ** 2 + (slope_v / wide) ** 2)
        # In the middle the level is flat: nothing there is nearer to the wall than this.
        return np.asarray((1 - level) / np.maximum(steepness, 0.5 / self.half_depth_mm))


def _power(values: FloatArray) -> FloatArray:
    """|v| ** 2.5: sections are a little fuller than ellipses."""
    return np.asarray(values * values * np.sqrt(np.abs(values)))
