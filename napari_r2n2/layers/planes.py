"""Planes of a volume by the names that radiology gives them, and the way to them: order of napari's axes, sliders, head up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r2n2.geometry import Space
from r2n2.io.orientation import orientation_text

if TYPE_CHECKING:
    from napari_r2n2.layers.place import Place
    from r2n2.geometry import Grid
    from r2n2.transform import GaussianSequence

__all__ = ["plane_names", "show_centre", "show_plane"]

_NAMES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}


def plane_names(grid: Grid) -> tuple[str, ...]:
    """Of the planes across z, y and x of a volume in a patient; of an oblique one what they are nearest to."""
    return tuple(_NAMES[end] for end in _ends(grid))


def show_plane(viewer: Any, across: int, grid: Grid) -> None:
    """Show the slices across an axis, 0, 1, 2 for z, y, x; the head is up, as it is where a person stands."""
    dims = viewer.dims
    first = dims.ndim - 3
    seen = [axis for axis in range(3) if axis != across]
    dims.ndisplay = 2
    dims.order = (*range(first), first + across, *(first + axis for axis in seen))
    upward = _ends(grid)[seen[0]] in "SA"
    viewer.scene.camera.orientation2d = ("up" if upward else "down", "right")


def show_centre(viewer: Any, place: Place, sequence: GaussianSequence, step: int) -> None:
    """Show the slice in which the centre of a Gaussian lies, of the planes that are on the screen."""
    dims, grid = viewer.dims, sequence.grid
    index = grid.convert_points(sequence.centres[step - 1], Space.NORMALISED, Space.INDEX).tolist()
    first = dims.ndim - 3
    for axis in range(3):
        if first + axis not in dims.displayed:
            voxel = min(max(round(index[axis]), 0), grid.shape[axis] - 1)
            dims.set_point(first + axis, place.translate[axis - 3] + voxel * place.scale[axis - 3])


def _ends(grid: Grid) -> list[str]:
    return orientation_text(grid).partition(",")[0].split()
