"""The choice of landmarks: branchings spread over the lobes of the lungs, and places in the liver and on the skeleton."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r2n2.geometry import Grid, Space
from r2n2.series import LandmarkSet
from r2n2.simulation.person.anatomy import LOBES
from r2n2.simulation.person.material import PersonMaterial
from r2n2.simulation.person.motion import PersonMotion
from r2n2.simulation.texture import FloatArray
from r2n2.simulation.thorax_motion import FrameState

__all__ = ["choose_landmarks"]

_LUNG_SHARE = 2 / 3
_FROM_WALL_MM = 10.0  # where tissue slides nobody would find a point again, and no voxel grid can hold the field
_APART_MM = 9.0
_THIN_MM, _THICK_MM = 0.95, 3.0  # of vessels at branchings


def choose_landmarks(
    rng: np.random.Generator,
    material: PersonMaterial,
    motion: PersonMotion,
    grid: Grid,
    states: Sequence[FrameState],
    count: int,
) -> LandmarkSet:
    """At most ``count`` places that stay in view, as INDEX points of every frame."""
    lobes = [[(f"{name}-{k + 1}", p) for k, p in enumerate(_branchings(rng, marks))] for name, marks in _named(material)]
    others = [material.other_marks[k] for k in rng.permutation(len(material.other_marks))]
    candidates = [_Kept(_in_view(lobe, motion, grid, states, wall_mm=_FROM_WALL_MM), grid.spacing) for lobe in lobes]
    rest = _Kept(_in_view(others, motion, grid, states, wall_mm=None), grid.spacing)
    chosen: list[tuple[str, FloatArray]] = []
    wanted = round(_LUNG_SHARE * count)
    # Lobe after lobe in turn, so that each gets its share; then the rest of the body.
    while len(chosen) < wanted and any(lobe.left for lobe in candidates):
        for lobe in candidates:
            if len(chosen) < wanted:
                lobe.take(chosen)
    while len(chosen) < count and rest.left:
        rest.take(chosen)
    ids = tuple(name for name, _ in chosen)
    tracks = np.stack([track for _, track in chosen], axis=1) if chosen else np.zeros((len(states), 0, 3))
    frames = np.repeat(np.arange(len(states)), len(ids))
    return LandmarkSet(ids * len(states), frames, tracks.reshape(-1, 3).astype(np.float64), Space.INDEX)


class _Kept:
    """Candidates with their tracks (T, 3) in INDEX, taken one after the other, each as far as can be from those before."""

    def __init__(self, found: list[tuple[str, FloatArray]], spacing: tuple[float, ...]) -> None:
        self.left, self.spacing = found, np.array(spacing)
        self._places = np.array([track[0] for _, track in found]).reshape(-1, 3) * self.spacing
        self._gaps = np.full(len(found), np.inf)
        self._seen = 0

    def take(self, chosen: list[tuple[str, FloatArray]]) -> None:
        if not self.left:
            return
        for _, track in chosen[self._seen :]:
            self._gaps = np.minimum(self._gaps, np.linalg.norm(self._places - track[0] * self.spacing, axis=1))
        self._seen = len(chosen)
        best = int(np.argmax(self._gaps))
        if self._gaps[best] < _APART_MM:
            self.left = []
            return
        chosen.append(self.left[best])


def _named(material: PersonMaterial) -> list[tuple[str, FloatArray]]:
    return list(zip(LOBES, material.lung_marks, strict=True))


def _branchings(rng: np.random.Generator, marks: FloatArray) -> FloatArray:
    """Places (N, 3) of branchings that a person would choose, in random order."""
    seen = marks[(marks[:, 3] > _THIN_MM) & (marks[:, 3] < _THICK_MM)]
    return seen[rng.permutation(len(seen)), :3]


def _in_view(
    marks: list[tuple[str, FloatArray]], motion: PersonMotion, grid: Grid, states: Sequence[FrameState], *, wall_mm: float | None
) -> list[tuple[str, FloatArray]]:
    """Those that lie in the grid in every frame, each with its track (T, 3) in INDEX."""
    spacing = np.array(grid.spacing)
    if not marks:
        return []
    z, y, x = np.array([place for _, place in marks], dtype=np.float64).T
    u, v = motion.cavity.section(z, y, x)
    depth = motion.cavity.depth_mm(z, u, v)
    inside = motion.cavity.level(u, v) < 1
    tracks = []
    for state in states:
        moved = np.stack(motion.position_of((z, y, x), inside, state), axis=-1)
        tracks.append((moved - np.array(grid.origin)) / spacing)
    track = np.stack(tracks, axis=1)
    good = ((track > -0.5) & (track < np.array(grid.shape) - 0.5)).all(axis=(1, 2))
    if wall_mm is not None:
        good &= depth > wall_mm
    return [(marks[k][0], track[k]) for k in np.flatnonzero(good)]
