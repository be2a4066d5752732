"""Sampling images at displaced positions: the only module that calls torch's sampler, with the one flip to its x-first order.

``align_corners=True`` throughout: coordinates -1 and 1 are the outermost pixel *centres*, so zero displacement is exactly
the identity. With torch's default (False) the identity would move the edges by almost half a pixel.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.geometry import Grid

__all__ = [
    "Warped",
    "mask_of",
    "normalised_axes",
    "normalised_lattice",
    "resample",
    "sample_masked",
    "sample_normalised",
    "warp",
]

ALIGN_CORNERS = True
# A position this far (in pixels) outside the outermost pixel centres still counts as inside: float32 rounding.
INSIDE_TOLERANCE_PX = 1e-3
# Outside of every image, in units of torch's sampler.
_FAR = 2.0
# A value counts as measured where at least this share of its interpolation weight is: what is filled in must not shine through.
_MEASURED = 0.99


class Warped(NamedTuple):
    """A resampled image, and where it is backed by pixels of the source."""

    image: Tensor
    """(B, C, *shape)."""
    valid: Tensor
    """(B, 1, *shape) bool; False where the position lies outside the source, whose nearest edge pixel is shown there, or, for
    a source with a mask, where its pixels are not measured."""


def normalised_lattice(grid: Grid, like: Tensor) -> Tensor:
    """NORMALISED position of every pixel, (ndim, *grid.shape), in the dtype and on the device of ``like``."""
    return torch.stack(torch.meshgrid(*normalised_axes(grid, like), indexing="ij"))


def normalised_axes(grid: Grid, like: Tensor) -> list[Tensor]:
    """NORMALISED position of the pixels along each axis alone, (n,) an axis, in the dtype and on the device of ``like``."""
    return [
        torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) * (extent / grid.unit_mm) if n > 1 else like.new_zeros(1)
        for n, extent in zip(grid.shape, grid.half_extent_mm, strict=True)
    ]


def warp(
    images: Tensor,
    displacement: Tensor,
    grid: Grid,
    *,
    mask: Tensor | None = None,
    mode: Literal["linear", "nearest"] = "linear",
) -> Warped:
    """Resample moving images on the fixed lattice: warped(x) = M(x + f(x)), the pull-back of the paper's equation (1).

    Parameters
    ----------
    images
        (B, C, *grid.shape) floating point moving images.
    displacement
        (B, ndim, *grid.shape) or (1, ndim, *grid.shape), NORMALISED, array order.
    grid
        Lattice of both.
    mask
        (B, 1, *grid.shape), where the moving images are measured; it moves with them. None where they are everywhere.
    mode
        "linear" for images, "nearest" for label maps.

    Raises
    ------
    ValueError
        If the shapes do not fit the grid.
    """
    expected = (grid.ndim, *grid.shape)
    if tuple(displacement.shape[1:]) != expected or tuple(images.shape[2:]) != grid.shape:
        raise ValueError(
            f"warp: for a grid of shape {grid.shape} expected displacement (B, {', '.join(map(str, expected))}) and images "
            f"(B, C, {', '.join(map(str, grid.shape))}), got {tuple(displacement.shape)} and {tuple(images.shape)}"
        )
    positions = normalised_lattice(grid, displacement) + displacement
    return sample_masked(images, mask, positions, grid, mode=mode)


def mask_of(valid: Tensor, like: Tensor) -> Tensor | None:
    """A mask as ``sample_masked`` takes it, in the dtype of ``like``; None where it would hide nothing."""
    return None if bool(valid.all()) else valid.to(like.dtype)


def sample_masked(
    images: Tensor, mask: Tensor | None, positions: Tensor, grid: Grid, *, mode: Literal["linear", "nearest"] = "linear"
) -> Warped:
    """Values of images at any positions, and whether those are measured: the one place where a mask moves with its images.

    Parameters
    ----------
    images, positions, grid, mode
        As of ``sample_normalised``.
    mask
        (B, 1, *grid.shape), bool or 0 and 1: False where a pixel holds no measurement. None where all do.
    """
    if mask is None:
        return sample_normalised(images, positions, grid, mode=mode)
    both, inside = sample_normalised(torch.cat((images, mask.to(images.dtype)), 1), positions, grid, mode=mode)
    return Warped(both[:, :-1], inside & (both[:, -1:] > _MEASURED))


def sample_normalised(images: Tensor, positions: Tensor, grid: Grid, *, mode: Literal["linear", "nearest"] = "linear") -> Warped:
    """Values of images at any positions.

    Parameters
    ----------
    images
        (B, C, *grid.shape) floating point.
    positions
        (B, ndim, *out) NORMALISED of ``grid``, array order, with as many axes in ``out`` as the grid has.
    """
    # Per-axis [-1, 1] of torch from isotropic units. An axis of one pixel has no extent: only its centre is sampled.
    scale = [grid.unit_mm / extent if extent > 0 else 0.0 for extent in grid.half_extent_mm]
    cube = positions
    if any(factor != 1 for factor in scale):
        cube = positions * positions.new_tensor(scale).view(1, -1, *([1] * grid.ndim))
    inside: Tensor | None = None
    for coordinate, n in zip(cube.detach().split(1, 1), grid.shape, strict=True):
        within = coordinate.abs() <= (1 + 2 * INSIDE_TOLERANCE_PX / (n - 1) if n > 1 else 1.0)
        inside = within if inside is None else inside.logical_and_(within)
    assert inside is not None
    x_first = cube.flip(1).movedim(1, -1)
    if x_first.requires_grad:
        # Going back through a position that is no number, torch's sampler for the processor writes anywhere in memory. The value is
        # not valid, and a displacement that is no number is seen where it is used.
        x_first = x_first.nan_to_num(0.0, _FAR, -_FAR)
    count = max(images.shape[0], x_first.shape[0])
    # Positions in half precision would be wrong by up to pixels: such images are sampled in float32.
    kind = images.dtype if images.dtype.itemsize >= 4 else torch.float32
    image = functional.grid_sample(
        images.to(kind).expand(count, *images.shape[1:]),
        x_first.to(kind).expand(count, *x_first.shape[1:]),
        mode="bilinear" if mode == "linear" else "nearest",
        padding_mode="border",
        align_corners=ALIGN_CORNERS,
    )
    return Warped(image.to(images.dtype), inside.expand(count, 1, *inside.shape[2:]))


def resample(images: Tensor, source: Grid, target: Grid, *, mode: Literal["linear", "nearest"] = "linear") -> Warped:
    """Images of one lattice on another that shares its NORMALISED space; linear maps stay exact in mm.

    Raises
    ------
    ValueError
        If NORMALISED coordinates of the two grids mean different places.
    """
    if not source.same_space(target):
        raise ValueError(f"resample: the grids do not share one normalised space: {source} and {target}")
    return sample_normalised(images, normalised_lattice(target, images)[None], source, mode=mode)
