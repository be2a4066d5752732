"""Images that training pairs are made from: what is given, and the copies of several resolutions they are sampled from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import blur_measured
from r2n2.transform import resample, sample_normalised

__all__ = ["LARGEST_SIDE_PX", "Pyramid", "RealPair", "RealSlice", "prepare_pair", "prepare_slice"]

LARGEST_SIDE_PX = 256
"""Larger sources are kept at this many pixels along their longer side."""

_SMALLEST_SIDE_PX = 48
_DARK, _BRIGHT = 0.005, 0.995  # quantiles that become intensity 0 and 1
_OUTLIERS = (-0.25, 1.5)


@dataclass(frozen=True, eq=False)
class RealSlice:
    """A real (or drawn) image to make pairs from.

    Parameters
    ----------
    image
        (1, H, W) float32, finite.
    valid
        (1, H, W) bool, False where nothing was measured; None if all was.
    spacing
        Pixel size in mm (y, x); (1, 1) if unknown.
    patient
        Whom it shows, for the split by patient.
    source
        What it is, for the model card.

    Raises
    ------
    ValueError
        If a shape, a type or a number is wrong.
    """

    image: Tensor
    valid: Tensor | None
    spacing: tuple[float, float]
    patient: str
    source: str

    def __post_init__(self) -> None:
        _check_image("RealSlice: image", self.image)
        if self.valid is not None and (self.valid.dtype is not torch.bool or self.valid.shape != self.image.shape):
            raise ValueError(
                f"RealSlice: valid must be bool of shape {tuple(self.image.shape)} as the image, "
                f"got {self.valid.dtype} of shape {tuple(self.valid.shape)}"
            )
        if self.valid is not None and not bool(self.valid.any()):
            raise ValueError("RealSlice: valid is False everywhere; leave such a slice out")
        Grid(tuple(self.image.shape[1:]), self.spacing)


@dataclass(frozen=True, eq=False)
class RealPair:
    """Two frames of one series.

    Parameters
    ----------
    fixed, moving
        (1, H, W) float32, finite.
    spacing, patient, source
        As of ``RealSlice``.
    displacement
        (2, H, W) exact pull-back, fixed(x) = moving(x + f(x)), NORMALISED in the frame's own ``Grid``, array order; None
        where the motion is unknown.

    Raises
    ------
    ValueError
        If a shape, a type or a number is wrong.
    """

    fixed: Tensor
    moving: Tensor
    spacing: tuple[float, float]
    patient: str
    source: str
    displacement: Tensor | None

    def __post_init__(self) -> None:
        _check_image("RealPair: fixed", self.fixed)
        _check_image("RealPair: moving", self.moving)
        if self.fixed.shape != self.moving.shape:
            raise ValueError(
                f"RealPair: fixed {tuple(self.fixed.shape)} and moving {tuple(self.moving.shape)} must have one shape; resample one"
            )
        if self.displacement is not None:
            expected = (2, *self.fixed.shape[1:])
            if tuple(self.displacement.shape) != expected or not bool(torch.isfinite(self.displacement).all()):
                raise ValueError(
                    f"RealPair: displacement must be finite and of shape {expected}, got {tuple(self.displacement.shape)}"
                )
        Grid(tuple(self.fixed.shape[1:]), self.spacing)


@dataclass(frozen=True, eq=False)
class Pyramid:
    """One source in falling resolutions, all in the same NORMALISED space.

    Parameters
    ----------
    levels
        (1, C, h, w) float32: the images, and as last channel the share of each pixel that was measured, if not all was.
    grids
        Lattice of each level.
    masked
        Whether there is such a last channel.
    """

    levels: tuple[Tensor, ...]
    grids: tuple[Grid, ...]
    masked: bool

    def level_for(self, step: float) -> int:
        """The level whose pixels are nearest to ``step``, the NORMALISED distance of the points it will be sampled at."""
        grid = self.grids[0]
        ratio = step * grid.unit_mm / min(grid.spacing)
        return min(max(round(math.log2(ratio)), 0), len(self.levels) - 1)

    def sample(self, positions: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Images (C, h, w) and validity (1, h, w) at NORMALISED positions (2, h, w)."""
        values, inside = sample_normalised(self.levels[level], positions[None], self.grids[level])
        if not self.masked:
            return values[0], inside[0]
        return values[0, :-1], inside[0] & (values[0, -1:] > 0.99)


