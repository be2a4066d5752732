"""What can be seen of a finished registration that goes along with its error, on a coarse lattice over the frame.

Every feature is larger where an error is likelier. Lengths are NORMALISED and intensities z-scored: none depends on their units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from r2n2.config import FitConfig
from r2n2.geometry import Grid, Space
from r2n2.preprocessing import Intensity, Square, blur, intensity_of, normalise, score
from r2n2.registration.base import Pairs
from r2n2.registration.measures import GradientField
from r2n2.registration.uncertainty.eigenvalues import largest_eigenvalue, smallest_eigenvalue
from r2n2.registration.volumes import on_grid
from r2n2.transform import (
    GaussianSequence,
    Transform,
    linear_displacement,
    mask_of,
    normalised_lattice,
    resample,
    sample_masked,
)
from r2n2.transform.matrices import symmetric, upper
from r2n2.working import to_working

__all__ = ["Features", "features_of", "frame_features"]

_WORKING_SIDE = {2: 128, 3: 48}
_LATTICE_SIDE = {2: 64, 3: 24}
# Standard deviations of the windows in which images are compared, NORMALISED.
_NARROW, _WIDE = 0.04, 0.1
_SMOOTH_PX = 0.7
# Again, before it is asked how little slope there is: noise has slopes, too, and is no texture.
_SMOOTHER_PX = 1.5
# What a window holds in any case, z-scored: variance, and squared slope per NORMALISED length.
_VARIANCE_FLOOR, _SLOPE_FLOOR, _PULL_FLOOR = 1e-2, 1e-2, 0.3
_NOISE_FLOOR, _WHITE_FLOOR = 1e-4, 1e-5
_LEAST_DEVIATION = 1e-2
_LEAST_OUTSIDE = 1e-2


@dataclass(frozen=True, eq=False)
class Features:
    """Of B pairs.

    Parameters
    ----------
    values
        Name -> (B, *lattice.shape).
    counts
        (B, *lattice.shape) how much of the reference is there to be seen: its local variance, at most 1, and 0 outside the frame
        and where the motion of the frame as a whole, if one was found, takes what it shows out of the other frame.
    lattice
        Where they are; shares NORMALISED space with the frames' grid.
    """

    values: dict[str, Tensor]
    counts: Tensor
    lattice: Grid


@dataclass(frozen=True, eq=False)
class _Compared:
    """Both images on the working square, the moving one warped; (B, ., *grid.shape)."""

    grid: Grid
    fixed: Tensor
    warped: Tensor
    fixed_weight: Tensor
    """How much a pixel of the fixed one counts, 0 where it is not measured; of one image where all pairs share it, as ``fixed``."""
    weight: Tensor
    """How much it counts where both are measured, else 0."""
    slope: Tensor
    """Mean of both images' gradients, 0 where not measured."""
    displacement: Tensor
    whole: Tensor | None
    """The part of the displacement that was found of the frame as a whole, by comparing all of it; None where there is none."""
    shown: Tensor | None
    """(B, 1, *shape) bool: where that part leads to what the moving image shows; None for everywhere."""

    @property
    def residual(self) -> Tensor:
        return (self.warped - self.fixed) * self.weight


def features_of(
    pairs: Pairs,
    transforms: Sequence[Transform],
    config: FitConfig,
    backward: Sequence[Transform] = (),
    *,
    by_intensities: bool = True,
) -> Features:
    """Features of the transforms of pairs.

    Parameters
    ----------
    transforms
        One a pair, from the fixed into the moving image.
    config
        Settings of the objective that Gaussians were fitted to: how far intensities are looked at.
    backward
        One a pair, found by registering the moving image to the fixed one the other way round; or none.
    by_intensities
        Whether the images show tissue alike; else their edges are compared instead, whichever side is the brighter one.
    """
    ndim = pairs.grid.ndim
    compared = _compare(pairs, transforms, config, by_intensities=by_intensities)
    lattice = compared.grid.resized((_LATTICE_SIDE[ndim],) * ndim)
    values = _leftover(compared, lattice)
    values["unlike"] = _unlike(compared, lattice)
    values["blank_smooth"] = _blank(compared, lattice)
    values["whiteness"] = _whiteness(compared, lattice)
    values |= _of_motion(compared, lattice)
    if backward:
        values["disagreement"] = _disagreement(compared, backward, lattice)
    counts = _visible(compared, lattice).expand_as(values["unlike"])
    if compared.shown is not None:
        counts = counts * resample(compared.shown.to(counts.dtype), compared.grid, lattice).image[:, 0]
    return Features(values | _of_frame(values, counts), counts, lattice)


