"""From image series to the slices and pairs to train from: some frames of every place, and three views of a volume."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.geometry import Grid
from r2n2.preprocessing import blur_measured, luminance
from r2n2.series import ImageSeries
from r2n2.simulation.slices import RealPair, RealSlice
from r2n2.training.data.contents import ContouredPair

__all__ = ["Amount", "Plane", "contoured_pairs", "evenly", "pairs_of", "planes_of", "slices_of"]

_FEWEST_SLICES = 32
_THICKEST = 3.0
_CT_RANGE = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Amount:
    """How much is taken of what there is, evenly spread.

    Parameters
    ----------
    frames
        Most frames of one place.
    pairs
        Most pairs of frames of one place.
    planes
        Most planes in each direction of one volume.
    largest_side
        Larger images are reduced to this many pixels along their longer side.
    """

    frames: int = 6
    pairs: int = 8
    planes: int = 40
    largest_side: int = 512

    def __post_init__(self) -> None:
        if min(self.frames, self.planes, self.largest_side) < 1 or self.pairs < 0:
            raise ValueError(f"Amount: frames, planes and largest_side must be at least 1, pairs at least 0, got {self}")


@dataclass(frozen=True, eq=False)
class Plane:
    """Frames of one place: (T, C, h, w), read when asked for, and pixel size (y, x) in mm."""

    count: int
    frame: Callable[[int], NDArray[Any]]
    spacing: tuple[float, float]
    source: str
    is_ct: bool


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return [0] if most == 1 else sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})


def planes_of(series: Sequence[ImageSeries], source: str, amount: Amount) -> Iterator[Plane]:
    """The places of one acquisition: every slice position, or, of a volume, planes in three directions.

    A volume is what has at least 32 slices of one shape whose distance is known and at most three pixels: an oblique or
    thick stack shows nothing when it is cut across.
    """
    step_mm = _slice_distance(series)
    chosen = evenly(len(series), amount.planes) if len(series) >= _FEWEST_SLICES else range(len(series))
    for k in chosen:
        item = series[k]
        y, x = item.grid.spacing
        name = source if len(series) == 1 else f"{source} slice {k}"
        yield Plane(len(item), item.frame, (y, x), name, item.modality == "CT")
    if step_mm is None:
        return
    rows, columns = series[0].grid.shape
    y, x = series[0].grid.spacing
    times = evenly(len(series[0]), amount.frames)
    volumes = np.stack([np.stack([item.frame(t) for item in series], axis=1) for t in times])  # (T, C, Z, Y, X)
    ct = series[0].modality == "CT"
    for k in evenly(rows, amount.planes):
        yield Plane(len(times), _take(volumes[:, :, :, k]), (step_mm, x), f"{source} row {k}", ct)
    for k in evenly(columns, amount.planes):
        yield Plane(len(times), _take(volumes[..., k]), (step_mm, y), f"{source} column {k}", ct)


def slices_of(plane: Plane, patient: str, amount: Amount) -> list[RealSlice]:
    """Some frames of a place; those without contrast are left out.

    Raises
    ------
    ValueError
        If a frame is complex or has too many pixels that are not finite.
    """
    found = []
    for index in evenly(plane.count, amount.frames):
        image, valid, spacing = _prepared(plane, index, amount)
        if _has_contrast(image):
            where = f"{plane.source} frame {index}"
            found.append(RealSlice(image, None if bool(valid.all()) else valid, spacing, patient, where))
    return found


def pairs_of(plane: Plane, patient: str, amount: Amount) -> list[RealPair]:
    """Some pairs of frames of a place, each frame now fixed and now moving; raises as ``slices_of``."""
    chosen = evenly(plane.count, amount.frames)
    every = list(itertools.permutations(chosen, 2))
    # By distance in time, so that an even choice holds near and far ones.
    every.sort(key=lambda pair: (abs(pair[0] - pair[1]), pair))
    prepared: dict[int, tuple[Tensor, Tensor, tuple[float, float]]] = {}
    found = []
    for fixed, moving in [every[k] for k in evenly(len(every), amount.pairs)] if amount.pairs else []:
        for index in (fixed, moving):
            if index not in prepared:
                prepared[index] = _prepared(plane, index, amount)
        (one, valid, spacing), (other, also_valid, _) = prepared[fixed], prepared[moving]
        # A pair knows no validity.
        if bool(valid.all() and also_valid.all()) and _has_contrast(one) and _has_contrast(other):
            found.append(RealPair(one, other, spacing, patient, f"{plane.source} frames {fixed} and {moving}", None))
    return found


def contoured_pairs(images: ImageSeries, masks: ImageSeries, patient: str, source: str, smallest: int) -> list[ContouredPair]:
    """The frame with the largest outline as fixed, every other with an outline of at least ``smallest`` pixels as moving.

    Raises
    ------
    ValueError
        If images and masks differ in number or shape.
    """
    if len(images) != len(masks) or images.grid.shape != masks.grid.shape:
        raise ValueError(
            f"the masks have {len(masks)} frames of shape {masks.grid.shape}, "
            f"the images {len(images)} of {images.grid.shape}; give one mask for each frame"
        )
    drawn = [luminance(masks.frame(index))[0] for index in range(len(masks))]
    top = max(float(mask.max()) for mask in drawn)
    # Half of the largest value: label maps hold 0 and 1, pictures 0 and 255 and, from JPEG, something between.
    inside = [mask > top / 2 if top > 0 else torch.zeros_like(mask, dtype=torch.bool) for mask in drawn]
    areas = [int(mask.sum()) for mask in inside]
    fixed = max(range(len(areas)), key=areas.__getitem__)
    y, x = images.grid.spacing
    return [
        ContouredPair(
            luminance(images.frame(fixed))[0],
            luminance(images.frame(moving))[0],
            inside[fixed],
            inside[moving],
            (y, x),
            patient,
            f"{source} frames {fixed} and {moving}",
        )
        for moving, area in enumerate(areas)
        if moving != fixed and area >= smallest
    ]


def _take(frames: NDArray[Any]) -> Callable[[int], NDArray[Any]]:
    return lambda index: frames[index]


def _slice_distance(series: Sequence[ImageSeries]) -> float | None:
    """Distance of the slices in mm where they are a volume, else None."""
    first = series[0]
    if len(series) < _FEWEST_SLICES or not first.spacing_known:
        return None
    if any(len(item) != len(first) or item.grid.shape != first.grid.shape or item.channels != first.channels for item in series):
        return None
    places = [item.patient_grid.origin for item in series if item.patient_grid is not None]
    if len(places) < len(series):
        return None
    steps = [math.dist(a, b) for a, b in itertools.pairwise(places)]
    step = sum(steps) / len(steps)
    uneven = max(abs(other - step) for other in steps) > 0.05 * step
    return None if uneven or not 0 < step <= _THICKEST * min(first.grid.spacing) else step


def _prepared(plane: Plane, index: int, amount: Amount) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """One frame as (1, h, w) float32, where it was measured, and its pixel size."""
    image, valid = luminance(plane.frame(index))
    if plane.is_ct:
        image = image.clamp(*_CT_RANGE)  # outside lie padding and metal
    longest = max(image.shape)
    if longest <= amount.largest_side:
        return image, valid, plane.spacing
    return _reduced(image, valid, plane.spacing, amount.largest_side / longest)


def _reduced(
    image: Tensor, valid: Tensor, spacing: tuple[float, float], share: float
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    from r2n2.transform import resample

    grid = Grid(tuple(image.shape[1:]), spacing)
    target = grid.resized(tuple(max(2, round(n * share)) for n in grid.shape))
    ratios = [t / s for t, s in zip(target.spacing, grid.spacing, strict=True)]
    sigmas = tuple(0.5 * math.sqrt(max(ratio * ratio - 1, 0.0)) for ratio in ratios)
    smooth = blur_measured(image[None], valid[None], sigmas)
    measured = resample(valid[None].float(), grid, target).image > 0.99
    y, x = target.spacing
    return resample(smooth, grid, target).image[0], measured[0], (y, x)


def _has_contrast(image: Tensor) -> bool:
    """Whether at least a hundredth of the pixels differs from the commonest grey: planes beside the body are empty."""
    low, high = float(image.min()), float(image.max())
    if high - low <= 1e-5 * max(abs(low), abs(high)):  # rounding by the reduction is no contrast
        return False
    middle = image.median()
    return float(((image - middle).abs() > 0.02 * (high - low)).float().mean()) > 0.01
