"""Over how many pixels residuals correlate: neighbours that a blur or an interpolation ties together say one thing, not many."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["correlation_area", "noise_share"]

_FARTHEST_PX = 8  # lag of the residual's autocorrelation; beyond, a residual is anatomy and not noise

_LEAST_VARIANCE = 1e-3  # of z-scored intensities: images that are the same are not certain beyond all measure


def noise_share(residual: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Variance of the residuals over the number of independent pixels, (B,).

    An objective that is a mean of squared residuals is -2 log of the images' likelihood times this number.

    Parameters
    ----------
    residual, weight
        (B, C, P) and (B, 1, P) on a lattice of ``shape``; the weights sum to at most 1.
    """
    level = (weight * residual.square()).sum((1, 2)).clamp_min(_LEAST_VARIANCE)
    counted = (weight > 0).sum((1, 2)).clamp_min(1)
    return level * correlation_area(residual * weight.sqrt(), shape) / counted


def correlation_area(residual: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Pixels that residuals (B, C, P) on a lattice of ``shape`` correlate over, (B,): the sum of their squared autocorrelation."""
    ndim = len(shape)
    padded = [n + _FARTHEST_PX for n in shape]
    axes = tuple(range(2, ndim + 2))
    power = torch.fft.rfftn(residual.unflatten(2, shape), padded, dim=axes).abs().square().sum(1)
    axes = tuple(range(1, ndim + 1))
    correlation = torch.fft.irfftn(power, padded, dim=axes)
    for axis, n in zip(axes, padded, strict=True):
        lags = torch.arange(-_FARTHEST_PX, _FARTHEST_PX + 1, device=residual.device) % n
        correlation = correlation.index_select(axis, lags)
    centre = correlation[(slice(None), *(_FARTHEST_PX,) * ndim)].clamp_min(torch.finfo(residual.dtype).tiny)
    return (correlation.flatten(1) / centre[:, None]).square().sum(1).clamp_min(1)