def prepare_slice(item: RealSlice) -> Pyramid:
    """Pyramid of a slice, its intensity stretched to about 0 to 1."""
    valid = torch.ones_like(item.image, dtype=torch.bool) if item.valid is None else item.valid
    low, high = _contrast(item.image[valid])
    return _pyramid(((item.image - low) / (high - low)).clamp(*_OUTLIERS), valid, item.spacing)


def prepare_pair(item: RealPair) -> tuple[Pyramid, Pyramid | None]:
    """Pyramids of both frames, stretched alike to about 0 to 1, and of the displacement if it is known."""
    both = torch.cat((item.fixed, item.moving))
    low, high = _contrast(both.flatten())
    valid = torch.ones_like(item.fixed, dtype=torch.bool)
    images = _pyramid(((both - low) / (high - low)).clamp(*_OUTLIERS), valid, item.spacing)
    if item.displacement is None:
        return images, None
    grid = Grid(tuple(item.fixed.shape[1:]), item.spacing)
    smaller = images.grids[0]
    # Linear interpolation alone: a displacement has nothing to be smoothed away.
    vectors = item.displacement[None].float()
    vectors = vectors if smaller.shape == grid.shape else resample(vectors, grid, smaller).image
    return images, Pyramid((vectors,), (smaller,), masked=False)


def _check_image(name: str, image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 1 or min(image.shape[1:]) < 2 or image.dtype != torch.float32:
        raise ValueError(f"{name} must be float32 of shape (1, H, W), got {image.dtype} of shape {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name} holds a number that is not finite; replace it and mark it in valid")


def _contrast(values: Tensor) -> tuple[float, float]:
    # torch.quantile refuses more than 2**24 values; sorting has no limit.
    ordered = values.sort().values
    low, high = (float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in (_DARK, _BRIGHT))
    if high <= low:
        low, high = float(ordered[0]), float(ordered[-1])
    return low, high if high > low else low + 1.0


def _pyramid(images: Tensor, valid: Tensor, spacing: tuple[float, float]) -> Pyramid:
    """Images (C, H, W) with their common validity (1, H, W), reduced with a low-pass filter."""
    grid = Grid(tuple(images.shape[1:]), spacing)
    masked = not bool(valid.all())
    here, measured = images[None], valid[None]
    longest = max(grid.shape)
    if longest > LARGEST_SIDE_PX:
        here, measured, grid = _reduced(here, measured, grid, LARGEST_SIDE_PX / longest)
    levels, grids = [], []
    while True:
        levels.append(torch.cat((here, measured.float()), dim=1) if masked else here)
        grids.append(grid)
        if min(grid.shape) < 2 * _SMALLEST_SIDE_PX:
            return Pyramid(tuple(level.contiguous() for level in levels), tuple(grids), masked)
        here, measured, grid = _reduced(here, measured, grid, 0.5)


def _reduced(images: Tensor, valid: Tensor, grid: Grid, share: float) -> tuple[Tensor, Tensor, Grid]:
    target = grid.resized(tuple(max(2, math.ceil(n * share)) for n in grid.shape))
    ratios = [t / s for t, s in zip(target.spacing, grid.spacing, strict=True)]
    sigmas = tuple(0.5 * math.sqrt(max(r * r - 1, 0.0)) for r in ratios)
    smooth = blur_measured(images, valid.expand(images.shape), sigmas)
    measured = resample(valid.float(), grid, target).image > 0.99
    return resample(smooth, grid, target).image, measured, target
