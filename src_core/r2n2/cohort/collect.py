"""The end of a cohort run, by itself or for shards that ran apart: summary.csv, cohort.html, and run.json of each acquisition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from r2n2.cohort.board import STATUS_NAME, State, StatusRow, write_status
from r2n2.cohort.page import PAGE_NAME, render_cohort
from r2n2.cohort.record import load_cohort
from r2n2.cohort.summary import DONE, FAILED, MISSING, SummaryRow, summarise_cohort, summary_text
from r2n2.errors import ReadError
from r2n2.io.atomic import atomic_write
from r2n2.quantities import exact_number
from r2n2.results.acquisition import finish_acquisition, is_finished

__all__ = ["SUMMARY_NAME", "collect"]

SUMMARY_NAME = "summary.csv"
_STATES = {DONE: State.DONE, FAILED: State.FAILED, MISSING: State.WAITING}


def collect(folder: Path, *, status: bool = True) -> tuple[SummaryRow, ...]:
    """Write what there is to know of a cohort as its folders are now, and give it.

    Parameters
    ----------
    status
        Write status.csv anew, too: shards have written one each.

    Raises
    ------
    ReadError
        If the folder holds no cohort.
    ResourceError
        If something cannot be written.
    """
    record = load_cohort(folder)
    if record is None:
        raise ReadError(f"{folder}: holds no cohort.json; give the folder that r2n2 batch wrote to")
    rows = summarise_cohort(folder, record.members)
    for name, group in groupby(rows, key=lambda row: row.name):
        _finish_acquisition(folder / name, tuple(group))
    for name, text in ((SUMMARY_NAME, summary_text(rows)), (PAGE_NAME, render_cohort(rows, folder.absolute().name))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if status:
        write_status(folder / STATUS_NAME, map(_status, rows))
    return rows


def _finish_acquisition(place: Path, rows: Sequence[SummaryRow]) -> None:
    """As ``register`` ends one of several slice positions, once none is left to be done."""
    if any(not row.slice or row.state == MISSING for row in rows):
        return
    done = [row.slice for row in rows if row.state == DONE]
    failed = {row.slice: row.message for row in rows if row.state == FAILED}
    if not is_finished(place, done, failed):
        finish_acquisition(place, done, failed, sum(row.seconds for row in rows if row.state == DONE))


def _status(row: SummaryRow) -> StatusRow:
    return StatusRow(
        row.name,
        row.slice,
        _STATES[row.state],
        frames=row.frames,
        flagged=row.flagged,
        seconds=exact_number(row.seconds),
        exit_code=row.exit_code,
        message=row.message,
        path=row.path,
    )
