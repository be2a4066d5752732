"""Slabs of 30 slices in which an organ slides along a wall by up to 25 mm, with exact motion: two generators that share nothing.

``person_slab`` is cut from the breathing person; ``organ_slab`` is a textured ellipsoid that is pushed along inside a textured
body which hardly moves. Slices are sagittal for half of the seeds, coronal and axial for a quarter each. Every third pair differs
in brightness: gain, contrast curve and a coil's fall-off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.simulation import PersonConfig, person_series
from r2n2.simulation.person.anatomy import PersonLabel
from r2n2.transform import Transform

__all__ = ["NEAR_MM", "Slab", "organ_slab", "person_slab"]

SHAPE, SPACING_MM = (30, 184, 166), (4.0, 1.4, 1.4)
NEAR_MM = 10.0
"""Of the surface along which the organ slides."""
_LONGEST_MM = 25.0
# Array axes of the slab as axes z (to the head), y (to the back) and x (to the left) of the body.
_ORIENTATIONS = {"sagittal": (2, 0, 1), "coronal": (1, 0, 2), "axial": (0, 1, 2)}
_CENTRES_MM = {"sagittal": (-75.0, 0.0, -75.0), "coronal": (-75.0, 5.0, -20.0), "axial": (-75.0, 0.0, 0.0)}


@dataclass(frozen=True, eq=False)
class Slab:
    """A pair of slabs and what is known of them.

    Parameters
    ----------
    fixed, moving
        (*grid.shape) float32.
    displacement_mm
        (3, *grid.shape) float32 exact pull-back displacement, array order.
    depth_mm
        (*grid.shape) float32 distance to the surface along which the organ slides, positive inside, in the fixed slab.
    body
        (*grid.shape) bool, where there is tissue in the fixed slab.
    """

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    displacement_mm: NDArray[np.float32]
    depth_mm: NDArray[np.float32]
    body: NDArray[np.bool_]
    grid: Grid

    def errors_mm(self, transform: Transform) -> dict[str, NDArray[np.float64]]:
        """Of tissue that the moving slab shows: all, inside the organ, outside of it, and near the surface between."""
        vectors = transform.displacement_field().to_space(Space.WORLD).vectors.numpy()
        apart = np.linalg.norm(vectors - self.displacement_mm, axis=0).astype(np.float64)
        return {name: apart[where] for name, where in self.regions().items()}

    def regions(self) -> dict[str, NDArray[np.bool_]]:
        """Where each of these lies, (*grid.shape)."""
        places = np.stack(np.meshgrid(*(np.arange(n) for n in self.grid.shape), indexing="ij"))
        moved = places + self.displacement_mm / np.array(self.grid.spacing).reshape(3, 1, 1, 1)
        last = np.array(self.grid.shape).reshape(3, 1, 1, 1) - 1
        shown = self.body & ((moved >= 0) & (moved <= last)).all(0)
        inside, near = self.depth_mm > 0, np.abs(self.depth_mm) < NEAR_MM
        return {"all": shown, "inside": shown & inside, "outside": shown & ~inside, "near": shown & near}


def person_slab(seed: int) -> Slab:
    """End-expiration and a deep breath of the breathing person: diaphragm, liver, bowel and lung slide along the chest wall."""
    name = _orientation(seed)
    axes = _ORIENTATIONS[name]
    shape, spacing = ([values[axes.index(axis)] for axis in range(3)] for values in (SHAPE, SPACING_MM))
    depth = float(np.random.default_rng([seed, 1]).uniform(14.0, _LONGEST_MM - 1))
    config = PersonConfig(
        seed=seed,
        frames=9,
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        centre_mm=_CENTRES_MM[name],
        frame_interval_s=0.5,
        irregularity=0.0,
        breathing_depth_mm=depth,
        landmarks=30,
    )
    person = person_series(config)
    marks = person.landmarks
    heights = np.array([float(marks.in_frame(frame).points[:, 0].mean()) for frame in range(config.frames)])
    first, last = int(heights.argmax()), int(heights.argmin())
    fixed, moving = (person.series.frame(frame)[0].astype(np.float32).transpose(axes) for frame in (first, last))
    vectors = person.displacement(first, last).vectors.numpy()[list(axes)].transpose(0, *(axis + 1 for axis in axes))
    body = (person.label_map(first) != PersonLabel.BACKGROUND).transpose(axes)
    wall = person.wall_distance_mm(first).transpose(axes)
    return _finished(seed, fixed, moving, vectors, wall, body)


def organ_slab(seed: int) -> Slab:
    """A textured ellipsoid that moves through a textured body: what lies before it is covered, what lies behind it is bared."""
    name = _orientation(seed)
    along = _ORIENTATIONS[name].index(0)  # array axis to the head
    grid, generator = Grid(SHAPE, SPACING_MM), torch.Generator().manual_seed(seed)
    half = torch.tensor(grid.half_extent_mm)
    places = (
        torch.stack(
            torch.meshgrid(*(torch.linspace(-float(h), float(h), n) for h, n in zip(half, grid.shape, strict=True)), indexing="ij")
        )
        .flatten(1)
        .mT
    )

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    radii = torch.tensor([48.0, 62.0, 58.0]) * (0.85 + 0.3 * uniform(3))
    radii[along] = (0.6 if along == 0 else 1.0) * (55 + 25 * uniform(1)[0])
    centre = (uniform(3) - 0.5) * torch.tensor([16.0, 40.0, 40.0])
    way = torch.zeros(3)
    way[along] = -(14 + (_LONGEST_MM - 17) * uniform(1)[0])
    way = way + torch.randn(3, generator=generator) * torch.tensor([1.0, 2.0, 2.0])
    inner, outer = _waves(generator, 2.0), _waves(generator, 1.0)

    def organ_motion(p: Tensor) -> Tensor:
        # The far end of an organ goes a little less far than the near one.
        share = 1 - 0.15 * torch.sigmoid((p - centre)[:, along : along + 1] / 25)
        return way * share + inner(p)

    def depth(p: Tensor) -> Tensor:
        offset = (p - centre) / radii
        size = offset.norm(dim=1).clamp_min(1e-3)
        return (1 - size) * size / (offset / radii).norm(dim=1).clamp_min(1e-3)

    wall, flesh, skin = (
        _tissue(generator, half, 160.0, 60),
        _tissue(generator, half, 240.0, 45),
        torch.tensor([1.4, 0.88, 0.86]) * half,
    )

    def seen(p_organ: Tensor, p_wall: Tensor) -> Tensor:
        inside = torch.sigmoid(depth(p_organ) / 0.5)
        body = torch.sigmoid(40 * (1 - (p_wall / skin).norm(dim=1)))
        return inside * flesh(p_organ) + (1 - inside) * body * wall(p_wall)

    moved_organ, moved_wall = places + organ_motion(places), places + outer(places)
    fixed, moving = (seen(*pair).view(grid.shape) for pair in ((moved_organ, moved_wall), (places, places)))
    inside = (depth(moved_organ) > 0)[:, None]
    vectors = torch.where(inside, moved_organ, moved_wall) - places
    body = inside[:, 0] | ((moved_wall / skin).norm(dim=1) < 0.98)
    noisy = [(image + 9 * torch.randn(grid.shape, generator=generator)).numpy().clip(0) for image in (fixed, moving)]
    return _finished(
        seed,
        noisy[0],
        noisy[1],
        vectors.mT.reshape(3, *grid.shape).numpy(),
        depth(moved_organ).view(grid.shape).numpy(),
        body.view(grid.shape).numpy(),
    )


def _orientation(seed: int) -> str:
    return ("sagittal", "coronal", "sagittal", "axial")[seed % 4]


def _finished(
    seed: int,
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    vectors: NDArray[np.float32],
    depth: NDArray[np.float32],
    body: NDArray[np.bool_],
) -> Slab:
    if seed % 3 == 2:
        rng = np.random.default_rng([seed, 2])
        top = float(np.quantile(moving, 0.99))
        places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in moving.shape), indexing="ij"))
        coil = np.exp(np.tensordot(rng.uniform(-0.15, 0.15, 3), places, 1))
        moving = (rng.uniform(0.8, 1.25) * top * (np.clip(moving, 0, None) / top) ** rng.uniform(0.85, 1.15) * coil).astype(
            np.float32
        )
    grid = Grid(SHAPE, SPACING_MM)
    arrays = (np.ascontiguousarray(a, dtype=np.float32) for a in (fixed, moving, vectors, depth))
    return Slab(*arrays, np.ascontiguousarray(body), grid)


def _waves(generator: torch.Generator, size_mm: float) -> Callable[[Tensor], Tensor]:
    """Smooth motion (N, 3) at places (N, 3), both mm, of about this size."""
    count = 6
    lengths = 90 + 110 * torch.rand(count, 1, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    phases = 2 * math.pi * torch.rand(count, generator=generator)
    amplitudes = torch.randn(count, 3, generator=generator) * (size_mm / count**0.5)
    return lambda p: torch.cos(p @ (2 * math.pi * directions / lengths).mT + phases) @ amplitudes


def _tissue(generator: torch.Generator, half: Tensor, level: float, tubes: int) -> Callable[[Tensor], Tensor]:
    """Brightness (N,) at places (N, 3) in mm: a level, soft texture of several scales, and bright and dark tubes."""
    waves = 2 * math.pi * torch.randn(50, 3, generator=generator) * (0.006 + 0.03 * torch.rand(50, 1, generator=generator))
    phases = 2 * math.pi * torch.rand(50, generator=generator)
    starts = (2 * torch.rand(tubes, 3, generator=generator) - 1) * half
    ways = torch.nn.functional.normalize(torch.randn(tubes, 3, generator=generator), dim=1)
    lengths, radii = 10 + 35 * torch.rand(tubes, generator=generator), 1.5 + 3.5 * torch.rand(tubes, generator=generator)
    lifts = 0.45 * level * (2 * torch.randint(0, 2, (tubes,), generator=generator) - 1)

    def tissue(p: Tensor) -> Tensor:
        value = torch.full_like(p[:, 0], level) + 0.012 * level * torch.cos(p @ waves.mT + phases).sum(1)
        for start, way, length, radius, lift in zip(starts, ways, lengths, radii, lifts, strict=True):
            offset = p - start
            along = (offset @ way).clamp(-length, length)
            value += lift * torch.sigmoid((radius - (offset - along[:, None] * way).norm(dim=1)) / 0.7)
        return value

    return tissue
