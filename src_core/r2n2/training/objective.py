"""What a step of the network is assessed by: the truth where it is known, likeness of the images, and smoothness of the field."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.network.least_squares import LeastSquares, Pooling
from r2n2.registration.fit.folding import folding_penalty
from r2n2.registration.recurrent_steps import Scale
from r2n2.similarity import diffusion, local_correlation_loss, mean_squared_error, total_variation
from r2n2.training.settings import ObjectiveConfig

__all__ = ["StepLoss", "Truth", "end_point_error", "placement_loss", "step_loss"]

_SMALLEST_JACOBIAN = 0.2  # determinant from which on folding is feared
_HOPELESS = 1e-7  # squared NORMALISED distance that no place can lower the error by
_FLOOR = 0.02
# NORMALISED: displacements below are assessed in absolute terms, or pairs that hardly move would outweigh all others.


class Truth(NamedTuple):
    """The exact displacement of a batch, and how much each place counts."""

    displacement: Tensor
    """(B, ndim, *shape) NORMALISED."""
    weight: Tensor
    """(B, 1, *shape) summing to 1 a pair; 0 for a pair without truth."""
    scale: Tensor
    """(B,) what an error is compared with: the mean length of the displacement plus a floor."""

    @classmethod
    def weigh(cls, displacement: Tensor, known: Tensor, scale: Scale, *, structure: float) -> Truth:
        """Places count where both images show them, and the more the more there is to see.

        Parameters
        ----------
        displacement
            (B, ndim, *shape) on the lattice of ``scale``.
        known
            (B,) bool, pairs whose displacement is known.
        structure
            Share of the weight that goes by the squared gradient of the fixed image; the rest is even.
        """
        _, valid = scale.sample(displacement)
        axes = tuple(range(2, displacement.ndim))
        image = scale.fixed[:, :1]
        slopes = torch.cat(torch.gradient(image, dim=axes), 1).square().sum(1, keepdim=True)
        pool = torch.nn.functional.avg_pool2d if len(axes) == 2 else torch.nn.functional.avg_pool3d
        telling = pool(slopes, 5, stride=1, padding=2).sqrt().expand_as(valid) * valid
        even = valid / valid.sum(axes, keepdim=True).clamp_min(1)
        telling = telling / telling.sum(axes, keepdim=True).clamp_min(1e-6)
        chosen = known.view(-1, *[1] * (valid.ndim - 1))
        weight = ((1 - structure) * even + structure * telling) * chosen
        length = (displacement.square().sum(1, keepdim=True).sqrt() * weight).flatten(1).sum(1)
        return cls(displacement, weight, length + _FLOOR)


def end_point_error(displacement: Tensor, truth: Truth) -> Tensor:
    """Weighted mean distance to the truth, (B,), NORMALISED; 0 for a pair without truth."""
    error = (displacement - truth.displacement).square().sum(1, keepdim=True)
    # Rounded where it is 0, so that it has a slope there.
    return ((error + 1e-8).sqrt() * truth.weight).flatten(1).sum(1)


class StepLoss(NamedTuple):
    """Loss of one step and what it is made of, each (B,)."""

    total: Tensor
    error: Tensor
    similarity: Tensor


def step_loss(
    config: ObjectiveConfig, displacement: Tensor, truth: Truth, scale: Scale, known: Tensor, *, last: bool, length: int = 1
) -> StepLoss:
    """Assess the displacement (B, ndim, *shape) on the lattice of ``scale`` that a step has reached.

    Parameters
    ----------
    last
        Whether it is the last of a sequence: the paper's regulariser is of the final field (equation 6).
    length
        Steps of the sequence, over which the losses are averaged: the regulariser counts so often, as it is added to the mean.
    """
    error = end_point_error(displacement, truth)
    total = config.supervised * error / truth.scale + config.distance * error
    wanted = torch.where(known, config.similarity_with_truth, config.similarity)
    similarity = torch.zeros_like(total)
    if bool((wanted > 0).any()):
        warped, valid = scale.sample(displacement)
        fixed = scale.fixed[:, :1].expand_as(valid)
        measure = mean_squared_error if config.measure == "mse" else local_correlation_loss
        similarity = measure(fixed, warped[:, :1], valid)
        total = total + wanted * similarity
    rough = torch.zeros_like(total)
    if config.total_variation and last:
        rough = rough + config.total_variation * length * total_variation(displacement, scale.grid)
    if config.diffusion:
        rough = rough + config.diffusion * diffusion(displacement, scale.grid)
    if config.folding:
        rough = rough + config.folding * folding_penalty(displacement, scale.grid, _SMALLEST_JACOBIAN)
    return StepLoss(total + torch.where(known, config.roughness_with_truth * rough, rough), error, similarity)


def placement_loss(scores: Tensor, least_squares: LeastSquares, pooling: Pooling, truth: Truth, displacement: Tensor) -> Tensor:
    """Minus what a place and width drawn by the scores' softmax would be worth, as a share of the best, (B,); 0 without truth.

    What a Gaussian w v is worth is by how much it lowers the weighted squared distance to the truth, with e the distance before:
    2 v . sum(m w e) - |v|^2 sum(m w^2). Both sums for all places at once are products with ``pooling``'s windows.

    Parameters
    ----------
    scores, least_squares, pooling
        Of one step.
    truth
        Exact displacement.
    displacement
        (B, 2, n, n) before the step.
    """
    with torch.no_grad():
        error = (truth.displacement - displacement) * truth.weight
        toward = pooling.windowed(error, 2)
        mass = pooling.windowed(truth.weight, 2, squared=True)
        amplitudes = least_squares.amplitudes
        worth = 2 * (amplitudes * toward[:, None]).sum(3) - amplitudes.square().sum(3) * mass[:, None, :, 0]
        largest = worth.flatten(1).amax(1)
        # Where nothing is to be gained there is nothing to learn; harm counts up to as much as the best would help.
        share = (worth.flatten(1) / largest.clamp_min(_HOPELESS)[:, None]).clamp_min(-1) * (largest > _HOPELESS)[:, None]
    return -(share * scores.flatten(1).softmax(1)).sum(1)
