"""From frames as they are stored to what a method compares: finite float32, one channel, a square working grid, z-scored."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.transform import normalised_axes, normalised_lattice, resample, sample_masked
from r2n2.transform.warp import INSIDE_TOLERANCE_PX

__all__ = [
    "MAXIMUM_INVALID_SHARE",
    "Intensity",
    "Square",
    "blur",
    "blur_measured",
    "intensity_of",
    "luminance",
    "normalise",
    "one_channel",
    "reduce_masked",
    "reducing_matrix",
    "score",
    "score_together",
    "to_square",
]

MAXIMUM_INVALID_SHARE = 0.2
"""A frame with a larger share of pixels that are NaN or infinite is refused."""

_REC_709 = (0.2126, 0.7152, 0.0722)
# float32 ends at 3e38, and squares are summed.
_LARGEST = 1e15
# Below this share of the image's range a standard deviation is rounding, not contrast.
_CONSTANT_TOLERANCE = 1e-6
# Up to this many pixels along an axis, blurring as a dense matrix product beats torch's convolution on a CPU.
_CHEAPER_AS_MATRIX = 1024
# A pixel of a coarser lattice counts where the mask covers so much of what it averages, of the most it covers anywhere: at the
# border the two images would be averaged over other things, while of a mask that is thin everywhere something must be left.
_COVERED = 0.9
# Chosen on simulated thoraxes of the seeds 100 to 107 with masks of the whole thorax and of half of it: from 0.28 on without any
# change of brightness, below 0.3 in most frames made brighter by 30 % or darker by 30 %.
_FAR_MORE_ALIKE = 0.3
_REFINEMENTS = 3


class Square(NamedTuple):
    """Images on the square of NORMALISED space that all methods work on, or of volumes on a lattice over their extent."""

    images: Tensor
    """(B, 1, N, N)."""
    valid: Tensor
    """(B, 1, N, N) bool: inside the frame and measured."""
    grid: Grid
    """Its lattice; shares NORMALISED space with the frame's grid."""
    weight: Tensor | None = None
    """(B, 1, N, N) in [0, 1], how much a pixel counts, 0 where not valid; None without a mask, where all valid ones count alike."""


class Intensity(NamedTuple):
    """Mean and standard deviation (B, 1, ...) of an image, by which it is z-scored."""

    mean: Tensor
    deviation: Tensor


def one_channel(frame: NDArray[Any]) -> NDArray[np.float64]:
    """The single channel of a frame that is registered, (1, *shape), not finite where the frame is not.

    Parameters
    ----------
    frame
        (C, *shape) of any real type; 3 or 4 channels are red, green, blue (and alpha), any other number is averaged.

    Raises
    ------
    ValueError
        If the frame is complex or has more than ``MAXIMUM_INVALID_SHARE`` invalid pixels.
    """
    if np.iscomplexobj(frame):
        raise ValueError("a complex frame cannot be registered; give its magnitude, numpy.abs(frame)")
    values = frame.astype(np.float64)
    # An infinite pixel may meet another of the opposite sign, or a weight of 0.
    with np.errstate(invalid="ignore"):
        if len(values) in (3, 4):
            values = np.tensordot(np.array(_REC_709), values[:3], axes=1)[None]
        elif len(values) > 1:
            values = values.mean(axis=0, keepdims=True)
    share = 1 - np.isfinite(values).mean()
    if share > MAXIMUM_INVALID_SHARE:
        raise ValueError(
            f"{100 * share:.1f} % of the pixels are NaN or infinite, at most {100 * MAXIMUM_INVALID_SHARE:.0f} % can be masked "
            f"out; mend the frame or leave it out"
        )
    return values


