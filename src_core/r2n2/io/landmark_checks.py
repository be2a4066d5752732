"""Whether landmarks can belong to a series: mistakes of unit, axis order and counting that no error would ever show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.geometry import Space
from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["check_plausible"]

_LISTED = 8


def check_plausible(landmarks: LandmarkSet, series: ImageSeries, reference: int) -> tuple[str, ...]:
    """One sentence for each thing that is odd about landmarks of a series; empty where nothing is.

    Looks for points outside the image (and whether taking mm for px, swapping x and y or counting from 0 would bring them in),
    frames that do not exist, ids without a partner in the reference frame, and distances larger than half the image.
    """
    if landmarks.points.shape[1] != series.grid.ndim:
        return (f"landmarks have {landmarks.points.shape[1]} coordinates, the series has {series.grid.ndim} axes",)
    warnings: list[str] = []
    index = landmarks.to_space(Space.INDEX, series.grid).points
    outside = ~_inside(index, series)
    if outside.any():
        names = _some([f"{landmarks.ids[k]} in frame {landmarks.frames[k]}" for k in np.flatnonzero(outside)])
        warnings.append(f"{int(outside.sum())} of {len(landmarks)} landmarks lie outside the image ({names})")
        warnings += _explanations(landmarks, index, series)
    if landmarks.space is Space.WORLD and not series.spacing_known:
        warnings.append("landmarks are in mm, but the pixel size of the series is not known; pass --spacing")
    return (*warnings, *_frame_warnings(landmarks, series, reference), *_pair_warnings(landmarks, index, series, reference))


def _inside(index: NDArray[np.float64], series: ImageSeries) -> NDArray[Any]:
    return np.asarray(((index >= -0.5) & (index <= np.array(series.grid.shape) - 0.5)).all(axis=1))


def _explanations(landmarks: LandmarkSet, index: NDArray[np.float64], series: ImageSeries) -> list[str]:
    spacing = np.array(series.grid.spacing)
    swapped = landmarks.points.copy()
    swapped[:, [-2, -1]] = swapped[:, [-1, -2]]
    found = []
    if landmarks.space is Space.WORLD:
        if _inside(landmarks.points, series).all():
            found.append("the numbers fit as pixels: were px given in columns named mm?")
        swapped = LandmarkSet(landmarks.ids, landmarks.frames, swapped, Space.WORLD).to_space(Space.INDEX, series.grid).points
    else:
        world = (
            LandmarkSet(landmarks.ids, landmarks.frames, landmarks.points, Space.WORLD).to_space(Space.INDEX, series.grid).points
        )
        if not np.allclose(spacing, 1) and (_inside(world, series).all() or _inside(landmarks.points / spacing, series).all()):
            found.append("the numbers fit as mm: were mm given in columns named px?")
        if (landmarks.points >= 0.5).all() and _inside(landmarks.points - 1, series).all():
            found.append("all fit when 1 is subtracted: are pixels counted from 1? The first pixel's centre is 0")
    if _inside(swapped, series).all():
        found.append("all fit when x and y are exchanged: are the columns swapped?")
    return found


def _frame_warnings(landmarks: LandmarkSet, series: ImageSeries, reference: int) -> list[str]:
    warnings = []
    frames = set(landmarks.frames.tolist())
    beyond = sorted(frame for frame in frames if frame >= len(series))
    if beyond:
        hint = "; are frames counted from 1?" if beyond == [len(series)] and 0 not in frames else ""
        warnings.append(f"frames {_some(list(map(str, beyond)))} do not exist: the series has frames 0 to {len(series) - 1}{hint}")
    if reference not in frames:
        warnings.append(f"no landmark lies in the reference frame {reference}, so none can be evaluated")
    return warnings


def _pair_warnings(landmarks: LandmarkSet, index: NDArray[np.float64], series: ImageSeries, reference: int) -> list[str]:
    fixed = {landmarks.ids[k]: k for k in np.flatnonzero(landmarks.frames == reference)}
    if not fixed:
        return []
    warnings = []
    spacing = np.array(series.grid.spacing)
    limit = float(np.linalg.norm(np.array(series.grid.half_extent_mm)))
    unmatched = [
        f"{landmarks.ids[k]} in frame {frame}" for k, frame in enumerate(landmarks.frames.tolist()) if landmarks.ids[k] not in fixed
    ]
    if unmatched:
        warnings.append(f"{len(unmatched)} landmarks have no partner in the reference frame and are not used ({_some(unmatched)})")
    for frame in sorted(set(landmarks.frames.tolist()) - {reference}):
        pairs = [(k, fixed[landmarks.ids[k]]) for k in np.flatnonzero(landmarks.frames == frame) if landmarks.ids[k] in fixed]
        if not pairs:
            continue
        moved = np.linalg.norm((index[[a for a, _ in pairs]] - index[[b for _, b in pairs]]) * spacing, axis=1)
        if moved.mean() > limit:
            warnings.append(
                f"landmarks of frame {frame} lie {moved.mean():.0f} mm from those of the reference on average: do the ids match?"
            )
    return warnings


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", ... {len(names)} in all" if len(names) > _LISTED else "")
