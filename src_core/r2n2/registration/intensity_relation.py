"""How the intensities of one image follow from those of another, pixel by pixel: by a straight line, or by a curve."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["explained_by_a_curve", "explained_by_a_line"]

_CLASSES, _PIXELS_A_CLASS = 24, 100
_FEWEST_CLASSES = 4


def explained_by_a_line(a: Tensor, b: Tensor) -> float:
    """Squared correlation coefficient of intensities (N,) and (N,)."""
    return float(torch.corrcoef(torch.stack((a, b)).double())[0, 1].square())


def explained_by_a_curve(a: Tensor, b: Tensor) -> float | None:
    """The larger of the correlation ratios of intensities (N,) and (N,) by one another; None for too few pixels."""
    classes = min(_CLASSES, len(a) // _PIXELS_A_CLASS)
    if classes < _FEWEST_CLASSES:
        return None
    a, b = a.double(), b.double()
    return max(_explained(a, b, classes), _explained(b, a, classes))


def _explained(by: Tensor, values: Tensor, classes: int) -> float:
    """Correlation ratio: share of the variance of ``values`` between classes of equally many pixels alike in ``by``."""
    ranks = by.argsort().argsort()
    member = (ranks * classes).div(len(by), rounding_mode="floor")
    count = torch.bincount(member, minlength=classes).to(values)
    mean = torch.zeros_like(count).index_add(0, member, values) / count
    within = (values - mean[member]).square().mean()
    return float(1 - within / values.var(correction=0).clamp_min(1e-30))
