"""A simulated cohort in the shape of the paper's: 42 people, 34 to train on, 4 to validate on, 4 to test on.

Each has 7 to 14 coronal slice positions from the back to the front, with breaths, noise, coils and flowing blood of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Space
from r2n2.registration import Pairs, automatic_reference
from r2n2.series import LandmarkSet
from r2n2.simulation import SimulatedSeries, thorax_series
from r2n2.simulation.people import acquisition

__all__ = ["PARTS", "Breath", "breaths_of", "observed"]

PARTS = {"train": range(2000, 2034), "validation": range(2034, 2038), "test": range(2038, 2042)}
"""Seeds of the people."""

BREATH_FRAMES = 21


@dataclass(frozen=True, eq=False)
class Breath:
    """One breath at one slice position of one person.

    Parameters
    ----------
    person, number
        Seed of the person, and which slice position, 0 at the back.
    simulated
        All frames, of which the truth is known.
    reference
        The frame nearest the mean.
    frames
        Numbers of the frames that are registered to it.
    """

    person: int
    number: int
    simulated: SimulatedSeries
    reference: int
    frames: tuple[int, ...]

    @property
    def name(self) -> str:
        """Person and slice position."""
        return f"{self.person}-{self.number}"

    @property
    def landmarks(self) -> LandmarkSet:
        """Exact places in the reference and in the frames, INDEX."""
        every = self.simulated.landmarks
        wanted = np.isin(every.frames, (self.reference, *self.frames))
        ids = tuple(name for name, one in zip(every.ids, wanted, strict=True) if one)
        return LandmarkSet(ids, every.frames[wanted], every.points[wanted], Space.INDEX)

    def pairs(self) -> Pairs:
        """The frames of the breath, each with the reference."""
        series = self.simulated.series
        images = {k: torch.from_numpy(series.frame(k).astype(np.float32)) for k in (self.reference, *self.frames)}
        moving = torch.stack([images[k] for k in self.frames])
        valid = torch.ones_like(moving, dtype=torch.bool)
        return Pairs(images[self.reference].expand_as(moving), moving, valid, valid, series.grid)


def breaths_of(person: int, *, size: int, series_frames: int, frames: int, most_slices: int) -> Iterator[Breath]:
    """One breath a slice position.

    Parameters
    ----------
    person
        Seed.
    size
        Pixels of a frame along both axes.
    series_frames
        Frames acquired, among which the reference is the one nearest the mean.
    frames
        Frames of the breath that are registered, evenly, of the 20 beside the reference.
    most_slices
        Slice positions used, evenly from the back to the front.
    """
    whole = acquisition(person, frames=series_frames, size=size)
    for number in evenly(len(whole), most_slices):
        simulated = thorax_series(whole[number])
        reference = automatic_reference(simulated.series)
        first = min(max(reference - BREATH_FRAMES // 2, 0), series_frames - BREATH_FRAMES)
        breath = [k for k in range(first, first + BREATH_FRAMES) if k != reference]
        yield Breath(person, number, simulated, reference, tuple(breath[k] for k in evenly(len(breath), frames)))


def evenly(count: int, most: int) -> list[int]:
    """``most`` of the numbers below ``count``, the first and the last among them; all where there are no more."""
    if most >= count:
        return list(range(count))
    return sorted({round(k) for k in np.linspace(0, count - 1, most)})


def observed(landmarks: LandmarkSet, spacing_mm: tuple[float, ...], mean_mm: float, seed: int) -> LandmarkSet:
    """Landmarks as a person would place them: each off by a Gaussian whose mean length is ``mean_mm``."""
    if not mean_mm:
        return landmarks
    deviation_mm = mean_mm / np.sqrt(np.pi / 2)
    rng = np.random.default_rng([seed, 10])
    shift: NDArray[np.float64] = rng.normal(0, deviation_mm, landmarks.points.shape) / np.asarray(spacing_mm)
    return LandmarkSet(landmarks.ids, landmarks.frames, landmarks.points + shift, landmarks.space)
