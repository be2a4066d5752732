"""Outlines of the organs of one random person at end-expiration, in anatomical mm around the middle of the chest.

y points to the feet, x to the right of the picture: the patient's left, as radiologists look at it. Everything is drawn
for an adult; ``thorax`` scales it to the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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
    position
        Of the coronal slice, -1 at the back, 0 in the middle, 1 at the front.
    heart_share
        How much of the heart's width this slice shows, 1 in the middle; 0: it lies before or behind it.
    """

    wall_half_width_mm: float
    fat_mm: float
    muscle_mm: float
    outlines: dict[str, FloatArray]
    heart_mm: tuple[float, float]
    brightness: dict[str, float]
    position: float = 0.0
    heart_share: float = 1.0


def wall_mm(y: FloatArray, half_width_mm: float) -> FloatArray:
    """Half width of the inside of the rib cage at height y, smooth in y and never below a fifth of the widest."""
    height = np.clip((_WALL_BOTTOM_MM - y) / (_WALL_BOTTOM_MM - _WALL_TOP_MM), 0, None)
    inside = 1 - height**3.4
    # A smooth maximum keeps the square root differentiable above the apex.
    return np.asarray(half_width_mm * np.sqrt(0.5 * (inside + 0.04 + np.sqrt((inside - 0.04) ** 2 + 0.01))) * 0.995)


def draw_anatomy(rng: np.random.Generator, variation: float, position: float = 0.0) -> Anatomy:
    """Draw a person; ``variation`` 0 gives the average one. The same generator gives one person at all positions."""

    def vary(spread: float) -> float:
        return float(np.clip(rng.normal(), -2, 2) * spread * variation)

    half_width = 137 + vary(5)
    fat, muscle = max(12 + vary(4), 4.0), 11 + vary(2)
    heart = (22 + vary(5), 24 + vary(4))
    heart_size = 1 + vary(0.06)
    lower = _dome_lower_mm(position)
    right_dome, left_dome = 34 + vary(7) + lower, 50 + vary(7) + lower
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
    if position == 0:
        return Anatomy(half_width, fat, muscle, outlines, heart, brightness)
    return _at_position(Anatomy(half_width, fat, muscle, outlines, heart, brightness, position, _heart_share(position)))


def _dome_lower_mm(position: float) -> float:
    """The domes are highest in the middle; the lungs reach further down at the back than at the front."""
    return (30.0 if position < 0 else 16.0) * position**2


def _heart_share(position: float) -> float:
    """The heart is a ball that lies nearer to the front, and does not reach the back."""
    here, middle = (1 - ((p - 0.25) / 0.6) ** 2 for p in (position, 0.0))
    return math.sqrt(here / middle) if here > 0.15 else 0.0


def _at_position(anatomy: Anatomy) -> Anatomy:
    """The chest is narrower at back and front; where the heart ends the left lung fills its place, and the left liver ends."""
    breadth = math.sqrt(1 - 0.5 * anatomy.position**2)
    share = anatomy.heart_share
    outlines = dict(anatomy.outlines)
    for name in ("heart", "left_ventricle", "right_atrium", "right_ventricle", "outflow"):
        outlines[name] = np.asarray(anatomy.heart_mm) + share * (outlines[name] - np.asarray(anatomy.heart_mm))
    outlines["left_cavity"] = _without_notch(outlines["left_cavity"], min(share, 1.0))
    left_lobe = float(np.clip(1 + 1.2 * anatomy.position, 0.2, 1.2))
    liver = outlines["liver"]
    outlines["liver"] = np.where(liver > [np.inf, 0], liver * [1, left_lobe], liver)
    outlines = {name: outline * [1, breadth] for name, outline in outlines.items()}
    heart = (anatomy.heart_mm[0], anatomy.heart_mm[1] * breadth)
    return replace(anatomy, wall_half_width_mm=anatomy.wall_half_width_mm * breadth, outlines=outlines, heart_mm=heart)


def _without_notch(cavity: FloatArray, share: float) -> FloatArray:
    """The left lung's outline with its notch for the heart as deep as the share of it that is there."""
    y, x = cavity.T
    # The edge of the lung beside the heart, which without it runs straight down along the spine.
    depth = np.interp(y, (-45, 0, 65, 75), (0, 22, 42, 0)) * (x < 92)
    return np.stack((y, x - (1 - share) * depth), axis=1)


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
