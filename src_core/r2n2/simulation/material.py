"""The tissue of one person drawn once at end-expiration: brightness and labels on a fine raster in anatomical mm.

The contrast is that of a balanced steady-state sequence: blood and fluid bright, fat bright, muscle and lung dark, and a
dark line wherever water and fat share a pixel, because their signals partly cancel there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from r2n2.simulation.anatomy import Anatomy
from r2n2.simulation.organs import draw_abdomen, draw_bones, draw_heart_and_vessels, draw_neck, draw_wall
from r2n2.simulation.painting import Canvas
from r2n2.simulation.texture import FloatArray, Raster
from r2n2.simulation.vessels import Tree, grow_tree

__all__ = ["Label", "Material", "draw_material"]


_OPPOSITION = 0.75  # cosine between the signals of water and fat, negated; 1 at half the usual repetition time


class Label(IntEnum):
    """Values of the label maps."""

    BACKGROUND = 0
    BODY = 1
    LUNG = 2
    LIVER = 3
    HEART = 4


@dataclass(frozen=True, eq=False)
class Material:
    """What lies where at end-expiration.

    Parameters
    ----------
    raster
        Its lattice.
    signal
        (3, H, W) float32: brightness relative to blood, that of lung tissue within it, that of blood within it.
    labels
        (H, W) values of ``Label``.
    candidates
        (N, 2) places in mm that can be recognised in the images, the most conspicuous first.
    """

    raster: Raster
    signal: FloatArray
    labels: FloatArray
    candidates: FloatArray


def draw_material(rng: np.random.Generator, anatomy: Anatomy, raster: Raster, blur_mm: float) -> Material:
    """Draw a person; ``blur_mm`` is the standard deviation of the scanner's point spread."""
    canvas = Canvas.empty(raster)
    draw_wall(canvas, anatomy, rng)
    draw_neck(canvas, anatomy, rng)
    draw_bones(canvas, anatomy, rng)
    draw_abdomen(canvas, anatomy, rng)
    tone, outlines = anatomy.brightness, anatomy.outlines
    lungs = [raster.fill(outlines[name]) for name in ("right_cavity", "left_cavity")]
    lung = np.maximum(*lungs)
    rows, _ = raster.axes()
    grain = 1 + 0.16 * raster.noise(rng, 5) + 0.10 * raster.noise(rng, 24)
    # Denser where it hangs, towards the diaphragm.
    canvas.paint(lung, water=0.105 * tone["lung"] * grain * (1 + 0.0016 * rows), fat=0.0)
    lung_tissue = lung.copy()
    vessels = 1 - 0.5 * abs(anatomy.position)
    trees = [_lung_tree(rng, raster, mask, side, vessels) for mask, side in zip(lungs, (-1, 1), strict=True)]
    canvas.paint_airways()
    blood = draw_heart_and_vessels(canvas, anatomy, rng)
    in_slice = np.clip(0.62 + 0.6 * raster.noise(rng, 30), 0.0, 1)
    lung_tissue *= 1 - blood.covered
    lung = (lung_tissue > 0.5).astype(np.float64)
    for tree in trees:
        thick = tree.segments[:, (2, 5)].mean(axis=1)
        for chosen, brightness in ((thick > 2.0, 0.72), ((thick > 1.0) & (thick <= 2.0), 0.55), (thick <= 1.0, 0.38)):
            cover = raster.tubes(tree.segments[chosen]) * lung_tissue * in_slice
            canvas.paint(cover, water=brightness * tone["blood"], fat=0.0)
            blood.amount = np.maximum(blood.amount * (1 - cover), cover * brightness)
    cover = raster.tubes(_crossings(rng, raster, lung)) * lung_tissue
    canvas.paint(cover, water=0.5 * tone["blood"], fat=0.0)
    veins = _liver_tree(rng, raster, canvas.liver)
    canvas.paint(
        raster.tubes(veins.segments) * canvas.liver * np.clip(0.5 + 0.7 * raster.noise(rng, 28), 0, 1),
        water=0.62 * tone["blood"],
        fat=0.0,
    )
    crinkle = np.stack([1.3 * raster.noise(rng, 22) + 2.2 * raster.noise(rng, 60) for _ in range(2)])
    labels = np.full(raster.shape, Label.BACKGROUND, dtype=np.float64)
    for mask, label in ((canvas.body, Label.BODY), (canvas.liver, Label.LIVER), (lung, Label.LUNG), (blood.heart, Label.HEART)):
        labels[mask > 0.5] = label
    water, fat = (raster.blur(part, blur_mm) for part in (canvas.water, canvas.fat))
    shade = raster.blur(canvas.water * lung_tissue * (canvas.water < 0.22), blur_mm)
    signal = np.stack((np.sqrt(water**2 + fat**2 - 2 * _OPPOSITION * water * fat), shade, raster.blur(blood.amount, blur_mm)))
    branchings = np.concatenate([_by_radius(tree.branchings) for tree in (*trees, veins)])
    return Material(
        raster,
        _crinkled(signal, crinkle / raster.step_mm).astype(np.float32),
        _crinkled(labels[None], crinkle / raster.step_mm, nearest=True)[0],
        _follow(branchings[:, :2], crinkle, raster),
    )


