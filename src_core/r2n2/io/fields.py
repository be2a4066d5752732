"""Displacement fields as ITK reads them: .mha, vectors in mm, x first, on the fixed frame's geometry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid, Space
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import DEFAULT_MAX_BYTES, existing
from r2n2.io.metaimage.header import open_mha
from r2n2.io.metaimage.writing import header_bytes
from r2n2.io.placement import orthonormal
from r2n2.transform import DisplacementField

__all__ = ["itk_vectors", "read_field", "write_field"]


def write_field(path: str | os.PathLike[str], field: DisplacementField) -> Path:
    """Write a displacement field that ITK's ``DisplacementFieldTransform`` takes as it is.

    Raises
    ------
    ResourceError
        If it cannot be written.
    """
    target = Path(path)
    grid, x_first = field.grid, itk_vectors(field, "<f4")
    direction = np.array(grid.direction)[::-1, ::-1]
    header = header_bytes(grid.shape[::-1], grid.spacing[::-1], grid.origin[::-1], direction, x_first.dtype, grid.ndim)
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(x_first.tobytes())
    return target


def itk_vectors(field: DisplacementField, dtype: str) -> NDArray[Any]:
    """(*shape, ndim) in mm as ITK has them: component x first, components of a pixel side by side."""
    vectors = field.to_space(Space.WORLD).vectors.detach().cpu().numpy()
    return np.ascontiguousarray(np.moveaxis(vectors[::-1], 0, -1), dtype=dtype)


def read_field(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> DisplacementField:
    """Read a displacement field written by ``write_field`` or by ITK as MetaImage.

    Raises
    ------
    ReadError
        If the file is damaged or holds no vectors of as many components as it has axes.
    """
    import torch

    source = existing(path)
    image = open_mha(source, max_bytes)
    ndim = image.array.ndim - 1
    if image.components != ndim or ndim not in (2, 3):
        raise ReadError(
            f"{source}: a displacement field needs as many components as axes (2 or 3), "
            f"got {image.components} components in shape {image.array.shape}; choose a field, not an image"
        )
    vectors = np.ascontiguousarray(np.moveaxis(np.asarray(image.array), -1, 0)[::-1], dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise ReadError(f"{source}: holds vectors that are not finite; write the field again")
    grid = Grid(
        image.array.shape[:-1],
        (image.spacing or (1.0,) * ndim)[::-1],
        image.origin[::-1],
        orthonormal(image.direction[::-1, ::-1], path=source),
    )
    return DisplacementField(torch.from_numpy(vectors), grid, Space.WORLD)
