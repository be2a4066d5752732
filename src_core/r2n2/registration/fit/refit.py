"""One frame fitted again from its Gaussians so that guiding pairs are met: some are added at the pairs, then all take steps.

The first Gaussian of a pair brings its point to where it belongs at once: where the images have no slope that leads there, or one
that leads elsewhere, no number of steps would. The images choose its width. Coarse to fine, all others follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from r2n2.config import FitConfig
from r2n2.errors import ArgumentError
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.fit.level import Assessed, Level
from r2n2.registration.fit.method import FIRST_DAMPING, linear_parts, ordered_sequences, starting_model
from r2n2.registration.fit.proposal import propose
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Measure, SquaredDifference
from r2n2.transform import GaussianSequence, Transform

__all__ = ["GuidedRefit"]

# Chosen on development frames that the automatic result gets most wrong (seeds 100 to 105 of benchmarks/guiding.py).
_AROUND = 0.25  # standard deviation, NORMALISED, of where a pair draws further Gaussians to
_DOUBTED = 0.2  # the same of where images count less, by up to
_DOUBT = 0.9
_FREE = 0.5  # distance, NORMALISED, from the nearest pair up to which Gaussians take steps
_TRIED_STEPS = 2
_MET = 1.0  # standard deviations within which a pair counts as met


class GuidedRefit:
    """Fits pairs of images with guiding pairs again, one after the other, from what was found without them.

    Parameters
    ----------
    config
        Settings of the objective, and how many Gaussians and steps a refit may take.
    measure
        What the images are compared by; squared differences if None.
    """

    def __init__(self, config: FitConfig, *, measure: Measure | None = None) -> None:
        self._config = config.model_copy(update={"regularisation": config.guided_regularisation * config.regularisation})
        self._measure: Measure = measure or SquaredDifference(config.clamp)

    @property
    def step_count(self) -> int:
        """How many steps ``register`` yields."""
        return sum(self._config.guided_steps)

    def register(self, pairs: Pairs, start: Transform) -> Iterator[RegistrationStep]:
        """Fit one pair of images, yielding after every step.

        Parameters
        ----------
        pairs
            One pair of images, with guiding pairs.
        start
            What was found for it without them.

        Raises
        ------
        ArgumentError
            If the start is no sum of Gaussians, which alone can be gone on from.
        """
        if not isinstance(start, GaussianSequence):
            raise ArgumentError("guide: the displacement found is no sum of Gaussians; choose method r2n2 or fit")
        with torch.inference_mode():
            model, linear = starting_model(pairs, (start,)), linear_parts(pairs, (start,))
        index, held = 0, len(model)
        for number, (size, steps) in enumerate(zip(self._config.sizes, self._config.guided_steps, strict=True)):
            with torch.inference_mode():
                level = Level.build(pairs, size, self._config, self._measure, model, linear).guided(pairs, model)
                level = _doubting(level)
                if number == 0:
                    model = self._placed(level, model)
                elif number == 1:
                    model = self._joined(level, model, self._config.guided_gaussians - (len(model) - held))
                level = _holding(level, model)
                current, damping = level.assess(model), model.centres.new_full((1,), FIRST_DAMPING)
            for step in range(steps):
                with torch.inference_mode():
                    model, current, damping = level.improve(model, current, damping, step, None)
                    if step == steps // 2:
                        level = _insisting(level, model)
                        current = level.assess(model)
                index += 1
                yield RegistrationStep(
                    index, self.step_count, current.objective.clone(), partial(ordered_sequences, model, pairs, linear)
                )

    def _placed(self, level: Level, model: WhitenedGaussians) -> WhitenedGaussians:
        """One Gaussian more at every pair that is not met, the worst first, in place of some that led astray if that is better."""
        assert level.guides is not None
        for _ in range(min(self._config.guided_gaussians, level.guides.points.shape[2])):
            beyond, worst = level.guides.exceeded(model, level.linear)[0].max(0)
            if beyond <= _MET:
                break
            point = level.guides.points[:, :, worst]
            best, lowest = model, torch.inf
            for left in self._left(level, model, int(worst)):
                missing = -level.guides.misfit(left, level.linear)[:, :, worst]
                for width in (self._config.sigma_range[1], *self._config.proposed_sigmas):
                    tried, objective = self._tried(level, left.joined(_round(level, point, missing, width)))
                    if objective < lowest:
                        best, lowest = tried, objective
            model = best
        return model

    def _left(self, level: Level, model: WhitenedGaussians, pair: int) -> list[WhitenedGaussians]:
        """The model, and what is left without the Gaussians that lead a pair astray most, one fewer after the other."""
        assert level.guides is not None
        parts = model.amplitudes[0] * model.derivatives(level.guides.points[:, :, pair : pair + 1])[0, :, 0]
        misfit = level.guides.misfit(model, level.linear)[0, :, pair]
        kept, found = list(range(len(model))), [model]
        while kept and len(found) <= self._config.guided_left_out:
            lengths = (misfit - parts[kept]).norm(dim=1)
            best = int(lengths.argmin())
            if lengths[best] >= misfit.norm():
                break
            misfit = misfit - parts[kept.pop(best)]
            found.append(WhitenedGaussians(model.centres[:, kept], model.factors[:, kept], model.amplitudes[:, kept]))
        return found

    def _tried(self, level: Level, model: WhitenedGaussians) -> tuple[WhitenedGaussians, float]:
        """After a few steps, which say more of what a start is worth than the start does."""
        level = _holding(level, model)
        current, damping = level.assess(model), model.centres.new_full((1,), FIRST_DAMPING)
        for step in range(_TRIED_STEPS):
            model, current, damping = level.improve(model, current, damping, step, None)
        return model, float(current.objective)

    def _joined(self, level: Level, model: WhitenedGaussians, count: int) -> WhitenedGaussians:
        """So many Gaussians more where the images ask for them around the pairs."""
        assert level.guides is not None
        if count < 1:
            return model
        current = level.assess(model)
        new = propose(
            level.grid,
            current.felt,
            current.slope,
            current.weight * _around(level, current),
            count=count,
            sigmas=self._config.proposed_sigmas,
            regularisation=self._config.regularisation,
            least=level.least,
        )
        return model.joined(new)


def _doubting(level: Level) -> Level:
    """Images that count less around the pairs, as they have just been wrong there."""
    trust = (1 - _DOUBT * torch.exp(-0.5 * (_distance(level, level.positions) / _DOUBTED).square()))[None, None]
    return replace(level, fixed_weight=trust if level.fixed_weight is None else trust * level.fixed_weight)


def _holding(level: Level, model: WhitenedGaussians) -> Level:
    """Gaussians far from all pairs, of which those say nothing, stay as they are."""
    return replace(level, held=(_distance(level, model.centres[0].mT) > _FREE)[None])


def _distance(level: Level, places: Tensor) -> Tensor:
    """(P,) NORMALISED of places (ndim, P) to the nearest guiding pair."""
    assert level.guides is not None
    return (places.unsqueeze(2) - level.guides.points[0].unsqueeze(1)).norm(dim=0).amin(1)


def _insisting(level: Level, model: WhitenedGaussians) -> Level:
    assert level.guides is not None
    return replace(level, guides=level.guides.insisting(model, level.linear))


def _round(level: Level, place: Tensor, amplitude: Tensor, width: float) -> WhitenedGaussians:
    """One Gaussian (1, 1, ...) at a place (1, ndim)."""
    ndim = place.shape[1]
    along = place.new_tensor([max(width, low) for low in level.least or (0.0,) * ndim])
    return WhitenedGaussians(place.unsqueeze(1), torch.diag(1 / along)[None, None], amplitude.unsqueeze(1))


def _around(level: Level, current: Assessed) -> Tensor:
    """(1, 1, P) in [0, 1]: how near a pixel lies to a guiding pair."""
    return torch.exp(-0.5 * (_distance(level, level.positions) / _AROUND).square()).to(current.weight)[None, None]
