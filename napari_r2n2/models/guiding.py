"""Mending a frame with guiding pairs: fitting it again, and where the next pair would help most; generators, without Qt."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_r2n2.models.registration import FrameKey, Registration

if TYPE_CHECKING:
    from r2n2.guides import Guides
    from r2n2.registration import FrameResult
    from r2n2.series import LandmarkSet

__all__ = ["Refitted", "Suggestion", "refit", "suggest"]

_NEAR = 0.12  # of the longer side: a pair speaks for so much around it
_STRUCTURE = 0.25  # of the standard deviation of the reference: what varies less about a place shows nothing to be marked
_ABOUT_PX = 4.0


@dataclass(frozen=True)
class Refitted:
    """A frame that was fitted again, by what, and the seconds from the click to here."""

    key: FrameKey
    result: FrameResult
    guides: Guides
    seconds: float


class Suggestion(NamedTuple):
    """A place (y, x) of the reference in pixels, and the radius there in mm."""

    yx: tuple[float, float]
    radius_mm: float


@dataclass(frozen=True)
class _Share:
    fraction: float


def refit(
    registration: Registration, key: FrameKey, landmarks: LandmarkSet | None, strength_mm: float | Literal["auto"]
) -> Generator[_Share, None, Refitted]:
    """Fit a frame again from the result of its run, so that its guiding pairs are met.

    From the run's result, not from an earlier refit: so it is what ``r2n2 register --guide`` gives with the same pairs.

    Raises
    ------
    ArgumentError
        If the frame has no pair, or its result cannot be gone on from.
    ReadError
        If a point lies outside its image, or a frame cannot be read any more.
    """
    from r2n2.errors import ArgumentError
    from r2n2.guides import Guides
    from r2n2.guides import strength_mm as in_mm
    from r2n2.registration import refit_frame

    began = time.monotonic()
    series, config = registration.series[key.slice_index], registration.config
    if landmarks is None or config is None or key not in registration.results:
        raise ArgumentError(
            f"frame {key.frame}: nothing to fit again; mark a place in the reference and here, and press Use for registration"
        )
    guides = Guides(landmarks, in_mm(strength_mm, series.grid))
    reference, masks = registration.references[key.slice_index], registration.masks_of(key.slice_index)
    running = refit_frame(series, reference, registration.original(key), guides, config, masks=masks)
    while True:
        try:
            share = next(running)
        except StopIteration as end:
            return Refitted(key, end.value, guides, time.monotonic() - began)
        yield _Share(share)


def suggest(registration: Registration, key: FrameKey, landmarks: LandmarkSet | None) -> Suggestion | None:
    """Where the radius is largest, of what shows structure, counts and lies near no pair of the frame; None where it is unknown."""
    from r2n2.geometry import Space

    result, reference = registration.results.get(key), registration.references.get(key.slice_index)
    series = registration.series[key.slice_index]
    if result is None or result.uncertainty is None or reference in (None, key.frame) or series.grid.ndim != 2:
        return None
    assert reference is not None
    radius = result.uncertainty.on(series.grid).numpy().astype(np.float64)
    image = series.frame(reference).astype(np.float64).mean(0)
    eligible = _structured(image) & np.isfinite(radius)
    mask = registration.masks_of(key.slice_index).fixed
    if mask is not None:
        eligible &= mask.inside()
    if landmarks is not None:
        index = landmarks.to_space(Space.INDEX, series.grid)
        paired = set(index.in_frame(key.frame).ids)
        fixed = index.in_frame(reference)
        for name, point in zip(fixed.ids, fixed.points, strict=True):
            if name in paired:
                eligible &= ~_near(point, series.grid.shape)
    if not eligible.any():
        return None
    y, x = np.unravel_index(int(np.where(eligible, radius, -np.inf).argmax()), radius.shape)
    return Suggestion((float(y), float(x)), float(radius[y, x]))


def _structured(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    import torch

    from r2n2.preprocessing import blur

    known = torch.from_numpy(np.nan_to_num(image, nan=float(np.nanmean(image))))
    mean, square = blur(torch.stack((known, known.square()))[None], (_ABOUT_PX, _ABOUT_PX))[0]
    found: NDArray[np.bool_] = ((square - mean.square()).clamp_min(0).sqrt() > _STRUCTURE * known.std()).numpy()
    return found


def _near(point: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    found: NDArray[np.bool_] = np.hypot(y - point[0], x - point[1]) < _NEAR * max(shape)
    return found
