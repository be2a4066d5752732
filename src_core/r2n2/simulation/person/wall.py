"""Painting of what does not slide: skin, fat, muscles, shoulder blades and collar bones around the cavity."""

from __future__ import annotations

import numpy as np

from r2n2.simulation.person.anatomy import PersonAnatomy, PersonLabel
from r2n2.simulation.person.canvas import Canvas
from r2n2.simulation.person.ramps import between, rise
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.texture import FloatArray

__all__ = ["body_depth_mm", "paint_shoulders", "paint_wall"]

_SKIN_MM = 2.2


def body_depth_mm(anatomy: PersonAnatomy, z: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    """Distance to the skin's surface, positive inside, to first order; the arms are raised."""
    wide = between(
        z, (-250.0, -150.0, -60.0, 30.0, 95.0, 140.0, 178.0, 205.0), (148.0, 156.0, 163.0, 166.0, 172.0, 166.0, 96.0, 62.0)
    )
    wide = wide + (anatomy.cavity.half_width_mm - 134.0) + (anatomy.fat_mm - 11.0)
    front = between(z, (-250.0, -120.0, -20.0, 60.0, 120.0, 170.0, 205.0), (-110.0, -114.0, -119.0, -109.0, -80.0, -56.0, -50.0))
    back = between(z, (-250.0, -100.0, 20.0, 120.0, 180.0, 205.0), (106.0, 117.0, 130.0, 122.0, 84.0, 72.0))
    deeper = anatomy.cavity.half_depth_mm - 91.0
    front, back = front - 1.55 * deeper - (anatomy.fat_mm - 11.0), back + 0.45 * deeper + 0.5 * (anatomy.fat_mm - 11.0)
    half = 0.5 * (back - front)
    # The furrow along the spine.
    furrow = 5.0 * np.exp(-((x / 15.0) ** 2)) * rise((y - 60.0) / 40.0)
    u, v = (y - 0.5 * (front + back) + furrow) / half, x / wide
    root_u, root_v = np.sqrt(np.abs(u)), np.sqrt(np.abs(v))
    slope = np.sqrt((2.5 * u * root_u / half) ** 2 + (2.5 * v * root_v / wide) ** 2)
    return np.asarray((1 - u * u * root_u - v * v * root_v) / np.maximum(slope, 0.008))


def paint_wall(canvas: Canvas, anatomy: PersonAnatomy, tones: Tones) -> None:
    """Skin, fat and the layers of muscle, over everything, the cavity included."""
    z, y, x = canvas.z, canvas.y, canvas.x
    depth = body_depth_mm(anatomy, z, y, x)
    u, v = anatomy.cavity.section(z, y, x)
    from_cavity = -anatomy.cavity.depth_mm(z, u, v)
    belly = rise((-60.0 - z) / 80.0) * rise((10.0 - y) / 90.0)
    breast = np.exp(-(((z + 5.0) / 42.0) ** 2) - ((np.abs(x) - 74.0) / 42.0) ** 2) * rise((-30.0 - y) / 60.0)
    fat_mm = anatomy.fat_mm * (0.75 + 0.55 * belly + 0.6 * breast + 0.12 * canvas.noise("broad"))
    septa = np.clip(1 - 0.22 * np.exp(-((canvas.noise("fine") / 0.16) ** 2)), 0, 1)
    fat = tones["air"] + (tones["fat"] - tones["air"]) * (septa if tones.contrast == "mr" else 1 + 0.06 * (septa - 1))
    canvas.paint(canvas.soft(depth), tones["skin"], label=PersonLabel.BODY)
    canvas.paint(canvas.soft(depth - _SKIN_MM), fat)
    fibres = np.sin((0.5 * z + 0.8 * np.abs(x) + 0.35 * y) / 3.4 + 2.0 * canvas.noise("middle"))
    muscle = tones["muscle"] + tones.grain * (0.8 * fibres + canvas.noise("fine"))
    inner = canvas.soft(depth - fat_mm)
    canvas.paint(inner, muscle)
    # Fat between the muscles: sheets along the skin, and the loose tissue of the armpits and the shoulders.
    loose = rise((z - 35.0) / 60.0) * rise((from_cavity - 9.0) / 10.0) * rise((np.abs(x) - 35.0) / 40.0)
    patches = np.clip(1.6 * canvas.noise("middle") - 0.35, 0, 1) * loose
    streaks = np.clip(1.5 * canvas.noise("fine") - 2.1, 0, 0.5)
    for cover in (patches, streaks * (1 - rise((6.0 - from_cavity) / 6.0))):
        canvas.paint(cover * inner, fat)
    layer = anatomy.muscle_mm + 3.0 * canvas.noise("broad")
    lateral = rise((np.abs(x) - 30.0) / 40.0) * np.clip(0.55 + 0.6 * canvas.noise("middle"), 0, 1)
    for distance, thickness, where in (
        (depth - fat_mm - 0.62 * layer, 1.5, lateral),
        (from_cavity - 10.5 - 2.0 * canvas.noise("broad"), 1.8, lateral),
    ):
        canvas.paint(canvas.sheet(distance, thickness) * inner * where, fat)
    column = np.sqrt(((np.abs(x) - 27.0) / 23.0) ** 2 + ((y - anatomy.cavity.spine_front(z) - 59.0) / 18.0) ** 2)
    canvas.paint(canvas.sheet((column - 1) * 19.0, 1.6) * inner, fat)
    # Between the ribs, and what the edge of the lungs is blended with.
    canvas.paint(canvas.soft(8.0 - from_cavity), tones["muscle"] + tones.grain * canvas.noise("fine"))
    outside = rise((from_cavity + 0.0) / 3.0) * rise((-95.0 - z) / 30.0) * rise((7.0 - from_cavity) / 3.0)
    canvas.paint(0.15 * outside, fat)


def paint_shoulders(canvas: Canvas, tones: Tones) -> None:
    """Shoulder blades, collar bones and the heads of the humeri."""
    marrow = tones.mixed("marrow", "cortical", 0.15 if tones.contrast == "mr" else 0.0)
    for side in (-1.0, 1.0):
        normal, along = (0.0, 0.80, side * 0.60), (0.0, -0.60 * side, 0.80)
        blade = [(0.97, 0.24 * normal[1], 0.24 * normal[2]), normal, along]
        blade[0] = tuple(np.asarray(blade[0]) / np.linalg.norm(blade[0]))
        blade[1] = tuple(np.cross(blade[2], blade[0]))
        for shrink, tone in ((0.0, tones["cortical"]), (1.6, marrow)):
            canvas.fill((52.0, 90.0, side * 104.0), (62.0 - shrink, 3.6 - shrink * 0.8, 36.0 - shrink), tone, blade, power=3.0)
            spine = [(96.0, 98.0, side * 78.0, 4.6 - shrink, 128.0, 66.0, side * 138.0, 5.5 - shrink)]
            collar = [
                (94.0, -62.0, side * 17.0, 7.5 - shrink, 108.0, -56.0, side * 55.0, 5.6 - shrink),
                (108.0, -56.0, side * 55.0, 5.6 - shrink, 130.0, -14.0, side * 112.0, 5.2 - shrink),
                (130.0, -14.0, side * 112.0, 5.2 - shrink, 136.0, 30.0, side * 140.0, 5.8 - shrink),
            ]
            canvas.paint(canvas.tubes([*spine, *collar]), tone)
            canvas.fill((126.0, 22.0, side * 132.0), (24.0 - shrink, 22.0 - shrink, 22.0 - shrink), tone)
