"""Random smooth motions that never fold, as displacements on the square lattice, NORMALISED, array order y,x."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from r2n2.simulation.engine_config import MotionConfig
from r2n2.simulation.lattice import log_uniform, random_field, square_lattice
from r2n2.transform.matrices import determinant

__all__ = ["KINDS", "central_determinant", "determinants", "draw_motion", "without_folding"]


def draw_motion(rng: np.random.Generator, size: int, config: MotionConfig) -> tuple[Tensor, str]:
    """A displacement (2, size, size) and the name of its kind, such as "breathing+affine" for the sum of two."""
    if rng.uniform() < config.none_share:
        return torch.zeros(2, size, size), "none"
    weights = np.array([getattr(config, kind) for kind in KINDS])
    count = 2 if rng.uniform() < config.sum_share else 1
    names = [str(name) for name in rng.choice(list(KINDS), count, p=weights / weights.sum())]
    total = torch.zeros(2, size, size)
    for name in names:
        total += KINDS[name](rng, size, config) * log_uniform(rng, config.factor)
    return without_folding(total, config.smallest_jacobian), "+".join(names)


def without_folding(displacement: Tensor, smallest: float) -> Tensor:
    """The displacement (2, n, n), or the largest part of it whose determinants are all at least ``smallest``."""
    spare = 1 - smallest
    along_y, along_x = _slopes(displacement)
    steepest = max(float(slope.abs().max()) for slope in (along_y, along_x))
    # No determinant is below 1 - 2 g - 2 g^2 for slopes up to g: most motions need no closer look.
    if 2 * steepest + 2 * steepest**2 <= spare:
        return displacement
    invariants = list(_invariants(along_y, along_x))
    # The trace tells a map that is turned over along both axes, whose determinant is positive again, from a good one.
    if all(float((trace + product).min()) >= -spare and float(trace.min()) >= -2 * spare for trace, product in invariants):
        return displacement
    inverse_scale = 0.0
    for trace, product in invariants:
        # 1 + s trace + s^2 product falls to ``smallest`` first at the smaller positive root s; where there is none, the
        # number below is not a number or not positive.
        root = (trace.square() - 4 * spare * product).sqrt_()
        inverse_scale = max(inverse_scale, float((root - trace).nan_to_num_(0).max()) / (2 * spare))
    return displacement if inverse_scale <= 1 else displacement * (0.999 / inverse_scale)


def determinants(displacement: Tensor) -> Tensor:
    """Jacobian determinants (4, n-1, n-1) of x -> x + f(x): at the corners of every cell, from the differences along its edges."""
    return torch.stack([1 + trace + product for trace, product in _invariants(*_slopes(displacement))])


def central_determinant(displacement: Tensor) -> Tensor:
    """One Jacobian determinant (n, n) a pixel, from central differences."""
    per_unit = (displacement.shape[-1] - 1) / 2
    along_y, along_x = (torch.gradient(displacement, dim=axis)[0] * per_unit for axis in (1, 2))
    return determinant(((1 + along_y[0], along_y[1]), (along_x[0], 1 + along_x[1])))


def _slopes(displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (2, n-1, n) along y and (2, n, n-1) along x, per unit of length."""
    per_unit = (displacement.shape[-1] - 1) / 2
    return displacement.diff(dim=1) * per_unit, displacement.diff(dim=2) * per_unit


