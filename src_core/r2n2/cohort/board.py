"""The state of every slice position of a cohort, kept as status.csv, which is whole and current at any time."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

from r2n2.cohort.entry import Listing, Outcome, Task
from r2n2.io.atomic import atomic_write
from r2n2.io.spreadsheet import original_cell, table_text
from r2n2.quantities import exact_number

__all__ = ["STATUS_NAME", "Board", "Problem", "State", "StatusRow", "read_problems", "write_status"]

STATUS_NAME = "status.csv"
_WRITTEN_EVERY_S = 1.0
_INTERNAL = 5


class State(StrEnum):
    """How far a slice position is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class StatusRow:
    """One slice position, or an acquisition whose slice positions are not known."""

    name: str
    slice: str
    state: State
    attempts: int = 0
    frames: int = 0
    flagged: int = 0
    seconds: str = ""
    exit_code: int = 0
    message: str = ""
    path: str = ""


class Board:
    """Keeps the rows and writes the file, at most once a second but for the last time.

    Parameters
    ----------
    folder
        Of the cohort.
    suffix
        Of the name of the file, where several commands write one each.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        stem, _, ending = STATUS_NAME.partition(".")
        self._path = folder / f"{stem}{suffix}.{ending}"
        self._rows: dict[tuple[str, str], StatusRow] = {}
        self._order: dict[str, int] = {}
        self._written = -_WRITTEN_EVERY_S

    @property
    def rows(self) -> tuple[StatusRow, ...]:
        """Acquisition by acquisition, in the order in which those became known."""
        return tuple(sorted(self._rows.values(), key=lambda row: (self._order[row.name], row.slice)))

    @property
    def counts(self) -> Mapping[State, int]:
        """How many are in each state."""
        return Counter(row.state for row in self._rows.values())

    def wait(self, jobs: Iterable[Listing]) -> None:
        """These are known and have not begun."""
        for job in jobs:
            self._order.setdefault(job.entry.name, len(self._order))
            self._rows[_key(job)] = StatusRow(*_key(job), State.WAITING, path=job.entry.path)

    def forget(self, job: Listing) -> None:
        """An acquisition makes room for its slice positions."""
        self._rows.pop(_key(job), None)

    def begin(self, job: Listing) -> None:
        """It was handed in."""
        self._rows[_key(job)] = replace(self._rows[_key(job)], state=State.RUNNING)

    def again(self, job: Listing, outcome: Outcome) -> None:
        """It went wrong and is tried again."""
        row = self._rows[_key(job)]
        self._rows[_key(job)] = replace(row, state=State.WAITING, attempts=outcome.attempts, message=outcome.message)

    def end(self, job: Listing, outcome: Outcome) -> None:
        """It is done or has failed; frames that failed do not make it one that did."""
        self._rows[_key(job)] = StatusRow(
            *_key(job),
            State.FAILED if outcome.exit_code and not outcome.frames else State.DONE,
            outcome.attempts,
            outcome.frames,
            outcome.flagged,
            exact_number(round(outcome.seconds, 3)),
            outcome.exit_code,
            outcome.message,
            job.entry.path,
        )

    def stop(self) -> None:
        """Nothing is at work any more, as far as this command knows."""
        for key, row in self._rows.items():
            if row.state is State.RUNNING:
                self._rows[key] = replace(row, state=State.WAITING)

    def write(self, *, now: bool = False) -> None:
        """Write the file if it is time or it must be now; raises as ``atomic_write``."""
        if not now and time.monotonic() - self._written < _WRITTEN_EVERY_S:
            return
        write_status(self._path, self.rows)
        self._written = time.monotonic()


def write_status(path: Path, rows: Iterable[StatusRow]) -> None:
    """Write a status file whole; raises as ``atomic_write``."""
    names = [field.name for field in fields(StatusRow)]
    text = table_text(names, (tuple(asdict(row).values()) for row in rows), text=("name", "message", "path"))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _key(job: Listing) -> tuple[str, str]:
    return job.entry.name, job.slice_name if isinstance(job, Task) else ""


@dataclass(frozen=True)
class Problem:
    """What a status file says of a slice position that failed, and when it was written, in ns."""

    exit_code: int
    message: str
    written_ns: int


def read_problems(folder: Path) -> dict[tuple[str, str], Problem]:
    """(name, slice) -> what failed, as the newest status file that knows of it says."""
    stem, _, ending = STATUS_NAME.partition(".")
    found: dict[tuple[str, str], Problem] = {}
    files = {path: path.stat().st_mtime_ns for path in folder.glob(f"{stem}*.{ending}")}
    for path, written_ns in sorted(files.items(), key=lambda item: item[1]):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            key = original_cell(row.get("name") or ""), row.get("slice") or ""
            found.pop(key, None)
            if row.get("state") == State.FAILED:
                code = row.get("exit_code") or ""
                message = original_cell(row.get("message") or "")
                found[key] = Problem(int(code) if code.isdecimal() else _INTERNAL, message, written_ns)
    return found
