"""Transforms as files that ITK, Slicer and ANTs open: one composite transform a frame, world millimetres, x first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ArgumentError, ResourceError
from r2n2.geometry import Grid, Space
from r2n2.io.atomic import atomic_write
from r2n2.transform import DisplacementField, GaussianSequence, Transform, sampled

__all__ = ["lattice_of", "write_itk_transform"]

_SUFFIX = ".h5"


def lattice_of(grid: Grid, spacing_mm: float | None) -> Grid:
    """The lattice on which a displacement is written: that of the frames, or one over the same place of about ``spacing_mm``.

    Neighbouring points are at most ``spacing_mm`` apart and never closer than pixels are; the outermost ones stay where they are.

    Raises
    ------
    ArgumentError
        If the spacing is not a positive number.
    """
    if spacing_mm is None:
        return grid
    if not 0 < spacing_mm < float("inf"):
        raise ArgumentError(f"spacing: expected a positive number of mm, got {spacing_mm:g}; give for example 4")
    extents = (2 * half for half in grid.half_extent_mm)
    # A thousandth is rounding: 40 mm in steps of 4 are 11 points.
    steps = [max(1, int(-(-(extent / spacing_mm - 1e-3) // 1))) for extent in extents]
    return grid.resized(tuple(min(n, max(step + 1, 2)) for n, step in zip(grid.shape, steps, strict=True)))


def write_itk_transform(path: str | os.PathLike[str], transform: Transform, grid: Grid | None = None) -> Path:
    """Write the transform that maps points of the reference into a frame, in LPS mm, as ITK's HDF5 composite transform.

    A linear map without Gaussians is written as an affine transform, exact everywhere; all else as a displacement field, which is
    linear between its points and zero outside them.

    Parameters
    ----------
    path
        Ends in .h5.
    grid
        Lattice of the displacement field, by default that of the frames.

    Raises
    ------
    ArgumentError
        If the name ends in something else.
    ResourceError
        If it cannot be written.
    """
    import SimpleITK as sitk  # noqa: N813

    target = Path(path)
    if target.suffix != _SUFFIX:
        raise ArgumentError(f"{target}: expected a name that ends in {_SUFFIX}, which ITK, Slicer and ANTs read; change its ending")
    if isinstance(transform, GaussianSequence) and not len(transform):
        part: Any = _affine(transform)
    else:
        part = _field(sampled(transform, grid or transform.grid))
    composite = sitk.CompositeTransform(transform.grid.ndim)
    composite.AddTransform(part)
    with atomic_write(target) as temporary:
        try:
            sitk.WriteTransform(composite, str(temporary))
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise ResourceError(f"{target}: cannot be written ({why}); free space or choose another folder") from None
    return target


def _affine(sequence: GaussianSequence) -> Any:
    """The linear part: x + A x + b in NORMALISED space as a map of world positions."""
    import SimpleITK as sitk  # noqa: N813
    import torch

    grid = sequence.grid
    corners = torch.cat((torch.zeros(1, grid.ndim), torch.eye(grid.ndim))).double()
    mapped = corners + sequence.displacement_at(corners)
    before, after = (grid.convert_points(points, Space.NORMALISED, Space.WORLD).numpy() for points in (corners, mapped))
    matrix = np.linalg.solve(before[1:] - before[0], after[1:] - after[0]).T
    affine = sitk.AffineTransform(grid.ndim)
    affine.SetMatrix(matrix[::-1, ::-1].ravel().tolist())
    affine.SetTranslation((after[0] - matrix @ before[0])[::-1].tolist())
    return affine


def _field(field: DisplacementField) -> Any:
    import SimpleITK as sitk  # noqa: N813

    grid = field.grid
    vectors = field.to_space(Space.WORLD).vectors.numpy()
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(vectors[::-1], 0, -1), dtype=np.float64), isVector=True)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    image.SetDirection(_flipped(np.array(grid.direction)))
    return sitk.DisplacementFieldTransform(image)


def _flipped(matrix: NDArray[np.float64]) -> Sequence[float]:
    return [float(entry) for entry in matrix[::-1, ::-1].ravel()]
