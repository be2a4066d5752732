"""Self-similarity context: how like one another the patches around a pixel are, whatever their intensities.

With D the mean squared difference of the patches about two neighbours of a pixel, and V the mean of D over all such pairs, a
channel is exp(-D / V). The descriptor is MIND (Heinrich et al., Med Image Anal 2012) in its form of self-similarity context
(Heinrich et al., MICCAI 2013), which compares neighbours with one another and not with the pixel between them: on development
data it was better.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.preprocessing import Square, blur, normalise
from r2n2.registration.measures.base import Compared
from r2n2.registration.measures.channels import compare_channels

__all__ = ["SelfSimilarity"]


@dataclass(frozen=True)
class SelfSimilarity:
    """A channel a pair of neighbours along two axes: 4 in 2D, 12 in 3D. Chosen on simulated thoraxes, seeds 100 to 103.

    Parameters
    ----------
    patch_px
        Standard deviation of a patch, in pixels of the working square, as is the distance of 1 to the neighbours.
    floor
        Smallest V, as a share of its mean over the image: where less varies, it is noise.
    clamp
        Largest absolute z-score.
    """

    patch_px: float = 0.7
    floor: float = 0.02
    clamp: float = 3.0
    strength: float = 0.025
    name: str = "mind"

    def compare(self, fixed: Square, moving: Square, displacement: Tensor | None = None, *, aligned: bool = False) -> Compared:
        """Prepare the images of a batch."""
        return compare_channels(self.descriptors(fixed), self.descriptors(moving), (fixed, moving))

    def descriptors(self, square: Square) -> Tensor:
        """(B, C, *shape), 0 to 1."""
        axes = tuple(range(2, 2 + square.grid.ndim))
        image = normalise(square.images, square.valid, clamp=self.clamp)
        beside = {axis: [_shifted(image, axis, step) for step in (-1, 1)] for axis in axes}
        pairs = [(a, b) for one, other in itertools.combinations(axes, 2) for a in beside[one] for b in beside[other]]
        squared = torch.cat([(a - b).square() for a, b in pairs], 1)
        distances = blur(squared, (self.patch_px,) * len(axes))
        mean = distances.mean(1, keepdim=True)
        typical = (mean * square.valid).sum(axes, keepdim=True) / square.valid.sum(axes, keepdim=True).clamp_min(1)
        return torch.exp(-distances / mean.maximum(self.floor * typical).clamp_min(torch.finfo(mean.dtype).tiny))


def _shifted(images: Tensor, axis: int, step: int) -> Tensor:
    """Images one pixel on along an axis, edges repeated."""
    count = images.shape[axis]
    return images.index_select(axis, torch.arange(count, device=images.device).add(step).clamp(0, count - 1))
