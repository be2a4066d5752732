"""What two images say about the next Gaussian: the least-squares problem of its amplitude, at every place and on several scales.

For a Gaussian w(x) = exp(-1/2 (x-c)' S^-1 (x-c)) with amplitude v, the squared difference of the images after the next step is, to
first order, smallest where Q v = -N, with N = sum w r g and Q = sum w^2 g g'; r is warped minus fixed image, g the mean gradient of
the two. Both sums need r g and g g' alone, the *moments*, which are gathered once a step on the working lattice, whatever the size
of the images they come from. The network then gives place and shape, and the amplitude follows from the images.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from r2n2.transform.gaussians import gaussian_on_lattice, precision_matrix

__all__ = ["WIDTHS", "Evidence", "Pooling", "gather", "look", "solve_amplitude", "width_tensor", "without_folding"]

WIDTHS = (0.3, 0.17, 0.1, 0.06)
"""Standard deviations, NORMALISED, of the round Gaussians that are tried at every place."""

ROUGHNESS = 0.005
"""Weight of the mean squared gradient of one Gaussian: what keeps an amplitude small where nothing is to be seen."""

Band: TypeAlias = tuple[slice, slice]
"""Some points of the working lattice, and the pixels from which they take."""

_BAND_POINTS = 16
_OUTLIER = 3.0
# Of a step's steepness |S^-1/2 v|: one Gaussian alone folds from exp(1/2) = 1.65 on.
_STEEPEST = 1.4


class Evidence(NamedTuple):
    """What fixed and warped images say, on L scales and for K widths."""

    moments: Tensor
    """(B, L, 5, n, n): force y, x and stiffness yy, yx, xx; their sum over the lattice is the mean over the image."""
    gains: Tensor
    """(B, L, K, n / 2, n / 2): by how much the best Gaussian of a width at a place would lower the squared difference."""
    amplitudes: Tensor
    """(B, L, K, 2, n / 2, n / 2): that Gaussian's amplitude."""
    channels: Tensor
    """(B, L (K + 2) + 1, n / 2, n / 2): what the network sees of it."""

    @staticmethod
    def channel_count(scales: int) -> int:
        """How many channels evidence of so many scales has."""
        return scales * (len(WIDTHS) + 2) + 1


class Pooling(NamedTuple):
    """Constant matrices that gather one scale's pixels on the working lattice and look at it."""

    matrices: tuple[Tensor, ...]
    """(n, m) a scale: the share of every pixel that each point of the lattice is given; columns sum to 1."""
    windows: tuple[Tensor, ...]
    """(n / 2, n) a width of ``WIDTHS``: a Gaussian about every second point of the lattice."""
    bands: tuple[tuple[Band, ...], ...]
    """A scale: the parts of its matrix that are not 0."""

    @classmethod
    def build(cls, sizes: tuple[int, ...], working_size: int, like: Tensor) -> Pooling:
        """For images of ``sizes`` pixels a side and a lattice of ``working_size``."""
        axis = torch.linspace(-1, 1, working_size, dtype=like.dtype, device=like.device)
        distance = axis[::2, None] - axis[None]
        windows = tuple(torch.exp(-0.5 * (distance / sigma).square()) for sigma in WIDTHS)
        matrices = tuple(_sharing(size, working_size, like) for size in sizes)
        return cls(matrices, windows, tuple(_bands(matrix) for matrix in matrices))

    def pooled(self, maps: Tensor, scale: int) -> Tensor:
        """Maps (B, C, m, m) of one scale gathered on the working lattice, (B, C, n, n)."""
        matrix = self.matrices[scale]
        if matrix.shape[0] == matrix.shape[1]:
            return maps  # every pixel is a point of the lattice
        each = maps.flatten(0, 1)
        parts = [(matrix[points, pixels].expand(len(each), -1, -1), pixels) for points, pixels in self.bands[scale]]
        rows = torch.cat([torch.bmm(part, each[:, pixels]) for part, pixels in parts], 1)
        columns = torch.cat([torch.bmm(rows[:, :, pixels], part.mT) for part, pixels in parts], 2)
        return columns.unflatten(0, maps.shape[:2])

    def windowed(self, maps: Tensor, *, squared: bool = False) -> Tensor:
        """Sums (..., K, C, n / 2, n / 2) of maps (..., C, n, n) under Gaussians of every width about every second point."""
        windows = torch.stack([window.square() if squared else window for window in self.windows])
        count, places, points = windows.shape
        each = maps.reshape(-1, points, points)
        total = len(each)
        rows = torch.bmm(windows.flatten(0, 1).expand(total, -1, -1), each).unflatten(1, (count, places))
        # Filled a width at a time: one product over all widths would first copy every window for every map.
        sums = maps.new_empty(count, total, places, places)
        for width in range(count):
            torch.bmm(rows[:, width], windows[width].mT.expand(total, -1, -1), out=sums[width])
        return sums.view(count, *maps.shape[:-2], places, places).movedim(0, -4)


def _bands(matrix: Tensor) -> tuple[Band, ...]:
    """Where a ``_sharing`` matrix is not 0: points take from near pixels alone, so most of a dense product would add zeros."""
    bands = []
    for first in range(0, len(matrix), _BAND_POINTS):
        points = slice(first, min(first + _BAND_POINTS, len(matrix)))
        taken = matrix[points].any(0).nonzero()[:, 0].tolist()
        bands.append((points, slice(taken[0], taken[-1] + 1)))
    return tuple(bands)


def _sharing(size: int, lattice: int, like: Tensor) -> Tensor:
    """(lattice, size): pixels at linspace(-1, 1, size) shared linearly between the nearest points of the lattice."""
    pixels = torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
    points = torch.linspace(-1, 1, lattice, dtype=like.dtype, device=like.device)
    reach = 2 / (min(size, lattice) - 1)
    weight = (1 - (points[:, None] - pixels[None]).abs() / reach).clamp_min(0)
    return weight / weight.sum(0, keepdim=True)


