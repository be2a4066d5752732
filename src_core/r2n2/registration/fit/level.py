"""One level of the coarse-to-fine fit: the objective of a batch on a working square, and the Gauss-Newton step that lowers it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.geometry import Grid
from r2n2.registration.base import Pairs
from r2n2.registration.fit.brightness import SmoothBrightness, brightness_of
from r2n2.registration.fit.folding import folding_equations, folding_penalty
from r2n2.registration.fit.guiding import GuideTerms
from r2n2.registration.fit.independence import noise_share
from r2n2.registration.fit.lattice import SummingLattice
from r2n2.registration.fit.local import local_data_matrix
from r2n2.registration.fit.normal_equations import data_matrix, regulariser_equations, solve_damped
from r2n2.registration.fit.steepness import steepness_equations, steepness_penalty
from r2n2.registration.fit.volume import VolumeLattice, sampled_diffusion_equations, slice_widths, within_slab
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Compared, Measure
from r2n2.similarity import diffusion
from r2n2.transform import linear_displacement, mask_of, normalised_lattice, sample_masked
from r2n2.transform.matrices import cholesky_rows, upper
from r2n2.working import counting_share, to_working, working_grid

__all__ = ["Assessed", "Level"]

_SMALLEST_DAMPING, _LARGEST_DAMPING = 1e-5, 1e3
_REACH = 1.1  # a centre may lie a little outside the square


@dataclass(frozen=True, eq=False)
class Assessed:
    """A model with what it makes of the moving images; C channels of residuals."""

    objective: Tensor
    """(B,)"""
    residual: Tensor
    """(B, C, P) warped minus fixed feature, less what is a smooth change of brightness; 0 where not valid"""
    felt: Tensor
    """(B, C, P) what times the weight is half the derivative of the data term by the difference: mostly the residual"""
    slope: Tensor
    """(B, C, ndim, P) derivative of each residual by the displacement of its pixel"""
    weight: Tensor
    """(B, 1, P) of a pixel's squares: the measure's strength / number of valid pixels, less for outliers, 0 where not valid"""
    fine_field: Tensor
    """(B, ndim, *shape) displacement on the lattice on which folding is measured"""

    @property
    def force(self) -> Tensor:
        """(B, ndim, P): half the derivative of the data term by the displacement of each pixel."""
        if self.felt.shape[1] == 1:
            return self.slope[:, 0] * self.felt * self.weight
        return (self.slope * self.felt.unsqueeze(2)).sum(1) * self.weight

    def chosen(self, better: Tensor, other: Assessed) -> Assessed:
        """Itself for the pairs where ``better`` (B,) holds, the other elsewhere."""

        def choose(name: str) -> Tensor:
            mine, theirs = getattr(self, name), getattr(other, name)
            return torch.where(better.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)

        return Assessed(*(choose(name) for name in ("objective", "residual", "felt", "slope", "weight", "fine_field")))


@dataclass(frozen=True, eq=False)
class Level:
    """The images of a batch on one working square, or lattice of a volume, and what does not change while the model does."""

    config: FitConfig
    size: int
    """Pixels a side, along the longest of a volume if it has so many."""
    grid: Grid
    frame: Grid
    """Of the pairs."""
    compared: Compared
    strength: Tensor
    """(B or 1, 1, 1) of the measure, times the share of the frame that masks let count."""
    fixed_valid: Tensor
    fixed_weight: Tensor | None
    """(B or 1, 1, P) of a mask."""
    moving: Tensor
    """(B, N, *shape) as ``compared`` has it; behind its channels the weight of a mask, if there is one."""
    moving_valid: Tensor | None
    positions: Tensor
    lattice: SummingLattice | VolumeLattice
    order: Tensor
    """All pixels shuffled: steps look at one part of them after the other."""
    coarse: Grid
    coarse_positions: Tensor
    fine: Grid
    fine_positions: Tensor
    linear: Tensor | None = None
    """(B, ndim, ndim + 1) beside the model: what was found of the frame as a whole."""
    brightness: SmoothBrightness | None = None
    """What takes smooth changes of brightness out of residuals, if they are looked for."""
    trust: Tensor | None = None
    """(1, 1, P) how far pixels of the fixed image can be trusted."""
    guides: GuideTerms | None = None
    """Pairs of points that the objective holds to, if there are any."""
    held: Tensor | None = None
    """(B, K) bool, Gaussians that take no steps, if there are any."""

    @property
    def _steepness_weight(self) -> float:
        """Decides where Gaussians go and not what becomes of them: on the finest square what contracts may be steep."""
        return self.config.steepness_weight if self.size < self.config.sizes[-1] else 0.0

    @property
    def least(self) -> tuple[float, ...]:
        """Smallest standard deviation of a Gaussian along each axis of a volume, NORMALISED; none in 2D."""
        return () if self.grid.ndim == 2 else slice_widths(self.frame)

    @classmethod
    def build(
        cls,
        pairs: Pairs,
        size: int,
        config: FitConfig,
        measure: Measure,
        model: WhitenedGaussians,
        linear: Tensor | None = None,
        trust: Tensor | None = None,
    ) -> Level:
        """For a batch on a square of ``size`` pixels a side; ``model`` says where in the moving frames a mask lies.

        ``trust`` is (1, 1, *shape) on the finest square, and counts there alone.
        """
        images, valid, weight = pairs.distinct_fixed()
        fixed = to_working(images, valid, pairs.grid, size, weight=weight)
        moving = to_working(pairs.moving, pairs.moving_valid, pairs.grid, size, weight=pairs.moving_weight)
        grid, like = fixed.grid, fixed.images
        summing = SummingLattice.build if grid.ndim == 2 else VolumeLattice.build
        lattice = summing(grid, config.field_size, like)
        displacement = None
        if pairs.masked:
            places = normalised_lattice(grid, moving.images)
            flat = grid.ndim == 2
            displacement = model.displacement(places.flatten(1)).unflatten(2, grid.shape) if flat else lattice.displacement(model)
            if linear is not None:
                displacement = displacement + linear_displacement(linear, places)
        compared = measure.compare(fixed, moving, displacement, aligned=size == config.sizes[-1])
        coarse, fine = _lattice(grid, config.regulariser_size), _lattice(grid, config.folding_size)
        # A fixed shuffle, the same in every run: neighbours along it lie anywhere in the image.
        order = torch.randperm(math.prod(grid.shape), generator=torch.Generator().manual_seed(0))
        return cls(
            config,
            size,
            grid,
            pairs.grid,
            compared,
            measure.strength * counting_share(fixed, moving, pairs.grid),
            fixed.valid,
            None if fixed.weight is None else fixed.weight.flatten(2),
            compared.moving if moving.weight is None else torch.cat((compared.moving, moving.weight), 1),
            mask_of(moving.valid, moving.images),
            normalised_lattice(grid, like).flatten(1),
            lattice,
            order.to(like.device),
            coarse,
            normalised_lattice(coarse, like).flatten(1),
            fine,
            normalised_lattice(fine, like).flatten(1),
            linear,
            brightness_of(config, measure, grid, like),
            None if trust is None or size != config.sizes[-1] else trust.flatten(2).to(like),
        )

    def guided(self, pairs: Pairs, model: WhitenedGaussians) -> Level:
        """The same holding to the guiding pairs of ``pairs``, if there are any, against the noise that ``model`` leaves."""
        if not any(pairs.guides):
            return self
        found = self.assess(model)
        noise = noise_share(found.residual, found.weight, self.grid.shape)
        return replace(self, guides=GuideTerms.of(pairs.guides, noise))

    def assess(self, model: WhitenedGaussians) -> Assessed:
        """The objective of every pair and what a step needs."""
        places = self.positions.unflatten(1, self.grid.shape) + self.lattice.displacement(model)
        if self.linear is not None:
            places = places + linear_displacement(self.linear, self.positions).unflatten(2, self.grid.shape)
        sampled, valid = sample_masked(self.moving, self.moving_valid, places, self.grid)
        valid = valid & self.fixed_valid
        warped, moving_weight = sampled.tensor_split([self.compared.moving.shape[1]], 1)
        difference = self.compared.difference(warped, valid)
        counted = valid.flatten(2)
        residual = difference.residual.flatten(2) * counted
        weight = self.strength * self._weight(counted, moving_weight.flatten(2)).to(residual.dtype)
        projection = None if self.brightness is None else self.brightness.over(weight)
        if projection is not None:
            residual = projection.left(residual)
        square = residual.square()
        if square.shape[1] > 1:
            square = square.sum(1, keepdim=True)
        doubt = 1 + square / self.config.outlier**2
        similarity = (weight * square / doubt).sum((1, 2))
        coarse_field = model.displacement(self.coarse_positions).unflatten(2, self.coarse.shape)
        objective = similarity + self.config.regularisation * diffusion(coarse_field, self.coarse)
        if self._steepness_weight:
            objective = objective + self._steepness_weight * steepness_penalty(model, self.config.steepness_cap)
        fine_field = model.displacement(self.fine_positions).unflatten(2, self.fine.shape)
        if self.linear is not None:
            fine_field = fine_field + linear_displacement(self.linear, self.fine_positions).unflatten(2, self.fine.shape)
        objective = objective + self.config.folding_weight * folding_penalty(fine_field, self.fine, self.config.smallest_jacobian)
        if self.guides is not None:
            objective = objective + self.guides.penalty(model, self.linear)
        doubt = doubt.square()
        felt = residual if projection is None else projection.felt(residual, doubt)
        return Assessed(objective, residual, felt, difference.slope.flatten(3), weight / doubt, fine_field)

    def is_far(self, current: Assessed) -> Tensor:
        """(B,) which pairs are still far from aligned."""
        return current.objective > self.config.far * self.strength.flatten()

    def _weight(self, counted: Tensor, moving_weight: Tensor) -> Tensor:
        """Share (B, 1, P) of every pixel in all that counts; ``moving_weight`` (B, 0 or 1, P) was warped with the image."""
        shares = [share for share in (self.fixed_weight, self.trust, moving_weight) if share is not None and share.shape[1]]
        if not shares:
            return counted / counted.sum((1, 2), keepdim=True).clamp_min(1)
        weight = counted * shares[0]
        for share in shares[1:]:
            weight = weight * share
        return weight / weight.sum((1, 2), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)

    def improve(
        self, model: WhitenedGaussians, current: Assessed, damping: Tensor, step: int, moved: Tensor | None
    ) -> tuple[WhitenedGaussians, Assessed, Tensor]:
        """One damped step, taken by the pairs whose objective it lowers, and of those that are ``moved`` (B,) if that is given."""
        matrix = self._data_matrix(model, current, step)
        vector = model.pulled_back(self.lattice.positions, self.lattice.gathered(current.force)).flatten(1)
        regularisation = self.config.regularisation
        regulariser = self._regulariser(model, step)
        smallest = self.config.smallest_jacobian
        folding = folding_equations(model, current.fine_field, self.fine_positions, self.fine, smallest, self.linear)
        if folding is not None:
            matrix.add_(folding[0], alpha=self.config.folding_weight)
            vector.add_(folding[1], alpha=self.config.folding_weight)
        steepness = steepness_equations(model, self.config.steepness_cap) if self._steepness_weight else None
        if steepness is not None:
            matrix.add_(steepness[0], alpha=self._steepness_weight)
            vector.add_(steepness[1], alpha=self._steepness_weight)
        guiding = None if self.guides is None else self.guides.linearised(model, self.linear)
        if guiding is not None:
            stiff, pull = guiding.equations()
            matrix.add_(stiff)
            vector.add_(pull)
        matrix.add_(regulariser[0], alpha=regularisation)
        vector.add_(regulariser[1], alpha=regularisation)
        if self.held is not None:
            free = (~self.held).repeat_interleave(model.freedom, 1).to(vector.dtype)
            matrix.mul_(free.unsqueeze(1)).mul_(free.unsqueeze(2))
            vector.mul_(free)
        change = solve_damped(matrix, vector, damping).unflatten(1, (len(model), model.freedom))
        # A linear model of an image holds over a pixel or two.
        pixel = self.config.longest_step_px * 2 / (max(self.grid.shape) - 1)
        longest = change[..., : model.ndim].norm(dim=-1).amax(1) / pixel
        change = change / longest.clamp_min(1)[:, None, None]
        tried = model.changed(change, self.config.sigma_range, _REACH)
        if model.ndim == 3:
            tried = within_slab(tried, self.frame)
        if self.guides is not None and guiding is not None:
            tried = self.guides.returned(tried, change.flatten(1), guiding, self.held, self.linear)
        assessed = self.assess(tried)
        better = assessed.objective < current.objective
        if moved is not None:
            better = better & moved
        damping = torch.where(better, damping * 0.3, damping * 5).clamp(_SMALLEST_DAMPING, _LARGEST_DAMPING)
        return tried.where(better, model), assessed.chosen(better, current), damping

    def _regulariser(self, model: WhitenedGaussians, step: int) -> tuple[Tensor, Tensor]:
        if model.ndim == 2:
            return regulariser_equations(model, self.coarse_positions, self.coarse)
        count = self.config.pixels_a_step // 4
        return sampled_diffusion_equations(model, self.coarse_positions, self.coarse, count=count, step=step)

    def _data_matrix(self, model: WhitenedGaussians, current: Assessed, step: int) -> Tensor:
        """Of the data term, (B, N, N), from a part of the pixels."""
        channels, ndim, total = current.slope.shape[1:]
        rows = min(channels, ndim)
        # With more channels than axes a pixel counts ndim rows, whatever the channels: fewer pixels then cost as much.
        count = self.config.pixels_a_step // rows
        positions, slope, weight = self.positions, current.slope, current.weight
        if total > count:
            part = self.order.roll(-step * count)[:count]
            positions, slope = positions[:, part], slope[..., part]
            weight = weight[:, :, part] * (total / count)
        first, *others = slope.unbind(1) if channels <= ndim else _effective_rows(slope)
        product = data_matrix if ndim == 2 else local_data_matrix
        matrix = product(model, positions, first, weight)
        for row in others:
            matrix.add_(product(model, positions, row, weight))
        return matrix


def _lattice(grid: Grid, most: int) -> Grid:
    """So many points a side of a square, along the longest of a volume."""
    return grid.resized((most,) * 2) if grid.ndim == 2 else working_grid(grid, most)


def _effective_rows(slope: Tensor) -> list[Tensor]:
    """As many slopes (B, ndim, P) as there are axes, whose outer products sum to those of the C channels of (B, C, ndim, P).

    A step depends on the slopes through their structure tensor, sum of g_c g_c', alone, so its Cholesky factor will do.
    """
    ndim = slope.shape[2]
    tensor = [(slope[:, :, i] * slope[:, :, j]).sum(1) for i, j in upper(ndim)]
    return [torch.stack(list(row), 1) for row in cholesky_rows(tensor, ndim)]
