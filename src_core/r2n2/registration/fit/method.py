"""Registration without training: Gaussians fitted to each pair by damped Gauss-Newton steps, coarse to fine, batched over pairs.

The objective of a pair is the mean of r^2 / (1 + r^2 / outlier^2) over the valid pixels of the working square, weighted by masks
and by how far pixels can be trusted, where that is known, with r^2 the sum of the squared residuals of a measure (of ``ssd`` the
one difference of z-scored intensities), plus ``regularisation`` times the mean squared gradient of the displacement, plus
``folding_weight`` times a penalty on folding.
Gaussians are added a few at a time where one alone would lower the objective most (``proposal``), then all are moved together. A
step takes its slope from the whole objective and its curvature from a sample of the pixels; pairs whose objective it does not lower
do not take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from r2n2.config import FitConfig, VolumeFitConfig
from r2n2.errors import ArgumentError
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Measure, SquaredDifference
from r2n2.transform import GaussianSequence, Transform, normalised_lattice

__all__ = ["FIRST_DAMPING", "FitMethod", "Round", "linear_parts", "ordered_sequences", "plan_rounds", "starting_model"]

FIRST_DAMPING = 1e-2
_ORDER_SIZE = 24


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
    measure
        What the images are compared by; squared differences of intensities if None.
    trust
        (1, 1, *shape) how far the pixels of the fixed images can be trusted, on the finest square; all alike if None.
    """

    name = "fit"

    def __init__(
        self, config: FitConfig, *, gaussians: int = 25, measure: Measure | None = None, trust: Tensor | None = None
    ) -> None:
        if gaussians < 1:
            raise ArgumentError(f"steps: at least 1 Gaussian is needed, got {gaussians}")
        self._config = config
        self._gaussians = gaussians
        self._measure = measure or SquaredDifference(config.clamp)
        self._trust = trust

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
            One GaussianSequence a pair to start from; Gaussians are added until there are as many as asked for. Its linear part
            stays as it is.

        Raises
        ------
        ArgumentError
            If ``start`` holds anything but one GaussianSequence a pair.
        """
        with torch.inference_mode():
            model = starting_model(pairs, start)
            linear = linear_parts(pairs, start)
        rounds = plan_rounds(self._config, self._gaussians, len(model))
        total, index = self.step_count(len(model)), 0
        level: Level | None = None
        for plan in rounds:
            with torch.inference_mode():
                # With a mask the intensities are compared where it lies in the moving frame, which is known better each round.
                if level is None or level.size != plan.size or pairs.masked:
                    level = Level.build(pairs, plan.size, self._config, self._measure, model, linear, self._trust)
                    level = level.guided(pairs, model)
                current = level.assess(model)
                moved = level.is_far(current) if plan.far_only else None
                if moved is not None and not bool(moved.any()):
                    continue
                if plan.add:
                    new = propose(
                        level.grid,
                        current.felt,
                        current.slope,
                        current.weight,
                        count=plan.add,
                        sigmas=self._config.proposed_sigmas,
                        regularisation=self._config.regularisation,
                        least=level.least,
                        flatness=self._config.proposed_flatness if isinstance(self._config, VolumeFitConfig) else 1.0,
                    )
                    model = model.joined(new)
            damping = current.objective.new_full((len(pairs),), FIRST_DAMPING)
            for step in range(plan.steps):
                with torch.inference_mode():
                    model, current, damping = level.improve(model, current, damping, step, moved)
                if plan.far_only:
                    continue  # not yielded: the number of steps is told before it is known who is far
                index += 1
                yield RegistrationStep(index, total, current.objective.clone(), partial(ordered_sequences, model, pairs, linear))


def ordered_sequences(model: WhitenedGaussians, pairs: Pairs, linear: Tensor | None) -> tuple[Transform, ...]:
    """One GaussianSequence a pair, in order of importance, on the processor, on top of linear parts (B, ndim, ndim + 1)."""
    model = model.ordered_by_importance(normalised_lattice(pairs.grid.enclosing_cube(_ORDER_SIZE), pairs.moving).flatten(1))
    return tuple(
        GaussianSequence(s.centres.cpu(), s.sigmas.cpu(), s.orientation.cpu(), s.amplitudes.cpu(), s.grid, part)
        for s, part in zip(model.sequences(pairs.grid), _parts(linear, len(pairs)), strict=True)
    )


def _parts(linear: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    """A linear part a pair, None where it is 0."""
    if linear is None:
        return (None,) * count
    return tuple(part.cpu().clone() if bool(part.any()) else None for part in linear)


def linear_parts(pairs: Pairs, start: Sequence[Transform] | None) -> Tensor | None:
    """(B, ndim, ndim + 1) of a start; None where no pair has any."""
    parts = [s.linear for s in start or () if isinstance(s, GaussianSequence)]
    if all(part is None for part in parts):
        return None
    ndim = pairs.grid.ndim
    none = pairs.moving.new_zeros(ndim, ndim + 1)
    return torch.stack([none if part is None else part.to(none) for part in parts])


def starting_model(pairs: Pairs, start: Sequence[Transform] | None) -> WhitenedGaussians:
    """The Gaussians to start from, as ``FitMethod.register`` takes them."""
    if start is None:
        return WhitenedGaussians.none(len(pairs), pairs.moving, pairs.grid.ndim)
    sequences = tuple(s for s in start if isinstance(s, GaussianSequence) and s.grid.same_space(pairs.grid))
    if len(sequences) != len(pairs) or len(start) != len(pairs):
        raise ArgumentError(
            f"start: fit needs one GaussianSequence a pair on the pairs' grid, got {len(start)} transforms of which "
            f"{len(sequences)} fit, for {len(pairs)} pairs"
        )
    return WhitenedGaussians.from_sequences(sequences, pairs.moving)
