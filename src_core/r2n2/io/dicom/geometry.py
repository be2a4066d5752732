"""Places a DICOM frame in the patient: grids in array order from position, orientation and spacing (LPS, mm)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Grid
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.placement import Placement, slice_grids

__all__ = ["direction_of", "place_frame"]

_SKEW_TOLERANCE = 1e-2


def place_frame(frame: FrameHeader, spacing: tuple[float, float]) -> tuple[Grid, Grid | None, tuple[str, ...]]:
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
        or orientation is missing or no orientation at all. Notes on what was missing.
    """
    flat = Grid(frame.shape, spacing)
    if frame.position_mm is None or frame.orientation is None:
        return flat, None, ("the headers do not say where the slice lies in the patient",)
    direction = direction_of(np.array(frame.orientation))
    if direction is None:
        return flat, None, ("ImageOrientationPatient is not two perpendicular directions: the place in the patient is unknown",)
    notes: tuple[str, ...] = ()
    thickness = frame.thickness_mm
    if thickness is None:
        thickness, notes = 1.0, ("neither SpacingBetweenSlices nor SliceThickness is given: 1 mm is taken across the slice",)
    x, y, z = frame.position_mm
    nested = tuple(tuple(float(value) for value in line) for line in direction)
    grid, patient = slice_grids(Placement((thickness, *spacing), (z, y, x), nested), frame.shape, 0)
    return grid, patient, notes


def direction_of(cosines: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(3, 3) in array order: columns are the directions of slice, row and column index; None if they are skew."""
    along_row, along_column = cosines[:3], cosines[3:]
    lengths = float(np.linalg.norm(along_row)), float(np.linalg.norm(along_column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(along_row @ along_column))) > _SKEW_TOLERANCE:
        return None
    along_row = along_row / lengths[0]
    along_column = along_column - (along_column @ along_row) * along_row
    along_column = along_column / np.linalg.norm(along_column)
    normal = np.cross(along_row, along_column)
    return np.stack([normal[::-1], along_column[::-1], along_row[::-1]], axis=1)
