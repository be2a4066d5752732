"""A coronal slice position cut out of a person's volumes: a 2D series with its in-plane truth and what leaves the plane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.series import Frames, ImageSeries, LandmarkSet
from r2n2.simulation.person.volume import SimulatedVolume
from r2n2.simulation.texture import FloatArray
from r2n2.transform import DisplacementField

__all__ = ["SimulatedSlice", "coronal_slice"]

# Columns: world directions (z, y, x) of the axes slice, row, column: to the back, to the feet, to the patient's left.
_CORONAL = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True, eq=False)
class _PlaneFrames:
    """Frames (T, 1, H, W): one plane of each volume, the head above."""

    volumes: Frames
    row: int

    @property
    def shape(self) -> tuple[int, ...]:
        count, channels, height, _, width = self.volumes.shape
        return (count, channels, height, width)

    @property
    def dtype(self) -> Any:
        return self.volumes.dtype

    def __getitem__(self, index: int) -> NDArray[Any]:
        return np.ascontiguousarray(np.asarray(self.volumes[index])[:, ::-1, self.row])


@dataclass(frozen=True, eq=False)
class SimulatedSlice:
    """One coronal slice position of a person: rows run to the feet, columns to the patient's left.

    Parameters
    ----------
    series
        (T, 1, H, W); ``patient_grid`` places it in the body.
    landmarks
        Those of the volume that stay near the plane, INDEX of the slice.
    """

    series: ImageSeries
    landmarks: LandmarkSet
    _volume: SimulatedVolume
    _row: int

    def displacement(self, fixed: int, moving: int) -> DisplacementField:
        """In-plane part (mm) of where the tissue of every pixel of frame ``fixed`` lies in ``moving``.

        Tissue that has left the plane cannot be seen in ``moving``: see ``through_plane_mm``.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        vectors = self._volume.displacement(fixed, moving).vectors[:, :, self._row].flip(1)
        return DisplacementField(torch.stack((-vectors[0], vectors[2])), self.series.grid, Space.WORLD)

    def through_plane_mm(self, fixed: int, moving: int) -> FloatArray:
        """(H, W) way of the same tissue to the back, out of the plane.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        return self._volume.displacement(fixed, moving).vectors[1, :, self._row].flip(0).numpy()

    def label_map(self, frame: int) -> NDArray[np.uint8]:
        """(H, W) values of ``PersonLabel`` in a frame.

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        return np.ascontiguousarray(self._volume.label_map(frame)[::-1, self._row])


def coronal_slice(volume: SimulatedVolume, row: int, *, near_mm: float = 5.0) -> SimulatedSlice:
    """Plane ``row`` (index along y) of a person's volumes as a slice position.

    Thick slices: give the person's grid few voxels along y, or one, of the slice's thickness.

    Parameters
    ----------
    near_mm
        Landmarks that are nearer to the plane than this in every frame are kept.

    Raises
    ------
    IndexError
        If there is no such plane.
    """
    grid = volume.series.grid
    if not 0 <= row < grid.shape[1]:
        raise IndexError(f"row {row} does not exist: the volumes have rows 0 to {grid.shape[1] - 1} along y")
    height, _, width = grid.shape
    (dz, dy, dx), (z0, y0, x0) = grid.spacing, grid.origin
    patient = Grid((1, height, width), (dy, dz, dx), (z0 + (height - 1) * dz, y0 + row * dy, x0), _CORONAL)
    series = replace(
        volume.series,
        frames=_PlaneFrames(volume.series.frames, row),
        grid=Grid((height, width), (dz, dx)),
        patient_grid=patient,
        name=f"{volume.series.name}, row {row}",
    )
    points = volume.landmarks.points
    away = np.abs(points[:, 1] - row) * dy
    ids = np.array(volume.landmarks.ids)
    near = ~np.isin(ids, ids[away > near_mm])
    flat = np.stack((height - 1 - points[near, 0], points[near, 2]), axis=1)
    landmarks = LandmarkSet(tuple(ids[near].tolist()), volume.landmarks.frames[near], flat, Space.INDEX)
    return SimulatedSlice(series, landmarks, volume, row)
