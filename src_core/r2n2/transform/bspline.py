"""Cubic B-spline displacement on a control grid over the frame, evaluated as one small matrix product per axis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid, Space
from r2n2.transform.displacement import DisplacementField

__all__ = ["BSplineField", "bspline_basis", "bspline_displacement", "bspline_slope", "refine_control_points"]

_AT_ONCE = 2**14  # places in a volume: each needs as many numbers as a plane has control points
_CUBIC_SUPPORT = 3  # control points beyond the cells that a cubic spline needs along each axis


def bspline_basis(positions: Tensor, count: int) -> Tensor:
    """Cubic B-spline basis along one axis.

    Parameters
    ----------
    positions
        (P,) in [0, 1] over the axis: 0 and 1 are the outermost pixel centres. Beyond, the edge's value is used.
    count
        Number of control points m >= 4; they span m - 3 cells.

    Returns
    -------
    Tensor
        (P, m), rows sum to 1.
    """
    distance = _offset(positions, count).abs()
    near = 2 / 3 - distance.square() + distance.pow(3) / 2
    far = (2 - distance).clamp_min(0).pow(3) / 6
    return torch.where(distance < 1, near, far)


def bspline_slope(positions: Tensor, count: int) -> Tensor:
    """Derivative of ``bspline_basis`` by the position inside [0, 1], (P, m): rows sum to 0."""
    offset = _offset(positions, count)
    distance = offset.abs()
    near = distance * (1.5 * distance - 2)
    far = -0.5 * (2 - distance).clamp_min(0).square()
    return torch.where(distance < 1, near, far) * offset.sign() * (count - _CUBIC_SUPPORT)


def _offset(positions: Tensor, count: int) -> Tensor:
    """(P, m) from every control point in cells."""
    if count <= _CUBIC_SUPPORT:
        raise ValueError(f"bspline_basis: a cubic spline needs at least {_CUBIC_SUPPORT + 1} control points an axis, got {count}")
    place = positions.clamp(0, 1) * (count - _CUBIC_SUPPORT)
    # Control point k sits at cell coordinate k - 1.
    return place[:, None] - (torch.arange(count, dtype=positions.dtype, device=positions.device) - 1)


def bspline_displacement(control: Tensor, bases: list[Tensor]) -> Tensor:
    """Displacement (B, ndim, *shape) of control points (B, ndim, *counts) by one (n, m) basis an axis."""
    field = control
    for axis, basis in enumerate(bases):
        field = torch.tensordot(field, basis, dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return field


def refine_control_points(control: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Control points (B, ndim, *counts) of a finer spline that follows a coarser one, by least squares per axis."""
    for axis, count in enumerate(counts):
        present = control.shape[axis + 2]
        if present == count:
            continue
        positions = torch.linspace(0, 1, 8 * max(count, present), dtype=control.dtype, device=control.device)
        transfer = torch.linalg.pinv(bspline_basis(positions, count)) @ bspline_basis(positions, present)
        control = torch.tensordot(control, transfer, dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return control


@dataclass(frozen=True, eq=False)
class BSplineField:
    """Displacement of one frame by cubic B-splines.

    Parameters
    ----------
    control
        (ndim, *counts) NORMALISED control values, array order.
    grid
        The frame's lattice; the spline spans it from outermost pixel centre to outermost pixel centre.

    Raises
    ------
    ValueError
        If the shape does not fit or a number is not finite.
    """

    control: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        ndim = self.grid.ndim
        if self.control.ndim != ndim + 1 or self.control.shape[0] != ndim or min(self.control.shape[1:]) <= _CUBIC_SUPPORT:
            raise ValueError(
                f"BSplineField: control must have shape ({ndim}, counts of at least {_CUBIC_SUPPORT + 1}), "
                f"got {tuple(self.control.shape)}"
            )
        if not bool(torch.isfinite(self.control).all()):
            raise ValueError("BSplineField: control holds a number that is not finite")

    @property
    def control_spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring control points in mm along each axis."""
        counts = self.control.shape[1:]
        return tuple(2 * extent / (m - _CUBIC_SUPPORT) for extent, m in zip(self.grid.half_extent_mm, counts, strict=True))

    def displacement_field(self) -> DisplacementField:
        """The displacement of every pixel of the grid."""
        bases = [
            bspline_basis(torch.linspace(0, 1, n, dtype=self.control.dtype, device=self.control.device), m)
            for n, m in zip(self.grid.shape, self.control.shape[1:], strict=True)
        ]
        return DisplacementField(bspline_displacement(self.control[None], bases)[0], self.grid, Space.NORMALISED)

    def displacement_at(self, positions: Tensor) -> Tensor:
        """Displacement (P, ndim) at positions (P, ndim), both NORMALISED; exact, constant outside the grid."""
        if self.grid.ndim == 3 and len(positions) > _AT_ONCE:
            return torch.cat([self.displacement_at(part) for part in positions.split(_AT_ONCE)])
        index = self.grid.convert_points(positions, Space.NORMALISED, Space.INDEX)
        last = index.new_tensor([max(n - 1, 1) for n in self.grid.shape])
        values = self.control.to(positions.dtype)
        # One axis at a time: (ndim, m, ...) -> (ndim, P, ...) keeps the points together.
        bases = [bspline_basis((index / last)[:, axis], m) for axis, m in enumerate(self.control.shape[1:])]
        letters = "abc"[: len(bases)]
        return torch.einsum(f"d{letters}," + ",".join(f"p{letter}" for letter in letters) + "->pd", values, *bases)
