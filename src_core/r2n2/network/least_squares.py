"""The least-squares problem of one more Gaussian: what its amplitude should be, and what it would gain, at every place and width.

For a Gaussian w(x) = exp(-1/2 (x-c)' S^-1 (x-c)) with amplitude v, the weighted squared difference of two images after the next
step is, to first order, sum m (r + w v'g)^2 with r the warped minus the fixed image, g the mean gradient of the two and m the
weight of a pixel. With the mean squared gradient of the Gaussian, times a roughness, added to it, it is smallest where
(Q + rough) v = -N, with N = sum m w r g and Q = sum m w^2 g g', and half of it has then fallen by N'(Q + rough)^-1 N / 2. Both sums
need m r g and m g g' alone, the *moments*; those of all places at once are moments blurred by w and w^2.

The matching-pursuit network gathers the moments on its working lattice, whatever the size of the images they come from; ``fit``
proposes its Gaussians by the same equations on every pixel. All of it in 2D and 3D, NORMALISED, array order.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from r2n2.transform.gaussians import gaussian_on_lattice, precision_matrix, squared_steepness
from r2n2.transform.matrices import solve_symmetric, upper

__all__ = [
    "ROUGHNESS",
    "WIDTHS",
    "LeastSquares",
    "Pooling",
    "Solution",
    "gather_moments",
    "limit_steepness",
    "moments",
    "roughness",
    "solve",
    "solve_amplitude",
    "solve_everywhere",
    "width_tensor",
]

WIDTHS = (0.3, 0.17, 0.1, 0.06)
"""Standard deviations, NORMALISED, of the round Gaussians that the network tries at every place."""

ROUGHNESS = 0.005
"""Weight of the mean squared gradient of one Gaussian: what keeps an amplitude small where nothing is to be seen."""

Band: TypeAlias = tuple[slice, slice]
"""Some points of the working lattice, and the pixels from which they take."""

_BAND_POINTS = 16
_OUTLIER = 3.0
# Of a step's steepness |S^-1/2 v|: one Gaussian alone folds from exp(1/2) = 1.65 on, and others are added to it.
_STEEPEST = 1.4


class Solution(NamedTuple):
    """The best amplitude at every place, and what it gains."""

    amplitudes: Tensor
    """As the force that was given: components along the same axis."""
    gains: Tensor
    """The same without that axis: by how much half the objective falls, to first order."""


def moments(residual: Tensor, slope: Tensor, weight: Tensor) -> Tensor:
    """The products of every pixel from which all follows.

    Parameters
    ----------
    residual, weight
        (B, 1, *shape): warped minus fixed image, and how much a pixel counts.
    slope
        (B, ndim, *shape): mean gradient of the two images.

    Returns
    -------
    Tensor
        (B, ndim + ndim (ndim + 1) / 2, *shape): the force m r g, then the stiffness m g g' in the order of ``upper``.
    """
    ndim = slope.shape[1]
    weighted = slope * weight
    products = residual.new_empty(len(slope), ndim + ndim * (ndim + 1) // 2, *slope.shape[2:])
    torch.mul(weighted, residual, out=products[:, :ndim])
    first = ndim
    for axis in range(ndim):
        # Row ``axis`` of the upper triangle at once.
        torch.mul(weighted[:, axis : axis + 1], slope[:, axis:], out=products[:, first : first + ndim - axis])
        first += ndim - axis
    return products


def roughness(sigmas: Tensor) -> Tensor:
    """Mean over the square (cube) of |grad w|^2, of Gaussians with standard deviations (..., ndim), NORMALISED.

    Its integral is pi^(ndim/2) / 2 times the product of the standard deviations and the sum of their inverse squares.
    """
    ndim = sigmas.shape[-1]
    return math.pi ** (ndim / 2) / 2 ** (ndim + 1) * sigmas.prod(-1) * sigmas.square().reciprocal().sum(-1)


def solve(force: Tensor, stiffness: Tensor, rough: Tensor | float, *, dim: int) -> Solution:
    """The best amplitudes -(Q + rough)^-1 N, in closed form.

    Parameters
    ----------
    force, stiffness
        N and Q, their components along axis ``dim``, ndim and ndim (ndim + 1) / 2 of them.
    rough
        Weight times ``roughness``, that broadcasts against a component.
    """
    sides = force.unbind(dim)
    # Added to the diagonal alone: the roughness of w v is |v|^2 times that of w, whatever the direction.
    entries = [part + rough if i == j else part for (i, j), part in zip(upper(len(sides)), stiffness.unbind(dim), strict=True)]
    solved = solve_symmetric(entries, sides)
    gain = solved[0] * sides[0]
    for component, side in zip(solved[1:], sides[1:], strict=True):
        gain = gain + component * side
    return Solution(-torch.stack(solved, dim), 0.5 * gain)


def limit_steepness(amplitudes: Tensor, sigmas: Tensor, orientation: Tensor) -> Tensor:
    """Amplitudes (B, ndim) shortened so that no Gaussian alone folds: its steepness |S^-1/2 v| stays below 1.4 < exp(1/2)."""
    return _shortened(amplitudes, squared_steepness(amplitudes, precision_matrix(sigmas, orientation))[:, None])


def _shortened(amplitudes: Tensor, squared: Tensor) -> Tensor:
    """Amplitudes of a squared steepness, which broadcasts against them, brought below the limit: short ones hardly change."""
    return amplitudes * torch.rsqrt(1 + squared / _STEEPEST**2)


class LeastSquares(NamedTuple):
    """What fixed and warped images say about the next Gaussian, on L scales and for K widths."""

    moments: Tensor
    """(B, L, ndim + ndim (ndim + 1) / 2, *shape) of ``moments``; their sum over the lattice is the mean over the image."""
    gains: Tensor
    """(B, L, K, *half the shape): by how much the best Gaussian of a width at a place would lower the squared difference."""
    amplitudes: Tensor
    """(B, L, K, ndim, *half the shape): that Gaussian's amplitude."""
    channels: Tensor
    """(B, L (K + ndim) + 1, *half the shape): what the network sees of it."""

    @staticmethod
    def channel_count(scales: int, ndim: int = 2) -> int:
        """How many channels it has of so many scales."""
        return scales * (len(WIDTHS) + ndim) + 1


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
        """Maps (B, C, *m) of one scale gathered on the working lattice, (B, C, *n)."""
        matrix = self.matrices[scale]
        if matrix.shape[0] == matrix.shape[1]:
            return maps  # every pixel is a point of the lattice
        each = maps.flatten(0, 1)
        for axis in range(1, each.ndim):
            parts = [
                _product(matrix[points, pixels], each.narrow(axis, pixels.start, pixels.stop - pixels.start), axis)
                for points, pixels in self.bands[scale]
            ]
            each = torch.cat(parts, axis)
        return each.unflatten(0, maps.shape[:2])

    def windowed(self, maps: Tensor, ndim: int, *, squared: bool = False) -> Tensor:
        """Sums (..., K, C, *half the shape) of maps (..., C, *shape) under Gaussians of every width about every second point."""
        windows = torch.stack([window.square() if squared else window for window in self.windows])
        count, places = windows.shape[:2]
        each = maps.reshape(-1, *maps.shape[maps.ndim - ndim :])
        # The first axis for all widths at once, the others a width at a time: all at once would copy every window for every map.
        rows = _product(windows.flatten(0, 1), each, 1).unflatten(1, (count, places))
        sums = maps.new_empty(count, len(each), *(places,) * ndim)
        for width, window in enumerate(windows):
            part = rows[:, width]
            for axis in range(2, ndim + 1):
                part = _product(window, part, axis)
            sums[width] = part
        return sums.view(count, *maps.shape[: maps.ndim - ndim], *(places,) * ndim).movedim(0, -ndim - 2)


