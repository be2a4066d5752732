"""Where the next Gaussian goes: scores of all places and some widths, by what the images say and what the network has learnt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.network.least_squares import WIDTHS, LeastSquares, width_tensor
from r2n2.transform.warp import sample_normalised

__all__ = ["Place", "Placement", "features_at"]

_FLOOR = 1e-3
# Scores span tens where weights span tenths: at the step size of all other weights these would lag behind.
_PACE = 10.0
# Half width in points of the neighbourhood over which the best place is averaged.
_NEIGHBOURS = 2


class Place(NamedTuple):
    """A place and width a pair."""

    centres: Tensor
    """(B, 2) NORMALISED."""
    widths: Tensor
    """(B, 1) NORMALISED."""
    scales: Tensor
    """(B, L): 1 for the scale on which it was found, else 0."""
    description: Tensor
    """(B, Placement.described): what was found there, for the network."""
    scores: Tensor
    """(B, L, K, h, w) of every place and width."""


class Placement(nn.Module):
    """Scores places and widths: the logarithm of the gain times a learnt factor, plus what features of all levels say.

    At first the features say nothing, and the best gain wins. Taking the best has no gradient; scores learn from what each place
    would have been worth, and the place from the average over its neighbours.
    """

    def __init__(self, channels: tuple[int, ...], scales: int) -> None:
        super().__init__()
        self.scales = scales
        count = scales * len(WIDTHS)
        self.sharpness = nn.Parameter(torch.tensor(6.0 / _PACE))
        self.heads = nn.ModuleList(nn.Conv2d(width, count, 1) for width in channels)
        for head in self.heads:
            assert isinstance(head, nn.Conv2d)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    @property
    def described(self) -> int:
        """Length of a place's description."""
        return self.scales * len(WIDTHS) + 2 + 2 + 1

    def forward(self, here: list[Tensor], least_squares: LeastSquares, lattice: Tensor) -> Place:
        """The best place by features (B, C, h, w), (B, C, h / 2, w / 2) ... and least squares, on the first lattice (2, h, w)."""
        gains = least_squares.gains
        batch, scales, widths, height, width = gains.shape
        largest = gains.amax((1, 2, 3, 4), keepdim=True).clamp_min(1e-12)
        scores = _PACE * self.sharpness * torch.log((gains / largest).clamp_min_(0).add_(_FLOOR))
        for head, features in zip(self.heads, here, strict=True):
            learnt = _enlarged(head(features).contiguous(), height).to(scores.dtype).unflatten(1, (scales, widths))
            scores = torch.add(scores, learnt, alpha=_PACE)
        best = scores.detach().flatten(1).argmax(1)
        kind, place = best // (height * width), best % (height * width)
        rows = torch.arange(batch, device=best.device)
        row, column = place // width, place % width
        reach = torch.arange(-_NEIGHBOURS, _NEIGHBOURS + 1, device=best.device)
        rows_near = (row[:, None, None] + reach[:, None]).clamp(0, height - 1)
        columns_near = (column[:, None, None] + reach[None]).clamp(0, width - 1)
        near = scores.flatten(1, 2)[rows, kind][rows[:, None, None], rows_near, columns_near]
        weight = near.flatten(1).softmax(1)
        positions = lattice[:, rows_near, columns_near].flatten(2)
        centres = (positions * weight).sum(2).mT
        best_width = width_tensor(gains)[kind % widths][:, None]
        amplitude = least_squares.amplitudes.flatten(1, 2)[rows, kind][rows, :, row, column]
        strength = torch.log10(gains.flatten(1)[rows, best].clamp_min(1e-9))[:, None] / 4
        which = (kind[:, None] == torch.arange(scales * widths, device=kind.device)).to(gains.dtype)
        description = torch.cat((which, centres, amplitude / best_width, strength), 1)
        return Place(centres, best_width, which.unflatten(1, (scales, widths)).sum(2), description, scores)


def _enlarged(maps: Tensor, height: int) -> Tensor:
    """Maps whose pixel i is pixel i * stride of a lattice of ``height``, interpolated on it."""
    stride = height // maps.shape[-1]
    if stride == 1:
        return maps
    padded = functional.pad(maps, (0, 1, 0, 1), mode="replicate")
    size = maps.shape[-1] * stride + 1
    return functional.interpolate(padded, (size, size), mode="bilinear", align_corners=True)[..., :-1, :-1]


def features_at(features: Tensor, centres: Tensor, size: int) -> Tensor:
    """Features (B, C, h, w) at places (B, 2) of a square of ``size`` pixels, (B, C)."""
    stride = size // features.shape[-1]
    # Pixel i of a level is pixel i * stride of the square.
    index = (centres + 1) * ((size - 1) / (2 * stride))
    place = index * (2 / (features.shape[-1] - 1)) - 1
    positions = place.view(*place.shape, *[1] * (features.ndim - 2))
    return sample_normalised(features, positions, Grid(tuple(features.shape[2:]))).image.flatten(1)
