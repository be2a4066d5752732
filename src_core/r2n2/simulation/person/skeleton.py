"""Ribs, breast bone and spine: where they lie, and their painting."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from r2n2.simulation.person.anatomy import PersonLabel
from r2n2.simulation.person.canvas import Canvas
from r2n2.simulation.person.cavity import Cavity
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.texture import FloatArray

__all__ = ["Skeleton", "build_skeleton", "paint_ribs", "paint_spine", "skeleton_landmarks", "vertebrae"]

_TOP_VERTEBRA_MM = 190.0
_BOTTOM_MM = -270.0
_FIRST_RIB = 4  # number of vertebrae above that of the first rib
_FROM_WALL_MM = 5.0
# Of each pair of ribs: the fall from back to front in mm, and the angle at which its bone ends, 90 the back, -90 the front.
_FALL_MM = (26.0, 44.0, 58.0, 68.0, 75.0, 80.0, 82.0, 80.0, 74.0, 66.0, 44.0, 24.0)
_ENDS_DEG = (-58.0, -60.0, -62.0, -63.0, -63.0, -62.0, -58.0, -48.0, -36.0, -20.0, 8.0, 34.0)
_JOINTS_MM = (92.0, 58.0, 38.0, 21.0, 5.0, -9.0, -22.0)
_BEHIND_DEG = 66.0


def vertebrae(cavity: Cavity) -> FloatArray:
    """(N, 3) middle height, y of the front and pitch in mm of every vertebra, from the neck down; they grow downwards."""
    rows: list[tuple[float, float, float]] = []
    z = _TOP_VERTEBRA_MM
    while z > _BOTTOM_MM:
        pitch = 17.5 + 0.66 * len(rows)
        rows.append((z - pitch / 2, float(cavity.spine_front(np.asarray(z - pitch / 2))), pitch))
        z -= pitch
    return np.array(rows)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Where bones lie, as tubes (N, 8): z, y, x, radius in mm of both ends.

    Parameters
    ----------
    vertebrae
        As ``vertebrae`` gives them.
    arches, ribs, cartilages
        Tubes.
    breast_bone
        (K, 4) z, y, x of pieces of the breast bone and their half width.
    rib_ends
        (12, 2, 3) front end of the bone of each pair, right and left.
    """

    vertebrae: FloatArray
    arches: FloatArray
    ribs: FloatArray
    cartilages: FloatArray
    breast_bone: FloatArray
    rib_ends: FloatArray


def build_skeleton(cavity: Cavity) -> Skeleton:
    """The bones around a cavity: twelve pairs of ribs run down and forward around it."""
    column = vertebrae(cavity)
    bones, gristle, ends = [], [], np.zeros((12, 2, 3))
    for number in range(12):
        for side in (-1.0, 1.0):
            line = _rib(cavity, column[_FIRST_RIB + number], number, side)
            ends[number, int(side > 0)] = line[-1]
            bones.append(_flat(line, 3.3 if number else 3.0))
            if number < len(_JOINTS_MM):
                joint = _JOINTS_MM[number]
                end = np.array([joint, _front_mm(cavity, joint) - 7.0, side * (24.0 if joint > 62 else 14.0)])
                middle = 0.5 * (line[-1] + end) + np.array([-10.0 if number > 3 else 0.0, -3.0, 0.0])
                gristle.append(_flat(np.stack((line[-1], middle, end)), 3.2))
    pieces = [(z, _front_mm(cavity, z) - 7.0, 0.0, 27.0 if z > 62 else 15.0) for z in np.arange(86.0, -48.0, -11.0)]
    arches = np.concatenate([_arch(z, front) for z, front, _ in column])
    return Skeleton(column, arches, np.concatenate(bones), np.concatenate(gristle), np.array(pieces), ends)


def paint_spine(canvas: Canvas, skeleton: Skeleton, tones: Tones) -> None:
    """Bodies, discs, canal with cord, arches and processes."""
    marrow = tones["marrow"] + 2.0 * tones.grain * canvas.noise("fine")
    for z, front, pitch in skeleton.vertebrae:
        size = 0.86 + 0.0125 * (pitch - 17.5) / 0.66
        middle = (z, front + 3.0 + 14.5 * size, 0.0)
        disc = (z - pitch / 2, middle[1], 0.0)
        canvas.fill(disc, (4.5, 14.0 * size, 17.0 * size), tones["disc"], power=4.0, label=PersonLabel.SPINE)
        for shrink, tone in ((0.0, tones.mixed("cortical", "marrow", 0.25)), (1.7, marrow)):
            radii = (pitch / 2 - 2.6 - shrink, 14.5 * size - shrink, 17.5 * size - shrink)
            canvas.fill(middle, radii, tone, power=4.0, label=PersonLabel.SPINE)
    canvas.paint(canvas.tubes(skeleton.arches), tones["cortical"], label=PersonLabel.SPINE)
    canvas.paint(canvas.tubes(_thinner(skeleton.arches, 1.5)), marrow, label=PersonLabel.SPINE)
    line = [(z, front + 3.0 + 38.5) for z, front, _ in skeleton.vertebrae]
    for radius, tissue in ((8.2, "csf"), (4.6, "cord")):
        canal = [(a[0], a[1], 0.0, radius, b[0], b[1], 0.0, radius) for a, b in itertools.pairwise(line)]
        canvas.paint(canvas.tubes(canal), tones[tissue], label=PersonLabel.SPINE)


