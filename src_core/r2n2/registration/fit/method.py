"""Registration without training: Gaussians fitted to each pair by damped Gauss-Newton steps, coarse to fine, batched over pairs.

The objective of a pair is the mean of r^2 / (1 + r^2 / outlier^2) over the valid pixels of the working square, weighted by masks
where there are any, r the difference of z-scored intensities, plus ``regularisation`` times the mean squared gradient of the
displacement, plus ``folding_weight`` times a penalty on folding. Gaussians are added a few at a time where one alone would lower
the objective most (``proposal``), then all are moved together. A step takes its slope from the whole objective and its curvature
from a sample of the pixels; pairs whose objective it does not lower do not take it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.config import FitConfig
from r2n2.errors import ArgumentError
from r2n2.geometry import Grid
from r2n2.preprocessing import Square, normalise, score_together, to_square
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.fit.folding import folding_equations, folding_penalty
from r2n2.registration.fit.normal_equations import data_matrix, regulariser_equations, solve_damped
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.similarity import diffusion
from r2n2.transform import GaussianSequence, Transform, mask_of, normalised_lattice, sample_masked

__all__ = ["FitMethod", "Round", "plan_rounds"]

_FIRST_DAMPING, _SMALLEST_DAMPING, _LARGEST_DAMPING = 1e-2, 1e-5, 1e3
_ORDER_SIZE = 24
_REACH = 1.1  # a centre may lie a little outside the square


@dataclass(frozen=True)
class Round:
    """One part of the coarse-to-fine plan: add Gaussians, then take steps, on a square of ``size`` pixels."""

    size: int
    add: int
    steps: int
    far_only: bool = False
    """Only for pairs that are still far from aligned."""


def plan_rounds(config: FitConfig, gaussians: int, present: int) -> tuple[Round, ...]:
    """The plan for ``gaussians`` in all of which ``present`` are given as a start."""
    missing = max(gaussians - present, 0)
    coarsest, middle, finest = config.sizes
    far = Round(coarsest, 0, config.far_steps, far_only=True)
    if present:
        # What is coarse is in the start, if it is any good.
        steps, final = config.refine_steps
        turns = [Round(middle, share, steps) for share in _shares(missing, config.refine_rounds)]
        rounds = [far, *(turns or [Round(middle, 0, steps)]), Round(finest, 0, final)]
    else:
        first = min(missing, max(1, round(gaussians * config.coarse_share)))
        turns = [Round(middle, share, config.steps_a_round) for share in _shares(missing - first, config.rounds)]
        rounds = [Round(coarsest, first, 2 * config.steps_a_round), far, *turns, Round(finest, 0, config.final_steps)]
    return tuple(plan for plan in rounds if plan.steps or plan.add)


def _shares(count: int, rounds: int) -> list[int]:
    """``count`` Gaussians spread over at most so many rounds."""
    shares = [count // rounds + (k < count % rounds) for k in range(rounds)]
    return [share for share in shares if share]


class FitMethod:
    """Gaussians fitted to each pair; the refinement of the network's result, too.

    Parameters
    ----------
    config
        Settings of the objective and the plan.
    gaussians
        How many Gaussians describe a pair, at least 1.
    """

    name = "fit"

    def __init__(self, config: FitConfig, *, gaussians: int = 25) -> None:
        if gaussians < 1:
            raise ArgumentError(f"steps: at least 1 Gaussian is needed, got {gaussians}")
        self._config = config
        self._gaussians = gaussians

    @property
    def gaussians(self) -> int:
        """How many Gaussians describe a pair."""
        return self._gaussians

    def step_count(self, present: int) -> int:
        """How many steps ``register`` yields from a start of ``present`` Gaussians."""
        return sum(plan.steps for plan in plan_rounds(self._config, self._gaussians, present) if not plan.far_only)

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Fit a batch, yielding after every step that all pairs take.

        Parameters
        ----------
        pairs
            The image pairs, of any shape and spacing.
        start
            One GaussianSequence a pair to start from; Gaussians are added until there are as many as asked for.

        Raises
        ------
        ArgumentError
            If ``start`` holds anything but one GaussianSequence a pair.
        """
        with torch.inference_mode():
            model = _starting_model(pairs, start)
        rounds = plan_rounds(self._config, self._gaussians, len(model))
        total, index = self.step_count(len(model)), 0
        level: _Level | None = None
        for plan in rounds:
            with torch.inference_mode():
                # With a mask the intensities are compared where it lies in the moving frame, which is known better each round.
                if level is None or level.size != plan.size or pairs.masked:
                    level = _Level.build(pairs, plan.size, self._config, model)
                current = level.assess(model)
                moved = current.objective > self._config.far if plan.far_only else None
                if moved is not None and not bool(moved.any()):
                    continue
                if plan.add:
                    new = propose(
                        level.grid,
                        current.residual,
                        level.force_gradient(current),
                        current.weight,
                        count=plan.add,
                        sigmas=self._config.proposed_sigmas,
                        regularisation=self._config.regularisation,
                    )
                    model = model.joined(new)
            damping = current.objective.new_full((len(pairs),), _FIRST_DAMPING)
            for step in range(plan.steps):
                with torch.inference_mode():
                    model, current, damping = level.improve(model, current, damping, step, moved)
                if plan.far_only:
                    continue  # not yielded: the number of steps is told before it is known who is far
                index += 1
                yield RegistrationStep(index, total, current.objective.clone(), partial(_sequences, model, pairs))


