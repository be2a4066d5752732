"""A batch of Gaussian sums in whitened coordinates u = A (x - c), in which position and shape have simple derivatives.

With w = exp(-|u|^2 / 2) a move of the centre by one standard deviation d changes w by (u . d) w, and a change of shape
A <- exp(T) A, T symmetric, by -(u' T u) w. So a Gaussian in 2D has the seven directions of change: two of its amplitude, two of
its centre, three of its shape (in 3D three, three and six), all without unit and of like size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.transform import GaussianSequence, orientation_of_axes, principal_axes
from r2n2.transform.matrices import symmetric, upper

__all__ = ["WhitenedGaussians"]

_LARGEST_MOVE = 0.5  # standard deviations a step: beyond, the linear model is of no use
_LARGEST_SHAPE_CHANGE = 0.3
_AT_ONCE = 2**16  # positions of a volume at which all Gaussians are held


@dataclass(frozen=True, eq=False)
class WhitenedGaussians:
    """K Gaussians of each of B pairs.

    Parameters
    ----------
    centres
        (B, K, ndim) NORMALISED.
    factors
        (B, K, ndim, ndim): A, with A'A the inverse covariance.
    amplitudes
        (B, K, ndim) NORMALISED.
    """

    centres: Tensor
    factors: Tensor
    amplitudes: Tensor

    @classmethod
    def none(cls, batch: int, like: Tensor, ndim: int) -> WhitenedGaussians:
        """No Gaussian yet."""
        empty = like.new_zeros(batch, 0, ndim)
        return cls(empty, like.new_zeros(batch, 0, ndim, ndim), empty)

    @classmethod
    def from_sequences(cls, sequences: tuple[GaussianSequence, ...], like: Tensor) -> WhitenedGaussians:
        """Stack sequences; shorter ones are filled up with Gaussians of no amplitude."""
        longest = max(len(sequence) for sequence in sequences)
        ndim = sequences[0].grid.ndim
        centres, amplitudes = like.new_zeros(2, len(sequences), longest, ndim)
        # What fills up needs some shape, as a later step may give it an amplitude.
        factors = 1 / 0.3 * torch.eye(ndim).to(like).expand(len(sequences), longest, ndim, ndim).clone()
        for row, sequence in enumerate(sequences):
            count = len(sequence)
            centres[row, :count] = sequence.centres.to(like)
            amplitudes[row, :count] = sequence.amplitudes.to(like)
            axes = principal_axes(sequence.orientation.to(like))
            factors[row, :count] = axes / sequence.sigmas.to(like).unsqueeze(-1)
        return cls(centres, factors, amplitudes)

    def __len__(self) -> int:
        return self.centres.shape[1]

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.centres.shape[2]

    @property
    def freedom(self) -> int:
        """Numbers a Gaussian: 7 in 2D, 12 in 3D."""
        return 2 * self.ndim + self.ndim * (self.ndim + 1) // 2

    def part(self, pairs: slice) -> WhitenedGaussians:
        """Those of some pairs."""
        return WhitenedGaussians(self.centres[pairs], self.factors[pairs], self.amplitudes[pairs])

    def chosen(self, kept: Tensor) -> WhitenedGaussians:
        """Those of the pairs for which ``kept`` (B,) is true."""
        return WhitenedGaussians(self.centres[kept], self.factors[kept], self.amplitudes[kept])

    def selected(self, gaussians: Tensor) -> WhitenedGaussians:
        """Some Gaussians of every pair, by their numbers."""
        return WhitenedGaussians(self.centres[:, gaussians], self.factors[:, gaussians], self.amplitudes[:, gaussians])

    def reaching(self, positions: Tensor, least: float) -> Tensor:
        """(K,) which have a weight of at least so much at any of the positions (ndim, P), in any pair."""
        return self._values(positions, _powers(positions)).amax(2).amax(0) >= least

    def joined(self, other: WhitenedGaussians) -> WhitenedGaussians:
        """These Gaussians followed by others."""
        return WhitenedGaussians(
            torch.cat((self.centres, other.centres), 1),
            torch.cat((self.factors, other.factors), 1),
            torch.cat((self.amplitudes, other.amplitudes), 1),
        )

    def where(self, condition: Tensor, other: WhitenedGaussians) -> WhitenedGaussians:
        """These for the pairs where ``condition`` (B,) holds, ``other`` elsewhere."""
        chosen = condition.view(-1, 1, 1)
        return WhitenedGaussians(
            torch.where(chosen, self.centres, other.centres),
            torch.where(chosen.unsqueeze(-1), self.factors, other.factors),
            torch.where(chosen, self.amplitudes, other.amplitudes),
        )

    def displacement(self, positions: Tensor) -> Tensor:
        """(B, ndim, P) at positions (ndim, P), NORMALISED."""
        parts = [self.amplitudes.mT @ self._values(some, _powers(some)) for some in positions.split(_AT_ONCE, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def pulled_back(self, positions: Tensor, force: Tensor) -> Tensor:
        """Sum over positions of a force times the derivative of the displacement there by every number of every Gaussian.

        It is the product of the transposed Jacobian, which is never formed, with the force: all follows from the sums of force
        times Gaussian times powers of the position up to the second.

        Parameters
        ----------
        positions
            (ndim, P) NORMALISED.
        force
            (B, ndim, P), for example image difference times image gradient.

        Returns
        -------
        Tensor
            (B, K, freedom), in the order of ``changed``.
        """
        ndim = self.ndim
        parts = zip(positions.split(_AT_ONCE, 1), force.split(_AT_ONCE, 2), strict=True)
        moments = functools.reduce(torch.add, (self._moments(some, pull) for some, pull in parts))
        amplitude = moments[..., 0]
        sums = (self.amplitudes.unsqueeze(2) @ moments).squeeze(2)
        whole, first, second = sums.split((1, ndim, moments.shape[3] - 1 - ndim), 2)
        # About the centre instead of the origin, then in whitened coordinates.
        crossed = self.centres.unsqueeze(3) * first.unsqueeze(2)
        square = symmetric(second, ndim) - crossed - crossed.mT
        square = square + whole.unsqueeze(3) * self.centres.unsqueeze(3) * self.centres.unsqueeze(2)
        move = (self.factors @ (first - whole * self.centres).unsqueeze(-1)).squeeze(-1)
        shape = self.factors @ square @ self.factors.mT
        turned = torch.stack([shape[..., i, j] * (-1 if i == j else -2) for i, j in upper(ndim)], -1)
        return torch.cat((amplitude, move, turned), 2)

    def _moments(self, positions: Tensor, force: Tensor) -> Tensor:
        """(B, K, ndim, 1 + powers): sums of force times Gaussian times 1 and the powers of the position."""
        powers = _powers(positions)
        values = self._values(positions, powers)
        # u is linear in x and u u' quadratic, so sums against 1, x and x x' are all that is ever needed: one product over the
        # pixels for all Gaussians, whatever the number of unknowns.
        return torch.stack([values @ torch.cat((along, along * powers), 1).mT for along in force.split(1, 1)], 2)

    def derivatives(self, positions: Tensor) -> Tensor:
        """Weight of every Gaussian, and its change with centre and shape.

        Parameters
        ----------
        positions
            (ndim, P) or (B, ndim, P) NORMALISED.

        Returns
        -------
        Tensor
            (B, K, 1 + ndim + ndim (ndim + 1) / 2, P): w; w u_i; -w u_i u_i for i = j and -2 w u_i u_j for i < j.
        """
        whitened, weights = self._weights(positions)
        places = upper(self.ndim)
        batch, count = self.centres.shape[:2]
        result = weights.new_empty(batch, count, 1 + self.ndim + len(places), positions.shape[-1])
        # Each next derivative is the one before times a coordinate: no exponential is taken twice.
        result[:, :, 0] = weights
        for i in range(self.ndim):
            torch.mul(weights, whitened[i], out=result[:, :, 1 + i])
        for k, (i, j) in enumerate(places, start=1 + self.ndim):
            torch.mul(result[:, :, 1 + i], whitened[j], out=result[:, :, k]).mul_(-1 if i == j else -2)
        return result

    def projected(self, positions: Tensor, slope: Tensor) -> Tensor:
        """Derivative of the displacement along ``slope`` by every number of every Gaussian, in the order of ``changed``.

        Parameters
        ----------
        positions
            (ndim, P) NORMALISED.
        slope
            (B, ndim, P), for example an image's gradient.

        Returns
        -------
        Tensor
            (B, K, freedom, P).
        """
        ndim = self.ndim
        whitened, weights = self._weights(positions)
        result = weights.new_empty(*weights.shape[:2], self.freedom, weights.shape[2])
        torch.mul(weights.unsqueeze(2), slope[:, None], out=result[:, :, :ndim])
        # Centre and shape move the displacement along the amplitude only, so the slope is projected on it first.
        along = weights.mul_(self.amplitudes @ slope)
        for i in range(ndim):
            torch.mul(along, whitened[i], out=result[:, :, ndim + i])
        for k, (i, j) in enumerate(upper(ndim), start=2 * ndim):
            torch.mul(result[:, :, ndim + i], whitened[j] if i == j else 2 * whitened[j], out=result[:, :, k]).neg_()
        return result

    def changed(self, change: Tensor, sigma_range: tuple[float, float], reach: float) -> WhitenedGaussians:
        """Apply a change (B, K, freedom): amplitudes, centres in standard deviations, shape; limited to what is sensible.

        Parameters
        ----------
        sigma_range
            Smallest and largest standard deviation, NORMALISED.
        reach
            Largest |coordinate| of a centre, NORMALISED.
        """
        ndim = self.ndim
        amplitude, move, shape = change.split((ndim, ndim, self.freedom - 2 * ndim), dim=-1)
        move = move.clamp(-_LARGEST_MOVE, _LARGEST_MOVE).unsqueeze(-1)
        centres = self.centres + torch.linalg.solve(self.factors, move).squeeze(-1)
        strain = symmetric(shape.clamp(-_LARGEST_SHAPE_CHANGE, _LARGEST_SHAPE_CHANGE), ndim)
        # exp keeps the shape positive whatever the step; added to A, a large step could turn a Gaussian inside out.
        turned = torch.linalg.matrix_exp(strain) @ self.factors
        # Only A'A matters: the left rotation of the decomposition is dropped.
        _, precision, axes = torch.linalg.svd(turned)
        factors = precision.clamp(1 / sigma_range[1], 1 / sigma_range[0]).unsqueeze(-1) * axes
        return WhitenedGaussians(centres.clamp(-reach, reach), factors, self.amplitudes + amplitude)

    def ordered_by_importance(self, positions: Tensor) -> WhitenedGaussians:
        """The same sums, the Gaussians in the order in which each next one brings the partial sum nearest the whole.

        Parameters
        ----------
        positions
            (ndim, P) NORMALISED, where partial sums and the whole are compared by their mean squared difference.
        """
        weights = self._weights(positions)[1]
        inner = (weights @ weights.mT) * (self.amplitudes @ self.amplitudes.mT)
        # |f - s - g|^2 = |f - s|^2 - 2 <f - s, g> + <g, g>, with f the whole, s the sum so far and g the next.
        own, missing = inner.diagonal(dim1=1, dim2=2), inner.sum(2)
        rows = torch.arange(len(own), device=own.device)
        placed = torch.zeros_like(own, dtype=torch.bool)
        order = []
        for _ in range(len(self)):
            best = (2 * missing - own).masked_fill(placed, -torch.inf).argmax(1)
            placed = placed.index_put((rows, best), torch.ones_like(best, dtype=torch.bool))
            missing = missing - inner[rows, :, best]
            order.append(best)
        if not order:
            return self
        ranks = torch.stack(order, 1)
        at = (rows[:, None], ranks)
        return WhitenedGaussians(self.centres[at], self.factors[at], self.amplitudes[at])

    def sequences(self, grid: Grid) -> tuple[GaussianSequence, ...]:
        """As one GaussianSequence a pair, on ``grid``; copies, that a person can edit and autograd can use."""
        _, precision, axes = torch.linalg.svd(self.factors)
        orientation = orientation_of_axes(axes)
        return tuple(
            GaussianSequence(self.centres[row].clone(), 1 / precision[row], orientation[row], self.amplitudes[row].clone(), grid)
            for row in range(len(self.centres))
        )

    def _values(self, positions: Tensor, powers: Tensor) -> Tensor:
        """Weight of every Gaussian, (B, K, P), at positions (ndim, P) that all pairs share.

        The exponent is one matrix product of its coefficients with the powers of the positions: several times faster than term
        by term, and exact to 1e-4 of an amplitude in float32.
        """
        precision = self.factors.mT @ self.factors
        linear = (precision @ self.centres.unsqueeze(-1)).squeeze(-1)
        square = torch.stack([precision[..., i, j] * (-0.5 if i == j else -1) for i, j in upper(self.ndim)], -1)
        constant = -0.5 * (linear * self.centres).sum(-1, keepdim=True)
        return (torch.cat((linear, square), -1) @ powers).add_(constant).clamp_max_(0).exp_()

    def _weights(self, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        positions = positions if positions.ndim == 3 else positions[None]
        offset = [positions[:, None, i] - self.centres[..., i, None] for i in range(self.ndim)]
        whitened: list[Tensor] = []
        squared: Tensor | None = None
        for i in range(self.ndim):
            axis = self.factors[..., i, 0, None] * offset[0]
            for j in range(1, self.ndim):
                axis = axis.addcmul_(self.factors[..., i, j, None], offset[j])
            whitened.append(axis)
            squared = axis.square() if squared is None else squared.addcmul_(axis, axis)
        assert squared is not None
        return whitened, squared.mul_(-0.5).exp_()


def _powers(positions: Tensor) -> Tensor:
    """(ndim + ndim (ndim + 1) / 2, P): the positions and their products in pairs."""
    return torch.cat((positions, torch.stack([positions[i] * positions[j] for i, j in upper(len(positions))])))