def _compare(pairs: Pairs, transforms: Sequence[Transform], config: FitConfig, *, by_intensities: bool) -> _Compared:
    ndim = pairs.grid.ndim
    size = _WORKING_SIDE[ndim]
    images, valid, counting = pairs.distinct_fixed()
    fixed = to_working(images, valid, pairs.grid, size, weight=counting)
    moving = to_working(pairs.moving, pairs.moving_valid, pairs.grid, size, weight=pairs.moving_weight)
    grid, smooth = fixed.grid, (_SMOOTH_PX,) * ndim
    first, second = (square.images if by_intensities else _edges(square) for square in (fixed, moving))
    a = normalise(first, fixed.valid, clamp=config.clamp)
    lattice = normalised_lattice(grid, a)
    displacement = torch.stack([_on_lattice(t, grid, lattice) for t in transforms]).to(a)
    places, mask = lattice + displacement, mask_of(moving.valid, second)
    fixed_weight = fixed.valid.to(a.dtype) if fixed.weight is None else fixed.weight
    held = second if moving.weight is None else torch.cat((second, moving.weight), 1)
    sampled, inside = sample_masked(held, mask, places, grid)
    weight = inside * fixed_weight
    if moving.weight is not None:
        weight = weight * sampled[:, 1:]
    b = score(second, _matching(a, sampled[:, :1], weight), clamp=config.clamp)
    a, b = blur(a, smooth), blur(b, smooth)
    warped, _ = sample_masked(torch.cat((b, _gradient(b, grid)), 1), mask, places, grid)
    slope = 0.5 * (warped[:, 1:] + _gradient(a, grid)) * weight
    whole = _whole(transforms, lattice)
    shown = None if whole is None else sample_masked(second, mask, lattice + whole, grid).valid
    return _Compared(grid, a, warped[:, :1], fixed_weight, weight, slope, displacement, whole, shown)


def _matching(fixed: Tensor, warped: Tensor, weight: Tensor) -> Intensity:
    """Mean and deviation by which the warped images have those of the z-scored fixed ones, over what both show.

    What has come into a frame that lies far away is other tissue, whose brightness says nothing of that which is compared.
    """
    wanted, found = intensity_of(fixed, weight), intensity_of(warped, weight)
    deviation = found.deviation / wanted.deviation.clamp_min(_LEAST_DEVIATION)
    return Intensity(found.mean - wanted.mean * deviation, deviation)


def _whole(transforms: Sequence[Transform], lattice: Tensor) -> Tensor | None:
    """(B, ndim, *shape) displacement of each frame as a whole, 0 where none was found; None for none at all."""
    parts = [t.linear if isinstance(t, GaussianSequence) else None for t in transforms]
    if all(part is None for part in parts):
        return None
    none = lattice.new_zeros(len(lattice), len(lattice) + 1)
    return linear_displacement(torch.stack([none if part is None else part.to(none) for part in parts]), lattice)


def _on_lattice(transform: Transform, grid: Grid, lattice: Tensor) -> Tensor:
    """Its displacement (ndim, *grid.shape) NORMALISED."""
    if grid.ndim == 3:
        return on_grid(transform, grid).displacement_field().to_space(Space.NORMALISED).vectors
    return transform.displacement_at(lattice.flatten(1).mT.cpu()).mT.unflatten(1, grid.shape)


def _edges(square: Square) -> Tensor:
    """How sharp an edge there is, 0 to 1, (B, 1, *shape): the trace of the products that the measure ``ngf`` compares."""
    ndim = square.grid.ndim
    products = GradientField().products(square)
    return sum((products[:, k : k + 1] for k, (i, j) in enumerate(upper(ndim)) if i == j), torch.zeros_like(products[:, :1]))


def _gradient(images: Tensor, grid: Grid) -> Tensor:
    """Central differences (B, C ndim, *shape) per NORMALISED unit; the axes of one channel after the other's."""
    steps = tuple(s / grid.unit_mm for s in grid.spacing)
    slopes = torch.gradient(images, spacing=steps, dim=tuple(range(2, images.ndim)))
    return torch.stack(slopes, 2).flatten(1, 2)