def _sequences(model: WhitenedGaussians, pairs: Pairs) -> tuple[Transform, ...]:
    model = model.ordered_by_importance(normalised_lattice(pairs.grid.enclosing_cube(_ORDER_SIZE), pairs.moving).flatten(1))
    return tuple(
        GaussianSequence(s.centres.cpu(), s.sigmas.cpu(), s.orientation.cpu(), s.amplitudes.cpu(), s.grid)
        for s in model.sequences(pairs.grid)
    )


def _starting_model(pairs: Pairs, start: Sequence[Transform] | None) -> WhitenedGaussians:
    if start is None:
        return WhitenedGaussians.none(len(pairs), pairs.moving, pairs.grid.ndim)
    sequences = tuple(s for s in start if isinstance(s, GaussianSequence) and s.grid.same_space(pairs.grid))
    if len(sequences) != len(pairs) or len(start) != len(pairs):
        raise ArgumentError(
            f"start: fit needs one GaussianSequence a pair on the pairs' grid, got {len(start)} transforms of which "
            f"{len(sequences)} fit, for {len(pairs)} pairs"
        )
    return WhitenedGaussians.from_sequences(sequences, pairs.moving)


@dataclass(frozen=True, eq=False)
class _Assessed:
    """A model with what it makes of the moving images."""

    objective: Tensor
    """(B,)"""
    residual: Tensor
    """(B, 1, P) warped - fixed, 0 where not valid"""
    gradient: Tensor
    """(B, ndim, P) of the moving image at the warped positions"""
    weight: Tensor
    """(B, 1, P): share of all that counts, 0 where not valid"""
    fine_field: Tensor
    """(B, ndim, *shape) displacement on the lattice on which folding is measured"""


