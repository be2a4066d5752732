"""One step of the recurrent network after another on a batch of pairs: what registration and training share.

Nothing is kept between calls: ``prepare`` makes the squares of a batch, ``compare`` looks at the images under a displacement, and
``advance`` asks the network for the next Gaussian and adds it. All of it is differentiable in weights and displacement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional

from r2n2.config import NetworkConfig
from r2n2.geometry import Grid
from r2n2.network import GaussianParameters, RecurrentNetwork, State, Step, Unchanging
from r2n2.network.joint import Placed
from r2n2.network.least_squares import LeastSquares, Pooling, gather_moments, solve_everywhere
from r2n2.preprocessing import Square, normalise, score_together, to_square
from r2n2.registration.base import Pairs
from r2n2.transform import mask_of, normalised_lattice, sample_masked
from r2n2.transform.spline_lattice import on_lattice, spline_matrix

__all__ = ["Comparison", "Progress", "Scale", "Squares", "advance", "begin", "compare", "placed_on", "prepare"]

_NETWORK_CLAMP = 2.0
_LEAST_SQUARES_CLAMP = 3.0
# Of one channel: what a processor does with some pairs then stays in its cache from one operation to the next.
_PIXELS_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class Scale:
    """The images of a batch on a square of one size."""

    grid: Grid
    fixed: Tensor
    """(B or 1, 1, m, m); for least squares (B or 1, 3, m, m), the image and its gradient."""
    moving: Tensor
    """(B, 1 or 3, m, m)."""
    fixed_valid: Tensor
    """(B or 1, 1, m, m) bool."""
    moving_valid: Tensor | None
    """(B, 1, m, m) of 0 and 1, or None where every pixel is measured."""
    lattice: Tensor
    """(2, m, m)."""
    from_working: Tensor | None = None
    """(m, n) of ``spline_matrix``: what is smooth on the working lattice on this one; None for the working lattice itself."""
    fixed_weight: Tensor | None = None
    """(B or 1, 1, m, m) in [0, 1] of a mask."""
    moving_weight: Tensor | None = None
    """(B, 1, m, m) in [0, 1] of a mask."""

    def part(self, rows: Tensor | slice) -> Scale:
        """Some of the pairs, by their indices."""
        batch = len(self.moving)

        def chosen(values: Tensor) -> Tensor:
            return values[rows] if len(values) == batch else values  # what all pairs share is of one

        return replace(
            self,
            fixed=chosen(self.fixed),
            moving=self.moving[rows],
            fixed_valid=chosen(self.fixed_valid),
            moving_valid=None if self.moving_valid is None else self.moving_valid[rows],
            fixed_weight=None if self.fixed_weight is None else chosen(self.fixed_weight),
            moving_weight=None if self.moving_weight is None else self.moving_weight[rows],
        )

    def sample(self, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """Channels of the moving image (B, C, m, m) at the displaced positions, and where both images are measured.

        With masks, how much those pixels count.
        """
        held = self.moving if self.moving_weight is None else torch.cat((self.moving, self.moving_weight), 1)
        sampled, measured = sample_masked(held, self.moving_valid, self.lattice + displacement, self.grid)
        counted: Tensor = measured & self.fixed_valid
        warped, moving_weight = sampled.split((self.moving.shape[1], held.shape[1] - self.moving.shape[1]), 1)
        for weight in (self.fixed_weight, moving_weight if moving_weight.shape[1] else None):
            counted = counted if weight is None else counted * weight
        return warped, counted


@dataclass(frozen=True, eq=False)
class Squares:
    """A batch of pairs as the network and its least squares see it."""

    scales: tuple[Scale, ...]
    """From small to large."""
    working: int
    """Which of them the network sees."""
    compared: tuple[int, ...]
    """Which of them are compared by least squares; none for the paper's network."""
    pooling: Pooling | None

    def __len__(self) -> int:
        return len(self.scales[0].moving)

    @property
    def seen(self) -> Scale:
        """The scale that the network sees."""
        return self.scales[self.working]

    @property
    def fixed(self) -> Tensor:
        """(B or 1, 1, n, n) fixed images as the network sees them."""
        return self.seen.fixed[:, :1].clamp(-_NETWORK_CLAMP, _NETWORK_CLAMP)

    def part(self, rows: Tensor) -> Squares:
        """Some of the pairs, by their indices."""
        return replace(self, scales=tuple(scale.part(rows) for scale in self.scales))