def _windowed(values: Tensor, grid: Grid, lattice: Grid, width: float) -> Tensor:
    """Means (B, C, *lattice.shape) of values (B, C, *grid.shape) in Gaussian windows about the points of ``lattice``."""
    for axis in range(grid.ndim):
        at, pixels = (
            torch.linspace(-1, 1, g.shape[axis]).to(values) * (g.half_extent_mm[axis] / g.unit_mm) for g in (lattice, grid)
        )
        window = torch.exp(-0.5 * ((pixels[:, None] - at) / width).square())
        # Takes the first axis of space away and puts the new one last: in turn for all axes, their order is what it was.
        values = torch.tensordot(values, window / window.sum(0), dims=([2], [0]))
    return values


def _leftover(c: _Compared, lattice: Grid) -> dict[str, Tensor]:
    """Motion that the residual still asks for in a window (Lucas and Kanade 1981), and how well the window can tell.

    leftover: length of that motion; noise: the residual over the slope where it is least, the motion that could hide in it;
    residual; blank: how little slope there is; outside: share of the wide window that the moving image does not show. sandwich:
    how far that motion would scatter were the residual another draw of the same kind, the root of the largest eigenvalue of
    T^-1 V T^-1 with T the windowed mean of g g', V that of r^2 g g', g the slope and r the residual (Huber 1967; White 1982).
    """
    ndim, residual = c.grid.ndim, c.residual
    products = torch.cat([c.slope[:, i : i + 1] * c.slope[:, j : j + 1] for i, j in upper(ndim)], 1)
    sums = torch.cat((products, c.slope * residual, residual.square(), c.weight, products * residual.square()), 1)
    found: dict[str, Tensor] = {}
    for name, width in (("narrow", _NARROW), ("wide", _WIDE)):
        local = _windowed(sums, c.grid, lattice, width)
        entries, pull, rest, scores = local.split((products.shape[1], ndim, 2, products.shape[1]), 1)
        tensor, spread = (symmetric(part.movedim(1, -1), ndim) for part in (entries, scores))
        inverse = torch.linalg.inv(tensor + _PULL_FLOOR * torch.eye(ndim).to(tensor))
        found[f"leftover_{name}"] = _length((inverse @ pull.movedim(1, -1).unsqueeze(-1)).squeeze(-1), -1)
        found["sandwich"] = largest_eigenvalue(inverse @ spread @ inverse).clamp_min(0).sqrt()  # of the wide window, the last
        least = smallest_eigenvalue(tensor).clamp_min(0) + _SLOPE_FLOOR
        square = rest[:, 0] / rest[:, 1].clamp_min(1e-3) + _NOISE_FLOOR
        found[f"noise_{name}"] = (square / least).sqrt()
        found[f"residual_{name}"] = square.sqrt()
        found[f"blank_{name}"] = least.rsqrt()
    measured = _windowed(c.fixed_weight, c.grid, lattice, _WIDE)[:, 0]
    found["outside"] = (1 - rest[:, 1] / measured.clamp_min(1e-3)).clamp_min(_LEAST_OUTSIDE)
    return found


def _blank(c: _Compared, lattice: Grid) -> Tensor:
    """How little slope the smoothed images have where it is least in a wide window, (B, *lattice.shape)."""
    sigmas = (_SMOOTHER_PX,) * c.grid.ndim
    reached = blur(c.weight, sigmas).clamp_min(1e-3)
    both = [_gradient(blur(image * c.weight, sigmas) / reached, c.grid) for image in (c.fixed, c.warped)]
    slope = 0.5 * (both[0] + both[1]) * c.weight
    products = torch.cat([slope[:, i : i + 1] * slope[:, j : j + 1] for i, j in upper(c.grid.ndim)], 1)
    tensor = symmetric(_windowed(products, c.grid, lattice, _WIDE).movedim(1, -1), c.grid.ndim)
    return (smallest_eigenvalue(tensor).clamp_min(0) + _SLOPE_FLOOR).rsqrt()


