"""A folder of several registered slice positions: names of the sub-folders, one summary, and run.json written last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.atomic import atomic_write
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number
from r2n2.registration.results import FrameStatus
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.manifest import MANIFEST_NAME, AcquisitionManifest, load_manifest, versions
from r2n2.results.reader import read_result

__all__ = ["finish_acquisition", "is_finished", "slice_names", "summary_table"]

_COLUMNS = (
    "slice",
    "frames",
    "flagged",
    "similarity_before",
    "similarity_after",
    "folding_percent",
    "max_displacement_mm",
    "tre_before_mm",
    "tre_mm",
    "tre_max_mm",
    "seconds",
)


def slice_names(count: int) -> tuple[str, ...]:
    """Names of the sub-folders: slice_00 and so on."""
    return tuple(f"slice_{index:02d}" for index in range(count))


def is_finished(folder: Path, slices: Sequence[str], failed: Mapping[str, str]) -> bool:
    """Whether run.json already says exactly this and is no older than any slice's."""
    try:
        manifest = load_manifest(folder)
        newest = max(((folder / name / MANIFEST_NAME).stat().st_mtime_ns for name in slices), default=0)
    except (ReadError, OSError):
        return False
    if not isinstance(manifest, AcquisitionManifest) or (folder / MANIFEST_NAME).stat().st_mtime_ns < newest:
        return False
    return manifest.slices == tuple(slices) and manifest.failed == dict(failed)


def finish_acquisition(folder: Path, slices: Sequence[str], failed: Mapping[str, str], wall_time_s: float) -> None:
    """Write summary.csv, then run.json."""
    with atomic_write(folder / "summary.csv") as temporary:
        temporary.write_text(summary_table(folder, slices), encoding="utf-8")
    manifest = AcquisitionManifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        slices=tuple(slices),
        failed=dict(failed),
        wall_time_s=round(wall_time_s, 3),
    )
    with atomic_write(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def summary_table(folder: Path, slices: Sequence[str]) -> str:
    """CSV text with a row a slice: means over its frames but the reference, and the largest displacement and error."""
    table: list[list[object]] = []
    for name in slices:
        rows = [row for row in read_result(folder / name).metrics if row.status is not FrameStatus.REFERENCE]
        flagged = sum(not row.status.sound for row in rows)
        cells = [_mean(rows, column) for column in ("similarity_before", "similarity_after")]
        cells += [_most(rows, column) for column in ("folding_percent", "max_displacement_mm")]
        cells += [_mean(rows, "tre_before_mm"), _mean(rows, "tre_mm"), _most(rows, "tre_max_mm")]
        cells.append(sum(row.seconds for row in rows))
        table.append([name, len(rows) + 1, flagged, *map(exact_number, cells)])
    return table_text(_COLUMNS, table, text=("slice",))


def _finite(rows: Sequence[FrameMetrics], column: str) -> list[float]:
    return [value for value in (float(getattr(row, column)) for row in rows) if math.isfinite(value)]


def _mean(rows: Sequence[FrameMetrics], column: str) -> float:
    values = _finite(rows, column)
    return float(np.mean(values)) if values else math.nan


def _most(rows: Sequence[FrameMetrics], column: str) -> float:
    return max(_finite(rows, column), default=math.nan)
