"""The paper's baseline: cubic B-splines on three levels by Adam with AMSGrad, MSE plus isotropic total variation (section 4).

Beside the mean squared difference of intensities it minimises that of the features of any measure, mutual information or structural
similarity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.config import BSplineConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import Square, blur_measured, reduce_masked
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.measures import Measure, SquaredDifference, scored
from r2n2.registration.volumes import on_grid
from r2n2.similarity import mean_squared_error, mutual_information_loss, structural_similarity_loss, total_variation
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
from r2n2.working import counting_share, to_working, working_grid

__all__ = ["BSplineMethod"]

_LEVELS = (4, 2, 1)
# Weights against total variation at which the paper's, chosen for squared differences of z-scores, suits: these change less.
_STRENGTH = {"mi": 0.2, "ssim": 0.5}
_FEWEST_CONTROL_POINTS = {2: 7, 3: 5}
_SHORTEST_SIDE_PX = 16
_CLAMP = 2.0


class BSplineMethod:
    """B-spline registration at the paper's settings; of volumes on lattices of 24, 48 and 96 points along the longest axis.

    On each level the control points lie equally many pixels apart, so that a coarser level has a quarter or half as many a side.
    A finer level starts from the control points that follow the coarser spline best, hence one control grid describes the
    result: 34 x 34 x 2 = 2312 numbers for a square frame.

    Parameters
    ----------
    config
        Settings.
    measure
        What the images are compared by where ``config.loss`` is "measure"; squared differences of intensities if None.
    """

    name = "bspline"

    def __init__(self, config: BSplineConfig, *, measure: Measure | None = None) -> None:
        self._config = config
        self._measure = measure or SquaredDifference()

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
            level = _level(pairs, factor, self._config.volume_size)
            grid, like = level.fixed.grid, level.fixed.images
            counts = self._counts(pairs.grid, factor)
            if control is None:
                control = like.new_zeros(len(pairs), grid.ndim, *counts)
            control = refine_control_points(control, counts).detach().requires_grad_(True)
            bases = [bspline_basis(torch.linspace(0, 1, n).to(like), m) for n, m in zip(grid.shape, counts, strict=True)]
            with torch.no_grad():
                displacement = bspline_displacement(control, bases) if pairs.masked else None
            data_loss = self._data_loss(level, displacement, aligned=factor == 1)
            optimiser = torch.optim.Adam([control], lr=self._config.learning_rate, amsgrad=True)
            for _ in range(self._config.iterations):
                with torch.enable_grad():
                    displacement = bspline_displacement(control, bases)
                    loss = data_loss(displacement) + self._config.regularisation * total_variation(displacement, grid)
                    optimiser.zero_grad()
                    loss.sum().backward()
                optimiser.step()
                index += 1
                yield RegistrationStep(index, total, loss.detach(), partial(_fields, control.detach().clone(), pairs.grid))

    def _data_loss(self, level: _Level, displacement: Tensor | None, *, aligned: bool) -> Callable[[Tensor], Tensor]:
        """The part of the loss that looks at the images, (B,), of a displacement (B, ndim, *shape) on a level.

        ``displacement`` and ``aligned`` as in ``Measure.compare``.
        """
        grid, mask = level.fixed.grid, mask_of(level.moving.valid, level.moving.images)
        share = counting_share(level.fixed, level.moving, grid).flatten()

        def counted(valid: Tensor, moving_weight: Tensor) -> Tensor:
            counted: Tensor = valid & level.fixed.valid
            if level.fixed.weight is not None:
                counted = counted * level.fixed.weight
            # What counts is no matter of the displacement: it must not gain by moving a pixel out of the mask.
            return counted * moving_weight.detach() if moving_weight.shape[1] else counted

        def weighed(held: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
            """Channels and what of them counts, warped."""
            both = held if level.moving.weight is None else torch.cat((held, level.moving.weight), 1)
            warped, measured = warp(both, found, grid, mask=mask)
            channels, moving_weight = warped.tensor_split([held.shape[1]], 1)
            return channels, counted(measured, moving_weight)

        if self._config.loss == "measure" and self._measure.name != "ssd":
            compared = self._measure.compare(level.fixed, level.moving, displacement, aligned=aligned)

            def of_measure(found: Tensor) -> Tensor:
                warped, weight = weighed(compared.moving, found)
                squared = compared.difference(warped, weight > 0).residual.square().sum(1, keepdim=True) * weight
                return share * self._measure.strength * squared.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)

            return of_measure
        fixed, moving = scored(level.fixed, level.moving, displacement, clamp=_CLAMP, aligned=aligned)
        losses = {"measure": mean_squared_error, "mi": mutual_information_loss, "ssim": structural_similarity_loss}
        loss, strength = losses[self._config.loss], _STRENGTH.get(self._config.loss, 1.0)

        def of_intensities(found: Tensor) -> Tensor:
            warped, weight = weighed(moving, found)
            return share * strength * loss(fixed, warped, weight)

        return of_intensities

    def _counts(self, grid: Grid, factor: int) -> tuple[int, ...]:
        """Control points along each axis of a level: ``control_points`` along the longer side of the finest."""
        along = self._config.control_points if grid.ndim == 2 else self._config.volume_control_points
        cells, fewest = (along - 3) / factor / (2 * grid.unit_mm), _FEWEST_CONTROL_POINTS[grid.ndim]
        return tuple(max(fewest, round(2 * extent * cells) + 3) for extent in grid.half_extent_mm)


class _Level(NamedTuple):
    """The images of a batch at one size."""

    fixed: Square
    moving: Square


def _level(pairs: Pairs, factor: int, volume_size: int) -> _Level:
    if pairs.grid.ndim == 3:
        size = max(_SHORTEST_SIDE_PX, round(min(volume_size, max(pairs.grid.shape)) / factor))
        return _Level(
            to_working(pairs.fixed, pairs.fixed_valid, pairs.grid, size, weight=pairs.fixed_weight),
            to_working(pairs.moving, pairs.moving_valid, pairs.grid, size, weight=pairs.moving_weight),
        )
    shape = tuple(min(n, max(_SHORTEST_SIDE_PX, round(n / factor))) for n in pairs.grid.shape)
    grid = pairs.grid.resized(shape)
    ratios = [(n - 1) / (m - 1) for n, m in zip(pairs.grid.shape, shape, strict=True)]
    sigmas = tuple(0.5 * max(r * r - 1, 0.0) ** 0.5 for r in ratios)

    def reduce(images: Tensor, valid: Tensor, weight: Tensor | None) -> Square:
        if weight is not None:
            image, counted, share = reduce_masked(images, valid, weight, pairs.grid, grid, sigmas)
            return Square(image, counted, grid, share)
        small = resample(blur_measured(images, valid, sigmas), pairs.grid, grid).image
        return Square(small, resample(valid.to(images.dtype), pairs.grid, grid).image > 0.99, grid)

    return _Level(
        reduce(pairs.fixed, pairs.fixed_valid, pairs.fixed_weight), reduce(pairs.moving, pairs.moving_valid, pairs.moving_weight)
    )


def _follow(pairs: Pairs, start: Sequence[Transform], counts: tuple[int, ...]) -> Tensor:
    if pairs.grid.ndim == 3:
        # More places than the spline has numbers are enough.
        small = working_grid(pairs.grid, 2 * max(counts))
        start = [on_grid(transform, small) for transform in start]
    fields = torch.stack(
        [transform.displacement_field().to_space(Space.NORMALISED).vectors.to(pairs.moving) for transform in start]
    )
    for axis, (size, count) in enumerate(zip(fields.shape[2:], counts, strict=True)):
        inverse = torch.linalg.pinv(bspline_basis(torch.linspace(0, 1, size).to(fields), count))
        fields = torch.tensordot(fields, inverse, dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return fields


def _fields(control: Tensor, grid: Grid) -> tuple[Transform, ...]:
    return tuple(BSplineField(values, grid) for values in control.clone().cpu())
