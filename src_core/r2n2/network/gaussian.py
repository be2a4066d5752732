"""One local Gaussian deformation a pair, as a network gives it, and the lattice on which it is evaluated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from r2n2.transform.gaussians import gaussian_on_lattice, precision_matrix

__all__ = ["GaussianParameters", "coordinate_lattice"]


class GaussianParameters(NamedTuple):
    """One local Gaussian deformation a pair, NORMALISED, array order; the inputs of ``r2n2.transform``'s functions."""

    centres: Tensor
    """(B, ndim) in [-1, 1]."""
    sigmas: Tensor
    """(B, ndim) standard deviations along principal axes 1, 2(, 3), in (sigma_min, sigma_max)."""
    orientation: Tensor
    """(B, 1) angle in [0, pi]; in 3D a rotation vector (B, 3)."""
    amplitudes: Tensor
    """(B, ndim) in [-1, 1], times the scale of the settings."""

    def displacement(self, lattice: Tensor) -> Tensor:
        """The Gaussian on a lattice (ndim, *shape) of positions, (B, ndim, *shape)."""
        # Positions stay in full precision where convolutions do not.
        with torch.autocast(lattice.device.type, enabled=False):
            return self.added_to(lattice.new_zeros((1, *lattice.shape)), lattice)

    def added_to(self, displacement: Tensor, lattice: Tensor) -> Tensor:
        """A displacement (B, ndim, *shape) on a lattice (ndim, *shape), and the Gaussian."""
        with torch.autocast(lattice.device.type, enabled=False):
            height = gaussian_on_lattice(lattice, self.centres, precision_matrix(self.sigmas, self.orientation))
            amplitudes = self.amplitudes.view(*self.amplitudes.shape, *[1] * len(lattice))
            return torch.addcmul(displacement, amplitudes, height.unsqueeze(1))


def coordinate_lattice(size: int, ndim: int, like: Tensor) -> Tensor:
    """Position of every pixel centre of the square, (ndim, *shape), -1 to 1, in the dtype and on the device of ``like``."""
    axis = torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(*(axis,) * ndim, indexing="ij"))
