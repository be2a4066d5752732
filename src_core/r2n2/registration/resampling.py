"""The registered frame: the original moving frame, all channels, in its own pixel type, resampled once by its transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.series import ImageSeries
from r2n2.transform import RowField, Transform, lattice_rows, row_blocks, sample_normalised

__all__ = ["sample_pixels", "warp_frame", "warp_pixels"]

_MOVED = (FrameStatus.OK, FrameStatus.LIMITED, FrameStatus.FOLDED, FrameStatus.DOUBTFUL, FrameStatus.EDITED)


def warp_frame(series: ImageSeries, result: FrameResult) -> NDArray[Any]:
    """Frame ``result.frame`` aligned to the reference, (C, *shape) in the series' dtype.

    A frame that keeps its place is returned as it is, bit for bit. Outside the moving frame its nearest edge pixel is shown.
    """
    frame = series.frame(result.frame)
    if result.status not in _MOVED:
        return frame
    return warp_pixels(frame, result.transform)


def warp_pixels(image: NDArray[Any], transform: Transform, *, nearest: bool = False) -> NDArray[Any]:
    """Image (C, *shape) of any real type resampled by a transform, in its own type: rounded, and clipped to its range.

    A pixel that is NaN or infinite stays one pixel: it is shown where it is the nearest one, and elsewhere counts for nothing.

    Parameters
    ----------
    nearest
        Take the nearest pixel's value, for label maps.
    """
    pixels, field, grid = _floating(image), RowField.of(transform), transform.grid
    warped = np.empty(image.shape, image.dtype)
    for rows in row_blocks(grid):
        vectors = field.rows(rows).to(pixels.dtype)
        warped[:, rows] = _sampled(pixels, lattice_rows(grid, rows, vectors) + vectors, grid, image.dtype, nearest=nearest)
    return warped


def sample_pixels(image: NDArray[Any], places: Tensor, grid: Grid) -> NDArray[Any]:
    """Image (C, *grid.shape) at NORMALISED places (ndim, *out), with as many axes in ``out``: (C, *out), as of ``warp_pixels``."""
    pixels = _floating(image)
    return _sampled(pixels, places.to(pixels.dtype), grid, image.dtype, nearest=False)


def _floating(image: NDArray[Any]) -> Tensor:
    """(1, C, *shape) as it is interpolated."""
    # float64 holds every integer of up to 53 bits, so labels and large counts survive.
    precise = (image.dtype.kind in "iub" and image.dtype.itemsize > 2) or image.dtype == np.float64
    return torch.from_numpy(np.ascontiguousarray(image.astype(np.float64 if precise else np.float32)))[None]


def _sampled(pixels: Tensor, places: Tensor, grid: Grid, dtype: np.dtype[Any], *, nearest: bool) -> NDArray[Any]:
    if nearest:
        values = sample_normalised(pixels, places[None], grid, mode="nearest").image[0]
    else:
        values = _interpolated(pixels, places[None], grid)[0]
    return _typed(values.numpy(), dtype)


def _typed(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # The largest 64-bit integers are no float64: the next one up would wrap to the other end of the range.
        top = float(limits.max) if int(float(limits.max)) <= limits.max else np.nextafter(float(limits.max), 0)
        return np.clip(np.rint(values), limits.min, top).astype(dtype)
    return values.astype(dtype)


def _interpolated(pixels: Tensor, places: Tensor, grid: Grid) -> Tensor:
    """Linear interpolation (1, C, *shape) in which what is not finite does not spread to its neighbours."""
    finite = pixels.isfinite()
    if bool(finite.all()):
        return sample_normalised(pixels, places, grid).image
    measured = torch.where(finite, pixels, 0)
    values, weights = sample_normalised(torch.cat((measured, finite.to(pixels.dtype)), 1), places, grid).image.chunk(2, 1)
    nearest = sample_normalised(pixels, places, grid, mode="nearest").image
    # Where the nearest pixel is finite it has weight, so nothing is divided by 0.
    return torch.where(nearest.isfinite(), values / weights.clamp_min(torch.finfo(pixels.dtype).tiny), nearest)
