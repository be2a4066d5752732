"""The Gaussians of one frame fitted again around some that a person set: those are held, the others follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from r2n2.config import FitConfig
from r2n2.errors import ArgumentError
from r2n2.registration.base import Pairs, RegistrationStep
from r2n2.registration.fit.level import Level
from r2n2.registration.fit.method import FIRST_DAMPING, linear_parts, starting_model
from r2n2.registration.fit.whitened import WhitenedGaussians
from r2n2.registration.measures import Measure, SquaredDifference
from r2n2.transform import GaussianSequence, Transform

__all__ = ["HeldFit"]


class HeldFit:
    """Steps of all Gaussians but those held, on the second and the finest square; none is added, and their order stays.

    Parameters
    ----------
    config
        Settings of the objective, and how many steps are taken.
    measure
        What the images are compared by; squared differences if None.
    """

    def __init__(self, config: FitConfig, *, measure: Measure | None = None) -> None:
        self._config = config
        self._measure: Measure = measure or SquaredDifference(config.clamp)

    def register(self, pairs: Pairs, start: GaussianSequence, held: Sequence[int]) -> Iterator[RegistrationStep]:
        """Fit one pair of images, yielding after every step.

        Parameters
        ----------
        pairs
            One pair of images; guiding pairs are held to, if there are any.
        start
            The Gaussians, some of which a person set.
        held
            Which, from 0.

        Raises
        ------
        ArgumentError
            If there is no such Gaussian.
        """
        if any(not 0 <= k < len(start) for k in held):
            raise ArgumentError(f"held: expected Gaussians from 0 to {len(start) - 1}, got {list(held)}")
        plan = list(zip(self._config.sizes, self._config.guided_steps, strict=True))[1:]
        total, index = sum(steps for _size, steps in plan), 0
        with torch.inference_mode():
            model, linear = starting_model(pairs, (start,)), linear_parts(pairs, (start,))
            fixed = torch.zeros(1, len(model), dtype=torch.bool, device=model.centres.device)
            fixed[0, list(held)] = True
        for size, steps in plan:
            with torch.inference_mode():
                level = Level.build(pairs, size, self._config, self._measure, model, linear).guided(pairs, model)
                level = replace(level, held=fixed)
                current, damping = level.assess(model), model.centres.new_full((1,), FIRST_DAMPING)
            for step in range(steps):
                with torch.inference_mode():
                    model, current, damping = level.improve(model, current, damping, step, None)
                index += 1
                so_far = partial(_put_back, model, start, tuple(held))
                yield RegistrationStep(index, total, current.objective.clone(), so_far)


def _put_back(model: WhitenedGaussians, start: GaussianSequence, held: tuple[int, ...]) -> tuple[Transform, ...]:
    """On the processor, with the linear part, and what was held as it was given and not as rounding left it."""
    (found,), parts = model.sequences(start.grid), {}
    for name in ("centres", "sigmas", "orientation", "amplitudes"):
        value = getattr(found, name).cpu().clone()
        value[list(held)] = getattr(start, name)[list(held)].to(value)
        parts[name] = value
    return (GaussianSequence(**parts, grid=start.grid, linear=start.linear),)