def _product(matrix: Tensor, maps: Tensor, axis: int) -> Tensor:
    """Maps (N, ...) with ``matrix`` (a, b) applied along one of the axes behind the first."""
    shape = maps.shape
    if axis == maps.ndim - 1:
        found = torch.bmm(maps.reshape(len(maps), -1, shape[axis]), matrix.mT.expand(len(maps), -1, -1))
    else:
        flat = maps.reshape(math.prod(shape[:axis]), shape[axis], -1)
        found = torch.bmm(matrix.expand(len(flat), -1, -1), flat)
    return found.view(*shape[:axis], len(matrix), *shape[axis + 1 :])


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
    # Of every pixel all is shared out, so that sums over the lattice are sums over the image whatever the two sizes are.
    return weight / weight.sum(0, keepdim=True)


def gather_moments(fixed: Tensor, warped: Tensor, counted: Tensor, pooling: Pooling, scale: int) -> Tensor:
    """Moments of one scale on the working lattice, (B, ndim + ndim (ndim + 1) / 2, *n).

    Parameters
    ----------
    fixed, warped
        (B, 1 + ndim, *m): intensity and its gradient in array order per NORMALISED unit.
    counted
        (B, 1, *m) bool, the pixels that count.
    pooling, scale
        Constants, and on which of their scales the images are.
    """
    residual = warped[:, :1] - fixed[:, :1]
    slope = (warped[:, 1:] + fixed[:, 1:]).mul_(0.5)
    share = counted.to(residual.dtype)
    # A large difference is rather another tissue than a shift: it counts less and less.
    weight = torch.addcmul(residual.new_ones(()), residual, residual, value=1 / _OUTLIER**2).square_().reciprocal_()
    weight.mul_(share).div_(share.flatten(1).sum(1).clamp_min(1).view(-1, *[1] * (share.ndim - 1)))
    return pooling.pooled(moments(residual, slope, weight), scale)


