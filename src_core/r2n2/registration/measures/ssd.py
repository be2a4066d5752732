"""Squared differences of intensities, each image z-scored over its frame: for series whose contrast stays."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from r2n2.preprocessing import Square
from r2n2.registration.measures.base import Compared, Difference, scored, with_gradient
from r2n2.similarity import correlation

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
    strength: float = 1.0
    name: str = "ssd"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        a, b = scored(fixed, moving, displacement, clamp=self.clamp, aligned=aligned)
        return _Compared(with_gradient(a, fixed), with_gradient(b, moving))


@dataclass(frozen=True, eq=False)
class _Compared:
    """Intensity and gradient of both, (B, 1 + ndim, *shape)."""

    fixed: Tensor
    moving: Tensor

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """The intensities have no part that depends on which pixels count."""
        return Difference(warped[:, :1] - self.fixed[:, :1], (0.5 * (warped[:, 1:] + self.fixed[:, 1:])).unsqueeze(1))

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        """Correlation coefficient."""
        return correlation(self.fixed[:, :1].expand_as(counted), warped[:, :1], counted)
