"""The paper's recurrent registration neural network R2N2 (section 3.2), and nothing else: two images and a state to one Gaussian.

It starts as the identity: its last layer is zero, so the first amplitude is 0 and sigma is half the largest. With channels
(32, 64, 128, 256) it has 3,593,611 parameters. Where the paper is silent: every convolution has a bias (the C-GRU one a gate),
those of the position head are 1 x 1. In 3D, which the paper does not have, an orientation has three components in (-pi/2, pi/2)
instead of one angle in (0, pi).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from r2n2.config import NetworkConfig
from r2n2.network.blocks import GatedRegistrationUnit, ParameterHead
from r2n2.network.gaussian import GaussianParameters
from r2n2.network.joint import Placed
from r2n2.network.least_squares import LeastSquares
from r2n2.network.trunk import Encoded, RecurrentNetwork, State, Step, Unchanging

__all__ = ["R2N2"]


class R2N2(RecurrentNetwork):
    """The paper's network: position, shape and amplitude of the next Gaussian all come out of its heads.

    The weights that ``r2n2 register`` uses by default are of the other kind, ``MatchingPursuit``.

    Parameters
    ----------
    config
        Architecture; the defaults are the paper's.
    ndim
        2, or 3 for cubes.

    Raises
    ------
    ValueError
        If the settings ask for least squares, or as ``RecurrentNetwork``.
    """

    def __init__(self, config: NetworkConfig, ndim: int = 2) -> None:
        if config.least_squares_sizes:
            raise ValueError(
                f"R2N2: compares no images by least squares, got least_squares_sizes {config.least_squares_sizes}; "
                f"use MatchingPursuit"
            )
        super().__init__(config, ndim, GatedRegistrationUnit)
        self._widths = (ndim, ndim, 1 if ndim == 2 else 3)
        self.parameter_head = ParameterHead(config.channels[-1], sum(self._widths), ndim)

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
        """As ``RecurrentNetwork.step``; takes no ``least_squares`` or ``placed`` and gives no scores."""
        self._check_images(fixed, warped, state)
        if least_squares is not None or placed is not None:
            raise ValueError(
                "R2N2.step: takes no least_squares or placed, as it sees the images alone; use MatchingPursuit for that"
            )
        unchanging = unchanging or self.unchanging(fixed)
        encoded = self._encode(self._entered(warped, unchanging), state, unchanging.lattice, generator)
        values = self.parameter_head(encoded.features).to(fixed.dtype)
        return Step(self._in_range(values, self._position(encoded)), encoded.state, None)

    def _position(self, encoded: Encoded) -> Tensor:
        """Mean of the levels' positions, weighted by their certainty (equation 16), (B, ndim)."""
        positions, certainties = [], []
        for unit, level, lattice in zip(self.levels, encoded.levels, encoded.lattices, strict=True):
            assert isinstance(unit, GatedRegistrationUnit)
            position, certainty = unit.position(level.here, lattice)
            positions.append(position)
            certainties.append(certainty)
        weight = torch.cat(certainties, dim=1)
        return (torch.stack(positions, dim=1) * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True)

    def _in_range(self, values: Tensor, centres: Tensor) -> GaussianParameters:
        """The output ranges of equation (18), narrowed where the settings say so."""
        sigmas, amplitudes, orientation = values.split(self._widths, dim=1)
        angles = torch.sigmoid(orientation) * torch.pi
        return GaussianParameters(
            centres=centres,
            sigmas=self.config.sigma_min + torch.sigmoid(sigmas) * (self.config.sigma_max - self.config.sigma_min),
            orientation=angles if self.ndim == 2 else angles - torch.pi / 2,
            amplitudes=torch.tanh(amplitudes) * self.config.amplitude_scale,
        )
