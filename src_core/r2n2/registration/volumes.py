"""What a displacement does to a volume, measured a few planes at a time, and the smaller volume that is looked at for doubts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform import (
    BSplineField,
    GaussianSequence,
    RowField,
    Transform,
    cell_determinants,
    lattice_rows,
    row_blocks,
    sample_masked,
    sampled,
)
from r2n2.working import to_working

__all__ = ["RowMeasures", "SmallVolumes", "measure_rows", "on_grid", "small_volumes"]

_SIDE = 128  # of what is looked at for doubts, along the longest axis
_QUANTILE_VOXELS = 1_000_000
# Share of the range of intensities: in simulated persons (seeds 100, 101 and 103) 95 % of the body, lungs too, lie above it,
# and most of the air below.
_AIR = 0.08


@dataclass(frozen=True)
class RowMeasures:
    """What a transform does to a volume, in numbers; similarities are correlation coefficients."""

    before: float
    after: float
    overlap: float
    """Voxels that count in both under the displacement, by those that do without it."""
    folding: float
    """Share of the cells in percent."""
    min_jacobian: float
    longest_mm: float
    """Of a mask's voxels; without one, of those that are not as dark as air."""


class _Correlation:
    """Weighted sums of two images, in float64, from which their correlation coefficient follows."""

    def __init__(self) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor, weight: Tensor) -> None:
        """Voxels of any one shape."""
        a, b, weight = (values.flatten().double() for values in (a, b, weight))
        wa, wb = weight * a, weight * b
        self._sums += torch.stack((weight.sum(), wa.sum(), wb.sum(), wa @ a, wb @ b, wa @ b))

    @property
    def total(self) -> float:
        return float(self._sums[0])

    def value(self) -> float:
        """NaN for a constant image."""
        total, a, b, aa, bb, ab = self._sums.unbind()
        covariance, variances = ab - a * b / total, (aa - a * a / total) * (bb - b * b / total)
        return float(covariance / variances.sqrt()) if float(variances) > 0 else float("nan")


def measure_rows(
    fixed: tuple[Tensor, Tensor, Tensor | None], moving: tuple[Tensor, Tensor, Tensor | None], transform: Transform
) -> RowMeasures:
    """Similarity before and after, folding and the longest displacement.

    Parameters
    ----------
    fixed, moving
        Image (1, *shape), what counts (1, *shape) bool, and its weight (1, *shape) or None.
    """
    grid, field = transform.grid, RowField.of(transform)
    (a, a_counted, a_weight), (b, b_counted, b_weight) = fixed, moving
    shows = a >= (_darkest(a[a_counted]) if a_weight is None else -torch.inf)
    # Without its offset, squares of an image do not cancel; and what does not count must not shine through beside what does.
    a, b = (torch.where(where, image - image[where].mean(), 0) for image, where in ((a, a_counted), (b, b_counted)))
    held = b[None] if b_weight is None else torch.cat((b, b_weight))[None]
    before, after = _Correlation(), _Correlation()
    both = stayed = folded = cells = 0
    smallest, longest = torch.inf, 0.0
    cell = torch.tensor([s / grid.unit_mm for s in grid.spacing]).prod().item()
    for rows in row_blocks(grid, overlap=1):
        vectors = field.rows(rows)
        mapped = lattice_rows(grid, rows, vectors) + vectors
        determinants = cell_determinants(mapped[None], cell)[0]
        if a_weight is not None:
            determinants = determinants[:, _touched(a_weight[0, rows] > 0)]
        if determinants.numel():
            lowest = determinants.amin(0)
            folded, cells = folded + int((lowest <= 0).sum()), cells + lowest.numel()
            smallest = min(smallest, float(lowest.min()))
        # The last row of a block is the first of the next.
        count = vectors.shape[1] - (rows.stop < grid.shape[0])
        own = slice(rows.start, rows.start + count)
        warped, measured = sample_masked(held, b_counted[None], mapped[None, :, :count], grid)
        there = a_counted[:, own]
        weight = torch.ones_like(a[:, own]) if a_weight is None else a_weight[:, own]
        without = there & b_counted[:, own]
        before.add(a[:, own], b[:, own], weight * without * (1 if b_weight is None else b_weight[:, own]))
        stays = measured[0] & there
        after.add(a[:, own], warped[0, :1], weight * stays * (1 if b_weight is None else warped[0, 1:]))
        both, stayed = both + int(without.sum()), stayed + int(stays.sum())
        world = grid.convert_vectors(vectors[:, :count].movedim(0, -1), Space.NORMALISED, Space.WORLD).norm(dim=-1)
        matters = shows[0, own] if a_weight is None else a_weight[0, own] > 0
        if bool(matters.any()):
            longest = max(longest, float(world[matters].max()))
    share = 100 * folded / max(cells, 1)
    return RowMeasures(before.value(), after.value(), stayed / max(both, 1), share, smallest, longest)


def _darkest(values: Tensor) -> float:
    """Intensity up to which a voxel is taken for air, which may move as it likes."""
    some = values[:: max(1, len(values) // _QUANTILE_VOXELS)].float()
    low, high = some.quantile(some.new_tensor([0.01, 0.99])).tolist()
    return float(low + _AIR * (high - low))


def _touched(counting: Tensor) -> Tensor:
    """Cells (n-1, ...) of which a corner counts."""
    for axis in range(counting.ndim):
        low, high = (counting.narrow(axis, start, counting.shape[axis] - 1) for start in (0, 1))
        counting = low | high
    return counting


@dataclass(frozen=True, eq=False)
class SmallVolumes:
    """Two volumes on at most 128 points a side, (1, *grid.shape), where they count, and a transform (1, 3, *grid.shape) there."""

    images: tuple[Tensor, Tensor, Tensor, Tensor]
    """Fixed, moving, and where each counts."""
    displacement: Tensor
    initial: Tensor | None
    """Its linear part alone, if it has one."""
    grid: Grid


def small_volumes(
    fixed: Tensor, moving: Tensor, fixed_counted: Tensor, moving_counted: Tensor, transform: Transform
) -> SmallVolumes:
    """Volumes (1, *shape), where they count, and their transform, as they are looked at for doubts."""
    grid = transform.grid
    a, b = to_working(fixed[None], fixed_counted[None], grid, _SIDE), to_working(moving[None], moving_counted[None], grid, _SIDE)
    small = on_grid(transform, a.grid)
    vectors, initial = small.displacement_field().to_space(Space.NORMALISED).vectors[None], None
    if isinstance(small, GaussianSequence) and small.linear is not None:
        initial = small.linear_field().vectors[None]
    return SmallVolumes((a.images[0], b.images[0], a.valid[0], b.valid[0]), vectors, initial, a.grid)


def on_grid(transform: Transform, grid: Grid) -> Transform:
    """The same displacement on another lattice over the same extent."""
    if isinstance(transform, GaussianSequence | BSplineField):
        return replace(transform, grid=grid)
    return sampled(transform, grid)
