"""Places a DICOM frame in the patient: grids in array order from position, orientation and spacing (LPS, mm)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Grid
from r2n2.io.dicom_header import FrameHeader

__all__ = ["slice_grids"]

_Array = NDArray[np.float64]

_AXIAL_TOLERANCE = 1e-3
_SKEW_TOLERANCE = 1e-2


def slice_grids(frame: FrameHeader, spacing: tuple[float, float]) -> tuple[Grid, Grid | None, tuple[str, ...]]:
    """Grid of the frame, its 3D grid in the patient, and notes.

    Parameters
    ----------
    frame
        Any frame of the slice position.
    spacing
        (y, x) in mm.

    Returns
    -------
    tuple
        2D grid: the patient's for an axial slice, else in-plane. 3D grid of shape (1, rows, columns), None where position
        or orientation is missing or no orientation at all.
    """
    flat = Grid(frame.shape, spacing)
    if frame.position_mm is None or frame.orientation is None:
        return flat, None, ("the headers do not say where the slice lies in the patient",)
    axes = _orthonormal(np.array(frame.orientation))
    if axes is None:
        return flat, None, ("ImageOrientationPatient is not two perpendicular directions: the place in the patient is unknown",)
    row, column, normal = axes
    notes: tuple[str, ...] = ()
    thickness = frame.thickness_mm
    if thickness is None:
        thickness, notes = 1.0, ("neither SpacingBetweenSlices nor SliceThickness is given: 1 mm is taken across the slice",)
    # x,y,z of the file -> z,y,x; the columns are the directions of the slice, row and column index
    direction = np.stack([normal[::-1], column[::-1], row[::-1]], axis=1)
    patient = Grid((1, *frame.shape), (thickness, *spacing), frame.position_mm[::-1], _nested(direction))
    if np.abs(np.abs(normal) - (0, 0, 1)).max() >= _AXIAL_TOLERANCE:
        return flat, patient, notes
    in_plane = direction[1:, 1:]
    # a tilt within tolerance shortens the axes by less than 1e-6; polar decomposition restores the nearest rotation
    u, _, v = np.linalg.svd(in_plane)
    return Grid(frame.shape, spacing, patient.origin[1:], _nested(u @ v)), patient, notes


def _orthonormal(cosines: _Array) -> tuple[_Array, _Array, _Array] | None:
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(lengths[0] - 1) > _SKEW_TOLERANCE or abs(lengths[1] - 1) > _SKEW_TOLERANCE or abs(row @ column) > _SKEW_TOLERANCE:
        return None
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _nested(matrix: _Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in line) for line in matrix)
