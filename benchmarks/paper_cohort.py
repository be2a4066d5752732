"""A simulated cohort in the shape of the paper's: 42 people, 34 to train on, 4 to validate on, 4 to test on.

Each has 7 to 14 coronal slice positions from the back to the front, with breaths, noise, coils and flowing blood of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.geometry import Grid, Space
from r2n2.registration import Pairs, automatic_reference
from r2n2.series import LandmarkSet
from r2n2.simulation import ThoraxConfig, thorax_series
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
    reference
        The frame nearest the mean.
    frames
        Numbers of the frames that are registered to it.
    pairs
        The frames of the breath, each with the reference.
    landmarks
        Exact places in the reference and in the frames, INDEX.
    """

    person: int
    number: int
    reference: int
    frames: tuple[int, ...]
    pairs: Pairs
    landmarks: LandmarkSet

    @property
    def name(self) -> str:
        """Person and slice position."""
        return f"{self.person}-{self.number}"


def breaths_of(person: int, *, size: int, series_frames: int, frames: int, most_slices: int, kept: Path) -> Iterator[Breath]:
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
    kept
        Folder in which what was simulated is kept, and found again by all of the above.
    """
    whole = acquisition(person, frames=series_frames, size=size)
    for number in evenly(len(whole), most_slices):
        file = kept / f"breath-{person}-{number}-{size}-{series_frames}-{frames}.npz"
        if not file.is_file():
            _simulate(file, whole[number], frames)
        yield _read(file, person, number)


def _simulate(file: Path, config: ThoraxConfig, count: int) -> None:
    simulated = thorax_series(config)
    series, marks = simulated.series, simulated.landmarks
    reference = automatic_reference(series)
    first = min(max(reference - BREATH_FRAMES // 2, 0), config.frames - BREATH_FRAMES)
    breath = [k for k in range(first, first + BREATH_FRAMES) if k != reference]
    frames = [breath[k] for k in evenly(len(breath), count)]
    numbers = [reference, *frames]
    np.savez(
        file,
        numbers=numbers,
        images=np.stack([series.frame(k) for k in numbers]),
        spacing=series.grid.spacing,
        ids=marks.in_frame(reference).ids,
        points=np.stack([marks.in_frame(k).points for k in numbers]),
    )


def _read(file: Path, person: int, number: int) -> Breath:
    with np.load(file) as held:
        numbers, ids = [int(k) for k in held["numbers"]], [str(name) for name in held["ids"]]
        images = torch.from_numpy(held["images"].astype(np.float32))
        grid = Grid(tuple(images.shape[2:]), tuple(float(step) for step in held["spacing"]))
        points = held["points"].reshape(-1, 2)
    moving = images[1:]
    valid = torch.ones_like(moving, dtype=torch.bool)
    marks = LandmarkSet(tuple(ids) * len(numbers), np.repeat(numbers, len(ids)), points, Space.INDEX)
    return Breath(
        person, number, numbers[0], tuple(numbers[1:]), Pairs(images[:1].expand_as(moving), moving, valid, valid, grid), marks
    )


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
