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
from r2n2.io.fields import itk_vectors
from r2n2.transform import DisplacementField, GaussianSequence, Transform, sampled

__all__ = ["write_itk_transform"]

_SUFFIX = ".h5"


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
    affine.SetMatrix(_flipped(matrix))
    affine.SetTranslation((after[0] - matrix @ before[0])[::-1].tolist())
    return affine


def _field(field: DisplacementField) -> Any:
    import SimpleITK as sitk  # noqa: N813

    grid = field.grid
    image = sitk.GetImageFromArray(itk_vectors(field, "<f8"), isVector=True)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin[::-1])
    image.SetDirection(_flipped(np.array(grid.direction)))
    return sitk.DisplacementFieldTransform(image)


def _flipped(matrix: NDArray[np.float64]) -> Sequence[float]:
    return [float(entry) for entry in matrix[::-1, ::-1].ravel()]