@dataclass(frozen=True, eq=False)
class Comparison:
    """The images under a displacement."""

    fixed: Tensor
    """(B, 1, n, n), as the network sees it."""
    warped: Tensor
    """(B, 1, n, n)."""
    valid: Tensor
    """(B, 1, n, n) bool, where both are measured; with masks, how much they count."""
    least_squares: LeastSquares | None

    def part(self, rows: Tensor) -> Comparison:
        """Some of the pairs, by their indices."""
        solved = None if self.least_squares is None else LeastSquares(*(values[rows] for values in self.least_squares))
        return Comparison(self.fixed[rows], self.warped[rows], self.valid[rows], solved)


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a batch stands; replaced, never changed."""

    displacements: tuple[Tensor, ...]
    """(B, 2, m, m) on every scale, NORMALISED."""
    state: State
    placed: Placed | None = None
    """The Gaussians so far, where the network solves their amplitudes again."""

    def detached(self) -> Progress:
        """Cut off from the steps before, so that no gradient flows back into them."""
        placed = None if self.placed is None else self.placed.detached()
        return Progress(tuple(d.detach() for d in self.displacements), tuple(s.detach() for s in self.state), placed)

    def part(self, rows: Tensor) -> Progress:
        """Some of the pairs, by their indices."""
        placed = None if self.placed is None else self.placed.part(rows)
        return Progress(tuple(d[rows] for d in self.displacements), tuple(s[rows] for s in self.state), placed)


Start = Callable[[Grid, Tensor], Tensor]
"""Gives the displacement (B, 2, *shape) on a lattice, like a tensor, from which steps go on."""


def prepare(config: NetworkConfig, pairs: Pairs, like: Tensor, start: Start | None = None) -> Squares:
    """The squares of a batch, on the device and in the dtype of ``like``.

    Parameters
    ----------
    start
        Of a displacement that is not 0, for masked pairs: where what counts lies in the moving frames.
    """
    sizes = tuple(sorted({config.working_size, *config.least_squares_sizes}))
    scales = tuple(
        replace(
            _scale(pairs, size, size in config.least_squares_sizes, like, start),
            from_working=None if size == config.working_size else spline_matrix(size, config.working_size, like),
        )
        for size in sizes
    )
    pooling = Pooling.build(config.least_squares_sizes, config.working_size, like) if config.least_squares_sizes else None
    return Squares(scales, sizes.index(config.working_size), tuple(sizes.index(s) for s in config.least_squares_sizes), pooling)


def _scale(pairs: Pairs, size: int, with_gradient: bool, like: Tensor, start: Start | None) -> Scale:
    clamp = _LEAST_SQUARES_CLAMP if with_gradient else _NETWORK_CLAMP

    def square(images: Tensor, valid: Tensor) -> Square:
        return to_square(images.to(like.device, like.dtype), valid.to(like.device), pairs.grid, size)

    images, valid, weight = pairs.distinct_fixed()
    fixed, moving = square(images, valid), square(pairs.moving, pairs.moving_valid)
    if pairs.masked:
        # The network sees the images as they are: a mask is in the mean and deviation, and in what least squares count.
        fixed, moving = _weighted(fixed, weight, pairs.grid), _weighted(moving, pairs.moving_weight, pairs.grid)
        none = like.new_zeros(len(pairs), fixed.grid.ndim, *fixed.grid.shape)
        scored = score_together(fixed, moving, none if start is None else start(fixed.grid, none), clamp=clamp, aligned=False)
    else:
        scored = normalise(fixed.images, fixed.valid, clamp=clamp), normalise(moving.images, moving.valid, clamp=clamp)
    if with_gradient:
        spacings = tuple(s / fixed.grid.unit_mm for s in fixed.grid.spacing)
        axes = tuple(range(2, fixed.images.ndim))
        channels = [torch.cat((image, *torch.gradient(image, spacing=spacings, dim=axes)), 1) for image in scored]
    else:
        channels = list(scored)
    mask, lattice = mask_of(moving.valid, channels[1]), normalised_lattice(fixed.grid, channels[0])
    return Scale(
        fixed.grid,
        channels[0],
        channels[1],
        fixed.valid,
        mask,
        lattice,
        fixed_weight=fixed.weight,
        moving_weight=moving.weight,
    )


def _weighted(square: Square, weight: Tensor | None, grid: Grid) -> Square:
    """With how much every pixel counts by a mask on the grid of the pairs."""
    if weight is None:
        return square
    like = square.images
    weight = weight.to(like)
    counted = to_square(weight, torch.ones_like(weight, dtype=torch.bool), grid, square.grid.shape[0], weight=weight)
    assert counted.weight is not None
    return square._replace(weight=counted.weight * square.valid)


def begin(network: RecurrentNetwork, squares: Squares, start: tuple[Tensor, ...] | None = None) -> Progress:
    """Before the first step: the network's first state and no displacement, or that of ``start`` on every scale."""
    batch = len(squares)
    if start is None:
        start = tuple(scale.moving.new_zeros(batch, scale.grid.ndim, *scale.grid.shape) for scale in squares.scales)
    placed = None
    if network.config.orthogonal:
        like, ndim = squares.seen.moving, squares.seen.grid.ndim
        none = GaussianParameters(*(like.new_zeros(batch, 0, count) for count in (ndim, ndim, 1 if ndim == 2 else 3, ndim)))
        placed = placed_on(squares, none)
    return Progress(start, network.initial_state(batch, squares.seen.grid.shape[0]), placed)


