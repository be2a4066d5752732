"""How good a registration is, in numbers a person can check: target registration error in mm, overlap and folding.

A landmark p of the reference frame lies in frame t at p + f_t(p), so the target registration error of a pair is
|p_reference + f_t(p_reference) - p_t| in mm. Nothing else is called TRE here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Grid, GridMismatchError, Space
from r2n2.series import LandmarkSet
from r2n2.transform import Transform, folding_percent, jacobian_determinant, map_points, warp

__all__ = [
    "ErrorSummary",
    "Folding",
    "LandmarkError",
    "ObserverError",
    "TRETable",
    "dice",
    "folding",
    "inter_observer_error",
    "summarise",
    "target_registration_error",
    "warp_labels",
]

# Below this many numbers a 95 % quantile is no more than the maximum.
_FEWEST_FOR_QUANTILE = 5
_FEWEST_LANDMARKS = 3


@dataclass(frozen=True)
class ErrorSummary:
    """Mean, median, 95 % quantile (NaN below 5 numbers) and maximum of ``count`` distances in mm; NaN where there is none."""

    count: int
    mean_mm: float
    median_mm: float
    q95_mm: float
    max_mm: float


@dataclass(frozen=True)
class LandmarkError:
    """One landmark in one frame: distance in mm to where the reference's landmark is expected.

    Parameters
    ----------
    id, frame
        Which landmark in which frame.
    before_mm, after_mm
        Without any displacement, and the TRE.
    inside
        Whether both points lie in the image (and that of the reference in the mask, if there is one); those that do not are
        left out of every summary unless asked for.
    radius_mm
        Within which the registration claims to be right with 90 % probability; NaN where it says nothing.
    guides
        Number of guiding pairs of its frame, none of which is a landmark here.
    """

    id: str
    frame: int
    before_mm: float
    after_mm: float
    inside: bool
    radius_mm: float = math.nan
    guides: int = 0


@dataclass(frozen=True)
class TRETable:
    """Target registration errors of a series and what could not be used.

    Parameters
    ----------
    reference
        The frame whose landmarks were mapped.
    rows
        One a landmark and frame that has a partner in the reference, inside the image or not, by frame and id.
    unmatched
        (frame, id) of points without a partner: in the frame but not in the reference, or the other way round.
    unregistered
        Frames that hold landmarks but have no transform.
    include_outside
        Whether summaries count points outside the image.
    notes
        What a reader of the numbers should know, one sentence each.
    """

    reference: int
    rows: tuple[LandmarkError, ...]
    unmatched: tuple[tuple[int, str], ...]
    unregistered: tuple[int, ...]
    include_outside: bool = False
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames with at least one pair."""
        return tuple(sorted({row.frame for row in self.rows}))

    @property
    def outside(self) -> int:
        """Number of pairs with a point outside the image."""
        return sum(not row.inside for row in self.rows)

    def included(self, frame: int | None = None) -> tuple[LandmarkError, ...]:
        """The pairs that count, of one frame or of all."""
        return tuple(row for row in self.rows if (row.inside or self.include_outside) and (frame is None or row.frame == frame))

    def before(self, frame: int | None = None) -> ErrorSummary:
        """Distances without registration."""
        return summarise(row.before_mm for row in self.included(frame))

    def after(self, frame: int | None = None) -> ErrorSummary:
        """Target registration errors."""
        return summarise(row.after_mm for row in self.included(frame))

    def within_radius(self, frame: int | None = None) -> tuple[int, int]:
        """How many pairs that count have a TRE within their radius, and how many have a radius at all."""
        known = [row for row in self.included(frame) if math.isfinite(row.radius_mm)]
        return sum(row.after_mm <= row.radius_mm for row in known), len(known)

    def frame_means_mm(self) -> dict[int, float]:
        """Mean TRE in mm of every frame with a pair that counts: the numbers behind the paper's Table 1."""
        return {frame: self.after(frame).mean_mm for frame in self.frames if self.included(frame)}


def summarise(distances: Iterable[float]) -> ErrorSummary:
    """Summary of distances in mm."""
    values = np.fromiter(distances, dtype=np.float64)
    if values.size == 0:
        return ErrorSummary(0, math.nan, math.nan, math.nan, math.nan)
    q95 = float(np.quantile(values, 0.95)) if values.size >= _FEWEST_FOR_QUANTILE else math.nan
    return ErrorSummary(values.size, float(values.mean()), float(np.median(values)), q95, float(values.max()))


