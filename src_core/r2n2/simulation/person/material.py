"""The tissue of one person drawn once at end-expiration on a fine lattice: what slides in the cavity, and what does not, apart.

Both are drawn beyond the wall that parts them, so that an edge of the wall neither blurs into what slides along it nor moves
with it: which of the two a frame shows is decided in the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import gaussian

from r2n2.geometry import Grid, Space
from r2n2.simulation.person.abdomen import Belly, draw_belly, paint_abdomen, paint_diaphragm
from r2n2.simulation.person.anatomy import LOBES, PersonAnatomy
from r2n2.simulation.person.canvas import Canvas, Lattice, Texture
from r2n2.simulation.person.lungs import LungTrees, grow_lung_trees, paint_lung_trees, paint_lungs
from r2n2.simulation.person.mediastinum import paint_airways, paint_great_vessels, paint_heart, paint_sleeves
from r2n2.simulation.person.skeleton import Skeleton, build_skeleton, paint_ribs, paint_spine, skeleton_landmarks
from r2n2.simulation.person.tissues import Tones
from r2n2.simulation.person.wall import paint_shoulders, paint_wall
from r2n2.simulation.texture import FloatArray
from r2n2.transform import sample_normalised

__all__ = ["PersonMaterial", "draw_person_material", "fine_lattice"]

_MARGIN_MM = (46.0, 14.0, 10.0)  # tissue that moves into view
_BODY_MM = ((-1e9, 1e9), (-150.0, 150.0), (-200.0, 200.0))  # air beyond: a lattice need not reach there
_FINENESS = 0.6
_FINEST_MM, _COARSEST_MM = 1.25, 3.0
_MOST_POINTS = 32_000_000
_SLAB_POINTS = 1_200_000
_SCALES_MM = {"fine": 5.0, "middle": 14.0, "broad": 40.0, "crumple z": 46.0, "crumple y": 46.0, "crumple x": 46.0}
_CRUMPLE_MM = 1.6
_BLUR = 0.42  # standard deviation of the scanner's point spread over the voxel's size


@dataclass(frozen=True, eq=False)
class PersonMaterial:
    """What lies where at end-expiration.

    Parameters
    ----------
    lattice
        Where.
    inner
        (2, D, H, W) float32: brightness of what slides, and the part of it that is lung tissue, above air.
    outer
        (1, D, H, W) float32: brightness of what does not.
    labels
        (2, D, H, W) values of ``PersonLabel``, inside and outside the cavity.
    lung_marks
        Of each of ``LOBES``: (M, 4) z, y, x and radius in mm of branchings of vessels.
    other_marks
        Names and places of what else can be recognised.
    """

    lattice: Lattice
    inner: FloatArray
    outer: FloatArray
    labels: NDArray[np.uint8]
    lung_marks: tuple[FloatArray, ...]
    other_marks: tuple[tuple[str, FloatArray], ...]

    def sample(self, channels: FloatArray, positions: tuple[FloatArray, ...]) -> FloatArray:
        """Values (C, ...) of channels (C, D, H, W) at z, y, x in mm, linear."""
        lattice = self.lattice
        grid = Grid(lattice.shape, lattice.step_mm, lattice.start_mm)
        places = torch.from_numpy(np.stack(np.broadcast_arrays(*positions), axis=-1).astype(np.float32, copy=False))
        normalised = grid.convert_points(places, Space.WORLD, Space.NORMALISED).movedim(-1, 0)[None]
        return sample_normalised(torch.from_numpy(channels)[None], normalised, grid).image[0].numpy()

    def label_at(self, positions: tuple[FloatArray, ...], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The nearest label on the side of the wall that ``inside`` says."""
        index = [
            np.clip(np.rint((p - start) / step).astype(np.int32), 0, n - 1)
            for p, start, step, n in zip(positions, self.lattice.start_mm, self.lattice.step_mm, self.lattice.shape, strict=True)
        ]
        return np.where(inside, self.labels[0][tuple(index)], self.labels[1][tuple(index)])


