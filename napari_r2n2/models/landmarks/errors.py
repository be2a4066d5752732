"""Landmark errors as a table that is read beside the image: every point of a slice position, before and after, in mm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_r2n2.models.landmarks.marks import GUIDING, PLACED, Marks
from napari_r2n2.models.session import FrameKey

if TYPE_CHECKING:
    from napari_r2n2.models.landmarks.predictions import Predictions
    from r2n2.series import ImageSeries

__all__ = ["ErrorReport", "ErrorRow", "Figures", "report"]


class Figures(NamedTuple):
    """Mean, median and maximum of ``number`` distances in mm; NaN where there is none."""

    number: int
    mean_mm: float
    median_mm: float
    max_mm: float


class ErrorRow(NamedTuple):
    """A point of a frame other than the reference; NaN mm where a distance is not known."""

    row: int
    """Index in the marks."""
    frame: int
    id: str
    before_mm: float
    after_mm: float
    remark: str
    """Why the point does not count, or ""."""


@dataclass(frozen=True)
class ErrorReport:
    """Errors of a slice position."""

    reference: int
    frame_count: int
    rows: tuple[ErrorRow, ...]
    edited: tuple[int, ...] = ()
    """Frames from which Gaussians were left out by hand: their errors are not those of the run."""

    def before(self, frame: int | None = None) -> Figures:
        """Distances without registration, of one frame or of all."""
        return _figures(row.before_mm for row in self._counted(frame))

    def after(self, frame: int | None = None) -> Figures:
        """Target registration errors, of one frame or of all."""
        return _figures(row.after_mm for row in self._counted(frame))

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames with a point that counts."""
        return tuple(sorted(self._by_frame))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        remarks = [row.remark for row in self.rows]
        notes = []
        for remark, what in (
            ("predicted", "still on the prediction (TRE 0 by construction)"),
            ("copied", "unmoved copies (0 mm before by construction)"),
            (GUIDING, "they guide the registration"),
            ("outside", "point or partner outside the image"),
            ("no partner", f"no partner in reference frame {self.reference}"),
        ):
            if remark in remarks:
                notes.append(f"{remarks.count(remark)} not counted: {what}.")
        measured = [frame for frame in self.edited if frame in self._by_frame]
        if measured:
            which = ", ".join(map(str, measured[:5])) + (" ..." if len(measured) > 5 else "")
            notes.append(f"TRE after editing by hand: Gaussians were left out in frame {which}.")
        before, after = self.before().number, self.after().number
        if 0 < after < before:
            notes.append(f"{before - after} of {before} lie in frames without a registration: they count before, not after.")
        return tuple(notes)

    def _counted(self, frame: int | None) -> list[ErrorRow]:
        if frame is not None:
            return self._by_frame.get(frame, [])
        return [row for row in self.rows if not row.remark]

    @cached_property
    def _by_frame(self) -> dict[int, list[ErrorRow]]:
        found: dict[int, list[ErrorRow]] = {}
        for row in self._counted(None):
            found.setdefault(row.frame, []).append(row)
        return found


def report(
    marks: Marks,
    series: tuple[ImageSeries, ...],
    slice_index: int,
    reference: int,
    predictions: Predictions | None,
    edited: tuple[int, ...] = (),
) -> ErrorReport:
    """Errors of a slice position; ``predictions`` are those of this series' registration, None before there is one.

    The same numbers as ``Session.errors`` gives, but for every point, and fast enough to follow a drag.
    """
    place = series[slice_index]
    spacing, positions = np.array(place.grid.spacing), marks.positions()
    scaled = (positions * spacing).tolist()  # mm from the first pixel, along the axes
    inside = np.all((positions >= -0.5) & (positions <= np.array(place.grid.shape) - 0.5), axis=1)
    fixed = {marks.ids[k]: k for k in marks.rows_in(FrameKey(slice_index, reference)) if marks.drafts[k] in (PLACED, GUIDING)}
    rows = []
    for frame in range(len(place)):
        key = FrameKey(slice_index, frame)
        here = marks.rows_in(key) if frame != reference else []
        mapped = predictions.at(key, positions[list(fixed.values())]) if here and fixed and predictions is not None else None
        expected = {} if mapped is None else dict(zip(fixed, (mapped * spacing).tolist(), strict=True))
        for k in sorted(here, key=lambda k: natural(marks.ids[k])):
            name, before, after = marks.ids[k], math.nan, math.nan
            partner = fixed.get(name)
            if partner is not None and marks.drafts[k] == PLACED:
                before = math.dist(scaled[k], scaled[partner])
                if name in expected:
                    after = math.dist(scaled[k], expected[name])
            remark = marks.drafts[k] or ("no partner" if partner is None else "" if inside[k] and inside[partner] else "outside")
            rows.append(ErrorRow(k, frame, name, before, after, remark))
    return ErrorReport(reference, len(place), tuple(rows), edited)


def natural(name: str) -> tuple[int, int, str]:
    """Sorting key by which 2 comes before 10, and numbers before names."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _figures(distances: Iterable[float]) -> Figures:
    values: Sequence[float] = [value for value in distances if not math.isnan(value)]
    if not values:
        return Figures(0, math.nan, math.nan, math.nan)
    return Figures(len(values), float(np.mean(values)), float(np.median(values)), float(np.max(values)))