def placed_on(squares: Squares, parameters: GaussianParameters) -> Placed:
    """Gaussians (B, K, ...) on the lattice that the network sees."""
    placed = Placed.on(squares.seen.lattice, GaussianParameters(*(value[:, :0] for value in parameters)))
    for k in range(parameters.centres.shape[1]):
        # One by one, as steps place them: what is gone on with is then the same bit for bit.
        placed = placed.followed_by(Placed.on(squares.seen.lattice, GaussianParameters(*(v[:, k : k + 1] for v in parameters))))
    return placed


def compare(squares: Squares, displacements: tuple[Tensor, ...]) -> Comparison:
    """Warp the moving images and gather what they and the fixed images say."""
    moments = {}
    warped, valid = squares.seen.sample(displacements[squares.working])
    image = warped[:, :1].clamp(-_NETWORK_CLAMP, _NETWORK_CLAMP)
    seen = squares.fixed.expand_as(image), image, valid
    # An image compared with itself teaches nothing through the solution: gradients go through place and shape alone.
    with torch.no_grad():
        for index in squares.compared:
            assert squares.pooling is not None
            if index == squares.working:
                moments[index] = gather_moments(squares.seen.fixed, warped, valid, squares.pooling, squares.compared.index(index))
            else:
                moments[index] = _gathered(squares, index, displacements[index])
    solved = None
    if squares.pooling is not None:
        with torch.no_grad():
            gathered = torch.stack([moments[index] for index in squares.compared], 1)
            solved = solve_everywhere(gathered, squares.pooling)
    return Comparison(*seen, solved)


def _gathered(squares: Squares, index: int, displacement: Tensor) -> Tensor:
    """Moments of a scale that the network does not see, some pairs at a time."""
    scale, pooling = squares.scales[index], squares.pooling
    assert pooling is not None
    count = len(displacement)
    if displacement.device.type == "cpu":
        count = max(1, _PIXELS_AT_ONCE // displacement[0, 0].numel())
    parts = []
    for first in range(0, len(displacement), count):
        part = scale.part(slice(first, first + count))
        warped, valid = part.sample(displacement[first : first + count])
        parts.append(gather_moments(part.fixed, warped, valid, pooling, squares.compared.index(index)))
    return torch.cat(parts)


def advance(
    network: RecurrentNetwork,
    squares: Squares,
    before: Progress,
    seen: Comparison,
    *,
    generator: Generator | None = None,
    unchanging: Unchanging | None = None,
) -> tuple[Step, Progress]:
    """The network's next step, and where the batch stands with it."""
    placed = before.placed
    step = network.step(
        seen.fixed,
        seen.warped,
        before.state,
        least_squares=seen.least_squares,
        placed=placed,
        generator=generator,
        unchanging=unchanging,
    )
    if placed is None:
        displacements = tuple(
            step.parameters.added_to(displacement, scale.lattice)
            for displacement, scale in zip(before.displacements, squares.scales, strict=True)
        )
        return step, Progress(displacements, step.state)
    assert step.placed is not None
    with torch.autocast(step.placed.heights.device.type, enabled=False):
        # The sum anew would lose what a start moved already.
        earlier = functional.pad(placed.parameters.amplitudes, (0, 0, 0, 1))
        change = step.placed.displacement(step.placed.parameters.amplitudes - earlier)
        displacements = tuple(
            displacement + (change if scale.from_working is None else on_lattice(change, scale.from_working))
            for displacement, scale in zip(before.displacements, squares.scales, strict=True)
        )
    return step, Progress(displacements, step.state, step.placed)
