"""Landmark errors as tables: CSV files and the paper's Table 1."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.evaluation import ErrorSummary, LandmarkError, TRETable

__all__ = ["SliceError", "read_tre_table", "slice_errors", "slice_table_csv", "tre_summary_csv", "tre_table_csv"]

SliceError = tuple[float, float]
"""Mean and maximum over the frames of a slice of the frame's mean TRE in mm, as in the paper's Table 1."""


def tre_table_csv(table: TRETable) -> str:
    """A row a landmark and frame."""
    rows = [[r.id, r.frame, _number(r.before_mm), _number(r.after_mm), int(r.inside)] for r in table.rows]
    return _text(["id", "frame", "before_mm", "tre_mm", "inside"], rows)


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
                LandmarkError(row["id"], int(row["frame"]), float(row["before_mm"]), float(row["tre_mm"]), row["inside"] == "1")
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
    return _text(header, rows)


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
        rows.append([name, *map(_number, (*before, *after))])
    if pairs:
        means = [float(np.mean([values[k][0] for values in pairs.values()])) for k in (0, 1)]
        rows.append(["mean", _number(means[0]), "", _number(means[1]), ""])
    return _text(["slice", "before_mean_mm", "before_max_mm", "tre_mean_mm", "tre_max_mm"], rows)


def _summary_cells(summary: ErrorSummary) -> list[str]:
    return [_number(v) for v in (summary.mean_mm, summary.median_mm, summary.q95_mm, summary.max_mm)]


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _text(header: list[str], rows: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
