"""A method whose results are fitted again where a person gave guiding pairs; all others stay what they are without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from r2n2.config import FitConfig
from r2n2.registration.base import Method, Pairs, RegistrationStep
from r2n2.registration.fit.refit import GuidedRefit
from r2n2.registration.measures import Measure
from r2n2.transform import Transform

__all__ = ["Guided"]


class Guided:
    """Registers as ``method`` does, then each pair of images that has guiding pairs again from there.

    So a frame comes out as it would have if a person had looked at the result first, and then marked what is wrong.

    Parameters
    ----------
    method
        The method; its results must be sums of Gaussians.
    fit
        Settings of the refit.
    measure
        What the images are compared by; squared differences if None.
    """

    def __init__(self, method: Method, fit: FitConfig, *, measure: Measure | None = None) -> None:
        self._method = method
        self._refit = GuidedRefit(fit, measure=measure)

    @property
    def name(self) -> str:
        """That of the method."""
        return self._method.name

    def register(self, pairs: Pairs, *, start: Sequence[Transform] | None = None) -> Iterator[RegistrationStep]:
        """Register a batch, yielding after every step of the method and of each refit."""
        rows = [row for row, guides in enumerate(pairs.guides) if guides is not None]
        if not rows:
            yield from self._method.register(pairs, start=start)
            return
        more, last = len(rows) * self._refit.step_count, None
        for last in self._method.register(replace(pairs, guides=()), start=start):
            yield replace(last, total=last.total + more)
        if last is None:
            return
        found, loss, index = last.transforms(), last.loss, last.index
        for row in rows:
            step: RegistrationStep | None = None
            for step in self._refit.register(pairs.chosen([row]), found[row]):
                loss = loss.index_put((torch.tensor([row], device=loss.device),), step.loss.to(loss))
                so_far = partial(_with, found, row, step)
                yield RegistrationStep(index + step.index, last.index + more, loss, so_far, last.notes)
            if step is not None:
                found, index = _with(found, row, step), index + step.index


def _with(found: tuple[Transform, ...], row: int, step: RegistrationStep) -> tuple[Transform, ...]:
    """The transforms of a batch, that of one pair the one that a step of it alone gives."""
    return (*found[:row], step.transforms()[0], *found[row + 1 :])
