"""How alike two images are and how rough a displacement is: one number a batch item, differentiable, no state.

Every similarity loss is smaller for better agreement and counts valid pixels only. Roughness is measured in NORMALISED space
(isotropic), so it does not depend on how finely a field is sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform import bspline_basis

__all__ = [
    "correlation",
    "diffusion",
    "local_correlation_loss",
    "mean_squared_error",
    "mutual_information_loss",
    "structural_similarity_loss",
    "total_variation",
]

_TINY = 1e-12
# Of the dynamic range, squared: as Wang et al. (IEEE Trans Image Process 2004) chose them.
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2


def mean_squared_error(fixed: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
    """Mean squared difference over the valid pixels: the paper's S.

    Parameters
    ----------
    fixed, warped
        (B, 1, *shape).
    valid
        (B, 1, *shape) bool, or how much a pixel counts in [0, 1].

    Returns
    -------
    Tensor
        (B,); 0 where no pixel is valid.
    """
    axes = tuple(range(1, fixed.ndim))
    weight = valid.to(fixed.dtype)
    total = weight.sum(axes)
    return ((fixed - warped).square() * weight).sum(axes) / torch.where(total > 0, total, torch.ones_like(total))


def correlation(fixed: Tensor, warped: Tensor, valid: Tensor) -> Tensor:
    """Correlation coefficient over the valid pixels, (B,) in [-1, 1], larger is better; NaN for a constant image.

    Parameters
    ----------
    fixed, warped, valid
        As in ``mean_squared_error``.
    """
    axes = tuple(range(1, fixed.ndim))
    weight = valid.to(fixed.dtype)
    count = weight.sum(axes, keepdim=True)
    count = torch.where(count > 0, count, torch.ones_like(count))
    # The root, as products of the two below are to be weighted once.
    root = weight.sqrt()
    a = (fixed - (fixed * weight).sum(axes, keepdim=True) / count) * root
    b = (warped - (warped * weight).sum(axes, keepdim=True) / count) * root
    # Root before product, and each image divided first: raw intensities of 1e15 or 1e-15 would leave float32.
    a, b = (image / image.abs().amax(axes, keepdim=True).clamp_min(torch.finfo(image.dtype).tiny) for image in (a, b))
    spread = a.square().sum(axes).sqrt() * b.square().sum(axes).sqrt()
    return torch.where(spread > 0, (a * b).sum(axes) / spread, torch.full_like(spread, float("nan"))).clamp(-1, 1)


def local_correlation_loss(fixed: Tensor, warped: Tensor, valid: Tensor, *, window: int = 9, floor: float = 1e-2) -> Tensor:
    """1 - mean squared local correlation coefficient over windows of ``window`` pixels, (B,) in [0, 1].

    Parameters
    ----------
    fixed, warped, valid
        As in ``mean_squared_error``.
    window
        Odd side of the window in pixels.
    floor
        Added to both local variances, so that a flat window has correlation 0 and a finite gradient.

    Raises
    ------
    ValueError
        If ``window`` is even or smaller than 3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"local_correlation_loss: window must be odd and at least 3 pixels, got {window}")
    weight = valid.to(fixed.dtype)
    axes = tuple(range(1, fixed.ndim))
    count = _box_mean(weight, window).clamp_min(_TINY)

    def local_mean(values: Tensor) -> Tensor:
        return _box_mean(values * weight, window) / count

    mean_a, mean_b = local_mean(fixed), local_mean(warped)
    covariance = local_mean(fixed * warped) - mean_a * mean_b
    variance_a = (local_mean(fixed.square()) - mean_a.square()).clamp_min(0) + floor
    variance_b = (local_mean(warped.square()) - mean_b.square()).clamp_min(0) + floor
    squared = covariance.square() / (variance_a * variance_b)
    return 1 - (squared * weight).sum(axes) / weight.sum(axes).clamp_min(1)


