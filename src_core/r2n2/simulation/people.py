"""Pairs of frames of the simulated thorax with their exact displacement, to join the stream of real pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from r2n2.geometry import Space
from r2n2.simulation.settings import ThoraxConfig
from r2n2.simulation.slices import RealPair
from r2n2.simulation.thorax import SimulatedSeries, thorax_series

__all__ = ["thorax_pairs"]

_FRAMES = 40
_PROBE_INDEX = (0.6, 0.3)  # share of the frame's height and width: in the right lung, near the diaphragm


def thorax_pairs(seeds: Sequence[int], frames_each: int, *, size: int = 192) -> list[RealPair]:
    """Pairs of one simulated person a seed: first its most different frames, then random ones.

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
