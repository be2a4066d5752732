"""Maps of one number a pixel as ITK reads them: .mha, float32, on the geometry of the frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import DEFAULT_MAX_BYTES
from r2n2.io.metaimage.header import open_mha
from r2n2.io.metaimage.writing import header_bytes

__all__ = ["read_scalar_map", "write_scalar_map"]


def write_scalar_map(path: str | os.PathLike[str], values: NDArray[Any], grid: Grid) -> Path:
    """Write values (*grid.shape); NaN where a number is not known.

    Raises
    ------
    ValueError
        If the shape is not the grid's.
    ResourceError
        If it cannot be written.
    """
    if values.shape != grid.shape:
        raise ValueError(f"write_scalar_map: values have shape {values.shape}, the grid {grid.shape}")
    target, numbers = Path(path), np.ascontiguousarray(values, dtype="<f4")
    direction = np.array(grid.direction)[::-1, ::-1]
    header = header_bytes(grid.shape[::-1], grid.spacing[::-1], grid.origin[::-1], direction, numbers.dtype, 1)
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        file.write(header)
        file.write(numbers.tobytes())
    return target


def read_scalar_map(
    path: str | os.PathLike[str], shape: tuple[int, ...], *, max_bytes: int = DEFAULT_MAX_BYTES
) -> NDArray[np.float32]:
    """Values (*shape) float32 written by ``write_scalar_map``.

    Raises
    ------
    ReadError
        If the file is damaged or holds something else.
    """
    source = Path(path)
    if not source.is_file():
        raise ReadError(f"{source}: no such file; run r2n2 register again with --overwrite")
    image = open_mha(source, max_bytes)
    if image.components != 1 or image.array.shape != shape:
        raise ReadError(
            f"{source}: expected one number a pixel in shape {shape}, got {image.components} in shape {image.array.shape}; "
            f"run r2n2 register again with --overwrite"
        )
    return np.asarray(image.array, dtype=np.float32)