def gather(fixed: Tensor, warped: Tensor, counted: Tensor, pooling: Pooling, scale: int) -> Tensor:
    """Moments of one scale on the working lattice, (B, 5, n, n); without gradient.

    Parameters
    ----------
    fixed, warped
        (B, 3, m, m): intensity and its gradient (y, x) per NORMALISED unit.
    counted
        (B, 1, m, m) bool, the pixels that count.
    pooling, scale
        Constants, and on which of their scales the images are.
    """
    residual = warped[:, :1] - fixed[:, :1]
    slope = (warped[:, 1:] + fixed[:, 1:]).mul_(0.5)
    share = counted.to(residual.dtype)
    # A large difference is rather another tissue than a shift: it counts less and less.
    weight = torch.addcmul(residual.new_ones(()), residual, residual, value=1 / _OUTLIER**2).square_().reciprocal_()
    weight.mul_(share).div_(share.sum((2, 3), keepdim=True).clamp_min(1))
    weighted = slope * weight
    products = residual.new_empty(len(residual), 5, *residual.shape[2:])
    torch.mul(weighted, residual, out=products[:, :2])
    torch.mul(weighted[:, :1], slope, out=products[:, 2:4])
    torch.mul(weighted[:, 1:], slope[:, 1:], out=products[:, 4:])
    return pooling.pooled(products, scale)


def width_tensor(like: Tensor) -> Tensor:
    """``WIDTHS`` (K,) in the dtype and on the device of ``like``, without a transfer, which a CUDA graph could not record."""
    return torch.stack([like.new_full((), width) for width in WIDTHS])


def look(moments: Tensor, pooling: Pooling) -> Evidence:
    """Evidence of moments (B, L, 5, n, n); without gradient.

    The channels are, for every scale, the square root of the gain of each width at each place as a share of the largest, and the
    amplitude of the narrowest; last, the logarithm of the largest gain.
    """
    force = pooling.windowed(moments[:, :, :2])
    squared = pooling.windowed(moments[:, :, 2:], squared=True)
    amplitudes = _solve(force, squared, ROUGHNESS * math.pi / 4)
    gains = -0.5 * (amplitudes * force).sum(-3)
    widths = width_tensor(moments)[:, None, None, None]
    steepness = amplitudes.square().sum(-3, keepdim=True) / widths.square()
    amplitudes = amplitudes * torch.rsqrt(1 + steepness / _STEEPEST**2)
    largest = gains.amax((1, 2, 3, 4), keepdim=True).clamp_min(1e-9)
    local = torch.tanh(amplitudes[:, :, -1] / WIDTHS[-1])
    shown = torch.cat(((gains / largest).clamp_min(0).sqrt(), local), 2).flatten(1, 2)
    overall = (torch.log10(largest) / 4 + 0.5).flatten(1, 2).expand(-1, -1, *shown.shape[2:])
    return Evidence(moments, gains, amplitudes, torch.cat((shown, overall), 1))


def _solve(force: Tensor, squared: Tensor, floor: Tensor | float) -> Tensor:
    """-(Q + floor)^-1 N with N (..., 2, a, b) and Q (..., 3, a, b), in closed form."""
    a, b, d = (part.squeeze(-3) for part in squared.split(1, -3))
    y, x = (part.squeeze(-3) for part in force.split(1, -3))
    a, d = a + floor, d + floor
    determinant = (a * d - b * b).clamp_min(1e-20)
    return torch.stack(((b * x - d * y) / determinant, (b * y - a * x) / determinant), dim=-3)


def solve_amplitude(
    moments: Tensor, lattice: Tensor, centres: Tensor, sigmas: Tensor, orientation: Tensor, mixture: Tensor, caution: Tensor
) -> Tensor:
    """Amplitude (B, 2) of one Gaussian a pair that best explains the difference of the images, differentiable in place and shape.

    Parameters
    ----------
    moments, lattice
        (B, L, 5, n, n) and (2, n, n).
    centres, sigmas, orientation
        (B, 2), (B, 2) and (B, 1) as in ``GaussianParameters``.
    mixture
        (B, L) weight of every scale, summing to 1.
    caution
        (B, 1) factor of the roughness, positive.
    """
    weight = gaussian_on_lattice(lattice, centres, precision_matrix(sigmas, orientation)).flatten(1)
    sums = moments.flatten(3).flatten(1, 2) @ torch.stack((weight, weight.square()), 2)
    mixed = (sums.unflatten(1, moments.shape[1:3]) * mixture[:, :, None, None]).sum(1)
    force, squared = mixed[:, :2, 0], mixed[:, 2:, 1]
    # Mean over the square of |grad w|^2: pi (s1^2 + s2^2) / (2 s1 s2) of the area 4.
    rough = ROUGHNESS * math.pi / 8 * (sigmas.square().sum(1) / sigmas.prod(1))[:, None]
    return _solve(force[:, :, None, None], squared[:, :, None, None], (rough * caution)[:, :, None])[:, :, 0, 0]


def without_folding(amplitudes: Tensor, sigmas: Tensor, orientation: Tensor) -> Tensor:
    """Amplitudes (B, 2) shortened so that no Gaussian alone folds: its steepness |S^-1/2 v| stays below 1.4 < exp(1/2)."""
    precision = precision_matrix(sigmas, orientation)
    squared = torch.einsum("bi,bij,bj->b", amplitudes, precision, amplitudes)
    return amplitudes * torch.rsqrt(1 + squared / _STEEPEST**2)[:, None]
