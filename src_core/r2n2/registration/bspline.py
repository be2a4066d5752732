"""The paper's baseline: cubic B-splines on three levels by Adam with AMSGrad, MSE plus isotropic total variation (section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from r2n2.config import BSplineConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import Square, blur_measured, normalise, reduce_masked, score_together
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
_CLAMP = 2.0


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
            grid, counts = _level_grid(pairs.grid, factor), self._counts(pairs.grid, factor)
            if control is None:
                control = pairs.moving.new_zeros(len(pairs), grid.ndim, *counts)
            control = refine_control_points(control, counts).detach().requires_grad_(True)
            bases = [bspline_basis(torch.linspace(0, 1, n).to(control), m) for n, m in zip(grid.shape, counts, strict=True)]
            with torch.no_grad():
                level = _Level.build(pairs, grid, bspline_displacement(control, bases))
            optimiser = torch.optim.Adam([control], lr=self._config.learning_rate, amsgrad=True)
            for _ in range(self._config.iterations):
                with torch.enable_grad():
                    loss = self._loss(control, bases, level)
                    optimiser.zero_grad()
                    loss.sum().backward()
                optimiser.step()
                index += 1
                yield RegistrationStep(index, total, loss.detach(), partial(_fields, control.detach().clone(), pairs.grid))

    def _loss(self, control: Tensor, bases: list[Tensor], level: _Level) -> Tensor:
        displacement = bspline_displacement(control, bases)
        warped, measured = warp(level.moving, displacement, level.grid, mask=level.moving_valid)
        counted: Tensor = measured & level.fixed_valid
        if level.fixed_weight is not None:
            counted = counted * level.fixed_weight
        if warped.shape[1] > 1:
            # What counts is no matter of the displacement: it must not gain by moving a pixel out of the mask.
            counted = counted * warped[:, 1:].detach()
        roughness = total_variation(displacement, level.grid)
        return mean_squared_error(level.fixed, warped[:, :1], counted) + self._config.regularisation * roughness

    def _counts(self, grid: Grid, factor: int) -> tuple[int, ...]:
        """Control points along each axis of a level: ``control_points`` along the longer side of the finest."""
        cells = (self._config.control_points - 3) / factor / (2 * grid.unit_mm)
        return tuple(max(_FEWEST_CONTROL_POINTS, round(2 * extent * cells) + 3) for extent in grid.half_extent_mm)


@dataclass(frozen=True, eq=False)
class _Level:
    """z-scored images of one level, and what of them counts."""

    grid: Grid
    fixed: Tensor
    fixed_valid: Tensor
    fixed_weight: Tensor | None
    moving: Tensor
    """(B, 1, *shape), behind it its weight if there is one."""
    moving_valid: Tensor | None

    @classmethod
    def build(cls, pairs: Pairs, grid: Grid, displacement: Tensor) -> _Level:
        ratios = [(n - 1) / (m - 1) for n, m in zip(pairs.grid.shape, grid.shape, strict=True)]
        sigmas = tuple(0.5 * max(r * r - 1, 0.0) ** 0.5 for r in ratios)

        def reduce(images: Tensor, valid: Tensor, weight: Tensor | None) -> Square:
            if weight is not None:
                image, counted, share = reduce_masked(images, valid, weight, pairs.grid, grid, sigmas)
                return Square(image, counted, grid, share)
            small = resample(blur_measured(images, valid, sigmas), pairs.grid, grid).image
            return Square(small, resample(valid.to(images.dtype), pairs.grid, grid).image > 0.99, grid)

        fixed = reduce(pairs.fixed, pairs.fixed_valid, pairs.fixed_weight)
        moving = reduce(pairs.moving, pairs.moving_valid, pairs.moving_weight)
        if pairs.masked:
            images = score_together(fixed, moving, displacement, clamp=_CLAMP, aligned=grid.shape == pairs.grid.shape)
        else:
            images = normalise(fixed.images, fixed.valid, clamp=_CLAMP), normalise(moving.images, moving.valid, clamp=_CLAMP)
        held = images[1] if moving.weight is None else torch.cat((images[1], moving.weight), 1)
        return cls(grid, images[0], fixed.valid, fixed.weight, held, mask_of(moving.valid, held))


def _level_grid(grid: Grid, factor: int) -> Grid:
    return grid.resized(tuple(min(n, max(_SHORTEST_SIDE_PX, round(n / factor))) for n in grid.shape))


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
