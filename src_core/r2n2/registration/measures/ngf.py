"""Normalised gradient fields: where edges lie and which way they run, whichever side is the brighter one.

With n = grad I / sqrt(|grad I|^2 + eta^2) the channels are the products n_i n_j, which a reversed contrast leaves as they are.
The squared difference of two such matrices is |n|^4 + |m|^4 - 2 (n . m)^2: for edges well above eta, twice the 1 - (n . m)^2 of
Haber and Modersitzki (MICCAI 2006). The squared cross product, |n|^2 |m|^2 - (n . m)^2, is 0 wherever one of the images is flat,
so that it can be made small by moving edges to where nothing is; this cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.preprocessing import Square, blur, normalise
from r2n2.registration.measures.base import Compared, gradient_of
from r2n2.registration.measures.channels import compare_channels
from r2n2.transform.matrices import upper

__all__ = ["GradientField"]


@dataclass(frozen=True)
class GradientField:
    """A channel a product: 3 in 2D, 6 in 3D. Settings were chosen on simulated thoraxes, seeds 100 to 103.

    Parameters
    ----------
    edge
        Eta as a share of the mean |grad I| over the image.
    smooth_px
        Standard deviation by which the image is smoothed first, pixels of the working square.
    clamp
        Largest absolute z-score.
    """

    edge: float = 0.25
    smooth_px: float = 0.7
    clamp: float = 3.0
    strength: float = 0.0125
    name: str = "ngf"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        return compare_channels(self.products(fixed), self.products(moving), (fixed, moving))

    def products(self, square: Square) -> Tensor:
        """(B, C, *shape); off the diagonal times the square root of 2, so that squares sum to those of the matrix."""
        ndim = square.grid.ndim
        image = normalise(square.images, square.valid, clamp=self.clamp)
        gradient = gradient_of(blur(image, (self.smooth_px,) * ndim), square)[:, 0]
        length = gradient.norm(dim=1, keepdim=True)
        axes = tuple(range(2, 2 + ndim))
        mean = (length * square.valid).sum(axes, keepdim=True) / square.valid.sum(axes, keepdim=True).clamp_min(1)
        n = gradient / torch.hypot(length, (self.edge * mean).clamp_min(torch.finfo(length.dtype).tiny))
        return torch.stack([n[:, i] * n[:, j] * (1 if i == j else 2**0.5) for i, j in upper(ndim)], 1)