def _crinkled(channels: FloatArray, shift: FloatArray, *, nearest: bool = False) -> FloatArray:
    """Channels (C, H, W) taken at positions moved by ``shift`` (2, H, W) pixels: nobody is made of smooth curves."""
    height, width = shift.shape[1:]
    y = np.clip(np.arange(height)[:, None] + shift[0], 0, height - 1)
    x = np.clip(np.arange(width)[None, :] + shift[1], 0, width - 1)
    if nearest:
        return channels[:, np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)]
    top, left = np.minimum(y.astype(np.int64), height - 2), np.minimum(x.astype(np.int64), width - 2)
    down, right = y - top, x - left
    upper = channels[:, top, left] * (1 - right) + channels[:, top, left + 1] * right
    lower = channels[:, top + 1, left] * (1 - right) + channels[:, top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _follow(points: FloatArray, crinkle: FloatArray, raster: Raster) -> FloatArray:
    """Where points (N, 2) in mm come to lie: p + crinkle(p) = point, to about a pixel of the raster."""
    start, last = np.array(raster.start_mm), np.array(raster.shape) - 1
    found = points
    for _ in range(8):
        row, column = np.clip(np.rint((found - start) / raster.step_mm), 0, last).astype(np.int64).T
        found = points - crinkle[:, row, column].T
    return found


def _by_radius(branchings: FloatArray) -> FloatArray:
    return branchings[np.argsort(-branchings[:, 2], kind="stable")]


class _Inside:
    """Whether a position lies in a mask."""

    def __init__(self, raster: Raster, mask: FloatArray) -> None:
        self.raster, self.mask = raster, mask

    def __call__(self, y: float, x: float) -> bool:
        row = round((y - self.raster.start_mm[0]) / self.raster.step_mm)
        column = round((x - self.raster.start_mm[1]) / self.raster.step_mm)
        height, width = self.raster.shape
        return 0 <= row < height and 0 <= column < width and bool(self.mask[row, column] > 0.5)


def _lung_tree(rng: np.random.Generator, raster: Raster, lung: FloatArray, side: int, thickness: float) -> Tree:
    """Vessels from the hilum on; ``thickness`` scales them, as the large ones lie in the middle of the chest."""
    hilum_y, hilum_x = (-28.0, -41.0) if side < 0 else (-34.0, 43.0)
    # Directions from the feet (0) outwards to the head (pi), and the radius at the hilum.
    fan = ((0.12, 4.2), (0.5, 3.8), (0.9, 3.2), (1.4, 3.0), (1.95, 2.8), (2.5, 3.2), (2.85, 2.9))
    roots = []
    for angle, radius in fan:
        turned = angle + rng.normal(0, 0.1)
        start = (hilum_y + rng.normal(0, 3) - 9 * (angle - 1.3), hilum_x + side * rng.uniform(0, 4))
        if _Inside(raster, lung)(start[0], start[1] + side * 10):
            roots.append((*start, side * turned, radius * thickness * rng.uniform(0.75, 1.05)))
    inside = _Inside(raster, lung)

    def allowed(y: float, x: float) -> bool:
        return inside(y, x) or (abs(x) < abs(hilum_x) + 5 and abs(y - hilum_y) < 30)

    return grow_tree(rng, roots, allowed, smallest_mm=0.6, length_per_radius=9.0)


def _liver_tree(rng: np.random.Generator, raster: Raster, liver: FloatArray) -> Tree:
    roots = []
    rows, _ = np.nonzero(liver > 0.5)
    if len(rows):
        top, middle = raster.start_mm[0] + raster.step_mm * rows.min(), -36.0
        roots = [(top + 32, middle, -angle, radius) for angle, radius in ((0.3, 2.6), (0.9, 3.0), (1.4, 2.6))]
        roots += [(top + 78, middle + 8, -angle, radius) for angle, radius in ((0.6, 2.4), (1.3, 3.0))]
    return grow_tree(rng, roots, _Inside(raster, liver), smallest_mm=0.9, length_per_radius=7.5)


def _crossings(rng: np.random.Generator, raster: Raster, lung: FloatArray) -> FloatArray:
    """Vessels that cross the slice: short bright dots."""
    rows, columns = np.nonzero(lung)
    if not len(rows):
        return np.zeros((0, 6))
    count = 150
    chosen = rng.integers(0, len(rows), count)
    y = raster.start_mm[0] + raster.step_mm * rows[chosen]
    x = raster.start_mm[1] + raster.step_mm * columns[chosen]
    radius = 0.5 + rng.exponential(0.45, count)
    angle, length = rng.uniform(0, np.pi, count), rng.exponential(3.0, count)
    return np.stack((y, x, radius, y + length * np.cos(angle), x + length * np.sin(angle), radius), axis=1)
