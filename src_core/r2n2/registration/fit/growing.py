"""Fit with as many Gaussians a pair as the images ask for: some are added while what they promise stands out from the noise.

The least squares of ``proposal`` promise that the next Gaussian lowers the objective J by some amount. One fitted to noise lowers
it, too. By Schwarz's criterion (1978) q numbers are worth it where they lower n log J by more than q log n, n independent pixels.
Residuals are not independent, so n is the number of pixels over the area in which they correlate. Each pair stops on its own
account; pairs that hold equally many Gaussians are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.fit.independence import correlation_area
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.method import FIRST_DAMPING, linear_parts, ordered_sequences, starting_model
from r2n2.registration.fit.proposal import propose_with_gains
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Measure, SquaredDifference
from r2n2.transform import GaussianSequence, Transform

__all__ = ["GrowingFit", "correlation_area", "worthwhile"]

# A promise holds for one Gaussian at its best, of which few steps of all together realise a part.
_PROMISED_PER_GAINED = 4.0


@dataclass(frozen=True)
class _Stage:
    """What pairs do on a square of ``size`` pixels: add Gaussians up to ``most``, each time taking steps, or take steps once."""

    size: int
    steps: int
    most: int | None = None
    far_only: bool = False


@dataclass(frozen=True, eq=False)
class _Part:
    """Pairs that hold equally many Gaussians, at one stage."""

    stage: int
    rows: Tensor
    """(A,) which of the batch they are."""
    model: WhitenedGaussians
    loss: Tensor
    """(A,)"""
    gained: Tensor
    """(A,) by how much the last Gaussians that were added lowered it, each."""

    def chosen(self, kept: Tensor, stage: int) -> _Part:
        """Those for which ``kept`` (A,) is true, at a stage."""
        gained = self.gained[kept] if stage == self.stage else torch.full_like(self.gained[kept], torch.inf)
        return _Part(stage, self.rows[kept], self.model.chosen(kept), self.loss[kept], gained)


class GrowingFit:
    """Gaussians fitted to each pair, as ``FitMethod`` does it, as many as each pair needs.

    Parameters
    ----------
    config
        Settings of the objective and the plan.
    measure
        What images are compared by; squared differences if None.
    trust
        As in ``FitMethod``.
    """

    name = "fit"

    def __init__(self, config: FitConfig, *, measure: Measure | None = None, trust: Tensor | None = None) -> None:
        weight = max(config.steepness_weight, config.growing_steepness_weight)
        self._config = config.model_copy(update={"steepness_weight": weight})
        self._measure: Measure = measure or SquaredDifference(config.clamp)
        self._trust = trust

    @property
    def gaussians(self) -> int:
        """How many describe a pair at most."""
        return self._config.most_gaussians

    def step_count(self, present: int) -> int:
        """How many steps a pair takes at most from a start of ``present`` Gaussians."""
        total, held = 0, present
        for stage in self._stages(present):
            turns = 1 if stage.most is None else max(0, math.ceil((stage.most - held) / self._config.added_at_once))
            held = held if stage.most is None else max(held, stage.most)
            total += 0 if stage.far_only else turns * stage.steps
        return total

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Fit a batch, yielding after every step of some of its pairs; ``start`` as in ``FitMethod.register``.

        Steps are counted by the share of pairs that take them.
        """
        with torch.inference_mode():
            parts = _started(pairs, start)
            linear = linear_parts(pairs, start)
        present = [len(part.model) for part in parts]
        stages, total, taken = self._stages(max(present)), self.step_count(min(present) if max(present) else 0), 0.0
        level: Level | None = None
        built: tuple[int, ...] = ()
        while True:
            with torch.inference_mode():
                part, others = _next(parts)
                if part.stage == len(stages):
                    return
                stage = stages[part.stage]
                wanted = (stage.size, *part.rows.tolist())
                if level is None or built != wanted or pairs.masked:
                    some, own = pairs.chosen(part.rows), None if linear is None else linear[part.rows]
                    level = Level.build(some, stage.size, self._config, self._measure, part.model, own, self._trust)
                    built = wanted
                held = len(part.model)
                part, rest, moved = self._begun(level, part, stage)
                others = [*others, *rest]
                parts = [part, *others]
                if moved is not None and not bool(moved.any()):
                    continue
                current = level.assess(part.model)
                before, added = current.objective, len(part.model) - held
                damping = current.objective.new_full((len(part.rows),), FIRST_DAMPING)
            for step in range(stage.steps):
                with torch.inference_mode():
                    grown, current, damping = level.improve(part.model, current, damping, step, moved)
                    gained = (before - current.objective) / added if added else part.gained
                    part = _Part(part.stage, part.rows, grown, current.objective, gained)
                    parts = [part, *others]
                if not stage.far_only:
                    taken += len(part.rows) / len(pairs)
                    index = min(max(1, math.floor(taken + 1e-6)), total)
                    yield RegistrationStep(index, total, _loss(parts, len(pairs)), partial(_sequences, tuple(parts), pairs, linear))

    def _stages(self, present: int) -> tuple[_Stage, ...]:
        config = self._config
        coarsest, middle, finest = config.sizes
        far = _Stage(coarsest, config.far_steps, far_only=True)
        grow = _Stage(middle, config.steps_a_round, most=config.most_gaussians)
        if present:
            return far, grow, _Stage(finest, config.refine_steps[1])
        first = _Stage(coarsest, 2 * config.steps_a_round, most=config.most_coarse)
        return first, far, grow, _Stage(finest, config.final_steps)

    def _begun(self, level: Level, part: _Part, stage: _Stage) -> tuple[_Part, list[_Part], Tensor | None]:
        """The part that takes steps now, what has left it, and which of its pairs move; none do where all have left."""
        none = torch.zeros_like(part.rows, dtype=torch.bool)
        if stage.most is None:
            after = _Part(part.stage + 1, part.rows, part.model, part.loss, torch.full_like(part.loss, torch.inf))
            if not stage.far_only:
                return after, [], None
            return after, [], level.is_far(level.assess(part.model)) if len(part.model) else none
        config, current = self._config, level.assess(part.model)
        part = _Part(part.stage, part.rows, part.model, current.objective, part.gained)
        # Pairs that started with other numbers of Gaussians meet at the next multiple, and go on together.
        count = min(config.added_at_once - len(part.model) % config.added_at_once, stage.most - len(part.model))
        if count <= 0:
            return part.chosen(~none, part.stage + 1), [], none
        new, gains = propose_with_gains(
            level.grid,
            current.felt,
            current.slope,
            current.weight,
            count=count,
            sigmas=config.proposed_sigmas,
            regularisation=config.regularisation,
            least=level.least,
        )
        promised = torch.minimum(gains.mean(1), _PROMISED_PER_GAINED * part.gained)
        going = worthwhile(promised, current.residual, current.weight, level.grid.shape, config.worth, part.model.freedom)
        if not len(part.model):
            going = torch.ones_like(going)  # a pair without Gaussians has nothing to take steps with
        if not bool(going.all()):
            left = part.chosen(~going, part.stage + 1)
            return left, [part.chosen(going, part.stage)] if bool(going.any()) else [], none[: len(left.rows)]
        return _Part(part.stage, part.rows, part.model.joined(new), part.loss, part.gained), [], None


