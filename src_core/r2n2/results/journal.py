"""The journal of a run that is not finished: what every batch gave, so that a run that was stopped or killed goes on from there.

A line is a checksum and a JSON object. The first says which run it is; each other holds one batch whose fields are written: the
numbers of its frames, their compact transforms bit for bit, and the SHA-256 of each field's file. A line is on disk before the
next batch begins. A line that is torn or damaged counts as not written, and so does a batch one of whose fields is not what it was.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from r2n2.config import Config
from r2n2.errors import ReadError
from r2n2.geometry import Grid
from r2n2.io.atomic import atomic_write, resource_errors
from r2n2.registration.results import FrameStatus
from r2n2.results.frame_metrics import FrameMetrics
from r2n2.results.reader import field_path, uncertainty_path
from r2n2.results.sequence_file import control_points_archive, read_control_points, read_sequences, sequence_archive
from r2n2.transform import BSplineField, GaussianSequence, Transform

__all__ = ["JOURNAL_NAME", "BatchRecord", "Earlier", "JournalHead", "RunJournal", "earlier_parts", "read_journal"]

JOURNAL_NAME = "unfinished.journal"
_CHECK_LETTERS = 16


class JournalHead(Config):
    """Which run a journal belongs to; it may go on where the first three are equal."""

    run_sha256: str
    versions: dict[str, str]
    device: str
    batch_size: int
    """Frames registered at once: results depend on it in their last bits, so a run goes on with the same."""
    parts: int = 1
    """In how many goes the run was done so far."""

    def same_run(self, other: JournalHead) -> bool:
        """Whether both are of one run."""
        return (self.run_sha256, self.versions, self.device) == (other.run_sha256, other.versions, other.device)


@dataclass(frozen=True)
class BatchRecord:
    """What one batch gave.

    Parameters
    ----------
    metrics
        Of its frames.
    compact
        Frame -> transform, where that is more than its field.
    fields
        Frame -> SHA-256 over the files of its field and of its map of uncertainty.
    elapsed_s
        Wall time of the run up to here, all its parts together.
    peak_memory_mib
        Largest resident memory up to here, or None where the system does not tell.
    """

    metrics: tuple[FrameMetrics, ...]
    compact: Mapping[int, Transform]
    fields: Mapping[int, str]
    elapsed_s: float
    peak_memory_mib: float | None

    @classmethod
    def of(
        cls,
        folder: Path,
        metrics: Sequence[FrameMetrics],
        compact: Mapping[int, Transform],
        elapsed_s: float,
        peak_memory_mib: float | None,
    ) -> Self:
        """Of frames whose fields are written in ``folder``."""
        fields = {row.frame: _frame_sha256(folder, row.frame) for row in metrics}
        return cls(tuple(metrics), compact, fields, elapsed_s, peak_memory_mib)

    def is_intact(self, folder: Path) -> bool:
        """Whether every field is there as it was written."""
        try:
            return all(_frame_sha256(folder, frame) == known for frame, known in self.fields.items())
        except OSError:
            return False


@dataclass(frozen=True)
class Earlier:
    """What earlier parts of a run left behind; nothing, where there were none.

    Parameters
    ----------
    records
        Batches that are done, and whose fields are what they were.
    batch_size
        Of the last part, or None.
    parts
        How many there were.
    elapsed_s, peak_memory_mib
        As far as the journal knows.
    note
        What was found, a sentence for a person.
    """

    records: tuple[BatchRecord, ...] = ()
    batch_size: int | None = None
    parts: int = 0
    elapsed_s: float = 0.0
    peak_memory_mib: float | None = None
    note: str = ""


def earlier_parts(folder: Path, head: JournalHead, frames_total: int) -> Earlier:
    """What the unfinished folder of a run holds from which it can go on."""
    found = read_journal(folder)
    if found is None:
        return Earlier()
    before, records = found
    if not before.same_run(head):
        return Earlier(
            note="starting anew: what is there is of another run (other settings, input, weights, device, precision or versions)"
        )
    intact = tuple(record for record in records if record.is_intact(folder))
    kept, known = (sum(len(record.metrics) for record in some) for some in (intact, records))
    again = f"; {known - kept} are registered again, as a field of their batch is damaged" if kept < known else ""
    return Earlier(
        intact,
        before.batch_size,
        before.parts,
        max((record.elapsed_s for record in records), default=0.0),
        max((record.peak_memory_mib for record in records if record.peak_memory_mib is not None), default=None),
        f"continuing: {kept} of {frames_total} frames are there already{again}",
    )


class RunJournal:
    """Writes a journal; what is given at the start replaces an older one at once and whole.

    Parameters
    ----------
    folder
        The output folder.
    head
        Which run it is.
    grid
        Lattice of the frames.
    records
        Batches that are done already.

    Raises
    ------
    ResourceError
        If it cannot be written.
    """

    def __init__(self, folder: Path, head: JournalHead, grid: Grid, records: Sequence[BatchRecord] = ()) -> None:
        self._path = folder / JOURNAL_NAME
        self._grid = grid
        with atomic_write(self._path) as temporary, temporary.open("wb") as file:
            file.write(_line(head.model_dump(mode="json")))
            file.writelines(_line(_values(record, grid)) for record in records)
        with resource_errors(self._path):
            self._file: IO[bytes] = self._path.open("ab")

    def append(self, record: BatchRecord) -> None:
        """Write down a batch; on return it is on disk.

        Raises
        ------
        ResourceError
            If it cannot be written.
        """
        with resource_errors(self._path):
            self._file.write(_line(_values(record, self._grid)))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """End writing; the journal stays."""
        self._file.close()

    def remove(self) -> None:
        """The run is finished: its journal goes."""
        self.close()
        self._path.unlink(missing_ok=True)


def read_journal(folder: Path) -> tuple[JournalHead, tuple[BatchRecord, ...]] | None:
    """What the journal of a folder holds as far as it is whole, or None where there is none or its first line is damaged."""
    try:
        lines = (folder / JOURNAL_NAME).read_bytes().split(b"\n")
        head = JournalHead.model_validate(_checked(lines[0]))
    except (FileNotFoundError, ValueError, ValidationError):
        return None
    records = []
    # Of an unfinished last line something is left after the last line's end.
    for line in lines[1:-1]:
        try:
            records.append(_record(_checked(line)))
        except (ValueError, KeyError, TypeError, ReadError):
            continue
    return head, tuple(records)


def _line(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checked(line: bytes) -> Any:
    check, _, text = line.partition(b" ")
    if check != _checksum(text):
        raise ValueError("the line is not what was written")
    return json.loads(text)


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK_LETTERS].encode()


def _values(record: BatchRecord, grid: Grid) -> dict[str, Any]:
    sequences = {frame: t for frame, t in record.compact.items() if isinstance(t, GaussianSequence)}
    splines = {frame: t for frame, t in record.compact.items() if isinstance(t, BSplineField)}
    return {
        "elapsed_s": record.elapsed_s,
        "peak_memory_mib": record.peak_memory_mib,
        "metrics": [asdict(row) for row in record.metrics],
        "fields": {str(frame): known for frame, known in record.fields.items()},
        "sequences": _packed(sequence_archive(sequences, grid)) if sequences else None,
        "control_points": _packed(control_points_archive(splines, grid)) if splines else None,
    }


def _record(values: dict[str, Any]) -> BatchRecord:
    compact: dict[int, Transform] = {}
    if values["sequences"] is not None:
        compact.update(read_sequences(base64.b64decode(values["sequences"])))
    if values["control_points"] is not None:
        compact.update(read_control_points(base64.b64decode(values["control_points"])))
    return BatchRecord(
        tuple(FrameMetrics(**{**row, "status": FrameStatus(row["status"])}) for row in values["metrics"]),
        compact,
        {int(frame): known for frame, known in values["fields"].items()},
        values["elapsed_s"],
        values["peak_memory_mib"],
    )


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _frame_sha256(folder: Path, frame: int) -> str:
    """Hash of the frame's field and, where there is one, its map of uncertainty."""
    with field_path(folder, frame).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    with contextlib.suppress(FileNotFoundError):
        digest.update(uncertainty_path(folder, frame).read_bytes())
    return digest.hexdigest()
