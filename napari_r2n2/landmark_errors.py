"""Landmark errors as a table that is read beside the image: every point of a slice position, before and after, in mm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_r2n2.landmark_marks import PLACED, Marks
from napari_r2n2.landmark_series import contains
from napari_r2n2.session import FrameKey
from r2n2.errors import ReadError

if TYPE_CHECKING:
    from napari_r2n2.session import Session
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

    def before(self, frame: int | None = None) -> Figures:
        """Distances without registration, of one frame or of all."""
        return _figures(row.before_mm for row in self._counted(frame))

    def after(self, frame: int | None = None) -> Figures:
        """Target registration errors, of one frame or of all."""
        return _figures(row.after_mm for row in self._counted(frame))

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames with a point that counts."""
        return tuple(sorted({row.frame for row in self._counted(None)}))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        remarks = [row.remark for row in self.rows]
        notes = []
        for remark, what in (
            ("predicted", "still on the prediction (TRE 0 by construction)"),
            ("copied", "unmoved copies (0 mm before by construction)"),
            ("outside", "point or partner outside the image"),
            ("no partner", f"no partner in reference frame {self.reference}"),
        ):
            if remark in remarks:
                notes.append(f"{remarks.count(remark)} not counted: {what}.")
        before, after = self.before().number, self.after().number
        if 0 < after < before:
            notes.append(f"{before - after} of {before} lie in frames without a registration: they count before, not after.")
        return tuple(notes)

    def _counted(self, frame: int | None) -> list[ErrorRow]:
        return [row for row in self.rows if not row.remark and (frame is None or row.frame == frame)]


def report(marks: Marks, series: tuple[ImageSeries, ...], slice_index: int, reference: int, session: Session | None) -> ErrorReport:
    """Errors of a slice position; ``session`` is the registration of this series, or None before there is one.

    Distances before are plain numpy, so that nothing heavy is loaded while people only place points.
    """
    place = series[slice_index]
    spacing = np.array(place.grid.spacing)
    fixed = {marks.ids[k]: k for k in marks.rows_in(FrameKey(slice_index, reference)) if marks.drafts[k] == PLACED}
    after = {} if session is None else _after(session, slice_index)
    rows = []
    for k, name in enumerate(marks.ids):
        key = marks.key(k)
        if key.slice_index != slice_index or key.frame == reference:
            continue
        remark, before = _remark(marks, series, k, fixed.get(name)), math.nan
        if name in fixed and marks.drafts[k] == PLACED:
            before = float(np.linalg.norm((marks.positions()[k] - marks.positions()[fixed[name]]) * spacing))
        rows.append(ErrorRow(k, key.frame, name, before, after.get((key.frame, name), math.nan), remark))
    return ErrorReport(reference, len(place), tuple(sorted(rows, key=lambda row: (row.frame, natural(row.id)))))


def natural(name: str) -> tuple[int, int, str]:
    """Sorting key by which 2 comes before 10, and numbers before names."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _remark(marks: Marks, series: tuple[ImageSeries, ...], k: int, partner: int | None) -> str:
    if marks.drafts[k] != PLACED:
        return marks.drafts[k]
    if partner is None:
        return "no partner"
    inside = all(contains(series, marks.key(n), marks.positions()[n]) for n in (k, partner))
    return "" if inside else "outside"


def _after(session: Session, slice_index: int) -> dict[tuple[int, str], float]:
    try:
        table = session.errors(slice_index)
    except ReadError:  # no pair yet: the rows say so
        return {}
    return {} if table is None else {(row.frame, row.id): row.after_mm for row in table.rows}


def _figures(distances: Iterable[float]) -> Figures:
    values: Sequence[float] = [value for value in distances if not math.isnan(value)]
    if not values:
        return Figures(0, math.nan, math.nan, math.nan)
    return Figures(len(values), float(np.mean(values)), float(np.median(values)), float(np.max(values)))