@dataclass(frozen=True, eq=False)
class _Level:
    """The images of a batch on one working square, and what does not change while the model does."""

    config: FitConfig
    grid: Grid
    fixed: Tensor
    fixed_gradient: Tensor
    fixed_valid: Tensor
    fixed_weight: Tensor | None
    moving: Tensor
    """(B, 1 + ndim, *shape): the image and its gradient; behind them its weight, if there is one."""
    moving_valid: Tensor | None
    positions: Tensor
    lattice: Tensor
    """(ndim, P) where displacements are summed: ``positions``, or those of a smaller lattice."""
    enlarging: Tensor | None
    """(size, smaller size) that interpolates an axis of the smaller lattice, if there is one."""
    order: Tensor
    """All pixels shuffled: steps look at one part of them after the other."""
    coarse: Grid
    coarse_positions: Tensor
    fine: Grid
    fine_positions: Tensor

    @property
    def size(self) -> int:
        return self.grid.shape[0]

    @classmethod
    def build(cls, pairs: Pairs, size: int, config: FitConfig, model: WhitenedGaussians) -> _Level:
        fixed_frames, fixed_valid, fixed_weight = pairs.distinct_fixed()
        fixed = to_square(fixed_frames, fixed_valid, pairs.grid, size, weight=fixed_weight)
        moving = to_square(pairs.moving, pairs.moving_valid, pairs.grid, size, weight=pairs.moving_weight)
        grid = fixed.grid
        if pairs.masked:
            displacement = model.displacement(normalised_lattice(grid, moving.images).flatten(1)).unflatten(2, grid.shape)
            fixed_image, moving_image = score_together(
                fixed, moving, displacement, clamp=config.clamp, aligned=size == config.sizes[-1]
            )
        else:
            fixed_image = normalise(fixed.images, fixed.valid, clamp=config.clamp)
            moving_image = normalise(moving.images, moving.valid, clamp=config.clamp)
        held = (moving_image, _image_gradient(moving_image, moving), *(() if moving.weight is None else (moving.weight,)))
        coarse = grid.resized((config.regulariser_size,) * grid.ndim)
        fine = grid.resized((config.folding_size,) * grid.ndim)
        # A fixed shuffle, the same in every run: neighbours along it lie anywhere in the image.
        positions = normalised_lattice(grid, fixed_image).flatten(1)
        summed = grid.resized((min(size, config.field_size),) * grid.ndim)
        order = torch.randperm(math.prod(grid.shape), generator=torch.Generator().manual_seed(0))
        return cls(
            config,
            grid,
            fixed_image.flatten(2),
            _image_gradient(fixed_image, fixed).flatten(2),
            fixed.valid,
            None if fixed.weight is None else fixed.weight.flatten(2),
            torch.cat(held, 1),
            mask_of(moving.valid, moving_image),
            positions,
            positions if grid.shape == summed.shape else normalised_lattice(summed, fixed_image).flatten(1),
            None if grid.shape == summed.shape else _interpolation(summed.shape[0], size, fixed_image, cubic=grid.ndim == 2),
            order.to(fixed_image.device),
            coarse,
            normalised_lattice(coarse, fixed_image).flatten(1),
            fine,
            normalised_lattice(fine, fixed_image).flatten(1),
        )

    def assess(self, model: WhitenedGaussians) -> _Assessed:
        displacement = self._displacement(model)
        places = self.positions.unflatten(1, self.grid.shape) + displacement
        warped, valid = sample_masked(self.moving, self.moving_valid, places, self.grid)
        valid = valid & self.fixed_valid
        warped, counted = warped.flatten(2), valid.flatten(2)
        residual = (warped[:, :1] - self.fixed) * counted
        weight = self._weight(counted, warped[:, 1 + self.grid.ndim :])
        square = residual.square()
        doubt = 1 + square / self.config.outlier**2
        similarity = (weight * square / doubt).sum((1, 2))
        coarse_field = model.displacement(self.coarse_positions).unflatten(2, self.coarse.shape)
        objective = similarity + self.config.regularisation * diffusion(coarse_field, self.coarse)
        fine_field = model.displacement(self.fine_positions).unflatten(2, self.fine.shape)
        objective = objective + self.config.folding_weight * folding_penalty(fine_field, self.fine, self.config.smallest_jacobian)
        return _Assessed(objective, residual, warped[:, 1 : 1 + self.grid.ndim], weight / doubt.square(), fine_field)

    def _weight(self, counted: Tensor, moving_weight: Tensor) -> Tensor:
        """Share (B, 1, P) of every pixel in all that counts; ``moving_weight`` (B, 0 or 1, P) was warped with the image."""
        shares = [share for share in (self.fixed_weight, moving_weight) if share is not None and share.shape[1]]
        if not shares:
            return counted / counted.sum((1, 2), keepdim=True).clamp_min(1)
        weight = counted * shares[0] * shares[-1] if len(shares) > 1 else counted * shares[0]
        return weight / weight.sum((1, 2), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)

    def _displacement(self, model: WhitenedGaussians) -> Tensor:
        """On the working square, (B, ndim, *shape); on a large one interpolated from a smaller lattice, to 1 % of an amplitude.

        The narrowest Gaussian allowed spans two points of that lattice. Results never hold an interpolated displacement.
        """
        field = model.displacement(self.lattice)
        if self.enlarging is None:
            return field.unflatten(2, self.grid.shape)
        field = field.unflatten(2, (self.enlarging.shape[1],) * self.grid.ndim)
        for _ in range(self.grid.ndim):
            # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
            field = torch.tensordot(field, self.enlarging, dims=([2], [1]))
        return field

    def force_gradient(self, current: _Assessed) -> Tensor:
        """Mean of both images' gradients: the linear model then holds over twice the distance (efficient second order)."""
        return 0.5 * (current.gradient + self.fixed_gradient)

    def improve(
        self, model: WhitenedGaussians, current: _Assessed, damping: Tensor, step: int, moved: Tensor | None
    ) -> tuple[WhitenedGaussians, _Assessed, Tensor]:
        """One damped step, taken by the pairs whose objective it lowers, and of those that are ``moved`` (B,) if that is given."""
        slope = self.force_gradient(current)
        vector = model.pulled_back(self.lattice, self._on_lattice(slope * current.residual * current.weight)).flatten(1)
        positions, weight, total = self.positions, current.weight, slope.shape[2]
        if total > self.config.pixels_a_step:
            part = self.order.roll(-step * self.config.pixels_a_step)[: self.config.pixels_a_step]
            positions, slope = positions[:, part], slope[:, :, part]
            weight = weight[:, :, part] * (total / self.config.pixels_a_step)
        matrix = data_matrix(model, positions, slope, weight)
        regularisation = self.config.regularisation
        regulariser = regulariser_equations(model, self.coarse_positions, self.coarse)
        folding = folding_equations(model, current.fine_field, self.fine_positions, self.fine, self.config.smallest_jacobian)
        if folding is not None:
            matrix.add_(folding[0], alpha=self.config.folding_weight)
            vector.add_(folding[1], alpha=self.config.folding_weight)
        change = solve_damped(
            matrix.add_(regulariser[0], alpha=regularisation), vector.add_(regulariser[1], alpha=regularisation), damping
        ).unflatten(1, (len(model), model.freedom))
        # A linear model of an image holds over a pixel or two.
        pixel = self.config.longest_step_px * 2 / (self.size - 1)
        longest = change[..., : model.ndim].norm(dim=-1).amax(1) / pixel
        change = change / longest.clamp_min(1)[:, None, None]
        tried = model.changed(change, self.config.sigma_range, _REACH)
        assessed = self.assess(tried)
        better = assessed.objective < current.objective
        if moved is not None:
            better = better & moved
        damping = torch.where(better, damping * 0.3, damping * 5).clamp(_SMALLEST_DAMPING, _LARGEST_DAMPING)
        return tried.where(better, model), _choose(better, assessed, current), damping

    def _on_lattice(self, values: Tensor) -> Tensor:
        """Values (B, ndim, P) on the working square, summed where displacements are: the transpose of their interpolation."""
        if self.enlarging is None:
            return values
        values = values.unflatten(2, self.grid.shape)
        for _ in range(self.grid.ndim):
            values = torch.tensordot(values, self.enlarging, dims=([2], [0]))
        return values.flatten(2)