def target_registration_error(
    transforms: Mapping[int, Transform],
    landmarks: LandmarkSet,
    reference: int,
    grid: Grid,
    *,
    include_outside: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> TRETable:
    """Target registration error |p + f_t(p) - p_t| in mm of every landmark and frame, pairs matched by id.

    Parameters
    ----------
    transforms
        Frame -> transform that maps points of the reference into that frame.
    landmarks
        Points of the reference and of other frames.
    reference
        Frame index of the fixed points.
    grid
        Lattice of the frames.
    include_outside
        Count pairs with a point outside the image or mask too.
    mask
        (*grid.shape) on the reference's lattice; a point of the reference whose pixel is False counts as outside.

    Raises
    ------
    ReadError
        If the reference has no landmark, or no other frame shares an id with it.
    GridMismatchError
        If the landmarks have another number of axes than the grid, or a transform belongs to another space.
    """
    index = landmarks.to_space(Space.INDEX, grid)
    fixed = index.in_frame(reference)
    present = sorted(set(index.frames.tolist()))
    if len(fixed) == 0:
        raise ReadError(
            f"landmarks: none in the reference frame {reference}, but in frames {_listed(present)}; "
            f"mark the reference frame, or register with --reference set to a marked frame"
        )
    others = [frame for frame in present if frame != reference]
    unregistered = tuple(frame for frame in others if frame not in transforms)
    rows: list[LandmarkError] = []
    unmatched: list[tuple[int, str]] = []
    for frame in others:
        moving = index.in_frame(frame)
        common = sorted(set(fixed.ids) & set(moving.ids))
        unmatched += [(frame, name) for name in sorted(set(fixed.ids) ^ set(moving.ids))]
        if frame in transforms and common:
            _check_space(transforms[frame], grid, frame)
            rows += _pair_errors(transforms[frame], fixed.select(common), moving.select(common), grid, mask)
    if not rows:
        raise ReadError(
            f"landmarks: no frame shares an id with reference frame {reference} (ids {_listed(fixed.ids)}; "
            f"frames with landmarks: {_listed(present)}; without a registration: {_listed(unregistered) or 'none'}); "
            f"the points of a pair must carry the same id"
        )
    table = TRETable(reference, tuple(rows), tuple(unmatched), unregistered, include_outside)
    return replace(table, notes=_notes(table, grid, " or mask" if mask is not None else ""))


def _pair_errors(
    transform: Transform, fixed: LandmarkSet, moving: LandmarkSet, grid: Grid, mask: NDArray[np.bool_] | None
) -> list[LandmarkError]:
    mapped = map_points(transform, torch.from_numpy(fixed.points), Space.INDEX).numpy()
    before = _distances_mm(fixed.points, moving.points, grid)
    after = _distances_mm(mapped, moving.points, grid)
    inside = _inside(fixed.points, grid) & _inside(moving.points, grid)
    if mask is not None:
        inside &= _masked(fixed.points, mask)
    frame = int(moving.frames[0])
    return [LandmarkError(name, frame, float(before[k]), float(after[k]), bool(inside[k])) for k, name in enumerate(moving.ids)]


def _distances_mm(a: NDArray[np.float64], b: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    vectors = grid.convert_vectors(torch.from_numpy(a - b), Space.INDEX, Space.WORLD)
    return vectors.norm(dim=-1).numpy()


def _inside(points: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    # A pixel's area reaches half a pixel beyond its centre.
    return np.all((points >= -0.5) & (points <= np.array(grid.shape) - 0.5), axis=1)


def _masked(points: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    nearest = np.clip(np.rint(points), 0, np.array(mask.shape) - 1).astype(np.int64)
    return np.asarray(mask[tuple(nearest.T)], dtype=np.bool_)


def _check_space(transform: Transform, grid: Grid, frame: int) -> None:
    if not grid.same_space(transform.grid):
        raise GridMismatchError(
            f"target_registration_error: the transform of frame {frame} lies on {transform.grid}, the landmarks on {grid}; "
            f"evaluate with the grid of the registered series"
        )


def _notes(table: TRETable, grid: Grid, masked: str) -> tuple[str, ...]:
    notes = []
    if table.outside:
        kept = "counted as asked" if table.include_outside else "left out"
        notes.append(f"{table.outside} of {len(table.rows)} landmark pairs have a point outside the image{masked}: {kept}.")
    if table.unmatched:
        shown = ", ".join(f"{name!r} in frame {frame}" for frame, name in table.unmatched[:5])
        more = f" and {len(table.unmatched) - 5} more" if len(table.unmatched) > 5 else ""
        notes.append(f"{len(table.unmatched)} landmarks have no partner of the same id and are not used: {shown}{more}.")
    if table.unregistered:
        notes.append(f"Frames {_listed(table.unregistered)} hold landmarks but were not registered.")
    few = [frame for frame in table.frames if len(table.included(frame)) < _FEWEST_LANDMARKS]
    if few:
        notes.append(f"Frames {_listed(few)} have fewer than {_FEWEST_LANDMARKS} landmarks; their errors say little.")
    included = table.included()
    diagonal_mm = 2 * math.hypot(*grid.half_extent_mm)
    if included and table.before().median_mm > diagonal_mm / 2:
        notes.append("Landmarks of a pair lie more than half an image apart: check unit (px or mm), axis order and ids.")
    return tuple(notes)


def _listed(values: Iterable[Any], most: int = 10) -> str:
    items = [str(value) for value in values]
    return ", ".join(items[:most]) + (f" ... ({len(items)} in all)" if len(items) > most else "")


@dataclass(frozen=True)
class ObserverError:
    """Distances in mm between two observers' points of the same id and frame.

    Parameters
    ----------
    distances_mm
        (frame, id) -> distance.
    unmatched
        (frame, id) that only one of the two has marked.
    """

    distances_mm: Mapping[tuple[int, str], float]
    unmatched: tuple[tuple[int, str], ...]

    @property
    def summary(self) -> ErrorSummary:
        """Over all points both have marked: what a TRE can at best be told from."""
        return summarise(self.distances_mm.values())


def inter_observer_error(first: LandmarkSet, second: LandmarkSet, grid: Grid) -> ObserverError:
    """Distance of the points that two observers gave the same id in the same frame.

    Raises
    ------
    ReadError
        If they share no point.
    """
    sides = []
    for landmarks in (first, second):
        index = landmarks.to_space(Space.INDEX, grid)
        keys = zip(index.frames.tolist(), index.ids, strict=True)
        sides.append(dict(zip(keys, index.points, strict=True)))
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        raise ReadError("landmarks: the two observers share no id in any frame; use the same ids and frame numbers in both files")
    distances = _distances_mm(np.stack([sides[0][k] for k in common]), np.stack([sides[1][k] for k in common]), grid)
    found = dict(zip(common, distances.tolist(), strict=True))
    return ObserverError(found, tuple(sorted(set(sides[0]) ^ set(sides[1]))))


@dataclass(frozen=True)
class Folding:
    """Share in percent of cells that fold, and the smallest Jacobian determinant of the map."""

    percent: float
    min_jacobian: float


def folding(transform: Transform) -> Folding:
    """Whether a transform folds anywhere on its grid, by all finite differences a cell allows."""
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None].double()
    determinants = jacobian_determinant(vectors, transform.grid)
    return Folding(float(folding_percent(determinants)[0]), float(determinants.min()))


def warp_labels(labels: NDArray[Any], transform: Transform) -> NDArray[Any]:
    """Label map of a moving frame on the reference's lattice, nearest neighbour, every label kept exactly.

    Parameters
    ----------
    labels
        (*grid.shape) or (C, *grid.shape) integers or bool.

    Raises
    ------
    ValueError
        If the labels are no integers or their shape does not fit.
    """
    grid = transform.grid
    if labels.dtype.kind not in "bui":
        raise ValueError(f"warp_labels: labels must be whole numbers or bool, got {labels.dtype}; convert them first")
    if labels.shape[-grid.ndim :] != grid.shape or labels.ndim not in (grid.ndim, grid.ndim + 1):
        raise ValueError(f"warp_labels: labels must have shape {grid.shape}, got {labels.shape}")
    # Indices are sampled, not labels: float64 could not hold every 64-bit label.
    names, index = np.unique(labels, return_inverse=True)
    vectors = transform.displacement_field().to_space(Space.NORMALISED).vectors[None].double()
    images = torch.from_numpy(index.reshape(1, -1, *grid.shape).astype(np.float64))
    sampled = warp(images, vectors, grid, mode="nearest").image
    return names[sampled.numpy().astype(np.int64)].reshape(labels.shape)


def dice(first: NDArray[Any], second: NDArray[Any]) -> dict[int, float]:
    """Dice overlap 2 |A and B| / (|A| + |B|) of every label but 0 that occurs in either map.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"dice: label maps must have one shape, got {first.shape} and {second.shape}; resample one first")
    overlaps = {}
    for label in np.union1d(np.unique(first), np.unique(second)).tolist():
        if label:
            a, b = first == label, second == label
            overlaps[int(label)] = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
    return overlaps
