"""The numbers of every frame as metrics.csv holds them: written, and read back with what run.json says of the same frames."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r2n2.errors import ReadError
from r2n2.evaluation import TRETable
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number
from r2n2.registration.results import FrameResult, FrameStatus
from r2n2.results.manifest import RunManifest
from r2n2.transform import Transform

__all__ = ["FrameMetrics", "metrics_table", "read_metrics"]

_COLUMNS = (
    "frame",
    "time_s",
    "similarity_before",
    "similarity_after",
    "folding_percent",
    "min_jacobian",
    "min_jacobian_proven",
    "max_displacement_mm",
    "gaussians",
    "seconds",
    "status",
)
_UNCERTAINTY_COLUMNS = ("uncertainty_mm", "uncertainty_95_mm")
_MEASURE_COLUMN = "similarity_measure"
_TRE_COLUMNS = ("tre_before_mm", "tre_mm", "tre_max_mm")


@dataclass(frozen=True)
class FrameMetrics:
    """The numbers of one frame, as in metrics.csv; see FrameResult for their meaning. NaN where undefined."""

    frame: int
    time_s: float
    similarity_before: float
    similarity_after: float
    folding_percent: float
    min_jacobian: float
    max_displacement_mm: float
    seconds: float
    status: FrameStatus
    message: str = ""
    tre_before_mm: float = math.nan
    tre_mm: float = math.nan
    tre_max_mm: float = math.nan
    min_jacobian_proven: float = math.nan
    gaussians: int | None = None
    uncertainty_mm: float = math.nan
    uncertainty_95_mm: float = math.nan
    uncalibrated: str = ""
    similarity_measure: str = "ssd"

    @classmethod
    def of(cls, result: FrameResult, time_s: float = math.nan) -> FrameMetrics:
        """Of a result, without its transform."""
        columns = (*_COLUMNS, _MEASURE_COLUMN)
        shared = {name: getattr(result, name) for name in (*columns, "message") if name != "time_s"}
        if result.uncertainty is not None:
            found = result.uncertainty
            shared |= {"uncertainty_mm": found.median_mm, "uncertainty_95_mm": found.q95_mm, "uncalibrated": found.uncalibrated}
        return cls(time_s=time_s, **shared)

    def with_errors(self, table: TRETable) -> FrameMetrics:
        """With the landmark errors of this frame."""
        before, after = table.before(self.frame), table.after(self.frame)
        return replace(self, tre_before_mm=before.mean_mm, tre_mm=after.mean_mm, tre_max_mm=after.max_mm)

    def result(self, transform: Transform) -> FrameResult:
        """The frame's result again."""
        shared = {name: getattr(self, name) for name in (*_COLUMNS, _MEASURE_COLUMN, "message") if name != "time_s"}
        return FrameResult(transform=transform, **shared)


def metrics_table(metrics: Sequence[FrameMetrics], *, with_errors: bool) -> str:
    """Text of metrics.csv: a row a frame; an undefined number is left empty."""
    columns = (*_COLUMNS, _MEASURE_COLUMN, *_UNCERTAINTY_COLUMNS, *(_TRE_COLUMNS if with_errors else ()))
    return table_text(columns, [[_cell(getattr(row, column)) for column in columns] for row in metrics])


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return ""
    return exact_number(value) if isinstance(value, float) else str(value)


def read_metrics(path: Path, manifest: RunManifest) -> tuple[FrameMetrics, ...]:
    """The rows of a metrics.csv, in order of frames.

    Raises
    ------
    ReadError
        If there is no such table, or it does not fit run.json.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        metrics = tuple(_parse_metrics(row, manifest) for row in rows)
    except FileNotFoundError:
        raise ReadError(f"{path}: no such file though the run finished; run r2n2 register again with --overwrite") from None
    except (KeyError, ValueError, TypeError) as error:
        raise ReadError(f"{path}: not the table r2n2 wrote ({error}); run r2n2 register again with --overwrite") from None
    if len(metrics) != manifest.input.frames or [m.frame for m in metrics] != list(range(len(metrics))):
        raise ReadError(f"{path}: expected the frames 0 to {manifest.input.frames - 1} in order; run r2n2 register again")
    if Counter(str(m.status) for m in metrics) != Counter(manifest.status_counts):
        raise ReadError(f"{path}: does not fit run.json; run r2n2 register again with --overwrite")
    return metrics


def _parse_metrics(row: Mapping[str, str], manifest: RunManifest) -> FrameMetrics:
    frame = int(row["frame"])
    names = [name for name in (*_COLUMNS[1:-1], *_UNCERTAINTY_COLUMNS, *_TRE_COLUMNS) if name in row and name != "gaussians"]
    numbers = {name: float(row[name]) if row[name] else math.nan for name in names}
    gaussians = int(row["gaussians"]) if row.get("gaussians") else None
    status, message = FrameStatus(row["status"]), manifest.messages.get(frame, "")
    uncalibrated = "" if manifest.uncertainty is None else manifest.uncertainty.uncalibrated.get(frame, "")
    return FrameMetrics(
        frame=frame,
        status=status,
        message=message,
        uncalibrated=uncalibrated,
        gaussians=gaussians,
        # Tables from before there was a choice do not have the column.
        similarity_measure=row.get(_MEASURE_COLUMN) or "ssd",
        **numbers,
    )
