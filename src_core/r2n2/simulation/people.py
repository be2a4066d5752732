"""Simulated people to learn from and to be tested on: their slice positions, and pairs of frames with exact displacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from r2n2.geometry import Space
from r2n2.simulation.settings import ThoraxConfig
from r2n2.simulation.slices import RealPair
from r2n2.simulation.thorax import SimulatedSeries, thorax_series

__all__ = ["acquisition", "acquisition_pairs", "thorax_pairs"]

_FRAMES = 40
_FRAMES_A_BREATH = 21
_FEWEST_SLICES, _MOST_SLICES = 7, 14
_PROBE_INDEX = (0.6, 0.3)  # share of the frame's height and width: in the right lung, near the diaphragm


def acquisition(seed: int, *, frames: int = 140, size: int = 256) -> tuple[ThoraxConfig, ...]:
    """One person as acquired: 7 to 14 slice positions from the back to the front, breathing, noise and coils of its own.

    Parameters
    ----------
    seed
        The person.
    frames
        Of each slice position.
    size
        Pixels of a frame along both axes.
    """
    rng = np.random.default_rng([seed, 8])
    slices = int(rng.integers(_FEWEST_SLICES, _MOST_SLICES + 1))
    # The rearmost slice moves a fifth more, and no diaphragm more than 30 mm.
    depth, noise, bias = rng.uniform(6, 24), rng.uniform(0.005, 0.05), rng.uniform(0, 0.6)
    period = rng.uniform(3, 5.5)
    return tuple(
        ThoraxConfig(
            seed=seed,
            slices=slices,
            slice=number,
            frames=frames,
            shape=(size, size),
            breathing_depth_mm=depth,
            breathing_period_s=period,
            frame_interval_s=period / _FRAMES_A_BREATH,
            noise=noise,
            bias=bias,
        )
        for number in range(slices)
    )


def acquisition_pairs(seeds: Sequence[int], pairs_a_slice: int, *, size: int = 192) -> list[RealPair]:
    """Pairs of frames of every slice position of some people, as ``thorax_pairs`` chooses them.

    Raises
    ------
    ValueError
        If ``pairs_a_slice`` is below 1.
    """
    if pairs_a_slice < 1:
        raise ValueError(f"acquisition_pairs: pairs_a_slice must be at least 1, got {pairs_a_slice}")
    pairs = []
    for seed in seeds:
        for config in acquisition(seed, frames=_FRAMES, size=size):
            simulated = thorax_series(config.model_copy(update={"landmarks": 0}))
            rng = np.random.default_rng([seed, 9, config.slice])
            for fixed, moving in _choose(rng, simulated, pairs_a_slice):
                pairs.append(_pair(simulated, fixed, moving, seed))
    return pairs


def thorax_pairs(seeds: Sequence[int], frames_each: int, *, size: int = 192) -> list[RealPair]:
    """Pairs of one simulated person a seed, seen through the middle of the chest: its most different frames, then random ones.

    Parameters
    ----------
    seeds
        One person each; also chooses breathing, noise and frames.
    frames_each
        Pairs a person.
    size
        Pixels of a frame along both axes.

    Raises
    ------
    ValueError
        If ``frames_each`` is below 1.
    """
    if frames_each < 1:
        raise ValueError(f"thorax_pairs: frames_each must be at least 1, got {frames_each}")
    pairs = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 7])
        config = ThoraxConfig(
            seed=seed,
            frames=_FRAMES,
            shape=(size, size),
            breathing_depth_mm=rng.uniform(6, 26),
            noise=rng.uniform(0.005, 0.05),
            bias=rng.uniform(0, 0.6),
            landmarks=0,
        )
        simulated = thorax_series(config)
        for fixed, moving in _choose(rng, simulated, frames_each):
            pairs.append(_pair(simulated, fixed, moving, seed))
    return pairs


def _choose(rng: np.random.Generator, simulated: SimulatedSeries, count: int) -> list[tuple[int, int]]:
    """Frame numbers (fixed, moving)."""
    grid = simulated.series.grid
    probe = np.array([[share * n for share, n in zip(_PROBE_INDEX, grid.shape, strict=True)]])
    height = [float(simulated.track(probe, 0, frame)[0, 0]) for frame in range(_FRAMES)]
    extremes = (int(np.argmin(height)), int(np.argmax(height)))
    chosen = [extremes if rng.uniform() < 0.5 else extremes[::-1]]
    while len(chosen) < count:
        fixed, moving = (int(k) for k in rng.choice(_FRAMES, 2, replace=False))
        chosen.append((fixed, moving))
    return chosen


def _pair(simulated: SimulatedSeries, fixed: int, moving: int, seed: int) -> RealPair:
    series = simulated.series
    images = [torch.from_numpy(series.frame(k).astype(np.float32)) for k in (fixed, moving)]
    vectors = simulated.displacement(fixed, moving).to_space(Space.NORMALISED).vectors.float()
    return RealPair(
        images[0], images[1], (series.grid.spacing[0], series.grid.spacing[1]), f"thorax-{seed}", "simulated thorax", vectors
    )