def luminance(frame: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """One frame as the single float32 channel that is registered.

    Parameters
    ----------
    frame
        (C, *shape) of any real type; 3 or 4 channels are red, green, blue (and alpha), any other number is averaged.

    Returns
    -------
    tuple of Tensor
        (1, *shape) float32, finite, and (1, *shape) bool that is False where a pixel was NaN or infinite; such pixels are
        given the mean of the others, and no method counts them.

    Raises
    ------
    ValueError
        If the frame is complex or has more than ``MAXIMUM_INVALID_SHARE`` invalid pixels.
    """
    values = one_channel(frame)
    valid = np.isfinite(values)
    largest = np.abs(values[valid]).max()
    if largest > _LARGEST or 0 < largest < 1 / _LARGEST:
        # Beyond what float32 holds; every method and measure is the same for any scale.
        values = values / largest
    centre = values[valid].mean()
    # float32 holds 24 bits: without the offset, neighbouring values of a large int32 would become equal.
    offset = centre if largest > 2**24 else 0.0
    finite = np.where(valid, values, centre) - offset
    return torch.from_numpy(finite.astype(np.float32)), torch.from_numpy(valid)


def blur(images: Tensor, sigmas_px: tuple[float, ...]) -> Tensor:
    """Images (B, C, *shape) smoothed by a Gaussian of one standard deviation in pixels an axis, edges repeated."""
    ndim = images.ndim - 2
    for axis, sigma in enumerate(sigmas_px):
        if sigma <= 0:
            continue
        kernel = _kernel(sigma, images)
        radius = len(kernel) // 2
        moved = images.movedim(axis + 2, -1)
        count = moved.shape[-1]
        if count <= _CHEAPER_AS_MATRIX:
            smooth = moved @ _blur_matrix(kernel, count)
        else:
            flat = moved.reshape(-1, 1, count)
            padded = functional.pad(flat, (radius, radius), mode="replicate")
            smooth = functional.conv1d(padded, kernel.view(1, 1, -1)).reshape(moved.shape)
        images = smooth.movedim(-1, axis + 2)
    assert images.ndim == ndim + 2
    return images


def _kernel(sigma_px: float, like: Tensor) -> Tensor:
    """Samples of a Gaussian that sum to 1, to three standard deviations either side."""
    radius = max(1, math.ceil(3 * sigma_px))
    offsets = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px).square())
    return kernel / kernel.sum()


def _blur_matrix(kernel: Tensor, count: int) -> Tensor:
    """(count, count) whose column k weighs the pixels that are blurred into pixel k, edges repeated."""
    radius = len(kernel) // 2
    columns = torch.arange(count, device=kernel.device).repeat_interleave(len(kernel))
    rows = (columns + torch.arange(-radius, radius + 1, device=kernel.device).repeat(count)).clamp(0, count - 1)
    matrix = kernel.new_zeros(count, count)
    return matrix.index_put_((rows, columns), kernel.repeat(count), accumulate=True)


def blur_measured(images: Tensor, valid: Tensor, sigmas_px: tuple[float, ...]) -> Tensor:
    """Like ``blur``, of the valid pixels alone: each weighs what it would, over the weight of all valid ones in reach.

    Parameters
    ----------
    images, valid
        (B, C, *shape) float and bool; where no valid pixel is in reach the result is 0.
    """
    if bool(valid.all()):
        return blur(images, sigmas_px)
    weight = blur(valid.to(images.dtype), sigmas_px)
    return blur(torch.where(valid, images, 0), sigmas_px) / weight.clamp_min(1e-6)


def to_square(images: Tensor, valid: Tensor, grid: Grid, size: int, *, weight: Tensor | None = None) -> Square:
    """Resample frames to the square of ``size`` pixels a side around them.

    Frames are low-pass filtered first where the square is coarser, so that no detail turns into false structure.

    Parameters
    ----------
    images, valid
        (B, 1, *grid.shape) float and bool.
    weight
        (B, 1, *grid.shape) in [0, 1] of a mask; pixels of weight 0 then have no part in any other.
    """
    target = grid.enclosing_cube(size)
    ratios = [t / s for t, s in zip(target.spacing, grid.spacing, strict=True)]
    sigmas = tuple(0.5 * math.sqrt(r * r - 1) if r > 1 else 0.0 for r in ratios)
    if weight is not None:
        image, counted, share = reduce_masked(images, valid, weight, grid, target, sigmas)
        return Square(image, counted, target, share)
    if bool(valid.all()) and max(grid.shape) <= _CHEAPER_AS_MATRIX:
        return _measured_square(images, grid, target, sigmas)
    smooth = blur_measured(images, valid, sigmas)
    square, inside = resample(smooth, grid, target)
    measured = inside & (resample(valid.to(images.dtype), grid, target).image > 0.99)
    return Square(square, measured.expand(square.shape), target)


