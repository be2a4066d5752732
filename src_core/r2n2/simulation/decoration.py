"""Texture and vessels painted on the tissue: a canvas that both images of a pair are given from, each at its own positions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.simulation.engine_config import AppearanceConfig
from r2n2.simulation.lattice import random_field, square_lattice
from r2n2.transform import sample_normalised

__all__ = ["decorate"]

_EXTENT = 1.25  # of the canvas: motion brings tissue from outside the square into view
# The canvas is neither image's lattice, so that interpolation smooths both alike.
_FINENESS = 1.37


def decorate(rng: np.random.Generator, images: Tensor, positions: Tensor, config: AppearanceConfig) -> Tensor:
    """Images (2, n, n) of tissue with what was drawn on it.

    Parameters
    ----------
    positions
        (2, 2, n, n): for each image the y and x that its tissue has in the moving view.
    """
    textured, with_vessels = rng.uniform() < config.texture, rng.uniform() < config.vessels
    if not textured and not with_vessels:
        return images
    size = round(_FINENESS * images.shape[-1])
    # Kept even where one is not drawn: the sampler's cost hardly depends on the channels.
    canvas = torch.zeros(2, size, size)
    if textured:
        canvas[0] = _texture(rng, size) * rng.uniform(*config.texture_strength)
    if with_vessels:
        canvas[1] = _vessels(rng, size)
    # Both images' positions one below the other: one call of the sampler.
    places = torch.cat((positions[0], positions[1]), dim=1) / _EXTENT
    sampled = sample_normalised(canvas[None], places[None], Grid((size, size))).image[0]
    log_factor, cover = sampled.view(2, *images.shape)
    decorated = images * torch.exp(log_factor)
    if with_vessels:
        level = float(images[0].mean()) + rng.choice([-1.0, 1.0], p=[0.3, 0.7]) * rng.uniform(0.15, 0.7)
        decorated = decorated + (level - decorated) * cover * rng.uniform(0.5, 1.0)
    return decorated


def _texture(rng: np.random.Generator, size: int) -> Tensor:
    """Noise (size, size) of unit deviation with one or two sizes of grain, patchy."""
    fine = random_field(rng, size, int(rng.integers(20, max(size // 3, 21))))[0]
    if rng.uniform() < 0.5:
        fine = 0.7 * fine + 0.7 * random_field(rng, size, int(rng.integers(8, 20)))[0]
    return fine * torch.sigmoid(2 * random_field(rng, size, 6)[0] + 0.5)


def _vessels(rng: np.random.Generator, size: int) -> Tensor:
    """Coverage (size, size) in [0, 1] of a few bent, tapering tubes, many of which start at one root."""
    y, x = square_lattice(size, _EXTENT)
    root = rng.uniform(-0.7, 0.7, 2)
    soft = 2 * _EXTENT / size
    cover = torch.zeros(size, size)
    for _ in range(int(rng.integers(2, 9))):
        start = root if rng.uniform() < 0.6 else rng.uniform(-1, 1, 2)
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.2)
        cos, sin = math.cos(angle), math.sin(angle)
        # Only the window that the vessel can reach is worked on.
        ends = (float(start[0]) + length * cos, float(start[1]) + length * sin)
        window = tuple(_window(size, float(a), b, 0.2 + 0.3 * length) for a, b in zip(start, ends, strict=True))
        dy, dx = y[window] - start[0], x[window] - start[1]
        along, across = cos * dy + sin * dx, cos * dx - sin * dy
        share = (along / length).clamp(0, 1)
        wave, phase = rng.uniform(3, 9), rng.uniform(0, 2 * math.pi)
        centre = rng.uniform(-0.3, 0.3) * length * share.square() + rng.uniform(0, 0.08) * (
            torch.sin(wave * share + phase) - math.sin(phase)
        )
        radius = rng.uniform(0.008, 0.035) * (1 - 0.7 * share)
        beyond = (along - share * length).abs()
        distance = ((across - centre).square() + beyond.square()).sqrt()
        cover[window] = torch.maximum(cover[window], ((radius - distance) / soft + 0.5).clamp(0, 1))
    return cover


def _window(size: int, start: float, end: float, margin: float) -> slice:
    """Pixels along one axis of the canvas between two places and a margin beyond."""
    low, high = ((place + _EXTENT) / (2 * _EXTENT) * (size - 1) for place in (min(start, end) - margin, max(start, end) + margin))
    return slice(max(0, math.floor(low)), max(0, math.ceil(high) + 1))
