"""Guiding pairs: points of the reference and of other frames that a person vouches for, to within a stated distance in mm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2n2.errors import ArgumentError, ReadError
from r2n2.geometry import Grid, Space
from r2n2.series import LandmarkSet
from r2n2.transform import Transform, map_points

__all__ = ["Guides", "GuidingPairs", "misfit_mm", "strength_mm"]

_SAME_PX = 0.5
_LISTED = 5


def strength_mm(setting: float | Literal["auto"], grid: Grid) -> float:
    """The setting ``guide_strength_mm`` in mm; auto is the longer side of a pixel: so exactly a person can place a point."""
    return max(grid.spacing[-2:]) if setting == "auto" else setting


@dataclass(frozen=True, eq=False)
class GuidingPairs:
    """The pairs of one frame.

    Parameters
    ----------
    ids
        Name of every pair.
    fixed, moving
        (N, ndim) float64 NORMALISED, N at least 1: where a place lies in the reference and in the frame.
    strength
        To within which distance they are right, NORMALISED.
    """

    ids: tuple[str, ...]
    fixed: Tensor
    moving: Tensor
    strength: float

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Guides:
    """Points that guide the registration of a series; they never count as landmarks that its error is measured at.

    Parameters
    ----------
    landmarks
        Points of the reference and of other frames; those that share an id are pairs.
    strength_mm
        Standard deviation of a pair: it is right to within this distance.
    path
        File they were read from, "" for none.

    Raises
    ------
    ArgumentError
        If the strength is not a positive number.
    """

    landmarks: LandmarkSet
    strength_mm: float
    path: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.strength_mm < np.inf:
            raise ArgumentError(f"guide_strength_mm: expected a positive number of mm, got {self.strength_mm!r}")

    def pairs(self, reference: int, grid: Grid) -> dict[int, GuidingPairs]:
        """Frame -> its pairs, of the frames that have any.

        Raises
        ------
        ReadError
            If there is no pair at all, or a point lies outside its image.
        """
        index = self.landmarks.to_space(Space.INDEX, grid)
        fixed, found = index.in_frame(reference), dict[int, GuidingPairs]()
        for frame in sorted(set(index.frames.tolist()) - {reference}):
            moving = index.in_frame(frame)
            common = sorted(set(fixed.ids) & set(moving.ids))
            if not common:
                continue
            here, there = (marks.select(common).points for marks in (fixed, moving))
            _check_inside(here, common, reference, grid)
            _check_inside(there, common, frame, grid)
            before, after = (grid.convert_points(torch.from_numpy(p), Space.INDEX, Space.NORMALISED) for p in (here, there))
            found[frame] = GuidingPairs(tuple(common), before, after, self.strength_mm / grid.unit_mm)
        if not found:
            raise ReadError(
                f"guide: no point of the reference frame {reference} has a partner of the same id in another frame; "
                f"mark a place in frame {reference} and in the frame to be mended, with one id"
            )
        return found

    def left_out_of(self, landmarks: LandmarkSet, reference: int, grid: Grid) -> tuple[LandmarkSet, str]:
        """Landmarks without those that guide, and a sentence on what was taken out; "" where nothing was.

        A landmark of a frame is one that guides where it and its partner in the reference lie within half a pixel of a guiding
        pair, whatever their ids.
        """
        index, guides = (marks.to_space(Space.INDEX, grid) for marks in (landmarks, self.landmarks))
        fixed = dict(zip(index.in_frame(reference).ids, index.in_frame(reference).points, strict=True))
        guiding = dict(zip(guides.in_frame(reference).ids, guides.in_frame(reference).points, strict=True))
        out = []
        for k, (name, frame) in enumerate(zip(index.ids, index.frames.tolist(), strict=True)):
            others = guides.in_frame(frame)
            out.append(
                frame != reference
                and name in fixed
                and any(
                    _near(index.points[k], place) and _near(fixed[name], guiding[other])
                    for other, place in zip(others.ids, others.points, strict=True)
                    if other in guiding
                )
            )
        if not any(out):
            return landmarks, ""
        taken = [f"{name!r} in frame {frame}" for name, frame, gone in zip(index.ids, index.frames, out, strict=True) if gone]
        more = f" and {len(taken) - _LISTED} more" if len(taken) > _LISTED else ""
        many = f"{len(taken)} landmarks guide" if len(taken) > 1 else "1 landmark guides"
        kept = landmarks.where(~np.array(out))
        return kept, f"{many} the registration and measures no error: {', '.join(taken[:_LISTED])}{more}."

    def counts(self, reference: int, grid: Grid) -> Mapping[int, int]:
        """Frame -> number of its pairs."""
        return {frame: len(pairs) for frame, pairs in self.pairs(reference, grid).items()}


def misfit_mm(transform: Transform, pairs: GuidingPairs) -> list[float]:
    """How far from where it was put each pair's point comes to lie."""
    mapped = map_points(transform, pairs.fixed, Space.NORMALISED)
    return [float(distance) for distance in (mapped - pairs.moving).norm(dim=1) * transform.grid.unit_mm]


def _near(point: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool(np.abs(point - other).max() <= _SAME_PX)


def _check_inside(points: NDArray[np.float64], ids: list[str], frame: int, grid: Grid) -> None:
    outside = ((points < -0.5) | (points > np.array(grid.shape) - 0.5)).any(1)
    if outside.any():
        name = ids[int(np.flatnonzero(outside)[0])]
        raise ReadError(f"guide: point {name!r} of frame {frame} lies outside the image; check unit, axis order and frame number")
