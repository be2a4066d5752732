"""A learnt matching pursuit: the recurrent trunk chooses place and shape of each Gaussian, least squares give its amplitude.

Matching pursuit adds, one at a time, the element that explains most of what is left. Here "most" is learnt: at every step the least
squares say what the best Gaussian of some widths would gain at every place, the network corrects these gains by what it has seen of
motion before, places a Gaussian where its scores are highest and shapes it; the amplitude follows from the images.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from r2n2.config import NetworkConfig
from r2n2.network.blocks import CONVOLUTIONS, ParameterHead, RecurrentUnit
from r2n2.network.gaussian import GaussianParameters
from r2n2.network.joint import Placed, limit_each, solve_jointly
from r2n2.network.least_squares import LeastSquares, limit_steepness, solve_amplitude
from r2n2.network.placement import Place, Placement, features_at
from r2n2.network.trunk import RecurrentNetwork, State, Step, Unchanging

__all__ = ["MatchingPursuit"]

_CORRECTION = 0.5  # largest correction of a solved amplitude, in widths of its Gaussian
_WIDER = 0.7  # logarithm of the largest factor between a placed width and a standard deviation
_PREFERENCE = 2.0  # how much the scale on which a place was found counts more than the others at first


class MatchingPursuit(RecurrentNetwork):
    """A learnt matching pursuit on the trunk of R2N2; the weights ``general``, the default of ``r2n2 register``, are of this kind.

    They are because it registers images of a kind it was never trained on, and learns in minutes what R2N2 learns in hours:
    comparing two images need not be learnt where it can be computed. The sequence is the paper's, of the same seven numbers a step.

    Parameters
    ----------
    config
        Architecture; ``least_squares_sizes`` names at least one size.
    ndim
        2, or 3 for volumes.

    Raises
    ------
    ValueError
        If the settings name no size, or as ``RecurrentNetwork``.
    """

    def __init__(self, config: NetworkConfig, ndim: int = 2) -> None:
        scales = len(config.least_squares_sizes)
        if not scales:
            raise ValueError("MatchingPursuit: least_squares_sizes names no size to compare images on; name one or use R2N2")
        super().__init__(config, ndim, RecurrentUnit)
        channels = config.channels
        self.least_squares_entry = CONVOLUTIONS[ndim](LeastSquares.channel_count(scales, ndim), channels[0], 3, padding=1)
        self.placement = Placement(channels[:-1], scales, ndim)
        # Of the output: shape, correction of the amplitude, angle, share of every scale, caution.
        self._widths = (ndim, ndim, 1 if ndim == 2 else 3, scales, 1)
        located = sum(channels[:-1]) + self.placement.described
        self.parameter_head = ParameterHead(channels[-1], sum(self._widths), ndim, located)

    def step(
        self,
        fixed: Tensor,
        warped: Tensor,
        state: State,
        *,
        least_squares: LeastSquares | None = None,
        placed: Placed | None = None,
        generator: Generator | None = None,
        unchanging: Unchanging | None = None,
    ) -> Step:
        """As ``RecurrentNetwork.step``; needs ``least_squares``; gives scores of all places and, if orthogonal, all amplitudes."""
        self._check_images(fixed, warped, state)
        if least_squares is None:
            raise ValueError(
                f"MatchingPursuit.step: needs least_squares of the sizes {self.config.least_squares_sizes}; "
                f"see r2n2.registration.recurrent_steps"
            )
        if self.config.orthogonal is (placed is None):
            wanted = (
                "needs the Gaussians before in placed" if placed is None else "takes no placed, as it solves no amplitude again"
            )
            raise ValueError(f"MatchingPursuit.step: a network that is {'' if placed is None else 'not '}orthogonal {wanted}")
        unchanging = unchanging or self.unchanging(fixed)
        features = self._entered(warped, unchanging) + self.least_squares_entry(least_squares.channels)
        encoded = self._encode(features, state, unchanging.lattice, generator)
        here = [level.here for level in encoded.levels]
        place = self.placement(here, least_squares, encoded.lattices[0])
        located = [features_at(maps, place.centres, fixed.shape[-1]) for maps in here]
        values = self.parameter_head(encoded.features, torch.cat((*located, place.description), dim=1)).to(fixed.dtype)
        with torch.autocast(fixed.device.type, enabled=False):
            parameters, placed = self._shaped(values, place, least_squares, placed, unchanging.lattice)
        return Step(parameters, encoded.state, place.scores, placed)

    def _shaped(
        self, values: Tensor, place: Place, least_squares: LeastSquares, placed: Placed | None, lattice: Tensor
    ) -> tuple[GaussianParameters, Placed | None]:
        """The Gaussian at a place from the numbers of the parameter head: shape learnt, amplitude solved and then corrected.

        With it all Gaussians, where the amplitudes of the ones before are solved again.
        """
        sigmas, correction, orientation, mixture, caution = values.split(self._widths, dim=1)
        sigmas = place.widths * torch.exp(_WIDER * torch.tanh(sigmas))
        angles = torch.sigmoid(orientation) * torch.pi
        if self.ndim == 3:
            angles = angles - torch.pi / 2  # a rotation vector; nothing learnt yet is nearly no rotation
        weights = (mixture + _PREFERENCE * place.scales).softmax(dim=1)
        cautious = torch.exp(caution.clamp(-8, 8))
        correction = _CORRECTION * place.widths * torch.tanh(correction)
        if placed is None:
            solved = solve_amplitude(least_squares.moments, lattice, place.centres, sigmas, angles, weights, cautious)
            amplitudes = limit_steepness(solved + correction, sigmas, angles)
            return GaussianParameters(place.centres, sigmas, angles, amplitudes), None
        new = GaussianParameters(place.centres, sigmas, angles, torch.zeros_like(correction))
        every = placed.followed_by(Placed.on(lattice, GaussianParameters(*(value[:, None] for value in new))))
        mixed = (least_squares.moments * weights[:, :, *(None,) * (self.ndim + 1)]).sum(1)
        solved = solve_jointly(every, mixed, cautious)
        solved = torch.cat((solved[:, :-1], solved[:, -1:] + correction[:, None]), 1)
        limited = limit_each(solved, every.parameters)
        return new._replace(amplitudes=limited[:, -1]), every.with_amplitudes(limited)
