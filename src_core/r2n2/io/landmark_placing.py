"""Points of a landmark file brought onto the lattice of their series: units that the file leaves open, slices, axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.landmark_points import FilePoints
from r2n2.quantities import length_text, length_unit

__all__ = ["on_series"]

_LARGEST = 1e12
_WHOLE = 1e-3
_ROUNDED = 5e-4
"""ImageJ writes three decimals."""


def on_series(path: Path, found: FilePoints, grid: Grid | None) -> FilePoints:
    """The same points with as many coordinates as a frame of the series has axes.

    Parameters
    ----------
    grid
        3D with one slice where the series is 2D and its place in the patient is known.

    Raises
    ------
    ReadError
        If the points do not fit, or it cannot be told whether they are pixels or lengths.
    """
    largest = float(np.abs(found.points).max())
    if largest > _LARGEST:
        raise ReadError(f"{path}: the position {largest:g} lies nowhere; correct the number")
    if grid is None:
        if found.in_patient:
            raise ReadError(f"{path}: these points are patient positions; read them together with their image series")
        if found.axis_unit:
            return found.with_note("positions are taken for pixels: no series was there to check that")
        return found
    if found.axis_unit:
        found = _imagej(path, found, grid)
    axes = found.points.shape[1]
    flat = grid.ndim == 2 or grid.shape[0] == 1
    if axes == 2 and not flat:
        raise ReadError(f"{path}: landmarks have 2 coordinates, the series has 3 axes; give z, too, for every point")
    if axes == 3 and flat:
        return _in_slice(path, found, grid)
    return found


def _in_slice(path: Path, found: FilePoints, grid: Grid) -> FilePoints:
    """Points with z in a series of one slice."""
    if found.space is Space.WORLD and grid.ndim == 3:
        return _projected(found, grid)
    height = found.points[:, 0]
    flat = replace(found, points=found.points[:, 1:], in_patient=False)
    if found.in_patient and not height.any():
        return flat  # as is written where no place in the patient is known
    if np.ptp(height) <= _WHOLE:
        return flat.with_note("z is the same for all points and left out: the series has one slice")
    if found.in_patient:
        return flat.with_note("z is left out: the place of this slice in the patient is not known")
    raise ReadError(
        f"{path}: landmarks have 3 coordinates with z from {height.min():g} to {height.max():g}, the series has 2 axes; "
        "give the points of its slice only, without z"
    )


def _projected(found: FilePoints, grid: Grid) -> FilePoints:
    import torch

    index = grid.convert_points(torch.from_numpy(found.points), Space.WORLD, Space.INDEX).numpy()
    flat = replace(found, points=index[:, 1:], space=Space.INDEX, in_patient=False)
    away = float(np.abs(index[:, 0]).max()) * grid.spacing[0]
    if away <= max(grid.spacing[0], min(1.0, 10 * grid.spacing[0])) / 2:
        return flat
    shown = length_text(away, length_unit(grid.spacing[1:]))
    return flat.with_note(f"points lie up to {shown} away from the slice and were projected onto it")


def _imagej(path: Path, found: FilePoints, grid: Grid) -> FilePoints:
    """ImageJ writes pixels, or lengths from the corner of the image where that is calibrated, and does not say which."""
    settled = replace(found, axis_unit="")
    spacing = np.array(grid.spacing[-2:])
    if np.allclose(spacing, 1):
        return settled
    choices = {"pixels": found.points, **_calibrated(found.points, spacing)}
    fitting = {name: points for name, points in choices.items() if _inside(points, grid)}
    likely = _by_whole_numbers(fitting, spacing) if len(fitting) > 1 else next(iter(fitting), "" if choices else "pixels")
    if not fitting:
        likely = "pixels"
    if not likely:
        raise ReadError(
            f"{path}: X and Y may be pixels or lengths, and both lie in the image; rename the columns to x_px and y_px, "
            "or to x_mm and y_mm"
        )
    note = f"X and Y are taken for {likely}" if likely == "pixels" else f"X and Y are taken for lengths in {likely}"
    return replace(settled, points=choices[likely]).with_note(f"{note}: the other does not fit the image as well")


def _calibrated(points: NDArray[np.float64], spacing: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    unit = length_unit(spacing.tolist())
    return {unit.value: points / (spacing * unit.per_mm)}


def _inside(points: NDArray[np.float64], grid: Grid) -> bool:
    return bool(((points >= -0.5) & (points <= np.array(grid.shape[-2:]) - 0.5)).all())


def _by_whole_numbers(choices: dict[str, NDArray[np.float64]], spacing: NDArray[np.float64]) -> str:
    """Points are mostly clicked on whole pixels: the choice in which far more of the numbers are whole, or ""."""
    share = {}
    for name, points in choices.items():
        tolerance = _WHOLE if name == "pixels" else _ROUNDED / spacing.min() / length_unit(spacing.tolist()).per_mm + _WHOLE
        share[name] = float((np.abs(points - np.rint(points)) <= min(tolerance, 0.05)).mean())
    ranked = sorted(share, key=lambda name: -share[name])
    return ranked[0] if share[ranked[0]] >= 0.4 and share[ranked[0]] >= 1.5 * share[ranked[1]] else ""