def width_tensor(like: Tensor) -> Tensor:
    """``WIDTHS`` (K,) in the dtype and on the device of ``like``, without a transfer, which a CUDA graph could not record."""
    return torch.stack([like.new_full((), width) for width in WIDTHS])


def solve_everywhere(gathered: Tensor, pooling: Pooling) -> LeastSquares:
    """The problem of moments (B, L, ndim + ndim (ndim + 1) / 2, *n) solved for every width about every second point.

    The channels are, for every scale, the square root of the gain of each width at each place as a share of the largest, and the
    amplitude of the narrowest; last, the logarithm of the largest gain.
    """
    ndim = gathered.ndim - 3
    force = pooling.windowed(gathered[:, :, :ndim], ndim)
    stiffness = pooling.windowed(gathered[:, :, ndim:], ndim, squared=True)
    component = -ndim - 1
    widths = width_tensor(gathered)
    rough = ROUGHNESS * roughness(widths[:, None].expand(-1, ndim))
    widths = widths.view(-1, *[1] * ndim)
    # The gains are those of the whole amplitudes: what is too steep is told as large, though less of it is then taken.
    amplitudes, gains = solve(force, stiffness, rough.view_as(widths), dim=component)
    steepness = amplitudes.square().sum(component, keepdim=True) / widths.unsqueeze(1).square()
    amplitudes = _shortened(amplitudes, steepness)
    everywhere = tuple(range(1, gains.ndim))
    # Shares of the largest, as gains fall by powers of ten in the course of a sequence.
    largest = gains.amax(everywhere, keepdim=True).clamp_min(1e-9)
    narrowest = torch.tanh(amplitudes[:, :, -1] / WIDTHS[-1])
    shown = torch.cat(((gains / largest).clamp_min(0).sqrt(), narrowest), 2).flatten(1, 2)
    overall = (torch.log10(largest) / 4 + 0.5).flatten(1, 2).expand(-1, -1, *shown.shape[2:])
    return LeastSquares(gathered, gains, amplitudes, torch.cat((shown, overall), 1))


def solve_amplitude(
    gathered: Tensor, lattice: Tensor, centres: Tensor, sigmas: Tensor, orientation: Tensor, mixture: Tensor, caution: Tensor
) -> Tensor:
    """Amplitude (B, ndim) of one Gaussian a pair that best explains the difference; differentiable in place and shape.

    Parameters
    ----------
    gathered, lattice
        Moments (B, L, ndim + ndim (ndim + 1) / 2, *n) and positions (ndim, *n).
    centres, sigmas, orientation
        (B, ndim), (B, ndim) and (B, 1 or 3) as in ``GaussianParameters``.
    mixture
        (B, L) weight of every scale, summing to 1.
    caution
        (B, 1) factor of the roughness, positive.
    """
    ndim = len(lattice)
    # Of this one Gaussian the sums are two products with the moments; blurring them for every shape would cost a lattice each.
    weight = gaussian_on_lattice(lattice, centres, precision_matrix(sigmas, orientation)).flatten(1)
    sums = gathered.flatten(3).flatten(1, 2) @ torch.stack((weight, weight.square()), 2)
    mixed = (sums.unflatten(1, gathered.shape[1:3]) * mixture[:, :, None, None]).sum(1)
    rough = ROUGHNESS * roughness(sigmas) * caution[:, 0]
    return solve(mixed[:, :ndim, 0], mixed[:, ndim:, 1], rough, dim=1).amplitudes