def _choose(better: Tensor, new: _Assessed, old: _Assessed) -> _Assessed:
    chosen = better[:, None, None]
    return _Assessed(
        torch.where(better, new.objective, old.objective),
        torch.where(chosen, new.residual, old.residual),
        torch.where(chosen, new.gradient, old.gradient),
        torch.where(chosen, new.weight, old.weight),
        torch.where(better.view(-1, *[1] * (new.fine_field.ndim - 1)), new.fine_field, old.fine_field),
    )


def _interpolation(count: int, size: int, like: Tensor, *, cubic: bool) -> Tensor:
    """(size, count) that interpolates ``count`` points at ``size`` places, both from end to end: torch's bicubic, or linear."""
    unit = torch.eye(count, dtype=like.dtype, device=like.device)[None, None]
    mode = "bicubic" if cubic else "bilinear"
    return functional.interpolate(unit, (size, count), mode=mode, align_corners=True)[0, 0]


def _image_gradient(images: Tensor, square: Square) -> Tensor:
    """Central differences (B, ndim, *shape) of (B, 1, *shape), per NORMALISED unit; one-sided at edges, of a mask too."""
    grid = square.grid
    spacings = tuple(s / grid.unit_mm for s in grid.spacing)
    if square.weight is None:
        return torch.cat(torch.gradient(images, spacing=spacings, dim=tuple(range(2, images.ndim))), dim=1)
    slopes = []
    for axis, spacing in enumerate(spacings, start=2):
        low, high = (square.valid.narrow(axis, start, square.valid.shape[axis] - 1) for start in (0, 1))
        both = (low & high).to(images.dtype)
        rise = images.diff(dim=axis) * both / spacing
        # The mean of the differences to either side of which both pixels count.
        padding = [0, 0] * (images.ndim - 1 - axis)
        total, count = (functional.pad(part, (*padding, 1, 0)) + functional.pad(part, (*padding, 0, 1)) for part in (rise, both))
        slopes.append(total / count.clamp_min(1))
    return torch.cat(slopes, 1)
