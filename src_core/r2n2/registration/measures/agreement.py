"""How alike two frames are in the sense of a measure, under a displacement."""

from __future__ import annotations

from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import to_square
from r2n2.registration.measures.base import Measure
from r2n2.transform import mask_of, normalised_lattice, resample, sample_masked

__all__ = ["agreement"]

_SIZE = {2: 128, 3: 64}


def agreement(
    measure: Measure, fixed: Tensor, moving: Tensor, fixed_valid: Tensor, moving_valid: Tensor, displacement: Tensor, grid: Grid
) -> tuple[float, float]:
    """Agreement before and after a displacement, at most 1, on a working square of 128 (64 in 3D) pixels a side.

    Parameters
    ----------
    fixed, moving, fixed_valid, moving_valid
        (1, *grid.shape) float and bool.
    displacement
        (1, ndim, *grid.shape) NORMALISED, from the fixed into the moving frame.
    """
    size = _SIZE[grid.ndim]
    a, b = to_square(fixed[None], fixed_valid[None], grid, size), to_square(moving[None], moving_valid[None], grid, size)
    compared, mask, places = measure.compare(a, b), mask_of(b.valid, b.images), normalised_lattice(a.grid, a.images)[None]
    vectors = resample(displacement.to(a.images.dtype), grid, a.grid).image
    found = []
    for moved in (places, places + vectors):
        warped, valid = sample_masked(compared.moving, mask, moved, a.grid)
        found.append(float(compared.agreement(warped, valid & a.valid)))
    return found[0], found[1]
