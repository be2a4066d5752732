"""Where the slices of a stack lie, and whether they are the even, perpendicular lattice that a volume is (LPS, mm)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.geometry import direction_of
from r2n2.io.placement import Placement

__all__ = ["height_mm", "place_stack"]

_UNEVEN = 0.02
_ROUNDED_MM = 0.02
_ROUNDED = 0.05
"""A slice may lie beside its even place by the first share of the distance; by the second up to so many mm, for files round."""

_NOTED = 1e-3
_TILT = 2e-3
"""Shift across the slices over the distance along them; the tangent of a gantry tilt of 0.1 degrees."""

_BESIDE_PX = 0.1
_REMEDY = "--slices reads slice by slice"


def height_mm(frame: FrameHeader, first: FrameHeader) -> float:
    """Place of a slice along the normal of the first one of its stack; 0 where positions are not known."""
    if frame.position_mm is None or first.orientation is None:
        return 0.0
    return float(np.dot(np.cross(first.orientation[:3], first.orientation[3:]), frame.position_mm))


def place_stack(slices: Sequence[FrameHeader], spacing: tuple[float, float]) -> tuple[Placement, tuple[str, ...]]:
    """The lattice of a stack, and what a person should know of it.

    Parameters
    ----------
    slices
        One frame of each slice position, at least 2, along their normal.
    spacing
        (y, x) in mm.

    Raises
    ------
    ReadError
        If positions are missing, slices are missing or unevenly far apart, or they are shifted, as by a gantry tilt.
    """
    where = slices[0].path.parent
    if any(frame.position_mm is None or frame.orientation is None for frame in slices):
        raise ReadError(f"{where}: the headers do not say where the slices lie, so they make no volume; {_REMEDY}")
    direction = direction_of(np.array(slices[0].orientation))
    if direction is None:
        raise ReadError(
            f"{where}: ImageOrientationPatient is not two perpendicular directions, so the slices make no volume; {_REMEDY}"
        )
    places = np.array([frame.position_mm[::-1] for frame in slices if frame.position_mm is not None])
    index = (places - places[0]) @ direction  # mm along the axes of the stack
    notes = _check_shift(where, index, spacing)
    distance, more = _distance(where, np.diff(index[:, 0]))
    notes += more
    told = slices[0].between_mm
    if told is not None and abs(told - distance) > _UNEVEN * distance:
        notes += (
            f"SpacingBetweenSlices is {told:g} mm, by their positions the slices lie {distance:.6g} mm apart: the positions count",
        )
    nested = tuple(tuple(float(value) for value in line) for line in direction)
    z, y, x = places[0].tolist()
    return Placement((distance, *spacing), (z, y, x), nested), notes


def _check_shift(where: object, index: NDArray[np.float64], spacing: tuple[float, float]) -> tuple[str, ...]:
    """Refuse slices that do not lie straight behind one another, and tell of a shift that is too small to matter."""
    along, across = index[:, 0], index[:, 1:]
    slope = (across.T @ along) / float(along @ along)
    beside = np.abs(across - np.outer(along, slope))
    if (beside > _BESIDE_PX * np.array(spacing)).any():
        k = int(beside.max(axis=1).argmax())
        raise ReadError(
            f"{where}: slice position {k} lies {beside[k].max():.3g} mm beside the others: they are not behind one another and "
            f"make no volume; {_REMEDY}"
        )
    largest = int(np.abs(slope).argmax())
    if abs(slope[largest]) > _TILT:
        degrees = math.degrees(math.atan(float(np.linalg.norm(slope))))
        raise ReadError(
            f"{where}: the slices are shifted along {'yx'[largest]} of the image by {abs(slope[largest]):.3g} mm for each "
            f"mm across them, as by a gantry tilt of {degrees:.1f} degrees: the axes are sheared; resample to perpendicular axes, "
            f"or {_REMEDY}"
        )
    shift = float(np.abs(across[-1]).max())
    if shift <= _BESIDE_PX * min(spacing):
        return ()
    return (
        f"the last slice lies {shift:.2g} mm beside the first, as by a tilt of less than 0.1 degrees: they are taken as upright",
    )


def _distance(where: object, gaps: NDArray[np.float64]) -> tuple[float, tuple[str, ...]]:
    """The even distance of the slices."""
    if gaps.min() <= 0:
        k = int(gaps.argmin())
        raise ReadError(f"{where}: slice positions {k} and {k + 1} lie at the same height, so the slices make no volume; {_REMEDY}")
    even = float(gaps.mean())
    places = np.concatenate([[0.0], np.cumsum(gaps)])
    off = float(np.abs(places - even * np.arange(len(places))).max())
    usual = statistics.median(gaps.tolist())
    if off <= max(_UNEVEN * even, min(_ROUNDED_MM, _ROUNDED * even)):
        note = f"the slices lie up to {off:.2g} mm beside even distances of {even:.6g} mm, which are taken"
        return even, ((note,) if off > max(_NOTED * even, 1e-6) else ())
    multiples = [gap / usual for gap in gaps.tolist()]
    whole = all(round(m) >= 1 and abs(m - round(m)) <= 2 * _UNEVEN * max(round(m), 1) for m in multiples)
    wide = [k for k, m in enumerate(multiples) if round(m) > 1]
    if whole and wide:
        count = sum(round(multiples[k]) - 1 for k in wide)
        listed = ", ".join(f"{k} and {k + 1} ({gaps[k]:.4g} mm)" for k in wide[:4]) + (", ..." if len(wide) > 4 else "")
        raise ReadError(
            f"{where}: {count} {'slice is' if count == 1 else 'slices are'} missing between positions {listed}, where the "
            f"others lie {usual:.4g} mm apart; restore the files, or {_REMEDY}"
        )
    k = int(np.abs(gaps - usual).argmax())
    raise ReadError(
        f"{where}: the slices lie unevenly, {gaps.min():.4g} to {gaps.max():.4g} mm apart ({gaps[k]:.4g} between {k} and {k + 1}, "
        f"{usual:.4g} mm usually); resample them to even distances first, or {_REMEDY}"
    )
