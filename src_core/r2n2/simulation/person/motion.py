"""How a person moves: where tissue of a frame lies at end-expiration, and back, each with the change of volume.

A frame's position is pulled back in three steps, each with a closed form. (1) The wall: the rib cage and the belly widen around
the spine, and the front of the chest is lifted. (2) The slide, inside the cavity alone: along z at constant coordinates of the
section, so that the wall is kept and only tangential motion jumps there. (3) The beat of the heart: shrinking and twisting
inside an ellipsoid. The way back solves one increasing equation in one unknown for each step by Newton's method, to 1e-7 mm.
Each step's Jacobian is triangular, or radial, so that its determinant is a product of closed forms as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError
from r2n2.simulation.person.cavity import Cavity
from r2n2.simulation.person.ramps import between, rise, rise_slope
from r2n2.simulation.texture import FloatArray
from r2n2.simulation.thorax_motion import FrameState

__all__ = ["HeartEllipsoid", "PersonMotion", "Reference"]

Mask = NDArray[np.bool_]
Axes = tuple[FloatArray, FloatArray, FloatArray]

_ITERATIONS = 40
_TOLERANCE_MM = 1e-7
_ANCHOR_MM = 62.0  # y around which the chest deepens: the spine stays
_WIDER_PER_MM = 0.0011  # relative growth of chest and belly per mm of the diaphragm's way
_LIFT = 0.2  # way of the breast bone over that of the diaphragm
_LIFT_TOP_MM, _LIFT_BOTTOM_MM = 150.0, -110.0
_LIFT_RAMP_MM = 90.0
_APEX_MM, _DOME_MM, _BELOW_MM, _FEET_MM = 165.0, -108.0, -118.0, -340.0
_LAG_FROM_MM, _LAG_TO_MM = -50.0, 110.0
_LONGEST_STEP_MM = 12.0


class Reference(NamedTuple):
    """Where tissue lies at end-expiration."""

    positions: Axes
    """z, y, x in mm."""
    inside: Mask
    """Whether it lies in the cavity."""
    ratio: FloatArray
    """Volume at end-expiration over volume in the frame: below 1 where tissue has expanded."""


@dataclass(frozen=True)
class HeartEllipsoid:
    """The region that beats, an ellipsoid of revolution that must lie in the cavity.

    Parameters
    ----------
    centre_mm
        (z, y, x) at end-expiration.
    axes
        Rows: unit vectors, the long axis towards the apex first.
    long_mm, short_mm
        Half axes.
    """

    centre_mm: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...]
    long_mm: float
    short_mm: float

    def local(self, z: FloatArray, y: FloatArray, x: FloatArray) -> Axes:
        """Coordinates along the axes over the half axes: of length below 1 inside."""
        offsets = [p - c for p, c in zip((z, y, x), self.centre_mm, strict=True)]
        radii = (self.long_mm, self.short_mm, self.short_mm)
        first, second, third = (
            sum((np.asarray(o * a) for o, a in zip(offsets, axis, strict=True)), start=np.zeros((), offsets[0].dtype)) / r
            for axis, r in zip(self.axes, radii, strict=True)
        )
        return np.asarray(first), np.asarray(second), np.asarray(third)

    def place(self, first: FloatArray, second: FloatArray, third: FloatArray) -> Axes:
        """Positions z, y, x of local coordinates."""
        scaled = (first * self.long_mm, second * self.short_mm, third * self.short_mm)
        z, y, x = (
            sum((np.asarray(s * axis[k]) for s, axis in zip(scaled, self.axes, strict=True)), start=np.zeros((), first.dtype))
            + centre
            for k, centre in enumerate(self.centre_mm)
        )
        return np.asarray(z), np.asarray(y), np.asarray(x)


@dataclass(frozen=True)
class PersonMotion:
    """Spatial pattern of the motion of one person.

    Parameters
    ----------
    cavity
        Along whose wall inner tissue slides.
    heart
        The region that beats.
    bumps
        (K, 6): z in mm, u, v, width in mm, width in the section, weight, of smooth local departures from the mean pattern.
    """

    cavity: Cavity
    heart: HeartEllipsoid
    bumps: tuple[tuple[float, ...], ...] = ()

    def reference_of(self, positions: Axes, state: FrameState) -> Reference:
        """Where what lies at z, y, x in the frame lies at end-expiration; dtype as given, shapes need only broadcast."""
        *rest, ratio = self.wall_to_rest(*positions, state)
        u, v = self.cavity.section(*rest)
        inside = self.cavity.level(u, v) < 1
        *inner, change = self.inner_to_rest(rest[0], u, v, state)
        z, y, x = (np.where(inside, a, b) for a, b in zip(inner, rest, strict=True))
        return Reference((z, y, x), inside, np.where(inside, change * ratio, ratio))

    def position_of(self, reference: Axes, inside: Mask, state: FrameState) -> Axes:
        """Where tissue of end-expiration lies in the frame, to 1e-7 mm; every array has the shape of ``inside``.

        Parameters
        ----------
        inside
            On which side of the wall it lies: within rounding of the wall the position does not tell.

        Raises
        ------
        ArgumentError
            If the motion is too strong to be inverted.
        """
        rest = [part.astype(np.float64) for part in reference]
        for target, values in zip(
            rest, self._rest_to_inner((rest[0][inside], rest[1][inside], rest[2][inside]), state), strict=True
        ):
            target[inside] = values
        return self._rest_to_wall((rest[0], rest[1], rest[2]), state)

    def wall_to_rest(self, z: FloatArray, y: FloatArray, x: FloatArray, state: FrameState) -> tuple[FloatArray, ...]:
        """Step 1: z, y, x with the rib cage at rest, and the ratio of volumes."""
        deeper, wider = self._widening(z, state)
        y, x = _ANCHOR_MM + (y - _ANCHOR_MM) / deeper, x / wider
        lifted, slope = self._lift(z, y, state)
        return z - lifted, y, x, (1 - slope) / (deeper * wider)

    def inner_to_rest(self, z: FloatArray, u: FloatArray, v: FloatArray, state: FrameState) -> tuple[FloatArray, ...]:
        """Steps 2 and 3 of tissue inside the cavity at heights z and section u, v: z, y, x and the ratio of volumes."""
        way, slope = self._slide(z, u, v, self._section_share(u, v), state)
        before = self.cavity.half_axes(z)
        z = z + way
        after = self.cavity.half_axes(z)
        ratio = (1 + slope) * (after[0] * after[1]) / (before[0] * before[1])
        y, x = self.cavity.place(z, u, v)
        return self._beat_to_rest(z, y, x, ratio, state)

    def _rest_to_inner(self, reference: Axes, state: FrameState) -> Axes:
        z, y, x = self._rest_to_beat(*reference, state)
        u, v = self.cavity.section(z, y, x)
        share = self._section_share(u, v)

        def pulled(height: FloatArray, k: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
            way, slope = self._slide(height, u[k], v[k], share[k], state)
            return height + way, 1 + slope

        z = _solve(pulled, z)
        return z, *self.cavity.place(z, u, v)

    def _rest_to_wall(self, rest: Axes, state: FrameState) -> Axes:
        z, y, x = rest
        depth = y.ravel()

        def pulled(height: FloatArray, k: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
            lifted, slope = self._lift(height, depth[k], state)
            return height - lifted, 1 - slope

        z = _solve(pulled, z.ravel()).reshape(z.shape)
        deeper, wider = self._widening(z, state)
        return z, _ANCHOR_MM + (y - _ANCHOR_MM) * deeper, x * wider

    def _widening(self, z: FloatArray, state: FrameState) -> tuple[FloatArray, FloatArray]:
        growth = _WIDER_PER_MM * state.upper_mm
        deeper = between(z, (-290.0, -150.0, -90.0, -20.0, 60.0, 160.0), (0.6, 2.4, 2.4, 2.0, 1.7, 0.0))
        wider = between(z, (-240.0, -100.0, 30.0, 150.0), (0.3, 1.1, 1.0, 0.0))
        return 1 + growth * deeper, 1 + growth * wider

    def _lift(self, z: FloatArray, y: FloatArray, state: FrameState) -> tuple[FloatArray, FloatArray]:
        """Way to the head of the front of the chest, and its derivative along z."""
        front = _LIFT * state.upper_mm * rise((20.0 - y) / 110.0)
        below, above = (z - _LIFT_BOTTOM_MM) / _LIFT_RAMP_MM, (_LIFT_TOP_MM - z) / _LIFT_RAMP_MM
        up, down = rise(below), rise(above)
        slope = (rise_slope(below) * down - up * rise_slope(above)) / _LIFT_RAMP_MM
        return front * up * down, front * slope

    def _section_share(self, u: FloatArray, v: FloatArray) -> FloatArray:
        """Share of the diaphragm's way over the section: domes most, mediastinum less, little at the spine, more behind."""
        middle = np.exp(-((v / 0.27) ** 2))
        share = (1 - 0.08 * rise(0.5 + v)) * (0.82 + 0.18 * rise((u + 0.9) / 1.5)) * (1 - 0.38 * middle)
        return np.asarray(share * (1 - 0.9 * np.exp(-((v / 0.3) ** 4)) * rise((u + 0.05) / 0.55)))

    def _slide(
        self, z: FloatArray, u: FloatArray, v: FloatArray, share: FloatArray, state: FrameState
    ) -> tuple[FloatArray, FloatArray]:
        """Way down from end-expiration of what lies at height z in the frame, and its derivative along z."""
        above, below = (_APEX_MM - z) / (_APEX_MM - _DOME_MM), (_BELOW_MM - z) / (_BELOW_MM - _FEET_MM)
        up, down = rise(above), 1 - 0.6 * rise(below)
        up_slope = -rise_slope(above) / (_APEX_MM - _DOME_MM)
        down_slope = 0.6 * rise_slope(below) / (_BELOW_MM - _FEET_MM)
        lag = (z - _LAG_FROM_MM) / (_LAG_TO_MM - _LAG_FROM_MM)
        late = state.upper_mm - state.lower_mm
        amount = state.lower_mm + late * rise(lag)
        amount_slope = late * rise_slope(lag) / (_LAG_TO_MM - _LAG_FROM_MM)
        height = up * down
        way = share * amount * height
        slope = share * (amount_slope * height + amount * (up_slope * down + up * down_slope))
        mean = 0.5 * (state.lower_mm + state.upper_mm)
        for bump_z, bump_u, bump_v, width_mm, width, weight in self.bumps:
            offset = (z - bump_z) / width_mm
            bump = weight * mean * np.exp(-0.5 * (offset * offset + ((u - bump_u) ** 2 + (v - bump_v) ** 2) / width**2))
            way, slope = way + bump, slope - bump * offset / width_mm
        return way, slope

    def _beat_strength(self, state: FrameState) -> float:
        # r (1 - r^2)^3 is 0.238 at most, where the border moves by contraction_mm.
        return state.contraction_mm / (0.238 * self.heart.short_mm)

    def _twist(self, local: Axes, angle: FloatArray) -> Axes:
        first, second, third = local
        cos, sin = np.cos(angle), np.sin(angle)
        return first, cos * second - sin * third, sin * second + cos * third

    def _beat_to_rest(
        self, z: FloatArray, y: FloatArray, x: FloatArray, ratio: FloatArray, state: FrameState
    ) -> tuple[FloatArray, ...]:
        q = self.heart.local(z, y, x)
        square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
        near = square < 1
        if not near.any() or not (state.contraction_mm or state.rocking_mm):
            return z, y, x, ratio
        square, strength = square[near], self._beat_strength(state)
        window = (1 - square) ** 3
        growth = 1 + strength * window
        # d(r growth)/dr = growth - 6 strength r^2 (1 - r^2)^2
        along = growth - 6 * strength * square * (1 - square) ** 2
        angle = state.rocking_mm / self.heart.short_mm * 2 * window
        turned = self._twist((q[0][near] * growth, q[1][near] * growth, q[2][near] * growth), angle)
        z, y, x, ratio = z.copy(), y.copy(), x.copy(), ratio.copy()
        for target, values in zip((z, y, x), self.heart.place(*turned), strict=True):
            target[near] = values
        ratio[near] *= along * growth * growth
        return z, y, x, ratio

    def _rest_to_beat(self, z: FloatArray, y: FloatArray, x: FloatArray, state: FrameState) -> Axes:
        q = self.heart.local(z, y, x)
        square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
        near = square < 1
        if not near.any() or not (state.contraction_mm or state.rocking_mm):
            return z, y, x
        radius, strength = np.sqrt(square[near]), self._beat_strength(state)

        def pulled(r: FloatArray, _k: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
            window = 1 - r * r
            growth = 1 + strength * window**3
            return r * growth, growth - 6 * strength * (r * window) ** 2

        found = _solve(pulled, radius, tolerance=_TOLERANCE_MM / self.heart.long_mm)
        angle = state.rocking_mm / self.heart.short_mm * 2 * (1 - found * found) ** 3
        growth = np.maximum(radius, 1e-12) / np.maximum(found, 1e-12)
        turned = self._twist((q[0][near] / growth, q[1][near] / growth, q[2][near] / growth), -angle)
        z, y, x = z.copy(), y.copy(), x.copy()
        for target, values in zip((z, y, x), self.heart.place(*turned), strict=True):
            target[near] = values
        return z, y, x


def _solve(
    function: Callable[[FloatArray, NDArray[np.int64]], tuple[FloatArray, FloatArray]],
    targets: FloatArray,
    *,
    tolerance: float = _TOLERANCE_MM,
) -> FloatArray:
    """Solutions (N,) of f_k(value_k) = target_k for increasing functions; ``function(values, k)`` gives those of k with slopes.

    Raises
    ------
    ArgumentError
        If one does not increase, or one is not found.
    """
    found = targets.astype(np.float64)
    open_ = np.arange(len(found))
    for _ in range(_ITERATIONS):
        value, slope = function(found[open_], open_)
        if not (slope > 0).all():
            break
        error = value - targets[open_]
        wrong = np.abs(error) > tolerance
        open_, error, slope = open_[wrong], error[wrong], slope[wrong]
        if not len(open_):
            return found
        found[open_] -= np.clip(error / slope, -_LONGEST_STEP_MM, _LONGEST_STEP_MM)
    raise ArgumentError(
        "the simulated motion folds and has no inverse: choose a smaller breathing_depth_mm or cardiac_amplitude_mm"
    )
