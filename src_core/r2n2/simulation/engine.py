"""The data engine: an endless seeded stream of pairs of squares for training, most of them with their exact displacement.

A simulated pair looks at one source image B through a random affine view A: moving(x) = B(A x) and
fixed(x) = B(A(x + f(x))), so that f is the exact pull-back whatever it is. Sample k depends on the seed and k alone: a run
resumes bit for bit, and several processes share the stream without overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from r2n2.simulation.appearance import acquire, change_contrast
from r2n2.simulation.decoration import decorate
from r2n2.simulation.engine_config import EngineConfig
from r2n2.simulation.lattice import square_lattice
from r2n2.simulation.patchwork import draw_patchwork
from r2n2.simulation.random_motion import draw_motion
from r2n2.simulation.slices import RealPair, RealSlice, prepare_pair, prepare_slice
from r2n2.simulation.view import draw_view

__all__ = ["EngineConfig", "PairEngine", "RealPair", "RealSlice", "SimulatedBatch"]

_PATCHWORK_FINENESS = 1.5  # pixels of a drawn picture per pixel of the square


@dataclass(frozen=True, eq=False)
class SimulatedBatch:
    """Pairs on squares of n x n pixel centres that run over [-1, 1]; intensities of about 0 to 1."""

    fixed: Tensor
    """(B, 1, n, n) float32."""
    moving: Tensor
    """(B, 1, n, n) float32."""
    fixed_valid: Tensor
    """(B, 1, n, n) bool; False outside the source."""
    moving_valid: Tensor
    """(B, 1, n, n) bool."""
    displacement: Tensor
    """(B, 2, n, n) pull-back, fixed(x) = moving(x + f(x)), NORMALISED, array order; 0 where there is no truth."""
    has_truth: Tensor
    """(B,) bool: whether the displacement is known."""
    kinds: tuple[str, ...]
    """Kind of motion of every sample."""


class _Sample(NamedTuple):
    images: Tensor  # (2, n, n) fixed, moving
    valid: Tensor  # (2, n, n)
    displacement: Tensor  # (2, n, n)
    has_truth: bool
    kind: str


class PairEngine:
    """Makes samples by their number.

    Parameters
    ----------
    slices
        Sources of simulated pairs; none: drawn pictures alone.
    pairs
        Frames of real series, mixed in with ``config.real_share``.
    config
        How often and how much of everything.
    seed
        Chooses the stream.

    Raises
    ------
    ValueError
        If the seed is negative.
    """

    def __init__(self, slices: Sequence[RealSlice], pairs: Sequence[RealPair], config: EngineConfig, *, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"PairEngine: seed must be at least 0, got {seed}")
        self._config = config
        self._seed = seed
        self._slices = [prepare_slice(item) for item in slices]
        self._pairs = [prepare_pair(item) for item in pairs]
        self._slice_shares = _shares([item.patient for item in slices])
        self._pair_shares = _shares([item.patient for item in pairs])

    def batch(self, first: int, count: int, size: int) -> SimulatedBatch:
        """Samples number ``first`` to ``first + count - 1`` on squares of ``size`` x ``size`` pixels.

        Raises
        ------
        ValueError
            If a number is too small.
        """
        if first < 0 or count < 1 or size < 8:
            raise ValueError(
                f"PairEngine.batch: first must be at least 0, count 1 and size 8 pixels, got {first}, {count} and {size}"
            )
        fixed, moving = torch.empty(2, count, 1, size, size)
        fixed_valid, moving_valid = torch.empty(2, count, 1, size, size, dtype=torch.bool)
        displacement = torch.empty(count, 2, size, size)
        has_truth, kinds = torch.empty(count, dtype=torch.bool), []
        for k in range(count):
            sample = self._sample(first + k, size)
            fixed[k, 0], moving[k, 0] = sample.images
            fixed_valid[k, 0], moving_valid[k, 0] = sample.valid
            displacement[k] = sample.displacement
            has_truth[k] = sample.has_truth
            kinds.append(sample.kind)
        return SimulatedBatch(fixed, moving, fixed_valid, moving_valid, displacement, has_truth, tuple(kinds))

    def _sample(self, number: int, size: int) -> _Sample:
        rng = np.random.default_rng([self._seed, number])
        real = rng.uniform() < self._config.real_share
        return self._real(rng, size) if real and self._pairs else self._simulated(rng, size)

    def _simulated(self, rng: np.random.Generator, size: int) -> _Sample:
        config = self._config
        if rng.uniform() < config.synthetic_share or not self._slices:
            source = draw_patchwork(rng, round(_PATCHWORK_FINENESS * size))
        else:
            source = self._slices[int(rng.choice(len(self._slices), p=self._slice_shares))]
        view = draw_view(rng, config)
        displacement, kind = draw_motion(rng, size, config.motion)
        lattice = torch.stack(square_lattice(size))
        positions = torch.stack((lattice + displacement, lattice))
        # Both images' positions one below the other: one call of the sampler.
        places = view.to_source(torch.cat((positions[0], positions[1]), dim=1))
        values, inside = source.sample(places, source.level_for(2 / (size - 1) / view.zoom))
        images = decorate(rng, values.view(2, size, size), positions, config.appearance)
        images = change_contrast(rng, images, config.appearance)
        images = acquire(rng, images, displacement, config.appearance)
        return _Sample(images, inside.view(2, size, size), displacement, True, kind)

    def _real(self, rng: np.random.Generator, size: int) -> _Sample:
        config = self._config
        frames, motion = self._pairs[int(rng.choice(len(self._pairs), p=self._pair_shares))]
        view = draw_view(rng, config)
        places = view.to_source(torch.stack(square_lattice(size)))
        images, inside = frames.sample(places, frames.level_for(2 / (size - 1) / view.zoom))
        images = change_contrast(rng, images, config.appearance)
        valid = inside.expand(2, size, size)
        if motion is not None:
            vectors, _ = motion.sample(places, 0)
            return _Sample(images, valid, view.vectors_to_square(vectors), True, "known pair")
        if rng.uniform() < 0.5:
            images = images.flip(0)
        return _Sample(images, valid, torch.zeros(2, size, size), False, "real pair")


def _shares(patients: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of each item: a patient with many slices is seen more often than one with few, but not in proportion."""
    counts = Counter(patients)
    weights = np.array([counts[patient] ** -0.5 for patient in patients])
    return weights / weights.sum() if len(weights) else weights
