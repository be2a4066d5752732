"""Diaphragm, liver with its veins, stomach, spleen, kidneys and bowel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r2n2.simulation.person.anatomy import PersonAnatomy, PersonLabel
from r2n2.simulation.person.canvas import Canvas
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.person.trees import fill_territory
from r2n2.simulation.texture import FloatArray

__all__ = ["Belly", "draw_belly", "liver_depth_mm", "paint_abdomen", "paint_diaphragm"]

_HEPATIC_ROOT, _PORTAL_ROOT = (-56.0, 4.0, -20.0), (-104.0, -2.0, -18.0)
_ROUNDING_MM = 6.0


@dataclass(frozen=True, eq=False)
class Belly:
    """What is drawn at random below the diaphragm.

    Parameters
    ----------
    hepatic, portal
        Veins of the liver as tubes (N, 8).
    branchings
        (M, 4) z, y, x and radius in mm where they divide.
    loops
        (K, 8) bowel: middle, half axes, kind of content, turn.
    """

    hepatic: FloatArray
    portal: FloatArray
    branchings: FloatArray
    loops: FloatArray


def draw_belly(rng: np.random.Generator, anatomy: PersonAnatomy) -> Belly:
    """Grow the liver's veins and lay the bowel."""
    points = rng.uniform((-185, -95, -132), (-25, 90, 75), (2200, 3))
    z, y, x = points.T
    u, v = anatomy.cavity.section(z, y, x)
    points = points[(liver_depth_mm(anatomy, z, y, x) > 5) & (anatomy.cavity.depth_mm(z, u, v) > 5)]
    hepatic = fill_territory(rng, np.array(_HEPATIC_ROOT), points[::2], 1.1)
    portal = fill_territory(rng, np.array(_PORTAL_ROOT), points[1::2], 0.95)
    count = 130
    loops = np.column_stack(
        (
            rng.uniform(-290, -128, count),
            rng.uniform(-82, 26, count),
            rng.uniform(-112, 112, count),
            rng.uniform(10, 19, (count, 3)),
            rng.uniform(0, 1, count),
            rng.uniform(0, np.pi, count),
        )
    )
    return Belly(hepatic.segments, portal.segments, np.concatenate((hepatic.branchings, portal.branchings)), loops)


