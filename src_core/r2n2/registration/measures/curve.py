"""Squared differences after the fixed image's intensities have passed through the smooth curve that fits best, inversions included.

The curve is a cubic spline, fitted by least squares to the warped image at every step, so that the objective is that of the best
curve: the correlation ratio (Roche et al., MICCAI 1998) with a smooth function in place of bins. It knows one curve for the whole
frame: tissues alike in the fixed frame that differ in the other, and coils that shade the frame, are beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.preprocessing import Square
from r2n2.registration.measures.base import Compared, Difference, scored, with_gradient
from r2n2.similarity import correlation

__all__ = ["IntensityCurve"]

_RIDGE = 1e-6  # intensities that do not occur leave their part of the curve open


@dataclass(frozen=True)
class IntensityCurve:
    """One channel: warped minus remapped fixed intensity. Chosen on simulated thoraxes, seeds 100 to 103.

    Parameters
    ----------
    knots
        Cubic B-splines over the range of z-scores.
    smoothing
        Weight of the summed squared second differences of their coefficients against the mean squared misfit.
    clamp
        Largest absolute z-score.
    """

    knots: int = 16
    smoothing: float = 1e-3
    clamp: float = 3.0
    strength: float = 0.05
    name: str = "curve"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        images = scored(fixed, moving, displacement, clamp=self.clamp, aligned=aligned)
        a, b = (with_gradient(image, square) for image, square in zip(images, (fixed, moving), strict=True))
        values, slopes = _splines(a[:, 0].flatten(1), self.knots, self.clamp)
        bends = torch.eye(self.knots, dtype=a.dtype, device=a.device).diff(n=2, dim=0)
        rough = self.smoothing * bends.mT @ bends + _RIDGE * torch.eye(self.knots).to(a)
        return _Compared(a, b, values, slopes, rough)


@dataclass(frozen=True, eq=False)
class _Compared:
    """Intensity and gradient of both; splines (B or 1, K, P) of the fixed intensities with their derivatives."""

    fixed: Tensor
    moving: Tensor
    values: Tensor
    slopes: Tensor
    rough: Tensor

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """The curve is fitted over the pixels that count now."""
        shown, steepness = self._remapped(warped, counted)
        slope = 0.5 * (warped[:, 1:] + steepness * self.fixed[:, 1:])
        return Difference(warped[:, :1] - shown, slope.unsqueeze(1))

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        """Correlation coefficient of the warped and the remapped fixed image."""
        return correlation(self._remapped(warped, counted)[0], warped[:, :1], counted)

    def _remapped(self, warped: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """The fixed intensities through the curve, (B, 1, *shape), and the curve's derivative there."""
        weight = counted.flatten(2).to(warped.dtype)
        weighted = self.values * (weight / weight.sum(2, keepdim=True).clamp_min(1))
        right = weighted @ warped[:, 0].flatten(1).unsqueeze(-1)
        knots = torch.linalg.solve(weighted @ self.values.mT + self.rough, right)
        shown, steepness = ((knots.mT @ part).view_as(warped[:, :1]) for part in (self.values, self.slopes))
        return shown, steepness


def _splines(intensities: Tensor, knots: int, limit: float) -> tuple[Tensor, Tensor]:
    """Values and derivatives (B, K, P) of uniform cubic B-splines over [-limit, limit] at intensities (B, P)."""
    step = 2 * limit / (knots - 3)
    # Splines lie a step beyond either end, so that every intensity has its four.
    place = torch.arange(knots, dtype=intensities.dtype, device=intensities.device)[:, None]
    offset = ((intensities + limit) / step + 1)[:, None] - place
    distance = offset.abs()
    inner = (2 - distance).clamp_min(0)
    near = distance < 1
    values = torch.where(near, 2 / 3 - distance.square() + distance**3 / 2, inner**3 / 6)
    slopes = torch.where(near, 1.5 * distance.square() - 2 * distance, -0.5 * inner.square()) * offset.sign() / step
    return values, slopes
