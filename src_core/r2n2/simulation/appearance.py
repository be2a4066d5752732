"""What images of the same tissue have in common and how they differ: contrast, coils, blood, blur, noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from r2n2.simulation.engine_config import AppearanceConfig
from r2n2.simulation.lattice import log_uniform, random_field, soften, square_lattice
from r2n2.simulation.random_motion import central_determinant

__all__ = ["acquire", "change_contrast"]


def change_contrast(rng: np.random.Generator, images: Tensor, config: AppearanceConfig) -> Tensor:
    """Images (2, n, n) of about 0 to 1 with other grey values, the same for both."""
    if rng.uniform() < config.mapping:
        images = _mapped(rng, images)
    if rng.uniform() < config.gamma:
        images = images.clamp_min(0) ** log_uniform(rng, config.gamma_range)
    if rng.uniform() < config.invert:
        images = 1 - images
    return images


def acquire(rng: np.random.Generator, images: Tensor, displacement: Tensor, config: AppearanceConfig) -> Tensor:
    """Images (2, n, n), fixed and moving, as two frames of a scanner would show them.

    Parameters
    ----------
    displacement
        (2, n, n) NORMALISED pull-back from fixed to moving.
    """
    size = images.shape[-1]
    if rng.uniform() < config.density:
        images = torch.stack((images[0] * central_determinant(displacement).clamp(0.2, 3) ** rng.uniform(0.3, 1.0), images[1]))
    if rng.uniform() < config.pulse:
        images = images + _pulse(rng, size, displacement, config.pulse_strength)
    if rng.uniform() < config.drift:
        powers, gains = np.exp(rng.uniform(-config.drift_strength, config.drift_strength, (2, 2)))
        # The difference alone matters; the sign is kept, as noise or an inversion may have gone below 0.
        images = torch.stack(
            [gain * image.sign() * image.abs() ** power for image, power, gain in zip(images, powers, gains, strict=True)]
        )
    if rng.uniform() < config.bias:
        common, change = random_field(rng, size, 4), random_field(rng, size, 4)
        strength = rng.uniform(*config.bias_strength)
        sides = torch.tensor([[[0.5]], [[-0.5]]])
        images = images * torch.exp(strength * (common + config.bias_change * rng.uniform() * sides * change))
    if rng.uniform() < config.blur:
        soft = int(rng.integers(0, 2))
        images = images.clone()
        images[soft] = soften(images[soft], rng.uniform(*config.blur_px))
    if rng.uniform() < config.noise:
        images = _noisy(rng, images, log_uniform(rng, config.noise_strength))
    return images


def _mapped(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Piecewise linear in the grey value, through 5 to 8 random levels that rise, but for at most one piece."""
    count = int(rng.integers(5, 9))
    steps = rng.uniform(0.1, 1.0, count - 1)
    if rng.uniform() < 0.4:
        steps[int(rng.integers(0, count - 1))] *= -0.8
    levels = np.concatenate(([0.0], np.cumsum(steps)))
    levels = (levels - levels.min()) / np.ptp(levels)
    slopes = np.diff(levels) * (count - 1)
    place = images.clamp(-0.25, 1.5)
    # A sum of ramps: the slope changes at each knot.
    result = float(levels[0]) + float(slopes[0]) * place
    for k in range(1, count - 1):
        result = result + float(slopes[k] - slopes[k - 1]) * (place - k / (count - 1)).clamp_min(0)
    return result


def _pulse(rng: np.random.Generator, size: int, displacement: Tensor, largest: float) -> Tensor:
    """Brightness (2, n, n) of a small round place of the tissue, different in both images."""
    y, x = square_lattice(size)
    cy, cx = rng.uniform(-0.8, 0.8, 2)
    precision = 1 / (2 * log_uniform(rng, (0.03, 0.25)) ** 2)
    moving = torch.exp(-((y - cy).square() + (x - cx).square()) * precision)
    fixed = torch.exp(-((y + displacement[0] - cy).square() + (x + displacement[1] - cx).square()) * precision)
    change = rng.uniform(-largest, largest)
    return torch.stack((0.5 * change * fixed, -0.5 * change * moving))


def _noisy(rng: np.random.Generator, images: Tensor, deviation: float) -> Tensor:
    rician = rng.uniform() < 0.5
    # torch draws normal numbers several times faster than numpy.
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noisy = torch.randn(images.shape, generator=generator).mul_(deviation).add_(images)
    # Magnitude of a complex signal.
    return torch.hypot(noisy, torch.randn(images.shape, generator=generator).mul_(deviation)) if rician else noisy