def paint_ribs(canvas: Canvas, skeleton: Skeleton, tones: Tones) -> None:
    """Ribs, their cartilages and the breast bone."""
    for shrink, tone in ((0.0, tones.mixed("cortical", "marrow", 0.2)), (1.5, tones["marrow"])):
        for *middle, width in skeleton.breast_bone:
            canvas.fill(middle, (8.5, 6.0 - shrink, width - shrink), tone, power=4.0)
    canvas.paint(canvas.tubes(skeleton.cartilages), tones["cartilage"])
    canvas.paint(canvas.tubes(skeleton.ribs), tones["cortical"], label=PersonLabel.RIBS)
    canvas.paint(
        canvas.tubes(_thinner(skeleton.ribs, 2.2 if tones.contrast == "mr" else 1.6)), tones["marrow"], label=PersonLabel.RIBS
    )


def skeleton_landmarks(skeleton: Skeleton) -> list[tuple[str, FloatArray]]:
    """Places on the skeleton that can be found again: front ends of ribs, and fronts of vertebral bodies."""
    marks = [
        (f"rib-{name}-{number + 1}", skeleton.rib_ends[number, side])
        for number in range(1, 10)
        for side, name in enumerate(("right", "left"))
    ]
    fronts = skeleton.vertebrae[:, :2] + [0.0, 3.0]
    return marks + [(f"vertebra-{k + 1}", np.array([z, y, 0.0])) for k, (z, y) in enumerate(fronts)]


def _arch(z: float, front: float) -> FloatArray:
    """Pedicles, laminae, transverse and spinous processes of a vertebra, as tubes."""
    rows = []
    for side in (-1.0, 1.0):
        rows += [(z + 4, front + 29, side * 11, 4.2, z + 3, front + 41, side * 14, 4.0)]
        rows += [(z + 1, front + 42, side * 14, 3.8, z - 3, front + 54, 0.0, 3.2)]
        rows += [(z + 2, front + 43, side * 14, 4.2, z + 3, front + 52, side * 33, 3.8)]
    rows += [(z - 3, front + 54, 0.0, 3.4, z - 20, front + 70, 0.0, 3.2)]
    return np.array(rows)


def _front_mm(cavity: Cavity, z: float) -> float:
    """Position y of the cavity's front wall in the middle."""
    height = np.asarray(z)
    return float(cavity.place(height, np.asarray(-1.0), np.asarray(0.0))[0])


def _rib(cavity: Cavity, vertebra: FloatArray, number: int, side: float) -> FloatArray:
    """Middle line (N, 3) of a rib's bone."""
    z0, front, _ = vertebra
    share = np.linspace(0, 1, 26)
    angle = np.deg2rad(_BEHIND_DEG + share * (_ENDS_DEG[number] - _BEHIND_DEG))
    z = z0 - 8.0 - _FALL_MM[number] * share**1.1
    sin, cos = np.sin(angle), np.cos(angle)
    distance = np.ones_like(angle)
    for _ in range(30):  # a contraction: the level grows like the 2.5th power of the distance
        distance = distance / np.maximum(cavity.level(distance * sin, distance * cos), 0.2) ** 0.4
    deep, wide = cavity.half_axes(z)
    outwards = 1 + _FROM_WALL_MM / np.hypot(deep * sin, wide * cos) / distance
    y, x = cavity.place(z, distance * sin * outwards, distance * cos * outwards)
    head = np.array([[z0 + 6.0, front + 31.0, side * 21.0], [z0 + 1.0, front + 46.0, side * 36.0]])
    return np.concatenate((head, np.stack((z, y, side * x), axis=1)))


def _flat(line: FloatArray, radius: float) -> FloatArray:
    """Two rows of tubes one above the other along a line (N, 3): a rib is higher than it is thick."""
    rows = []
    for shift in (-0.75 * radius, 0.75 * radius):
        moved = line + np.array([shift, 0.0, 0.0])
        radii = np.full((len(line) - 1, 1), radius)
        rows.append(np.concatenate((moved[:-1], radii, moved[1:], radii), axis=1))
    return np.concatenate(rows)


def _thinner(tubes: FloatArray, by_mm: float) -> FloatArray:
    thinner = np.array(tubes)
    thinner[:, (3, 7)] -= by_mm
    return thinner
