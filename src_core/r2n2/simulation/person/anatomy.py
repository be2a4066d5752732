"""Sizes and places of the organs of one random person at end-expiration, in mm of the body (see ``cavity``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from r2n2.simulation.person.cavity import Cavity
from r2n2.simulation.person.motion import HeartEllipsoid
from r2n2.simulation.person.ramps import between
from r2n2.simulation.texture import FloatArray

__all__ = ["LOBES", "PersonAnatomy", "PersonLabel", "draw_person"]

LOBES = ("RUL", "RML", "RLL", "LUL", "LLL")
"""The five lobes of the lungs: right upper, middle and lower, left upper and lower."""

_LONG_MM, _SHORT_MM = 68.0, 50.0
_LARGEST_LEVEL = 0.97  # of the cavity, 1 at its wall, that the region that beats may reach


class PersonLabel(IntEnum):
    """Values of the label maps of volumes."""

    BACKGROUND = 0
    BODY = 1
    RIGHT_LUNG = 2
    LEFT_LUNG = 3
    HEART = 4
    LIVER = 5
    RIBS = 6
    SPINE = 7


@dataclass(frozen=True, eq=False)
class PersonAnatomy:
    """One person.

    Parameters
    ----------
    cavity
        Inside of rib cage and belly.
    heart
        The region that beats; the heart fills most of it.
    heart_scale
        Size of the heart relative to the average.
    domes_mm
        Height z of the right and the left dome of the diaphragm.
    fissure_mm, fissure_slope
        Height of the oblique fissures at y = 0, right and left, and their slope.
    horizontal_mm
        Height of the right lung's horizontal fissure.
    fat_mm, muscle_mm
        Thickness under the skin of fat and of the muscles on the rib cage.
    """

    cavity: Cavity
    heart: HeartEllipsoid
    heart_scale: float
    domes_mm: tuple[float, float]
    fissure_mm: tuple[float, float]
    fissure_slope: float
    horizontal_mm: float
    fat_mm: float
    muscle_mm: float

    def diaphragm_mm(self, u: FloatArray, v: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Height z of the diaphragm: two domes, a saddle under the heart, and its insertion, which is lowest behind."""
        right, left = self.domes_mm
        edge = np.minimum(u * u + v * v, 1.6) ** 2
        # 46 to 80 mm below the saddle at the wall.
        drop = (58.0 + 20.0 * u) * edge
        saddle = 0.5 * (right + left) - 9.0
        bump_right = (right - saddle + 12.0) * np.exp(-(((x + 70.0) / 52.0) ** 2) - ((y - 4.0) / 74.0) ** 2)
        bump_left = (left - saddle + 12.0) * np.exp(-(((x - 76.0) / 44.0) ** 2) - ((y - 8.0) / 70.0) ** 2)
        return np.asarray(saddle - drop + bump_right + bump_left)

    def above_fissure_mm(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Distance from the oblique fissure of the lung at x, positive in the upper lobe."""
        start = np.where(x < 0, self.fissure_mm[0], self.fissure_mm[1])
        curved = start + self.fissure_slope * y + 7.0 * np.cos(x / 26.0) + 4.0 * np.sin(y / 30.0)
        return np.asarray((z - curved) / float(np.hypot(1.0, self.fissure_slope)))

    def above_horizontal_mm(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """Height above the horizontal fissure, which counts on the right in front of the oblique one."""
        return np.asarray(z - (self.horizontal_mm - 0.12 * y + 4.0 * np.sin(x / 24.0)))

    def mediastinum_mm(self, z: FloatArray, y: FloatArray) -> FloatArray:
        """Half width of what lies between the lungs besides the heart: thin in front, and widest at the great vessels."""
        front = self.cavity.spine_front(z) - y
        depth = between(front, (-14.0, 6.0, 40.0, 78.0, 100.0), (22.0, 15.0, 16.0, 14.0, 4.0))
        height = between(z, (-60.0, 0.0, 60.0, 90.0, 130.0), (1.1, 0.85, 0.9, 1.2, 2.1))
        return np.asarray(depth * height)

    def lobe(self, z: FloatArray, y: FloatArray, x: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Number in ``LOBES`` of the lobe that a place in a lung belongs to."""
        upper = self.above_fissure_mm(z, y, x) > 0
        top = self.above_horizontal_mm(z, y, x) > 0
        right = np.where(upper, np.where(top, 0, 1), 2)
        return np.asarray(np.where(x < 0, right, np.where(upper, 3, 4)), dtype=np.int64)

    def lung_depth_mm(self, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
        """About the distance to the edge of the lungs other than the chest wall and the heart, positive inside."""
        u, v = self.cavity.section(z, y, x)
        above = (z - self.diaphragm_mm(u, v, x, y)) * 0.8
        beside = np.abs(x) - self.mediastinum_mm(z, y) - 2.5 * np.sin(z / 17.0 + np.sign(x)) - 2.0 * np.sin(y / 13.0 - z / 31.0)
        # The tops are round, each in its half of the section.
        cap = 138.0 - z - 60.0 * ((np.abs(v) - 0.5) ** 2 + 0.6 * (u - 0.1) ** 2)
        return np.asarray(np.minimum(np.minimum(above, beside), cap))


def draw_person(rng: np.random.Generator, variation: float) -> PersonAnatomy:
    """Draw a person; ``variation`` 0 gives the average one."""

    def vary(spread: float) -> float:
        return float(np.clip(rng.normal(), -2, 2) * spread * variation)

    cavity = Cavity(134.0 + vary(4), 91.0 + vary(3))
    heart = _heart(cavity)
    right = -36.0 + vary(6)
    return PersonAnatomy(
        cavity=cavity,
        heart=heart,
        heart_scale=heart.short_mm / _SHORT_MM * (1.0 + vary(0.03)),
        domes_mm=(right, right - 13.0 + vary(3)),
        fissure_mm=(-6.0 + vary(4), 0.0 + vary(4)),
        fissure_slope=0.82 + vary(0.05),
        horizontal_mm=3.0 + vary(4),
        fat_mm=max(11.0 + vary(4), 4.0),
        muscle_mm=10.0 + vary(1.5),
    )


def _heart(cavity: Cavity) -> HeartEllipsoid:
    """Before the spine, to the left, its apex to the left, front and feet; smaller where a flat chest leaves less room."""
    apex = np.array([-0.45, -0.50, 0.74])
    apex = apex / np.linalg.norm(apex)
    right_front = np.array([0.0, -0.8, -0.6])
    right_front = right_front - apex * (right_front @ apex)
    right_front = right_front / np.linalg.norm(right_front)
    third = np.cross(apex, right_front)
    axes = tuple((float(row[0]), float(row[1]), float(row[2])) for row in (apex, right_front, third))
    height, turn = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(0, 2 * np.pi, 60))
    round_ = np.sqrt(1 - height**2)
    surface = (height, round_ * np.cos(turn), round_ * np.sin(turn))
    for size in np.linspace(1.0, 0.5, 26):
        centre = (-20.0, 48.0 - 0.93 * cavity.half_depth_mm, 17.0)
        heart = HeartEllipsoid(centre, axes, _LONG_MM * float(size), _SHORT_MM * float(size))
        if cavity.level(*cavity.section(*heart.place(*surface))).max() < _LARGEST_LEVEL:
            break
    return heart