def worthwhile(gains: Tensor, residual: Tensor, weight: Tensor, shape: tuple[int, ...], worth: float, numbers: int) -> Tensor:
    """Where more Gaussians are worth their numbers, (B,) bool.

    Parameters
    ----------
    gains
        (B,) by how much the next Gaussians would lower the objective, each.
    residual, weight
        (B, C, P) and (B, 1, P) on a lattice of ``shape``; the weights sum to at most 1.
    worth
        How many times Schwarz's criterion has to be met.
    numbers
        That describe a Gaussian.
    """
    level = (weight * residual.square()).sum((1, 2))
    counted = (weight > 0).sum((1, 2))
    independent = counted / correlation_area(residual * weight.sqrt(), shape)
    least = worth * numbers * independent.clamp_min(2).log() / independent.clamp_min(2)
    return gains > least * level


def _started(pairs: Pairs, start: Sequence[Transform] | None) -> list[_Part]:
    """Parts at the first stage, one for each number of Gaussians that pairs start with."""
    starting_model(pairs, start)  # says what is wrong with a start that does not fit
    counts = [0] * len(pairs) if start is None else [len(one) for one in start if isinstance(one, GaussianSequence)]
    parts = []
    for count in sorted(set(counts)):
        rows = torch.tensor([row for row, own in enumerate(counts) if own == count], device=pairs.moving.device)
        model = starting_model(pairs.chosen(rows), None if start is None else [start[row] for row in rows.tolist()])
        nothing = torch.full((len(rows),), torch.nan, device=pairs.moving.device)
        parts.append(_Part(0, rows, model, nothing, torch.full_like(nothing, torch.inf)))
    return parts


def _next(parts: Sequence[_Part]) -> tuple[_Part, list[_Part]]:
    """All pairs of the earliest stage that hold the fewest Gaussians, as one part, and the others."""
    least = min((part.stage, len(part.model)) for part in parts)
    some = [part for part in parts if (part.stage, len(part.model)) == least]
    others = [part for part in parts if (part.stage, len(part.model)) != least]
    if len(some) == 1:
        return some[0], others
    models = [part.model for part in some]
    model = WhitenedGaussians(*(torch.cat([getattr(m, name) for m in models]) for name in ("centres", "factors", "amplitudes")))
    rows, loss, gained = (torch.cat([getattr(part, name) for part in some]) for name in ("rows", "loss", "gained"))
    return _Part(least[0], rows, model, loss, gained), others


def _loss(parts: Sequence[_Part], count: int) -> Tensor:
    loss = parts[0].loss.new_empty(count)
    for part in parts:
        loss[part.rows] = part.loss
    return loss


def _sequences(parts: tuple[_Part, ...], pairs: Pairs, linear: Tensor | None) -> tuple[Transform, ...]:
    found: dict[int, Transform] = {}
    for part in parts:
        own = None if linear is None else linear[part.rows]
        found.update(zip(part.rows.tolist(), ordered_sequences(part.model, pairs.chosen(part.rows), own), strict=True))
    return tuple(found[row] for row in range(len(pairs)))
