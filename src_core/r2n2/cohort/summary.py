"""The numbers of a cohort, a row a slice position, read from the folders of its results: the same whoever registered them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.cohort.board import Problem, read_problems
from r2n2.cohort.record import Member
from r2n2.cohort.stamps import kept_slices
from r2n2.errors import ReadError
from r2n2.io.spreadsheet import table_text
from r2n2.quantities import exact_number
from r2n2.registration.results import FrameStatus
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.manifest import MANIFEST_NAME, AcquisitionManifest, load_manifest
from r2n2.results.reader import RegisteredSeries, read_result

__all__ = ["DONE", "FAILED", "MISSING", "SummaryRow", "summarise_cohort", "summary_text"]

DONE, FAILED, MISSING = "done", "failed", "missing"
_NOT_REGISTERED = "not registered yet; run the same command again"
_TEXTS = ("name", "message", "path")


@dataclass(frozen=True)
class SummaryRow:
    """One slice position; numbers are NaN, or 0 for counts, where there is no result.

    Parameters
    ----------
    name, slice
        Of the acquisition and the slice position, as their folders are called.
    state
        done, failed or missing.
    frames, doubtful, flagged, failed_frames
        Counts: all, doubtful, to be looked at for whatever reason, and failed.
    similarity_before, similarity_after
        Means over the frames but the reference.
    folding_percent, min_jacobian, max_displacement_mm
        Of the worst frame.
    uncertainty_mm
        Median over the frames.
    tre_before_mm, tre_mm, tre_max_mm
        Landmark errors: means over the frames, and the largest.
    seconds
        Wall time.
    peak_memory_mib
        Largest resident memory of the process, whatever it registered before.
    """

    name: str
    slice: str
    state: str
    frames: int = 0
    doubtful: int = 0
    flagged: int = 0
    failed_frames: int = 0
    similarity_before: float = math.nan
    similarity_after: float = math.nan
    similarity_measure: str = ""
    folding_percent: float = math.nan
    min_jacobian: float = math.nan
    max_displacement_mm: float = math.nan
    uncertainty_mm: float = math.nan
    tre_before_mm: float = math.nan
    tre_mm: float = math.nan
    tre_max_mm: float = math.nan
    seconds: float = math.nan
    peak_memory_mib: float = math.nan
    spacing_mm: float = math.nan
    exit_code: int = 0
    message: str = ""
    path: str = ""

    @property
    def label(self) -> str:
        """What a person calls it, and its folder in that of the cohort."""
        return f"{self.name}/{self.slice}" if self.slice else self.name


def summarise_cohort(folder: Path, members: Sequence[Member]) -> tuple[SummaryRow, ...]:
    """The rows of a cohort in the order of its acquisitions; what failed with its reason, where a status file knows it."""
    problems = read_problems(folder)
    rows = []
    for member in members:
        place = folder / member.name
        for name in _slice_names(place):
            rows.append(_row(member, name, place / name, problems.get((member.name, name))))
    return tuple(rows)


def _slice_names(place: Path) -> tuple[str, ...]:
    """Of the sub-folders; "" for the folder itself where it holds one slice position, or nobody could list it."""
    slices = kept_slices(place, None)
    if slices is not None:
        return tuple(f"slice_{selector.index:02d}" if selector.count > 1 else "" for selector in slices)
    try:
        manifest = load_manifest(place)
    except ReadError:
        return ("",)
    return manifest.slices if isinstance(manifest, AcquisitionManifest) else ("",)


def _row(member: Member, name: str, place: Path, problem: Problem | None) -> SummaryRow:
    shared: dict[str, Any] = {"name": member.name, "slice": name, "path": member.path}
    try:
        finished_ns = (place / MANIFEST_NAME).stat().st_mtime_ns
    except OSError:
        finished_ns = -1
    # A result that was there when the last command failed is that of another one, with other settings.
    if problem is not None and problem.written_ns > finished_ns:
        return SummaryRow(state=FAILED, exit_code=problem.exit_code, message=problem.message, **shared)
    if finished_ns < 0:
        return SummaryRow(state=MISSING, exit_code=ReadError.exit_code, message=_NOT_REGISTERED, **shared)
    try:
        return _of(read_result(place), shared)
    except ReadError as error:
        return SummaryRow(state=FAILED, exit_code=error.exit_code, message=" ".join(str(error).split()), **shared)


def _of(registered: RegisteredSeries, shared: dict[str, Any]) -> SummaryRow:
    manifest = registered.manifest
    rows = [row for row in registered.metrics if row.status is not FrameStatus.REFERENCE]
    failed = sum(row.status is FrameStatus.FAILED for row in rows)
    peak = manifest.peak_memory_mib
    return SummaryRow(
        state=DONE,
        frames=len(registered.metrics),
        doubtful=sum(row.status is FrameStatus.DOUBTFUL for row in rows),
        flagged=sum(not row.status.sound for row in rows),
        failed_frames=failed,
        similarity_before=_mean(rows, "similarity_before"),
        similarity_after=_mean(rows, "similarity_after"),
        similarity_measure=manifest.similarity_measure,
        folding_percent=max(_finite(rows, "folding_percent"), default=math.nan),
        min_jacobian=min(_finite(rows, "min_jacobian"), default=math.nan),
        max_displacement_mm=max(_finite(rows, "max_displacement_mm"), default=math.nan),
        uncertainty_mm=float(np.median(radii)) if (radii := _finite(rows, "uncertainty_mm")) else math.nan,
        tre_before_mm=_mean(rows, "tre_before_mm"),
        tre_mm=_mean(rows, "tre_mm"),
        tre_max_mm=max(_finite(rows, "tre_max_mm"), default=math.nan),
        seconds=manifest.wall_time_s,
        peak_memory_mib=math.nan if peak is None else peak,
        spacing_mm=min(manifest.input.grid.spacing),
        exit_code=ReadError.exit_code if failed else 0,
        message=f"{failed} of {len(registered.metrics)} frames failed" if failed else "",
        **shared,
    )


def _finite(rows: Sequence[FrameMetrics], column: str) -> list[float]:
    return [value for value in (float(getattr(row, column)) for row in rows) if math.isfinite(value)]


def _mean(rows: Sequence[FrameMetrics], column: str) -> float:
    values = _finite(rows, column)
    return float(np.mean(values)) if values else math.nan


def summary_text(rows: Sequence[SummaryRow]) -> str:
    """Text of summary.csv; an undefined number is left empty."""
    names = [field.name for field in fields(SummaryRow)]
    cells = ([exact_number(v) if isinstance(v, float) else v for v in asdict(row).values()] for row in rows)
    return table_text(names, cells, text=_TEXTS)
