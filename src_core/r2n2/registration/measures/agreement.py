"""How alike two frames are in the sense of a measure, with and without a displacement; as a whole, and where it is longest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.measures.base import Compared, Measure
from r2n2.registration.measures.ngf import GradientField
from r2n2.transform import mask_of, normalised_lattice, resample, sample_masked
from r2n2.working import to_working

__all__ = ["agreement", "left_where_longest"]

_SIZE = {2: 128, 3: 64}
# Parts of the frame where the displacement is longer than this share of the longest: a wide and a narrow one.
_LONG = (0.5, 0.8)
# All edges, and those that stand out of smoothed images: noise, which a right displacement leaves, too, is not among these.
_EDGES = (GradientField(), GradientField(edge=1.0, smooth_px=2.5))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Two frames on a working square of 128 (64 in 3D) pixels a side, without and with a displacement (1, ndim, *shape)."""

    compared: Compared
    displacement: Tensor
    sampled: tuple[tuple[Tensor, Tensor], ...]
    """Warped features and where both frames are measured, before and after."""


def _see(
    measure: Measure, fixed: Tensor, moving: Tensor, fixed_valid: Tensor, moving_valid: Tensor, displacement: Tensor, grid: Grid
) -> _Seen:
    size = _SIZE[grid.ndim]
    a, b = to_working(fixed[None], fixed_valid[None], grid, size), to_working(moving[None], moving_valid[None], grid, size)
    compared, mask, places = measure.compare(a, b), mask_of(b.valid, b.images), normalised_lattice(a.grid, a.images)[None]
    vectors = resample(displacement.to(a.images.dtype), grid, a.grid).image
    pairs = [sample_masked(compared.moving, mask, moved, a.grid) for moved in (places, places + vectors)]
    return _Seen(compared, vectors, tuple((warped, valid & a.valid) for warped, valid in pairs))


def agreement(
    measure: Measure, fixed: Tensor, moving: Tensor, fixed_valid: Tensor, moving_valid: Tensor, displacement: Tensor, grid: Grid
) -> tuple[float, float]:
    """Agreement before and after a displacement, at most 1.

    Parameters
    ----------
    fixed, moving, fixed_valid, moving_valid
        (1, *grid.shape) float and bool.
    displacement
        (1, ndim, *grid.shape) NORMALISED, from the fixed into the moving frame.
    """
    seen = _see(measure, fixed, moving, fixed_valid, moving_valid, displacement, grid)
    before, after = (float(seen.compared.agreement(warped, valid)) for warped, valid in seen.sampled)
    return before, after


def left_where_longest(
    fixed: Tensor, moving: Tensor, fixed_valid: Tensor, moving_valid: Tensor, displacement: Tensor, grid: Grid
) -> tuple[float, float]:
    """Share of the squared difference of edges that is left where the displacement is longest; parameters as of ``agreement``.

    Of all edges, and of plain ones. A displacement that is right leaves little of the one or of the other. One that follows noise,
    or tissue that has vanished, leaves about half of both.
    """
    first, second = (_left(_see(edges, fixed, moving, fixed_valid, moving_valid, displacement, grid)) for edges in _EDGES)
    return first, second


def _left(seen: _Seen) -> float:
    length = seen.displacement.norm(dim=1, keepdim=True)
    both = seen.sampled[0][1] & seen.sampled[1][1]
    before, after = (seen.compared.difference(warped, both).residual.square().sum(1, keepdim=True) for warped, _ in seen.sampled)
    shares = []
    for share in _LONG:
        part = both & (length > share * length.max())
        shares.append(after[part].sum() / before[part].sum().clamp_min(1e-12))
    return float(torch.stack(shares).min())