def _whiteness(c: _Compared, lattice: Grid) -> Tensor:
    """Share of the residual that differs from pixel to pixel, as noise does and motion does not, (B, *lattice.shape).

    Second differences along all axes leave white noise its deviation and take smooth parts away (Immerkaer, CVIU 1996).
    """
    white = c.residual
    for axis, size in enumerate(c.grid.shape, start=2):
        if size > 2:
            apart = functional.pad(white.movedim(axis, -1), (1, 1))
            white = (apart[..., 2:] - 2 * apart[..., 1:-1] + apart[..., :-2]).movedim(-1, axis) / math.sqrt(6)
    sums = torch.cat((white.square() * c.weight, c.residual.square() * c.weight, c.weight), 1)
    noise, residual, share = _windowed(sums, c.grid, lattice, _WIDE).unbind(1)
    share = share.clamp_min(1e-3)
    return ((noise / share + _WHITE_FLOOR) / (residual / share + _NOISE_FLOOR)).sqrt()


def _unlike(c: _Compared, lattice: Grid) -> Tensor:
    """1 - local correlation of the images in a wide window, (B, *lattice.shape)."""
    a, b = c.fixed * c.weight, c.warped * c.weight
    local = _windowed(torch.cat((c.weight, a, b, a * a, b * b, a * b), 1), c.grid, lattice, _WIDE)
    share = local[:, 0].clamp_min(1e-3)
    mean_a, mean_b, square_a, square_b, product = (local[:, 1:] / share.unsqueeze(1)).unbind(1)
    variance_a, variance_b = (square_a - mean_a.square()).clamp_min(0), (square_b - mean_b.square()).clamp_min(0)
    alike = (product - mean_a * mean_b) / ((variance_a + _VARIANCE_FLOOR) * (variance_b + _VARIANCE_FLOOR)).sqrt()
    return (1 - alike).clamp(1e-4, 2)


def _visible(c: _Compared, lattice: Grid) -> Tensor:
    """Local variance of the fixed image, at most 1, times how much of the window it fills, (1 or B, *lattice.shape)."""
    a = c.fixed * c.fixed_weight
    share, mean, square = _windowed(torch.cat((c.fixed_weight, a, a * a), 1), c.grid, lattice, _WIDE).unbind(1)
    safe = share.clamp_min(1e-3)
    return (square / safe - (mean / safe).square()).clamp(0, 1) * share


def _of_motion(c: _Compared, lattice: Grid) -> dict[str, Tensor]:
    """Length of the displacement beyond that of the frame as a whole, and how much it changes from place to place."""
    local = c.displacement if c.whole is None else c.displacement - c.whole
    field = resample(local, c.grid, lattice).image
    return {"motion": _length(field, 1), "steepness": _length(_gradient(field, lattice), 1)}


def _length(vectors: Tensor, axis: int) -> Tensor:
    return vectors.square().sum(axis).sqrt()


def _disagreement(c: _Compared, backward: Sequence[Transform], lattice: Grid) -> Tensor:
    """|f(x) + b(x + f(x))| (B, *lattice.shape): how far from where it started one comes back, there and back again."""
    field = resample(c.displacement, c.grid, lattice).image
    there = (normalised_lattice(lattice, field) + field).flatten(2)
    back = [b.displacement_at(places.mT.cpu()).mT.to(field) for places, b in zip(there, backward, strict=True)]
    return _length(field.flatten(2) + torch.stack(back), 1).unflatten(1, lattice.shape)


_FRAME_FEATURES = ("unlike", "leftover_wide", "noise_wide", "whiteness")
"""Those that are averaged over the frame, too: where most of a frame is wrong, what looks right is so by chance."""


def _of_frame(values: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """Root mean square over what counts, the same at every place: "frame_" and the name."""
    return {f"frame_{name}": _mean_square(values[name], counts).sqrt().expand_as(counts) for name in _FRAME_FEATURES}


def frame_features(features: Features) -> dict[str, Tensor]:
    """Name -> (B,): every feature's root mean square over what counts, and how much that is, as "counts"."""
    found = {name: _mean_square(value, features.counts).sqrt().flatten() for name, value in features.values.items()}
    return found | {"counts": features.counts.flatten(1).mean(1)}


def _mean_square(values: Tensor, counts: Tensor) -> Tensor:
    """(B, 1, ...) over what counts."""
    axes = tuple(range(1, counts.ndim))
    return (values.square() * counts).sum(axes, keepdim=True) / counts.sum(axes, keepdim=True).clamp_min(1e-6)
