"""Outlines of the organs of one random person at end-expiration, in anatomical mm around the middle of the chest.

y points to the feet, x to the right of the picture: the patient's left, as radiologists look at it. Everything is drawn
for an adult; ``thorax`` scales it to the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from r2n2.simulation.texture import FloatArray, smooth_outline

__all__ = ["Anatomy", "draw_anatomy", "wall_mm"]

_WALL_TOP_MM, _WALL_BOTTOM_MM = -140.0, 100.0


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The person: shape factors, outlines and where things are.

    Parameters
    ----------
    wall_half_width_mm
        Half width of the rib cage's inside, at its widest.
    fat_mm, muscle_mm
        Thickness of the fat and of the muscle outside the rib cage.
    outlines
        Closed smooth outlines (N, 2) by name.
    heart_mm
        Centre (y, x) of the heart.
    brightness
        Factor on every tissue's brightness, by name.
    """

    wall_half_width_mm: float
    fat_mm: float
    muscle_mm: float
    outlines: dict[str, FloatArray]
    heart_mm: tuple[float, float]
    brightness: dict[str, float]


def wall_mm(y: FloatArray, half_width_mm: float) -> FloatArray:
    """Half width of the inside of the rib cage at height y, smooth in y and never below a fifth of the widest."""
    height = np.clip((_WALL_BOTTOM_MM - y) / (_WALL_BOTTOM_MM - _WALL_TOP_MM), 0, None)
    inside = 1 - height**3.4
    # A smooth maximum keeps the square root differentiable above the apex.
    return np.asarray(half_width_mm * np.sqrt(0.5 * (inside + 0.04 + np.sqrt((inside - 0.04) ** 2 + 0.01))) * 0.995)


def draw_anatomy(rng: np.random.Generator, variation: float) -> Anatomy:
    """Draw a person; ``variation`` 0 gives the average one."""

    def vary(spread: float) -> float:
        return float(np.clip(rng.normal(), -2, 2) * spread * variation)

    half_width = 137 + vary(5)
    fat, muscle = max(12 + vary(4), 4.0), 11 + vary(2)
    heart = (22 + vary(5), 24 + vary(4))
    heart_size = 1 + vary(0.06)
    right_dome, left_dome = 34 + vary(7), 50 + vary(7)
    outlines = {
        name: smooth_outline(corners)
        for name, corners in {
            "right_cavity": _right_cavity(half_width, right_dome, vary),
            "left_cavity": _left_cavity(half_width, left_dome, vary),
            "liver": _liver(half_width, right_dome, vary),
            "stomach": _around((left_dome + 42, 66 + vary(6)), (34 + vary(4), 30 + vary(4)), vary),
            "spleen": _around((left_dome + 40, 112 + vary(3)), (36 + vary(5), 17 + vary(2)), vary),
            "heart": _around(heart, (43 * heart_size, 51 * heart_size), vary, (1, 1.02, 1.08, 1.22, 1.0, 0.86, 0.96, 1.0)),
            "left_ventricle": _around((heart[0] + 7, heart[1] + 21), (25 * heart_size, 25 * heart_size), vary),
            "right_atrium": _around((heart[0] - 4, heart[1] - 34), (31 * heart_size, 18 * heart_size), vary),
            "right_ventricle": _around((heart[0] + 14, heart[1] - 12), (21 * heart_size, 19 * heart_size), vary),
            "outflow": _around((heart[0] - 33, heart[1] - 10), (17, 13), vary),
        }.items()
    }
    names = ("liver", "muscle", "fat", "lung", "blood", "myocardium", "spleen", "stomach", "bone")
    brightness = {name: float(np.exp(vary(0.09))) for name in names}
    return Anatomy(half_width, fat, muscle, outlines, heart, brightness)


def _around(
    centre: tuple[float, float], radii: tuple[float, float], vary: Callable[[float], float], factors: ArrayLike = (1.0,) * 8
) -> FloatArray:
    """Corners of a bumpy ellipse: angles from the top clockwise in the picture."""
    scale = np.asarray(factors, dtype=np.float64)
    scale = scale + np.array([vary(0.05) for _ in scale])
    turn = np.linspace(0, 2 * np.pi, len(scale), endpoint=False)
    return np.stack((centre[0] - radii[0] * scale * np.cos(turn), centre[1] + radii[1] * scale * np.sin(turn)), axis=1)


def _lateral(half_width: float, heights: ArrayLike, side: float) -> FloatArray:
    y = np.asarray(heights, dtype=np.float64)
    return np.stack((y, side * (wall_mm(y, half_width) - 1.0)), axis=1)


def _right_cavity(half_width: float, dome: float, vary: Callable[[float], float]) -> FloatArray:
    medial = [(-20 + vary(3), -36), (12 + vary(3), -30 + vary(2)), (36, -31), (dome + 27, -27)]
    diaphragm = [
        (dome + 9, -50),
        (dome, -80 + vary(4)),
        (dome + 12, -110),
        (dome + 42, -half_width + 7),
        (dome + 60, -half_width + 1),
    ]
    top = [(-88, -27), (-118, -31), (-137 + vary(3), -48)]
    return np.array([*top, *_lateral(half_width, (-122, -95, -60, -20, 25, 60), -1), *diaphragm[::-1], *medial[::-1], (-52, -29)])


def _left_cavity(half_width: float, dome: float, vary: Callable[[float], float]) -> FloatArray:
    medial = [(-94, 27), (-77, 35 + vary(2)), (-62, 31), (-45, 38 + vary(2)), (-28, 37), (0, 58), (dome + 14, 78)]
    diaphragm = [(dome + 3, 92), (dome + 8, 112), (dome + 30, half_width - 6), (dome + 48, half_width - 1)]
    top = [(-120, 28), (-139 + vary(3), 47)]
    return np.array([*top, *_lateral(half_width, (-122, -95, -60, -20, 25, 60), 1), *diaphragm[::-1], *medial[::-1]])


def _liver(half_width: float, dome: float, vary: Callable[[float], float]) -> FloatArray:
    above = [
        (dome + 4, -80),
        (dome + 12, -50),
        (dome + 29, -26),
        (dome + 36, 5),
        (dome + 38, 40 + vary(10)),
        (dome + 48, 62 + vary(10)),
    ]
    below = [(dome + 62, 30), (dome + 88 + vary(6), 2), (dome + 112 + vary(8), -38), (dome + 135 + vary(10), -85)]
    side = [
        (dome + 140 + vary(10), -half_width + 15),
        (dome + 95, -half_width + 2),
        (dome + 60, -half_width + 3),
        (dome + 28, -half_width + 16),
    ]
    return np.array([*above, *below, *side, (dome + 13, -109)])