def _invariants(along_y: Tensor, along_x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Trace and determinant (n-1, n-1) of the displacement's gradient at each corner of every cell."""
    for dy in (along_y[:, :, :-1], along_y[:, :, 1:]):
        for dx in (along_x[:, :-1], along_x[:, 1:]):
            yield dy[0] + dx[1], determinant((dy.unbind(0), dx.unbind(0)))


def _gaussians(rng: np.random.Generator, size: int, config: MotionConfig) -> Tensor:
    count = int(rng.integers(config.gaussian_count[0], config.gaussian_count[1] + 1))
    low, high = (math.log(s) for s in config.gaussian_sigma)
    wide = np.exp(rng.uniform(low, high, count))
    narrow = np.maximum(wide * np.exp(rng.uniform(math.log(0.4), 0, count)), config.gaussian_sigma[0])
    turn, direction = rng.uniform(0, math.pi, count), rng.uniform(0, 2 * math.pi, count)
    # A Gaussian longer than its width would fold alone, and then all others would be weakened with it.
    length = np.minimum(config.gaussian_amplitude * rng.uniform(0.05, 1, count), narrow)
    centre = rng.uniform(-0.9, 0.9, (2, count))
    cos, sin, a, b = np.cos(turn), np.sin(turn), wide**-2.0, narrow**-2.0
    yy, xx, yx = a * cos**2 + b * sin**2, a * sin**2 + b * cos**2, (a - b) * cos * sin
    cy, cx = centre
    # The exponent is a polynomial of the position: one product with its powers, for all Gaussians.
    factors = (yy, 2 * yx, xx, -2 * (yy * cy + yx * cx), -2 * (xx * cx + yx * cy), yy * cy**2 + 2 * yx * cy * cx + xx * cx**2)
    exponent = torch.from_numpy(-0.5 * np.stack(factors, axis=1)).float() @ _powers(size)
    amplitude = torch.from_numpy(np.stack((length * np.cos(direction), length * np.sin(direction)))).float()
    return (amplitude @ exponent.exp_()).view(2, size, size)


@functools.lru_cache(maxsize=8)
def _powers(size: int) -> Tensor:
    """(6, size * size): y y, y x, x x, y, x, 1."""
    y, x = square_lattice(size)
    return torch.stack((y * y, y * x, x * x, y, x, torch.ones_like(y))).flatten(1)


def _breathing(rng: np.random.Generator, size: int, config: MotionConfig) -> Tensor:
    y, x = square_lattice(size)
    angle = rng.normal(0, 0.2) if rng.uniform() < 0.75 else rng.uniform(-math.pi, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = cos * y + sin * x, cos * x - sin * y
    across = across - rng.uniform(-0.2, 0.2)
    dome = rng.uniform(-0.1, 0.5) * across.square() + rng.uniform(-0.1, 0.1) * torch.sin(across * rng.uniform(2, 6))
    below = along - rng.uniform(-0.4, 0.6) - dome
    above_reach, below_reach = rng.uniform(0.25, 1.0), rng.uniform(0.4, 1.5)
    power = rng.uniform(1.3, 2.2)
    distance = below.clamp_min(0) / below_reach - below.clamp_max(0) / above_reach
    profile = torch.exp(-torch.exp(0.5 * power * torch.log(distance.square() + 0.01)))
    lift = profile * (1 + 0.25 * random_field(rng, size, int(rng.integers(4, 7)))[0])
    spread = rng.uniform(0, 0.4) * across * torch.exp(-(((along - rng.uniform(-0.5, 0.5)) / 0.6) ** 2))
    inside = _within_wall(rng, along, across, sharp=rng.uniform() < config.sliding_share, size=size)
    amplitude = log_uniform(rng, config.breathing_amplitude) * (1 if rng.uniform() < 0.5 else -1)
    if rng.uniform() < 0.3:
        # The spine, still between the lungs.
        inside = inside * torch.sigmoid(((across - rng.uniform(-0.1, 0.1)).abs() - rng.uniform(0.05, 0.2)) / rng.uniform(0.03, 0.1))
    outside = rng.uniform(0, 0.15)
    lift = lift * (outside + (1 - outside) * inside) * amplitude
    spread = spread * inside * amplitude
    return torch.stack((cos * lift - sin * spread, sin * lift + cos * spread))


def _within_wall(rng: np.random.Generator, along: Tensor, across: Tensor, *, sharp: bool, size: int) -> Tensor:
    """1 inside the chest wall, 0 outside."""
    # A wall oblique to the motion would have to be crossed by it: the sharper, the straighter.
    bend = rng.uniform(0, 0.06 if sharp else 0.3)
    half_width = rng.uniform(0.45, 0.85) - bend * (along - rng.uniform(-0.3, 0.6)).square()
    width = max(rng.uniform(0.012, 0.04), 1.5 / size) if sharp else rng.uniform(0.08, 0.25)
    return torch.sigmoid((half_width - across.abs()) / width)


def _cardiac(rng: np.random.Generator, size: int, config: MotionConfig) -> Tensor:
    y, x = square_lattice(size)
    radius = log_uniform(rng, config.cardiac_radius)
    dy, dx = y - rng.uniform(-0.5, 0.5), x - rng.uniform(-0.5, 0.5)
    turn, ratio = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    cos, sin = math.cos(turn), math.sin(turn)
    far = (((cos * dy + sin * dx) / radius).square() + ((cos * dx - sin * dy) / (ratio * radius)).square()) ** 0.5
    # Uniform in the cavity, half as strong at the outer wall, then fading.
    steep = rng.uniform(3.0, 6.0)
    weight = 1 / (1 + far**steep)
    strength = config.cardiac_contraction * rng.uniform(0.3, 1.0) * (1 if rng.uniform() < 0.6 else -1)
    uneven, side = rng.uniform(0, 0.4) / radius, rng.uniform(0, 2 * math.pi)
    radial = -strength * (1 + uneven * (math.cos(side) * dy + math.sin(side) * dx) * weight) * weight
    twist = rng.normal(0, 0.08) * weight
    push = rng.normal(0, 0.06, 2) * radius
    still = rng.uniform(0, 0.1) * abs(strength) * radius * random_field(rng, size, 5, 2)
    return still + torch.stack((radial * dy - twist * dx + push[0] * weight, radial * dx + twist * dy + push[1] * weight))


def _smooth(rng: np.random.Generator, size: int, config: MotionConfig) -> Tensor:
    low, high = config.smooth_controls
    total = torch.zeros(2, size, size)
    for _ in range(int(rng.integers(1, 4))):
        controls = int(rng.integers(low, high + 1))
        # Finer motion is smaller, else it would fold.
        total = total + rng.uniform(0.1, 1.0) * config.smooth_amplitude * (low / controls) * random_field(rng, size, controls, 2)
    return total


def _affine(rng: np.random.Generator, size: int, config: MotionConfig) -> Tensor:
    y, x = square_lattice(size)
    strength = config.affine_strength
    turn, grow, stretch, shear = (rng.uniform(-strength, strength) for _ in range(4))
    shift = rng.uniform(-strength, strength, 2)
    return torch.stack(
        (
            (grow + stretch / 2) * y + (shear / 2 - turn) * x + shift[0],
            (shear / 2 + turn) * y + (grow - stretch / 2) * x + shift[1],
        )
    )


KINDS: dict[str, Callable[[np.random.Generator, int, MotionConfig], Tensor]] = {
    "gaussians": _gaussians,
    "breathing": _breathing,
    "cardiac": _cardiac,
    "smooth": _smooth,
    "affine": _affine,
}
"""The kinds of motion by name: each gives a displacement (2, size, size) that may still fold."""