def reduce_masked(
    images: Tensor, valid: Tensor, weight: Tensor, grid: Grid, target: Grid, sigmas_px: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Images on another lattice, low-pass filtered, of the pixels alone that are valid and have weight.

    Each is the average of those, as in ``blur_measured``, and so is what lies between pixels: a normalised convolution (Knutsson
    and Westin, 1993). What is painted where the weight is 0 changes no value anywhere.

    Returns
    -------
    tuple of Tensor
        (B, 1, *target.shape) images, bool where a pixel counts, and its weight, 0 elsewhere.
    """
    counted = weight.to(images.dtype) * valid
    part = (counted > 0).to(images.dtype)
    maps = torch.cat((torch.where(part > 0, images, 0), part, counted), 1)
    smooth, inside = resample(blur(maps, sigmas_px), grid, target)
    total, covered, share = smooth.split(1, 1)
    enough = inside & (covered > _COVERED * covered.flatten(1).amax(1).view(-1, *[1] * (covered.ndim - 1)))
    return total / covered.clamp_min(1e-6), enough, share * enough


def _measured_square(images: Tensor, grid: Grid, target: Grid, sigmas_px: tuple[float, ...]) -> Square:
    """The square of frames without a gap: an axis at a time, blurring and resampling are one matrix."""
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for axis, sigma in enumerate(sigmas_px):
        matrix, within = reducing_matrix(grid, target, axis, sigma, images)
        # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
        images = torch.tensordot(images, matrix, dims=([2], [0]))
        inside = inside.unsqueeze(-1) & within
    return Square(images, inside.expand(images.shape), target)


def reducing_matrix(grid: Grid, target: Grid, axis: int, sigma_px: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """(n, m) that blurs an axis of n pixels and interpolates it at the m points of ``target``, and (m,) which of them it holds."""
    count = grid.shape[axis]
    place, within = _places(grid, target, axis, like)
    low = place.floor().clamp(0, max(count - 2, 0))
    matrix = like.new_zeros(count, len(place))
    columns = torch.arange(len(place), device=like.device)
    share = place - low
    matrix[low.long(), columns] = 1 - share
    matrix[(low.long() + 1).clamp_max(count - 1), columns] += share
    return (_blur_matrix(_kernel(sigma_px, like), count) @ matrix if sigma_px > 0 else matrix), within


def _places(grid: Grid, target: Grid, axis: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the points of ``target`` lie on an axis of ``grid``: pixels, limited to the axis, and whether they were within it."""
    count, points = grid.shape[axis], normalised_axes(target, like)[axis]
    extent = grid.half_extent_mm[axis] / grid.unit_mm
    if extent == 0:
        return torch.zeros_like(points), points.abs() <= 1
    place = (points / extent + 1) * (count - 1) / 2
    within = (place - (count - 1) / 2).abs() <= (count - 1) / 2 + INSIDE_TOLERANCE_PX
    return place.clamp(0, count - 1), within


def normalise(images: Tensor, valid: Tensor, *, clamp: float = 2.0) -> Tensor:
    """z-score every image over its valid pixels and clamp; a constant image becomes 0.

    Parameters
    ----------
    images, valid
        (B, 1, *shape) float and bool.
    clamp
        Largest absolute value of the result; 2 is the network's.
    """
    return score(images, intensity_of(images, valid), clamp=clamp)


def intensity_of(images: Tensor, weight: Tensor) -> Intensity:
    """Mean and standard deviation of images (B, 1, *shape) over pixels of a weight, bool or in [0, 1]."""
    axes = tuple(range(1, images.ndim))
    count = weight.sum(axes, keepdim=True)
    count = torch.where(count > 0, count, torch.ones_like(count))
    mean = (images * weight).sum(axes, keepdim=True) / count
    return Intensity(mean, (((images - mean).square() * weight).sum(axes, keepdim=True) / count).sqrt())


def score(images: Tensor, by: Intensity, *, clamp: float) -> Tensor:
    """Images in standard deviations from the mean, clamped; 0 where there is no deviation to speak of."""
    centred = images - by.mean
    constant = by.deviation <= _CONSTANT_TOLERANCE * (by.mean.abs() + by.deviation)
    scored = centred / torch.where(constant, torch.ones_like(by.deviation), by.deviation)
    return torch.where(constant, torch.zeros_like(scored), scored).clamp(-clamp, clamp)


def score_together(fixed: Square, moving: Square, displacement: Tensor, *, clamp: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """z-score the two images of masked pairs by the pixels that count in both under a displacement.

    A mask of the reference says nothing of what counts in the other frame before the displacement is known: other tissue lies
    there, and its mean and deviation would mislead. Until the images are aligned, those of the reference are therefore taken for
    both, as frames of one series show one tissue alike; unless those of the frame itself, where the mask lies now, make the two
    far more alike. Once they are aligned, mean and deviation are those of the pixels that agree (weight 1 / (1 + r^2)^2, Geman and
    McClure, some times over). Whatever no pixel that counts is mapped to has no part.

    Parameters
    ----------
    fixed, moving
        On one lattice, of any shape; the weight of either may be None.
    displacement
        (B, ndim, *shape) NORMALISED.
    aligned
        Whether the displacement is near the one that is looked for.

    Returns
    -------
    tuple of Tensor
        (B, 1, *shape) both.
    """
    places = normalised_lattice(fixed.grid, displacement) + displacement
    held = moving.images if moving.weight is None else torch.cat((moving.images, moving.weight), 1)
    warped, measured = sample_masked(held, moving.valid, places, fixed.grid)
    weight = (fixed.valid & measured).to(held.dtype)
    for share in (fixed.weight, None if moving.weight is None else warped[:, 1:]):
        if share is not None:
            weight = weight * share
    warped = warped[:, :1]
    shared, own = intensity_of(fixed.images, weight), intensity_of(warped, weight)
    reference = score(fixed.images, shared, clamp=torch.inf)
    differences = [_disagreement(reference, score(warped, by, clamp=torch.inf), weight) for by in (shared, own)]
    other = differences[1] < _FAR_MORE_ALIKE * differences[0]
    by = Intensity(*(torch.where(other, one, two) for one, two in zip(own, shared, strict=True)))
    for _ in range(_REFINEMENTS if aligned else 0):
        by = _refined(reference, warped, by, weight)
    return reference.clamp(-clamp, clamp), score(moving.images, by, clamp=clamp)


def _disagreement(reference: Tensor, scored: Tensor, weight: Tensor) -> Tensor:
    """Mean of r^2 / (1 + r^2), (B, 1, ...)."""
    squared = (scored - reference).square()
    axes = tuple(range(1, squared.ndim))
    return (weight * squared / (1 + squared)).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp_min(1e-30)


def _refined(reference: Tensor, warped: Tensor, by: Intensity, weight: Tensor) -> Intensity:
    """Mean and deviation by which the pixels that agree have those of the scored reference."""
    agreeing = weight / (1 + (score(warped, by, clamp=torch.inf) - reference).square()).square()
    wanted, found = intensity_of(reference, agreeing), intensity_of(warped, agreeing)
    deviation = found.deviation / wanted.deviation.clamp_min(torch.finfo(warped.dtype).tiny)
    usable = (wanted.deviation > 0) & (found.deviation > 0)
    mean = found.mean - wanted.mean * deviation
    return Intensity(torch.where(usable, mean, by.mean), torch.where(usable, deviation, by.deviation))
