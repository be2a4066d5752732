"""Landmark errors as tables: CSV files and the paper's Table 1."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.evaluation import ErrorSummary, LandmarkError, TRETable
from r2n2.io.spreadsheet import original_cell, table_text
from r2n2.quantities import exact_number
from r2n2.registration.results import FrameStatus
from r2n2.results.frame_metrics import FrameMetrics

__all__ = ["SliceError", "read_tre_table", "slice_errors", "slice_table_csv", "status_notes", "tre_summary_csv", "tre_table_csv"]

_LISTED = 10

SliceError = tuple[float, float]
"""Mean and maximum over the frames of a slice of the frame's mean TRE in mm, as in the paper's Table 1."""


def tre_table_csv(table: TRETable) -> str:
    """A row a landmark and frame; an id that a spreadsheet would run gets an apostrophe, which reading takes away again.

    The radius of uncertainty is empty where it is not known. Where pairs guided a frame, a last column says how many guided which.
    """
    rows: list[list[object]] = [
        [r.id, r.frame, exact_number(r.before_mm), exact_number(r.after_mm), int(r.inside), exact_number(r.radius_mm)]
        for r in table.rows
    ]
    header = ["id", "frame", "before_mm", "tre_mm", "inside", "radius_mm"]
    if any(r.guides for r in table.rows):
        header.append("guides")
        rows = [[*cells, r.guides] for cells, r in zip(rows, table.rows, strict=True)]
    return table_text(header, rows, text=("id",))


def status_notes(metrics: Iterable[FrameMetrics]) -> tuple[str, ...]:
    """What a reader of errors must know of frames whose registration was edited, or is doubtful; nothing if there are none."""
    frames: dict[FrameStatus, list[str]] = {FrameStatus.EDITED: [], FrameStatus.DOUBTFUL: []}
    for row in metrics:
        frames.get(row.status, []).append(str(row.frame))
    told = {
        FrameStatus.EDITED: "was edited by hand (status edited): their errors are those of the edited one",
        FrameStatus.DOUBTFUL: "is doubtful (status doubtful): look at them in the report",
    }
    return tuple(f"The registration of frames {_some(frames[status])} {told[status]}." for status in frames if frames[status])


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", ... ({len(names)} in all)" if len(names) > _LISTED else "")


def read_tre_table(path: Path, reference: int) -> TRETable:
    """The table of a tre.csv.

    Raises
    ------
    ReadError
        If it is absent or damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = tuple(
                LandmarkError(
                    id=original_cell(row["id"]),
                    frame=int(row["frame"]),
                    before_mm=float(row["before_mm"]),
                    after_mm=float(row["tre_mm"]),
                    inside=row["inside"] == "1",
                    # Tables from before there was a radius do not have the column.
                    radius_mm=float(row.get("radius_mm") or math.nan),
                    guides=int(row.get("guides") or 0),
                )
                for row in csv.DictReader(file)
            )
    except FileNotFoundError:
        raise ReadError(f"{path}: this result was registered without landmarks; give --landmarks") from None
    except (KeyError, ValueError, TypeError) as error:
        raise ReadError(f"{path}: damaged ({error}); give --landmarks to make it anew") from None
    return TRETable(reference, rows, (), ())


def tre_summary_csv(table: TRETable) -> str:
    """A row a frame and one of the series: number of pairs, then mean, median, 95 % and maximum before and after, in mm."""
    header = ["frame", "n"] + [f"{when}_{what}_mm" for when in ("before", "tre") for what in ("mean", "median", "q95", "max")]
    rows: list[list[object]] = []
    for frame in (*table.frames, None):
        before, after = table.before(frame), table.after(frame)
        rows.append(["series" if frame is None else frame, after.count, *_summary_cells(before), *_summary_cells(after)])
    return table_text(header, rows)


def slice_errors(table: TRETable) -> tuple[SliceError, SliceError]:
    """Before and after of one slice."""
    frames = [frame for frame in table.frames if table.included(frame)]
    if not frames:
        return (math.nan, math.nan), (math.nan, math.nan)
    before = np.array([table.before(frame).mean_mm for frame in frames])
    after = np.array([table.after(frame).mean_mm for frame in frames])
    return (float(before.mean()), float(before.max())), (float(after.mean()), float(after.max()))


def slice_table_csv(slices: Mapping[str, TRETable]) -> str:
    """The paper's Table 1 the long way: a row a slice position and one with the mean of all, in mm."""
    rows: list[list[object]] = []
    pairs = {name: slice_errors(table) for name, table in slices.items()}
    for name, (before, after) in pairs.items():
        rows.append([name, *map(exact_number, (*before, *after))])
    if pairs:
        # A slice whose landmarks all lie outside has no mean.
        found = [[values[k][0] for values in pairs.values() if math.isfinite(values[k][0])] for k in (0, 1)]
        means = [float(np.mean(numbers)) if numbers else math.nan for numbers in found]
        rows.append(["mean", exact_number(means[0]), "", exact_number(means[1]), ""])
    return table_text(["slice", "before_mean_mm", "before_max_mm", "tre_mean_mm", "tre_max_mm"], rows, text=("slice",))


def _summary_cells(summary: ErrorSummary) -> list[str]:
    return [exact_number(v) for v in (summary.mean_mm, summary.median_mm, summary.q95_mm, summary.max_mm)]
