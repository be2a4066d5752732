"""Where the next Gaussian goes: scores of all places and some widths, by what the images say and what the network has learnt."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from r2n2.geometry import Grid
from r2n2.network.blocks import CONVOLUTIONS
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
    """(B, ndim) NORMALISED."""
    widths: Tensor
    """(B, 1) NORMALISED."""
    scales: Tensor
    """(B, L): 1 for the scale on which it was found, else 0."""
    description: Tensor
    """(B, Placement.described): what was found there, for the network."""
    scores: Tensor
    """(B, L, K, *n) of every place and width."""


class Placement(nn.Module):
    """Scores places and widths: the logarithm of the gain times a learnt factor, plus what features of all levels say.

    At first the features say nothing, and the best gain wins. Taking the best has no gradient; scores learn from what each place
    would have been worth, and the place from the average over its neighbours.
    """

    def __init__(self, channels: tuple[int, ...], scales: int, ndim: int = 2) -> None:
        super().__init__()
        self.scales, self.ndim = scales, ndim
        count = scales * len(WIDTHS)
        self.sharpness = nn.Parameter(torch.tensor(6.0 / _PACE))
        self.heads = nn.ModuleList(CONVOLUTIONS[ndim](width, count, 1) for width in channels)
        for head in self.heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    @property
    def described(self) -> int:
        """Length of a place's description."""
        return self.scales * len(WIDTHS) + 2 * self.ndim + 1

    def forward(self, here: list[Tensor], least_squares: LeastSquares, lattice: Tensor) -> Place:
        """The best place by features (B, C, *n), (B, C, *n / 2) ... and least squares, on the first lattice (ndim, *n)."""
        gains = least_squares.gains
        batch, scales, widths, *shape = gains.shape
        everywhere = tuple(range(1, gains.ndim))
        largest = gains.amax(everywhere, keepdim=True).clamp_min(1e-12)
        scores = _PACE * self.sharpness * torch.log((gains / largest).clamp_min_(0).add_(_FLOOR))
        for head, features in zip(self.heads, here, strict=True):
            learnt = _enlarged(head(features).contiguous(), shape[0]).to(scores.dtype).unflatten(1, (scales, widths))
            scores = torch.add(scores, learnt, alpha=_PACE)
        best = scores.detach().flatten(1).argmax(1)
        kind, place = best // math.prod(shape), best % math.prod(shape)
        rows = torch.arange(batch, device=best.device)
        index = [place // math.prod(shape[axis + 1 :]) % shape[axis] for axis in range(self.ndim)]
        reach = torch.arange(-_NEIGHBOURS, _NEIGHBOURS + 1, device=best.device)
        near_index = []
        for axis, at in enumerate(index):
            along = (at[:, None] + reach).clamp(0, shape[axis] - 1)
            near_index.append(along.view(batch, *[-1 if other == axis else 1 for other in range(self.ndim)]))
        about: tuple[Tensor, ...] = (rows.view(-1, *[1] * self.ndim), *near_index)
        near = scores.flatten(1, 2)[rows, kind][about]
        weight = near.flatten(1).softmax(1)
        positions = torch.stack([axis[tuple(near_index)] for axis in lattice]).flatten(2)
        centres = (positions * weight).sum(2).mT
        best_width = width_tensor(gains)[kind % widths][:, None]
        there: tuple[Tensor, ...] = (rows, *index)
        amplitude = least_squares.amplitudes.flatten(1, 2)[rows, kind].movedim(1, -1)[there]
        strength = torch.log10(gains.flatten(1)[rows, best].clamp_min(1e-9))[:, None] / 4
        which = (kind[:, None] == torch.arange(scales * widths, device=kind.device)).to(gains.dtype)
        description = torch.cat((which, centres, amplitude / best_width, strength), 1)
        return Place(centres, best_width, which.unflatten(1, (scales, widths)).sum(2), description, scores)


def _enlarged(maps: Tensor, size: int) -> Tensor:
    """Maps whose pixel i is pixel i * stride of a lattice of ``size`` points a side, interpolated on it."""
    stride, ndim = size // maps.shape[-1], maps.ndim - 2
    if stride == 1:
        return maps
    padded = functional.pad(maps, (0, 1) * ndim, mode="replicate")
    shape = (maps.shape[-1] * stride + 1,) * ndim
    mode = "bilinear" if ndim == 2 else "trilinear"
    enlarged = functional.interpolate(padded, shape, mode=mode, align_corners=True)
    for axis in range(2, maps.ndim):
        enlarged = enlarged.narrow(axis, 0, shape[0] - 1)
    return enlarged


def features_at(features: Tensor, centres: Tensor, size: int) -> Tensor:
    """Features (B, C, *n) at places (B, ndim) of a square (cube) of ``size`` pixels a side, (B, C)."""
    stride = size // features.shape[-1]
    # Pixel i of a level is pixel i * stride of the square.
    index = (centres + 1) * ((size - 1) / (2 * stride))
    place = index * (2 / (features.shape[-1] - 1)) - 1
    positions = place.view(*place.shape, *[1] * (features.ndim - 2))
    return sample_normalised(features, positions, Grid(tuple(features.shape[2:]))).image.flatten(1)
