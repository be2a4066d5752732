"""What every contestant is given: one fixed image and the moving ones, as plain arrays that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Grid

__all__ = ["Images"]


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a series to register.

    Parameters
    ----------
    fixed, fixed_valid
        (*grid.shape) float32 intensities as in the file, and bool: False where a pixel holds no measurement.
    moving, moving_valid
        (T, *grid.shape) of the same types.
    grid
        Lattice of all.
    """

    fixed: NDArray[np.float32]
    fixed_valid: NDArray[np.bool_]
    moving: NDArray[np.float32]
    moving_valid: NDArray[np.bool_]
    grid: Grid

    def __len__(self) -> int:
        return len(self.moving)

    def part(self, chosen: slice) -> Images:
        """Some of the moving images."""
        return Images(self.fixed, self.fixed_valid, self.moving[chosen], self.moving_valid[chosen], self.grid)
