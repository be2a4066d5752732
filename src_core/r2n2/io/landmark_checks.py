"""Whether landmarks can belong to a series: mistakes of unit, axis order and counting that no error would ever show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.quantities import length_text
from r2n2.series import ImageSeries, LandmarkSet

__all__ = ["check_plausible", "check_usable"]

_LISTED = 8
_MUCH_BETTER = 0.25
_FEWEST_NUMBERS = 6
_WHOLE = 1e-3
_RAS_TO_LPS = np.array([1.0, -1.0, -1.0])


def check_usable(landmarks: LandmarkSet, series: ImageSeries, reference: int | None) -> None:
    """Refuse landmarks from which no error of this series could be computed, before anything else is.

    Parameters
    ----------
    reference
        Where it is known already.

    Raises
    ------
    ReadError
        If none lies in a frame of the series, or in the reference, or no two frames share an id.
    """
    frames = set(landmarks.frames.tolist())
    if landmarks.points.shape[1] != series.grid.ndim:
        raise ReadError(
            f"landmarks: they have {landmarks.points.shape[1]} coordinates, the series has {series.grid.ndim} axes; "
            f"give {series.grid.ndim} for every point"
        )
    if min(frames) >= len(series):
        raise ReadError(f"landmarks: {' '.join(_frame_warnings(landmarks, series, None))}; correct the frame numbers")
    if reference is not None and reference not in frames:
        raise ReadError(
            f"landmarks: none in the reference frame {reference}, but in frames {_some(list(map(str, sorted(frames))))}; "
            f"{_counted_from_one(frames, series)}mark the reference, or choose a marked frame with --reference"
        )
    ids = [set(landmarks.in_frame(frame).ids) for frame in frames]
    if len(frames) > 1 and sum(map(len, ids)) == len(set().union(*ids)):
        raise ReadError("landmarks: no two frames share an id, so no pair can be made; the points of a pair must carry the same id")


def check_plausible(landmarks: LandmarkSet, series: ImageSeries, reference: int | None) -> tuple[str, ...]:
    """One sentence for each thing that is odd about landmarks of a series; empty where nothing is.

    Looks for points outside the image (and whether taking mm for px, swapping x and y or counting from 0 would bring them in),
    numbers that are whole in the other unit, frames that do not exist, ids without a partner in the reference frame, and
    distances larger than half the image.

    Parameters
    ----------
    reference
        Index of the reference frame, or None where it is not known yet.
    """
    if landmarks.points.shape[1] != series.grid.ndim:
        return (f"landmarks have {landmarks.points.shape[1]} coordinates, the series has {series.grid.ndim} axes",)
    warnings: list[str] = []
    index = landmarks.to_space(Space.INDEX, series.grid).points
    outside = ~_inside(index, series)
    if outside.any():
        names = _some([f"{landmarks.ids[k]} in frame {landmarks.frames[k]}" for k in np.flatnonzero(outside)])
        warnings.append(f"{int(outside.sum())} of {len(landmarks)} landmarks lie outside the image ({names})")
        warnings += _explanations(landmarks, int(outside.sum()), series)
    else:
        warnings += _whole_in_the_other_unit(landmarks, index, series)
    if landmarks.space is Space.WORLD and not series.spacing_known:
        warnings.append("landmarks are in mm, but the pixel size of the series is not known; pass --spacing")
    warnings += _frame_warnings(landmarks, series, reference)
    return (*warnings, *(() if reference is None else _pair_warnings(landmarks, index, series, reference)))


def _inside(index: NDArray[np.float64], series: ImageSeries) -> NDArray[Any]:
    return np.asarray(((index >= -0.5) & (index <= np.array(series.grid.shape) - 0.5)).all(axis=1))


def _explanations(landmarks: LandmarkSet, outside: int, series: ImageSeries) -> list[str]:
    """What would bring (nearly) all points into the image."""

    def fits(index: NDArray[np.float64]) -> bool:
        return int((~_inside(index, series)).sum()) <= outside * _MUCH_BETTER

    spacing = np.array(series.grid.spacing)
    swapped = landmarks.points.copy()
    swapped[:, [-2, -1]] = swapped[:, [-1, -2]]
    found = []
    if landmarks.space is Space.WORLD:
        if fits(landmarks.points):
            found.append("the numbers fit as pixels: were px given in columns named mm?")
        swapped = replace(landmarks, points=swapped).to_space(Space.INDEX, series.grid).points
        if series.grid.ndim == 3 and fits(_moved(landmarks, series, landmarks.points * _RAS_TO_LPS)):
            found.append("all fit when x and y change their sign: are they RAS and not LPS?")
    else:
        world = replace(landmarks, space=Space.WORLD).to_space(Space.INDEX, series.grid).points
        if not np.allclose(spacing, 1) and (fits(world) or fits(landmarks.points / spacing)):
            found.append("the numbers fit as mm: were mm given in columns named px?")
        if (landmarks.points >= 0.5).all() and fits(landmarks.points - 1):
            found.append("all fit when 1 is subtracted: are pixels counted from 1? The first pixel's centre is 0")
    if fits(swapped):
        found.append("all fit when x and y are exchanged: are the columns swapped?")
    elif series.grid.ndim == 3 and fits(_moved(landmarks, series, landmarks.points[:, ::-1])):
        found.append("all fit when x and z are exchanged: are the columns in the order x, y, z? Name them so: x_mm,y_mm,z_mm")
    return found


def _moved(landmarks: LandmarkSet, series: ImageSeries, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """INDEX of other points in the space of the landmarks."""
    return replace(landmarks, points=np.ascontiguousarray(points)).to_space(Space.INDEX, series.grid).points


def _whole_in_the_other_unit(landmarks: LandmarkSet, index: NDArray[np.float64], series: ImageSeries) -> list[str]:
    """Points are often placed on whole pixels: mm that are all whole, of pixels that are not 1 mm, were pixels."""
    spacing = np.array(series.grid.spacing)
    fractions = [float(size) for size in spacing if abs(size - round(size)) > _WHOLE]
    if landmarks.points.size < _FEWEST_NUMBERS or len(fractions) < len(spacing) or np.ptp(landmarks.points, axis=0).max() == 0:
        return []
    if landmarks.space is Space.WORLD and _whole_share(landmarks.points) == 1 and _whole_share(index) < 0.5:
        return ["every number in the columns named mm is whole, as pixels are: were px given there? Name the columns y_px and x_px"]
    as_mm = replace(landmarks, space=Space.WORLD).to_space(Space.INDEX, series.grid).points
    if landmarks.space is Space.INDEX and _whole_share(as_mm) > 0.99 and _whole_share(landmarks.points) < 0.5:
        return ["taken for mm every number is a whole pixel: were mm given in columns named px? Name them y_mm and x_mm"]
    return []


def _whole_share(values: NDArray[np.float64]) -> float:
    return float((np.abs(values - np.rint(values)) < _WHOLE).mean())


def _frame_warnings(landmarks: LandmarkSet, series: ImageSeries, reference: int | None) -> list[str]:
    warnings = []
    frames = set(landmarks.frames.tolist())
    beyond = sorted(frame for frame in frames if frame >= len(series))
    if beyond:
        hint = f"; {_counted_from_one(frames, series)}".rstrip("; ")
        if all(frame % 10 == 0 for frame in frames) and max(frames) // 10 < len(series):
            hint = "; are these phases in percent? T50 of ten is frame 5"
        warnings.append(f"frames {_some(list(map(str, beyond)))} do not exist: the series has frames 0 to {len(series) - 1}{hint}")
    if reference is not None and reference not in frames:
        warnings.append(f"no landmark lies in the reference frame {reference}, so none can be evaluated")
    return warnings


def _counted_from_one(frames: set[int], series: ImageSeries) -> str:
    return "are frames counted from 1? They count from 0; " if max(frames) == len(series) and 0 not in frames else ""


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
            apart = length_text(float(moved.mean()), series.length_unit)
            warnings.append(f"landmarks of frame {frame} lie {apart} from those of the reference on average: do the ids match?")
    return warnings


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", ... {len(names)} in all" if len(names) > _LISTED else "")
