"""Comparing features that are computed once: those of the moving image are warped like intensities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from r2n2.preprocessing import Square
from r2n2.registration.measures.base import Compared, Difference, with_gradient

__all__ = ["compare_channels"]


def compare_channels(fixed: Tensor, moving: Tensor, squares: tuple[Square, Square]) -> Compared:
    """Features (B or 1, C, *shape) and (B, C, *shape) of the images of a batch on its two working squares."""
    return _Compared(with_gradient(fixed, squares[0]), with_gradient(moving, squares[1]), fixed.shape[1])


@dataclass(frozen=True, eq=False)
class _Compared:
    """Features, then the gradient of each, (B, C (1 + ndim), *shape)."""

    fixed: Tensor
    moving: Tensor
    channels: int

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """Each channel as if it were an intensity: how its values turn with the displacement is neglected."""
        count = self.channels
        slope = (0.5 * (warped[:, count:] + self.fixed[:, count:])).unflatten(1, (count, -1))
        return Difference(warped[:, :count] - self.fixed[:, :count], slope)

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        """Cosine of the angle between the features of the one image and those of the other."""
        a, b = (image[:, : self.channels] * counted for image in (self.fixed, warped))
        lengths = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
        return (a * b).flatten(1).sum(1) / lengths.clamp_min(1e-12)
