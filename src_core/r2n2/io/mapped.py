"""An array in a file of which only the part asked for is mapped, so that a series may be larger than the address space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.checks import check_declared_bytes

__all__ = ["MappedArray"]


@dataclass(frozen=True, eq=False)
class MappedArray:
    """Uncompressed pixels in C order; indexing by a leading integer maps that slab alone and copies it."""

    path: Path
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of all pixels in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[Any]:
        first, *rest = where
        if not isinstance(first, (int, np.integer)):
            return np.array(self._map(self.offset, self.shape)[where])
        slab = math.prod(self.shape[1:]) * self.dtype.itemsize
        return np.array(self._map(self.offset + int(first) * slab, self.shape[1:])[tuple(rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All pixels, for numpy functions."""
        return np.array(self._map(self.offset, self.shape), dtype=dtype)

    def min(self) -> float:
        """Smallest value of all pixels."""
        return float(self._map(self.offset, self.shape).min())

    def _map(self, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
        # Looked at again, for a file can be cut while it is open, and reading past its end ends the process.
        check_declared_bytes(self.path, math.prod(shape) * self.dtype.itemsize, self.path.stat().st_size - offset)
        return np.memmap(self.path, self.dtype, "r", offset, shape)
