"""The one protocol of all measures: differences of features that ``fit`` makes small in the sense of least squares.

A measure turns two images into C channels of features, of which the warped minus the fixed ones are the residuals r_c. The
objective of a pair is their weighted sum of squares, so a Gauss-Newton step needs r_c and its change with the displacement alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.preprocessing import Square, normalise, score_together

__all__ = ["Compared", "Difference", "Measure", "gradient_of", "scored", "with_gradient"]


class Difference(NamedTuple):
    """How the warped images differ from the fixed ones."""

    residual: Tensor
    """(B, C, *shape) of a working square: warped minus fixed feature, of any value where pixels do not count."""
    slope: Tensor
    """(B, C, ndim, *shape): derivative of each residual by the displacement of its pixel, per NORMALISED unit.

    It is the mean of that of the warped and of the fixed features: the linear model then holds over twice the distance (efficient
    second-order minimisation; Malis 2004)."""


class Compared(Protocol):
    """A batch of pairs on one working square, with all that does not change while the displacement does."""

    @property
    def moving(self) -> Tensor:
        """(B, N, *shape): what is sampled at the displaced positions, in one go."""
        ...

    def difference(self, warped: Tensor, counted: Tensor) -> Difference:
        """What the warped images have left to align.

        Parameters
        ----------
        warped
            (B, N, *shape): ``moving`` at the displaced positions.
        counted
            (B, 1, *shape) bool: where both images are measured.
        """
        ...

    def agreement(self, warped: Tensor, counted: Tensor) -> Tensor:
        """How alike the images are in the sense of the measure, (B,) up to 1 for equal ones; what fit makes small differs."""
        ...


class Measure(Protocol):
    """A way to compare images; holds settings, keeps nothing of a call."""

    @property
    def name(self) -> str:
        """As in ``RegistrationConfig.similarity``."""
        ...

    @property
    def strength(self) -> float:
        """Weight of the squares against roughness and folding, 1 for squared differences of intensities."""
        ...

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images (B or 1, 1, *shape) and (B, 1, *shape) of a batch, as in their files, on one working square.

        Parameters
        ----------
        displacement
            (B, ndim, *shape) NORMALISED, given where a mask says what counts: what is not seen through it must have no part.
        aligned
            Whether that displacement is near the one looked for.
        """
        ...


def gradient_of(features: Tensor, square: Square) -> Tensor:
    """Central differences (B, C, ndim, *shape) of (B, C, *shape), per NORMALISED unit; one-sided at edges, of a mask too."""
    spacings = tuple(s / square.grid.unit_mm for s in square.grid.spacing)
    if square.weight is None:
        return torch.stack(torch.gradient(features, spacing=spacings, dim=tuple(range(2, features.ndim))), dim=2)
    slopes = []
    for axis, spacing in enumerate(spacings, start=2):
        low, high = (square.valid.narrow(axis, start, square.valid.shape[axis] - 1) for start in (0, 1))
        both = (low & high).to(features.dtype)
        rise = features.diff(dim=axis) * both / spacing
        # The mean of the differences to either side of which both pixels count.
        padding = [0, 0] * (features.ndim - 1 - axis)
        total, count = (functional.pad(part, (*padding, 1, 0)) + functional.pad(part, (*padding, 0, 1)) for part in (rise, both))
        slopes.append(total / count.clamp_min(1))
    return torch.stack(slopes, 2)


def with_gradient(features: Tensor, square: Square) -> Tensor:
    """Features (B, C, *shape), then the gradient of each, (B, C (1 + ndim), *shape)."""
    return torch.cat((features, gradient_of(features, square).flatten(1, 2)), 1)


def scored(fixed: Square, moving: Square, displacement: Tensor | None, *, clamp: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """z-scored intensities of both, (B, 1, *shape), the arguments as in ``Measure.compare``."""
    if displacement is not None:
        return score_together(fixed, moving, displacement, clamp=clamp, aligned=aligned)
    return normalise(fixed.images, fixed.valid, clamp=clamp), normalise(moving.images, moving.valid, clamp=clamp)