def mutual_information_loss(fixed: Tensor, warped: Tensor, valid: Tensor, *, bins: int = 32) -> Tensor:
    """Minus the mutual information in nats of the intensities, (B,), from a smooth joint histogram (Mattes et al., 2003).

    Parameters
    ----------
    fixed, warped, valid
        As in ``mean_squared_error``.
    bins
        Cubic B-splines over the range of either image, at least 5.
    """
    weight = valid.flatten(1).to(fixed.dtype)
    shares = weight / weight.sum(1, keepdim=True).clamp_min(1)
    joint = torch.stack(
        [
            _in_bins(a, keep, bins).mT @ (_in_bins(b, keep, bins) * share[:, None])
            for a, b, keep, share in zip(fixed.flatten(1), warped.flatten(1), valid.flatten(1), shares, strict=True)
        ]
    )
    apart = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    return -(joint * ((joint + _TINY) / (apart + _TINY)).log()).sum((1, 2))


def _in_bins(image: Tensor, valid: Tensor, bins: int) -> Tensor:
    """(P, bins): share of every pixel's intensity (P,) in every bin; their range does not count as depending on the intensities."""
    seen = image.detach()[valid]
    low, high = (seen.min(), seen.max()) if len(seen) else (image.new_zeros(()), image.new_ones(()))
    return bspline_basis((image - low) / (high - low).clamp_min(_TINY), bins)


def structural_similarity_loss(
    fixed: Tensor, warped: Tensor, valid: Tensor, *, window: int = 7, dynamic_range: float = 4.0
) -> Tensor:
    """1 - mean structural similarity (Wang et al. 2004, equation 13) over windows of ``window`` pixels, (B,) in [0, 2].

    Parameters
    ----------
    fixed, warped, valid
        As in ``mean_squared_error``.
    window
        Odd side of the window in pixels.
    dynamic_range
        Largest difference of intensities: 4 for z-scores clamped to 2.

    Raises
    ------
    ValueError
        If ``window`` is even or smaller than 3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"structural_similarity_loss: window must be odd and at least 3 pixels, got {window}")
    weight, axes = valid.to(fixed.dtype), tuple(range(1, fixed.ndim))
    count = _box_mean(weight, window).clamp_min(_TINY)
    a, b, aa, bb, ab = (
        _box_mean(values * weight, window) / count for values in (fixed, warped, fixed.square(), warped.square(), fixed * warped)
    )
    luminance, contrast = (share * dynamic_range**2 for share in (_LUMINANCE, _CONTRAST))
    alike = (2 * a * b + luminance) * (2 * (ab - a * b) + contrast)
    apart = (a.square() + b.square() + luminance) * ((aa - a.square()).clamp_min(0) + (bb - b.square()).clamp_min(0) + contrast)
    return 1 - (alike / apart * weight).sum(axes) / weight.sum(axes).clamp_min(1)


def _box_mean(values: Tensor, window: int) -> Tensor:
    pool = torch.nn.functional.avg_pool2d if values.ndim == 4 else torch.nn.functional.avg_pool3d
    return pool(values, window, stride=1, padding=window // 2, count_include_pad=False)


def diffusion(displacement: Tensor, grid: Grid) -> Tensor:
    """Mean over pixels of the summed squared first derivatives of the displacement, (B,).

    Parameters
    ----------
    displacement
        (B, ndim, *grid.shape) NORMALISED.
    """
    return _squared_gradient(displacement, grid).flatten(1).mean(1)


def total_variation(displacement: Tensor, grid: Grid, *, smoothing: float = 1e-6) -> Tensor:
    """Isotropic total variation: mean over pixels of the length of the displacement's gradient, (B,).

    Parameters
    ----------
    displacement
        (B, ndim, *grid.shape) NORMALISED.
    smoothing
        The length is sqrt(|gradient|^2 + smoothing^2), differentiable where the displacement is constant.
    """
    length = (_squared_gradient(displacement, grid) + smoothing**2).sqrt()
    return length.flatten(1).mean(1)


def _squared_gradient(displacement: Tensor, grid: Grid) -> Tensor:
    """Squared norm of the gradient by forward differences, (B, n-1, m-1(, k-1))."""
    total: Tensor | None = None
    for axis in range(grid.ndim):
        step = grid.spacing[axis] / grid.unit_mm
        slope = displacement.diff(dim=axis + 2) / step
        for other in range(grid.ndim):
            if other != axis:
                slope = slope.narrow(other + 2, 0, slope.shape[other + 2] - 1)
        squared = slope.square().sum(1)
        total = squared if total is None else total + squared
    assert total is not None
    return total
