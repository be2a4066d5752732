"""Local normalised cross correlation as squares: intensities less their local mean, over their local standard deviation.

The sum over a window of the squared difference of two images so normalised is 2 n (1 - c), c their correlation there. The warped
image is normalised anew after each warp; its local mean and deviation are taken for constant in the derivative, as the approximate
gradient of pTVreg does (Vishnevskiy et al., IEEE Trans Med Imaging 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.preprocessing import Square
from r2n2.registration.measures.base import Compared, Difference, scored, with_gradient
from r2n2.registration.measures.window import Window
from r2n2.similarity import correlation

__all__ = ["LocalCorrelation"]


@dataclass(frozen=True)
class LocalCorrelation:
    """One channel: the locally z-scored intensity. Settings were chosen on simulated thoraxes, seeds 100 to 103.

    Parameters
    ----------
    window
        Standard deviation of the Gaussian window, NORMALISED.
    floor
        Added to local deviations, as a share of the whole image's: where less varies, it is noise.
    clamp
        Largest absolute z-score over the whole image.
    """

    window: float = 0.1
    floor: float = 0.2
    clamp: float = 3.0
    strength: float = 0.5
    name: str = "lncc"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        images = scored(fixed, moving, displacement, clamp=self.clamp, aligned=aligned)
        a, b = (with_gradient(image, square) for image, square in zip(images, (fixed, moving), strict=True))
        return _Compared(self.floor, a, b, Window.build(fixed.grid, self.window, a))


@dataclass(frozen=True, eq=False)
class _Compared:
    """Intensity over the whole image and its gradient, (B, 1 + ndim, *shape)."""

    floor: float
    fixed: Tensor
    moving: Tensor
    window: Window

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """Both are normalised over the same pixels: those that count now."""
        (a, a_slope), (b, b_slope) = self._normalised(warped, counted)
        return Difference(b - a, (0.5 * (b_slope + a_slope)).unsqueeze(1))

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        """Correlation coefficient of the locally normalised images."""
        (a, _), (b, _) = self._normalised(warped, counted)
        return correlation(a, b, counted)

    def _normalised(self, warped: Tensor, counted: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of the fixed and the warped images intensity (B, 1, *shape) and gradient (B, ndim, *shape) over the local deviation."""
        weight = counted.to(warped.dtype)
        reached = self.window.means(weight).clamp_min(1e-6)
        both = []
        for image in (self.fixed, warped):
            intensity = image[:, :1]
            sums = self.window.means(torch.cat((intensity * weight, intensity.square() * weight), 1))
            mean, square = (sums / reached).chunk(2, 1)
            deviation = (square - mean.square()).clamp_min(0).sqrt() + self.floor
            both.append(((intensity - mean) / deviation, image[:, 1:] / deviation))
        return both