def fine_lattice(grid: Grid) -> Lattice:
    """Lattice for the images of a grid: finer than its voxels, and wider by the tissue that moves into view."""
    low, high = np.array(grid.origin), np.array(grid.origin) + np.array(grid.spacing) * (np.array(grid.shape) - 1)
    ends = []
    for first, last, margin, (least, most) in zip(low, high, _MARGIN_MM, _BODY_MM, strict=True):
        start = float(np.clip(first - margin, least, most - 2 * _COARSEST_MM))
        ends.append((start, max(float(np.clip(last + margin, least, most)), start + 2 * _COARSEST_MM)))
    step = np.clip(_FINENESS * np.array(grid.spacing), _FINEST_MM, _COARSEST_MM)
    extent = np.array([b - a for a, b in ends])
    step = step * max(1.0, float(np.prod(extent / step) / _MOST_POINTS) ** (1 / 3))
    shape = np.ceil(extent / step).astype(int) + 1
    return Lattice(
        (int(shape[0]), int(shape[1]), int(shape[2])),
        (float(step[0]), float(step[1]), float(step[2])),
        (ends[0][0], ends[1][0], ends[2][0]),
    )


def draw_person_material(
    rngs: tuple[np.random.Generator, np.random.Generator], anatomy: PersonAnatomy, tones: Tones, grid: Grid
) -> PersonMaterial:
    """Draw a person for the images of a grid.

    Parameters
    ----------
    rngs
        For vessels and bowel, and for textures.
    """
    lattice = fine_lattice(grid)
    skeleton = build_skeleton(anatomy.cavity)
    trees, belly = grow_lung_trees(rngs[0], anatomy), draw_belly(rngs[0], anatomy)
    textures = {name: Texture.draw(rngs[1], scale) for name, scale in _SCALES_MM.items()}
    inner = np.empty((2, *lattice.shape), dtype=np.float32)
    outer = np.empty((1, *lattice.shape), dtype=np.float32)
    labels = np.empty((2, *lattice.shape), dtype=np.uint8)
    planes = max(1, _SLAB_POINTS // (lattice.shape[1] * lattice.shape[2]))
    for first in range(0, lattice.shape[0], planes):
        slab = lattice.slab(first, min(planes, lattice.shape[0] - first))
        here = slice(first, first + slab.shape[0])
        canvas = _inside(slab, anatomy, tones, textures, trees, belly)
        inner[0, here], inner[1, here], labels[0, here] = canvas.value, canvas.share, canvas.labels
        canvas = _outside(slab, anatomy, tones, textures, skeleton)
        outer[0, here], labels[1, here] = canvas.value, canvas.labels
    sigmas = [_BLUR * spacing / step for spacing, step in zip(grid.spacing, lattice.step_mm, strict=True)]
    for channel in (*inner, *outer):
        channel[...] = gaussian(channel, sigma=sigmas, mode="nearest", preserve_range=True, truncate=3.0)
    others = [(f"liver-{k}", mark[:3]) for k, mark in enumerate(belly.branchings) if mark[3] > 1.6]
    others += skeleton_landmarks(skeleton)
    assert len(trees.branchings) == len(LOBES)
    return PersonMaterial(lattice, inner, outer, labels, trees.branchings, tuple(others))


def _inside(
    slab: Lattice, anatomy: PersonAnatomy, tones: Tones, textures: dict[str, Texture], trees: LungTrees, belly: Belly
) -> Canvas:
    canvas = Canvas.empty(slab, tones["air"], textures, _CRUMPLE_MM)
    paint_abdomen(canvas, anatomy, tones, belly)
    paint_lungs(canvas, anatomy, tones)
    paint_diaphragm(canvas, anatomy, tones)
    paint_sleeves(canvas, anatomy, tones)
    paint_lung_trees(canvas, anatomy, tones, trees)
    paint_airways(canvas, anatomy, tones)
    paint_heart(canvas, anatomy, tones)
    paint_great_vessels(canvas, anatomy, tones)
    return canvas


def _outside(slab: Lattice, anatomy: PersonAnatomy, tones: Tones, textures: dict[str, Texture], skeleton: Skeleton) -> Canvas:
    canvas = Canvas.empty(slab, tones["air"], textures)
    paint_wall(canvas, anatomy, tones)
    paint_shoulders(canvas, tones)
    paint_spine(canvas, skeleton, tones)
    paint_ribs(canvas, skeleton, tones)
    return canvas
