"""The paper's baseline: cubic B-splines on three levels by Adam with AMSGrad, MSE plus isotropic total variation (section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from r2n2.config import BSplineConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import blur_measured, normalise
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.similarity import mean_squared_error, total_variation
from r2n2.transform import (
    BSplineField,
    Transform,
    bspline_basis,
    bspline_displacement,
    mask_of,
    refine_control_points,
    resample,
    warp,
)

__all__ = ["BSplineMethod"]

_LEVELS = (4, 2, 1)
_FEWEST_CONTROL_POINTS = 7
_SHORTEST_SIDE_PX = 16


class BSplineMethod:
    """B-spline registration at the paper's settings.

    On each level the control points lie equally many pixels apart, so that a coarser level has a quarter or half as many a side.
    A finer level starts from the control points that follow the coarser spline best, hence one control grid describes the
    result: 34 x 34 x 2 = 2312 numbers for a square frame.
    """

    name = "bspline"

    def __init__(self, config: BSplineConfig) -> None:
        self._config = config

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every iteration.

        Parameters
        ----------
        pairs
            The image pairs.
        start
            Transforms whose fields the coarsest spline first follows (least squares), or None.
        """
        total = len(_LEVELS) * self._config.iterations
        control: Tensor | None = None if start is None else _follow(pairs, start, self._counts(pairs.grid, 1))
        index = 0
        for factor in _LEVELS:
            grid, fixed, moving, fixed_valid, moving_valid = _level(pairs, factor)
            mask = mask_of(moving_valid, moving)
            counts = self._counts(pairs.grid, factor)
            if control is None:
                control = fixed.new_zeros(len(pairs), grid.ndim, *counts)
            control = refine_control_points(control, counts).detach().requires_grad_(True)
            bases = [bspline_basis(torch.linspace(0, 1, n).to(fixed), m) for n, m in zip(grid.shape, counts, strict=True)]
            optimiser = torch.optim.Adam([control], lr=self._config.learning_rate, amsgrad=True)
            for _ in range(self._config.iterations):
                with torch.enable_grad():
                    loss = self._loss(control, bases, fixed, moving, fixed_valid, mask, grid)
                    optimiser.zero_grad()
                    loss.sum().backward()
                optimiser.step()
                index += 1
                yield RegistrationStep(index, total, loss.detach(), partial(_fields, control.detach().clone(), pairs.grid))

    def _loss(
        self,
        control: Tensor,
        bases: list[Tensor],
        fixed: Tensor,
        moving: Tensor,
        fixed_valid: Tensor,
        mask: Tensor | None,
        grid: Grid,
    ) -> Tensor:
        displacement = bspline_displacement(control, bases)
        warped, measured = warp(moving, displacement, grid, mask=mask)
        return mean_squared_error(fixed, warped, measured & fixed_valid) + self._config.regularisation * total_variation(
            displacement, grid
        )

    def _counts(self, grid: Grid, factor: int) -> tuple[int, ...]:
        """Control points along each axis of a level: ``control_points`` along the longer side of the finest."""
        cells = (self._config.control_points - 3) / factor / (2 * grid.unit_mm)
        return tuple(max(_FEWEST_CONTROL_POINTS, round(2 * extent * cells) + 3) for extent in grid.half_extent_mm)


def _level(pairs: Pairs, factor: int) -> tuple[Grid, Tensor, Tensor, Tensor, Tensor]:
    """Grid, z-scored images and validity of one level."""
    shape = tuple(min(n, max(_SHORTEST_SIDE_PX, round(n / factor))) for n in pairs.grid.shape)
    grid = pairs.grid.resized(shape)
    ratios = [(n - 1) / (m - 1) for n, m in zip(pairs.grid.shape, shape, strict=True)]
    sigmas = tuple(0.5 * max(r * r - 1, 0.0) ** 0.5 for r in ratios)

    def reduce(images: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        small = resample(blur_measured(images, valid, sigmas), pairs.grid, grid).image
        measured = resample(valid.to(images.dtype), pairs.grid, grid).image > 0.99
        return normalise(small, measured), measured

    fixed, fixed_valid = reduce(pairs.fixed, pairs.fixed_valid)
    moving, moving_valid = reduce(pairs.moving, pairs.moving_valid)
    return grid, fixed, moving, fixed_valid, moving_valid


def _follow(pairs: Pairs, start: Sequence[Transform], counts: tuple[int, ...]) -> Tensor:
    fields = torch.stack(
        [transform.displacement_field().to_space(Space.NORMALISED).vectors.to(pairs.moving) for transform in start]
    )
    for axis, (size, count) in enumerate(zip(pairs.grid.shape, counts, strict=True)):
        inverse = torch.linalg.pinv(bspline_basis(torch.linspace(0, 1, size).to(fields), count))
        fields = torch.tensordot(fields, inverse, dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return fields


def _fields(control: Tensor, grid: Grid) -> tuple[Transform, ...]:
    return tuple(BSplineField(values, grid) for values in control.clone().cpu())
