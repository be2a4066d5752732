"""Guiding pairs as terms of the least squares: weight |u(x_f) - (x_m - x_f)|^2 of each, its slope and its curvature.

The objective is -2 log of the images' likelihood times s, s the variance of the residuals over the number of independent pixels. A
pair that is right to within S adds |misfit|^2 / S^2 to the former, so its weight in the objective is s / S^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.guides import GuidingPairs
from r2n2.registration.fit.whitened import WhitenedGaussians

__all__ = ["GuideTerms", "Linearised"]

_MOST_AT_ONCE = 100.0
_LEAST_SHARE = 1e-4  # of the largest: two pairs at one place must not ask for endless amplitudes


@dataclass(frozen=True, eq=False)
class Linearised:
    """Misfits of guiding pairs at a model, and how they change with it.

    Parameters
    ----------
    misfit
        (B, ndim, M)
    jacobian
        (B, N, ndim, M) derivative by every number of every Gaussian, N = K q.
    weight
        (B, M)
    """

    misfit: Tensor
    jacobian: Tensor
    weight: Tensor

    def equations(self) -> tuple[Tensor, Tensor]:
        """Matrix (B, N, N) and right side (B, N) of the penalty, halved as in ``normal_equations``."""
        root = self.weight.sqrt().unsqueeze(1)
        rows, weighted = (self.jacobian * root.unsqueeze(1)).flatten(2), (self.misfit * root).flatten(1)
        return rows @ rows.mT, (rows @ weighted.unsqueeze(-1)).squeeze(-1)

    def expected(self, change: Tensor) -> Tensor:
        """Misfit (B, ndim, M) after a change (B, N) if it were small."""
        return self.misfit + (change.unsqueeze(1) @ self.jacobian.flatten(2)).squeeze(1).unflatten(1, self.misfit.shape[1:])


@dataclass(frozen=True, eq=False)
class GuideTerms:
    """Guiding pairs of a batch, M of each; pairs of images that have fewer are filled up with some of no weight.

    Parameters
    ----------
    points
        (B, ndim, M) NORMALISED in the fixed images.
    wanted
        (B, ndim, M) displacement there.
    weight
        (B, M) of a squared misfit in the objective.
    strength
        (B, M) standard deviation, NORMALISED.
    """

    points: Tensor
    wanted: Tensor
    weight: Tensor
    strength: Tensor

    @classmethod
    def of(cls, guides: Sequence[GuidingPairs | None], noise: Tensor) -> GuideTerms:
        """Weighted against the images.

        Parameters
        ----------
        guides
            One item a pair of images, at least one of them not None.
        noise
            (B,) variance of the residuals over the number of independent pixels.
        """
        given = [one for one in guides if one is not None]
        ndim, most = given[0].fixed.shape[1], max(map(len, given))
        points, wanted = noise.new_zeros(2, len(guides), ndim, most)
        weight, strength = noise.new_zeros(len(guides), most), noise.new_ones(len(guides), most)
        for row, one in enumerate(guides):
            if one is not None:
                points[row, :, : len(one)] = one.fixed.mT.to(noise)
                wanted[row, :, : len(one)] = (one.moving - one.fixed).mT.to(noise)
                strength[row, : len(one)] = one.strength
                weight[row, : len(one)] = noise[row] / one.strength**2
        return cls(points, wanted, weight, strength)

    def misfit(self, model: WhitenedGaussians, linear: Tensor | None = None) -> Tensor:
        """Displacement minus what is wanted, (B, ndim, M); ``linear`` (B, ndim, ndim + 1) is added to the model."""
        return self._misfit(model, model.derivatives(self.points), linear)

    def penalty(self, model: WhitenedGaussians, linear: Tensor | None = None) -> Tensor:
        """Part of the objective, (B,)."""
        return (self.weight * self.misfit(model, linear).square().sum(1)).sum(1)

    def linearised(self, model: WhitenedGaussians, linear: Tensor | None = None) -> Linearised:
        """What a step needs at a model."""
        parts = model.derivatives(self.points)
        batch, count, _, most = parts.shape
        rows = []
        for axis in range(model.ndim):
            row = parts.new_zeros(batch, count, model.freedom, most)
            row[:, :, axis] = parts[:, :, 0]
            row[:, :, model.ndim :] = parts[:, :, 1:] * model.amplitudes[:, :, axis, None, None]
            rows.append(row.flatten(1, 2))
        return Linearised(self._misfit(model, parts, linear), torch.stack(rows, 2), self.weight)

    def returned(
        self, tried: WhitenedGaussians, change: Tensor, before: Linearised, held: Tensor | None, linear: Tensor | None
    ) -> WhitenedGaussians:
        """A model after a step, amplitudes changed as little as puts the pairs where the linear model of the step has them.

        Pairs are stiff: what a step of centres and shapes does to them beyond first order would cost more than the step gains, and
        only tiny ones would be taken. Amplitudes, in which a displacement is linear, take that up.

        Parameters
        ----------
        change
            (B, N) that was applied.
        before
            Where the step began.
        held
            (B, K) bool, Gaussians that stay as they are; None for none.
        """
        parts = tried.derivatives(self.points)
        beyond = self._misfit(tried, parts, linear) - before.expected(change)
        weights = parts[:, :, 0] * (self.weight > 0).unsqueeze(1)
        if held is not None:
            weights = weights * ~held.unsqueeze(2)
        gram = weights.mT @ weights
        added = _LEAST_SHARE * gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True) + torch.finfo(gram.dtype).tiny
        taken = weights @ torch.linalg.solve(gram + torch.diag_embed(added.expand(-1, gram.shape[1])), beyond.mT)
        return replace(tried, amplitudes=tried.amplitudes - taken)

    def exceeded(self, model: WhitenedGaussians, linear: Tensor | None = None) -> Tensor:
        """Misfit in standard deviations, (B, M); 0 of what only fills up."""
        return self.misfit(model, linear).norm(dim=1) / self.strength * (self.weight > 0)

    def insisting(self, model: WhitenedGaussians, linear: Tensor | None = None) -> GuideTerms:
        """The same, pairs that lie beyond their standard deviation weighted more: by the square of how far beyond.

        Where structures are mistaken for others the images are sure of what is wrong, and noise does not tell how sure they may be.
        A pair is to be met to within what it says, as a discrepancy principle (Morozov 1966) asks of a measurement.
        """
        return replace(self, weight=self.weight * self.exceeded(model, linear).square().clamp(1, _MOST_AT_ONCE))

    def _misfit(self, model: WhitenedGaussians, parts: Tensor, linear: Tensor | None) -> Tensor:
        misfit = model.amplitudes.mT @ parts[:, :, 0] - self.wanted
        return misfit if linear is None else misfit + linear[:, :, :-1] @ self.points + linear[:, :, -1:]
