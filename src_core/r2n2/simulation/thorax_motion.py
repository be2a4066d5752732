"""The thorax's motion as an analytic pull-back: phi_t(x), the place at end-expiration of what lies at x in frame t.

Positions are anatomical mm (y, x). phi_t is a breathing part b(x) = x + sum of modes, followed by the heart's beat around a
centre that thereby moves with the breathing. Being analytic it has no interpolation error; its inverse is found by
Newton's method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2n2.errors import ArgumentError
from r2n2.simulation.anatomy import wall_mm
from r2n2.simulation.texture import FloatArray

__all__ = ["FrameState", "Motion"]

_DIFFERENCE_MM = 1e-4
_ITERATIONS = 60


@dataclass(frozen=True)
class FrameState:
    """What moves in one frame.

    Parameters
    ----------
    lower_mm, upper_mm
        Way of the diaphragm, and what the upper lung and the chest wall follow; positive: inspiration.
    contraction_mm, rocking_mm
        Inward way of the heart's border and its sideways rocking.
    flow
        Brightness phase of blood in [-1, 1].
    """

    lower_mm: float
    upper_mm: float
    contraction_mm: float
    rocking_mm: float
    flow: float


def _rise(values: FloatArray) -> FloatArray:
    """0 below 0, 1 above 1, with two continuous derivatives."""
    s = np.clip(values, 0, 1)
    return np.asarray(s**3 * (10 - 15 * s + 6 * s * s))


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))


@dataclass(frozen=True)
class Motion:
    """Spatial pattern of the motion of one person.

    Parameters
    ----------
    wall_half_width_mm
        Inside of the rib cage at its widest; tissue slides along it within a few mm.
    heart_mm
        Centre of the heart at end-expiration.
    bumps
        (K, 6): y, x, width in mm, weight along y and x, and lag in [0, 1] of smooth local departures.
    """

    wall_half_width_mm: float
    heart_mm: tuple[float, float]
    bumps: tuple[tuple[float, ...], ...]

    def reference_of(self, points: FloatArray, state: FrameState) -> FloatArray:
        """phi_t: place at end-expiration of points (..., 2) of the frame, anatomical mm."""
        y, x = points[..., 0], points[..., 1]
        inner = _sigmoid((wall_mm(y, self.wall_half_width_mm) - 6.0 - np.sqrt(x * x + 1)) / 2.6)
        down = self._craniocaudal(y, x)
        upper = _sigmoid((-10 - y) / 25)
        depth = state.upper_mm * upper + state.lower_mm * (1 - upper)
        gy = -depth * down * (0.04 + 0.96 * inner)
        # The ribs swing up and out like bucket handles.
        swing = state.upper_mm * np.exp(-(((y - 5) / 90) ** 2))
        gy = gy + 0.12 * swing * (1 - inner) * _rise(np.abs(x) / 120)
        gx = -0.11 * swing * np.tanh(x / 120)
        for by, bx, width, wy, wx, lag in self.bumps:
            height = np.exp(-((y - by) ** 2 + (x - bx) ** 2) / (2 * width**2)) * (state.lower_mm * (1 - lag) + state.upper_mm * lag)
            gy, gx = gy + wy * height * inner, gx + wx * height * inner
        return self._beat(np.stack((y + gy, x + gx), axis=-1), state)

    def _craniocaudal(self, y: FloatArray, x: FloatArray) -> FloatArray:
        """Share of the diaphragm's way: none at the apex, all at the domes, little at spine and upper mediastinum."""
        down = _rise((y + 165) / 235) * (1 - 0.2 * _rise((y - 110) / 140))
        mediastinum = np.exp(-((x / 34) ** 2)) * _sigmoid((-25 - y) / 16)
        spine = np.exp(-((x / 30) ** 4)) * _sigmoid((y - 112) / 11)
        heart = np.exp(-((y - self.heart_mm[0]) ** 2 + (x - self.heart_mm[1] + 12) ** 2) / (2 * 42.0**2))
        return np.asarray(down * (1 - 0.55 * mediastinum) * (1 - 0.93 * spine) * (1 - 0.3 * heart))

    def _beat(self, points: FloatArray, state: FrameState) -> FloatArray:
        width = 30.0
        offset = points - np.asarray(self.heart_mm)
        height = np.exp(-(offset**2).sum(-1, keepdims=True) / (2 * width**2))
        # Largest at one width from the centre, where it is contraction_mm.
        contraction = state.contraction_mm / (width * np.exp(-0.5))
        rocking = np.array([0.5, -1.0]) * state.rocking_mm
        return np.asarray(points + height * (contraction * offset + rocking))

    def jacobian(self, points: FloatArray, state: FrameState) -> FloatArray:
        """Derivatives of phi_t (..., 2, 2): row the component, column the direction."""
        columns = []
        for step in np.eye(2) * _DIFFERENCE_MM:
            ahead, behind = self.reference_of(points + step, state), self.reference_of(points - step, state)
            columns.append((ahead - behind) / (2 * _DIFFERENCE_MM))
        return np.stack(columns, axis=-1)

    def position_of(self, reference: FloatArray, state: FrameState, *, start: FloatArray | None = None) -> FloatArray:
        """Inverse of phi_t: where tissue of reference positions (..., 2) lies in the frame, to 1e-7 mm.

        Raises
        ------
        ArgumentError
            If the motion is too strong to be inverted.
        """
        flat = reference.reshape(-1, 2)
        found = (flat if start is None else start.reshape(-1, 2)).copy()
        open_ = np.arange(len(flat))
        for _ in range(_ITERATIONS):
            error = self.reference_of(found[open_], state) - flat[open_]
            wrong = np.abs(error).max(-1) > 1e-7
            open_, error = open_[wrong], error[wrong]
            if not len(open_):
                return found.reshape(reference.shape)
            step = np.linalg.solve(self.jacobian(found[open_], state), error[..., None])[..., 0]
            # A step longer than this would leave the region where the derivative holds.
            length = np.linalg.norm(step, axis=-1, keepdims=True)
            found[open_] -= step * np.minimum(1, 12 / np.maximum(length, 1e-12))
        raise ArgumentError(
            "the simulated motion folds and has no inverse: choose a smaller breathing_depth_mm or cardiac_amplitude_mm"
        )
