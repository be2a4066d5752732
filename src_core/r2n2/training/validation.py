"""How good the weights are on patients that training never sees: error on simulated truth, likeness, folding, Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.network import RecurrentNetwork
from r2n2.registration.base import Method, Pairs
from r2n2.registration.recurrent import RecurrentMethod
from r2n2.similarity import correlation
from r2n2.simulation.engine import SimulatedBatch
from r2n2.training.chunk import square_pairs
from r2n2.training.data.contents import ContouredPair
from r2n2.transform import folding_percent, jacobian_determinant, warp

__all__ = ["Validation", "displacements", "error_percent", "validate"]

_BATCH = 8


@dataclass(frozen=True)
class Validation:
    """Means over the validation pairs; NaN where there was nothing to measure."""

    error_percent: float
    """Mean distance to the true displacement where the fixed image shows tissue, in % of the side of the frame."""
    error_before_percent: float
    """The same with no displacement."""
    correlation: float
    """Of fixed and warped images."""
    correlation_before: float
    folding_percent: float
    """Share of pixels with a Jacobian determinant of at most 0."""
    dice: float
    """Of contours given."""
    dice_before: float

    def numbers(self) -> dict[str, float]:
        """By name, for logs."""
        return asdict(self)


def validate(
    network: RecurrentNetwork, batch: SimulatedBatch, contoured: Sequence[ContouredPair] = (), *, steps: int = 25
) -> Validation:
    """Register all pairs and compare.

    Parameters
    ----------
    network
        In evaluation mode.
    batch
        Pairs with truth, of patients held out.
    contoured
        Pairs with contours, of patients held out.
    """
    pairs = square_pairs(batch)
    method = RecurrentMethod(network, steps=steps)
    found = displacements(method, pairs)
    warped = warp(pairs.moving, found, pairs.grid, mask=pairs.moving_valid)
    alike = correlation(pairs.fixed, warped.image, warped.valid & pairs.fixed_valid)
    alike_before = correlation(pairs.fixed, pairs.moving, pairs.fixed_valid & pairs.moving_valid)
    folding = [folding_percent(jacobian_determinant(found, pairs.grid))]
    dice, dice_before = [], []
    for pair in contoured:
        grid = Grid(tuple(pair.fixed.shape[1:]), pair.spacing)
        valid = torch.ones_like(pair.fixed, dtype=torch.bool)[None]
        one = Pairs(pair.fixed[None], pair.moving[None], valid, valid, grid)
        field = displacements(method, one)
        mask = warp(pair.moving_mask[None].to(field.dtype), field, grid, mode="nearest").image[0] > 0.5
        dice.append(_dice(mask, pair.fixed_mask))
        dice_before.append(_dice(pair.moving_mask, pair.fixed_mask))
        folding.append(folding_percent(jacobian_determinant(field, grid)))
    nan = float("nan")
    return Validation(
        error_percent=error_percent(found, batch),
        error_before_percent=error_percent(torch.zeros_like(found), batch),
        correlation=float(alike.nanmean()),
        correlation_before=float(alike_before.nanmean()),
        folding_percent=float(torch.cat(folding).mean()),
        dice=sum(dice) / len(dice) if dice else nan,
        dice_before=sum(dice_before) / len(dice_before) if dice else nan,
    )


def error_percent(found: Tensor, batch: SimulatedBatch) -> float:
    """Mean distance of displacements (B, 2, n, n) to the true ones where those are known and the fixed image shows tissue.

    In % of the side of the frame.
    """
    weight = _tissue(batch.fixed) * batch.fixed_valid
    return 50 * float(_mean_length(found - batch.displacement, weight)[batch.has_truth].mean())


def displacements(method: Method, pairs: Pairs) -> Tensor:
    """What a method finds, a few pairs at once: (B, ndim, *shape) NORMALISED on the grid of the pairs, on the CPU."""
    fields = []
    for first in range(0, len(pairs), _BATCH):
        *_, last = method.register(pairs.part(slice(first, first + _BATCH)))
        fields += [transform.displacement_field().vectors for transform in last.transforms()]
    return torch.stack(fields).cpu()


def _tissue(images: Tensor) -> Tensor:
    """Half of the weight even, half by the local slope of the image, (B, 1, *shape)."""
    axes = tuple(range(2, images.ndim))
    slope = torch.cat(torch.gradient(images, dim=axes), 1).norm(dim=1, keepdim=True)
    return 0.5 + 0.5 * slope / slope.mean(axes, keepdim=True).clamp_min(1e-6)


def _mean_length(vectors: Tensor, weight: Tensor) -> Tensor:
    length = vectors.norm(dim=1, keepdim=True) * weight
    return length.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)


def _dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1))