def liver_depth_mm(anatomy: PersonAnatomy, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    """About the distance to the liver's surface, positive inside; towards ribs the cavity bounds it."""
    u, v = anatomy.cavity.section(z, y, x)
    below = anatomy.diaphragm_mm(u, v, x, y) - z - 3.5
    above = (z + 176.0 - 0.74 * (x + 110.0) - 0.18 * y) * 0.8
    behind = (34.0 - y - 0.95 * x) * 0.72
    left = 66.0 - x
    sides = (below * 0.8, above, behind, left)
    # A smooth minimum rounds the edges.
    return np.asarray(-_ROUNDING_MM * np.log(sum(np.exp(np.clip(-side / _ROUNDING_MM, -30, 30)) for side in sides)))


def paint_abdomen(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones, belly: Belly) -> None:
    """Fat, then bowel, kidneys, stomach, spleen and liver."""
    z, y, x = canvas.z, canvas.y, canvas.x
    fat = tones["fat"] + tones.grain * (canvas.noise("fine") + 1.5 * canvas.noise("middle"))
    if tones.contrast == "mr":
        fat *= 0.9
    canvas.paint(np.ones(canvas.lattice.shape, dtype=np.float32), fat, label=PersonLabel.BODY)
    _paint_bowel(canvas, tones, belly)
    for side in (-1.0, 1.0):
        psoas = np.sqrt((np.abs(x - side * 34.0) / 17.0) ** 2 + ((y - anatomy.cavity.spine_front(z) - 8.0) / 21.0) ** 2)
        canvas.paint(
            canvas.soft((1 - psoas) * 18.0) * canvas.soft(-128.0 - z), tones["muscle"] + tones.grain * canvas.noise("fine")
        )
        turn = [(0.96, 0.2, 0.2 * side), (-0.2, 0.98, 0.0), (0.0, 0.0, 1.0)]
        height = -158.0 if side < 0 else -146.0
        canvas.fill((height, 38.0, side * 60.0), (54, 26, 27), tones["kidney"] + tones.grain * canvas.noise("middle"), turn)
        canvas.fill((height, 32.0, side * 46.0), (22, 9, 14), tones["fat"], turn)
        canvas.fill((height, 34.0, side * 51.0), (14, 7, 9), tones["pelvis"], turn)
    pancreas = [(-124, -12, -22, 12, -114, -8, 8, 9), (-114, -8, 8, 9, -106, 14, 52, 8), (-106, 14, 52, 8, -100, 34, 78, 7)]
    canvas.paint(canvas.tubes(pancreas), tones["bowel"] + 2 * tones.grain * canvas.noise("fine"))
    hug = [(0.92, -0.1, -0.38), (0.25, 0.86, 0.45), (0.28, -0.5, 0.82)]
    hug = [tuple(np.asarray(row) / np.linalg.norm(row)) for row in hug]
    spleen = tones["spleen"] + tones.grain * canvas.noise("fine")
    canvas.fill((-92.0, 44.0, 98.0), (50, 34, 20), spleen, hug)
    _paint_stomach(canvas, tones)
    liver = tones["liver"] + tones.grain * (0.8 * canvas.noise("fine") + 0.8 * canvas.noise("middle"))
    cover = canvas.soft(liver_depth_mm(anatomy, z, y, x))
    canvas.paint(cover, liver, label=PersonLabel.LIVER)
    canvas.paint(canvas.tubes(belly.hepatic) * cover, tones.mixed("vein", "liver", 0.15))
    canvas.paint(canvas.tubes(belly.portal, 0.6) * cover, tones.mixed("liver", "fat", 0.1))
    canvas.paint(canvas.tubes(belly.portal) * cover, tones.mixed("vein", "liver", 0.1))
    canvas.fill((-128.0, -42.0, -44.0), (25, 14, 13), tones["content"])


def paint_diaphragm(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """The thin muscle under the lungs."""
    u, v = anatomy.cavity.section(canvas.z, canvas.y, canvas.x)
    below = canvas.z - anatomy.diaphragm_mm(u, v, canvas.x, canvas.y)
    canvas.paint(canvas.sheet(below * 0.85 + 1.5, 2.6) * canvas.soft(below + 5), tones["diaphragm"])


def _paint_stomach(canvas: Canvas, tones: Tones) -> None:
    """Wall, food and, in front, where it rises to when lying on the back, gas."""
    folds = 2.0 * canvas.noise("fine")
    for centre, radii in (((-92.0, 2.0, 70.0), (42.0, 46.0, 36.0)), ((-124.0, -42.0, 44.0), (24.0, 24.0, 40.0))):
        canvas.fill(centre, np.array(radii) + 4.0, tones["stomach"])
        found = canvas.ellipsoid(centre, radii)
        if found is None:
            continue
        depth, window = found
        level = canvas.at(window)[1] + 24.0 + 0.0 * depth
        gas = canvas.soft(-level)
        content = tones["content"] + 4 * tones.grain * canvas.noise("middle")[window]
        canvas.paint(canvas.soft(depth + folds[window]), content + gas * (tones["gas"] - content), window=window)


def _paint_bowel(canvas: Canvas, tones: Tones, belly: Belly) -> None:
    filling = np.array([tones["gas"], tones["content"], tones["bowel"], tones["bowel"]])
    for z, y, x, a, b, c, kind, turn in belly.loops:
        axes = [(np.cos(turn), 0.0, np.sin(turn)), (0.0, 1.0, 0.0), (-np.sin(turn), 0.0, np.cos(turn))]
        canvas.fill((z, y, x), (a, b, 1.5 * c), tones["bowel"], axes)
        canvas.fill((z, y, x), (a - 3, b - 3, 1.5 * c - 3), float(filling[int(kind**1.6 * 4)]), axes)
    colon = [
        (-128, -62, -84, 17, -140, -74, -30, 15),
        (-140, -74, -30, 15, -142, -74, 36, 14),
        (-142, -74, 36, 14, -118, -50, 92, 14),
    ]
    colon += [(-128, -62, -84, 17, -240, -30, -98, 19), (-118, -50, 92, 14, -250, 0, 104, 14)]
    lumen = np.clip(0.5 + 1.3 * canvas.noise("broad"), 0, 1)
    canvas.paint(canvas.tubes(colon), tones["bowel"])
    canvas.paint(canvas.tubes(colon, -2.6), tones["content"] + lumen * (tones["gas"] - tones["content"]))
