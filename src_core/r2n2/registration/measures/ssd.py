"""Squared differences of intensities, each image z-scored over its frame: for series whose contrast stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.preprocessing import Square, normalise, score_together
from r2n2.registration.measures.base import Compared, Difference, gradient_of

__all__ = ["SquaredDifference"]


@dataclass(frozen=True)
class SquaredDifference:
    """One channel: the z-scored intensity.

    Parameters
    ----------
    clamp
        Largest absolute z-score; brighter and darker pixels are taken for equally bright or dark.
    """

    clamp: float = 3.0
    name: str = "ssd"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        if displacement is not None:
            intensity = score_together(fixed, moving, displacement, clamp=self.clamp, aligned=aligned)
        else:
            intensity = (
                normalise(fixed.images, fixed.valid, clamp=self.clamp),
                normalise(moving.images, moving.valid, clamp=self.clamp),
            )
        a, b = (
            torch.cat((image, gradient_of(image, square)[:, 0]), 1)
            for image, square in zip(intensity, (fixed, moving), strict=True)
        )
        return _Compared(a, b)


@dataclass(frozen=True, eq=False)
class _Compared:
    """Intensity and gradient of both, (B, 1 + ndim, *shape)."""

    fixed: Tensor
    moving: Tensor

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """The intensities have no part that depends on which pixels count."""
        return Difference(warped[:, :1] - self.fixed[:, :1], (0.5 * (warped[:, 1:] + self.fixed[:, 1:])).unsqueeze(1))
