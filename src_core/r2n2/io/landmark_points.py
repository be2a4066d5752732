"""Landmarks as a file holds them, before they are placed in a series, and what every landmark format needs to be read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space

__all__ = [
    "EXPECTED_HEADER",
    "FilePoints",
    "frame_of_name",
    "frames_from_zero",
    "ids_by_order",
    "number_at",
    "split_labels",
]

EXPECTED_HEADER = "id,frame,y_mm,x_mm or id,frame,y_px,x_px (3D: id,frame,z_mm,y_mm,x_mm)"
_LARGEST_FRAME = 10**9
_MARKED = re.compile(r"(?<![a-z])(?:frame|phase|time|fr|t|f)[ _-]?(\d+)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class FilePoints:
    """The points of one file.

    Parameters
    ----------
    points
        (N, 2 or 3) in array order.
    space
        ``Space.INDEX`` or ``Space.WORLD``.
    ids, frames
        Of every point, or None where the format has none.
    in_patient
        The points are LPS positions in mm, (z, y, x).
    axis_unit
        "" or "unknown", where the file does not say whether its numbers are pixels or lengths.
    percent
        The format counts frames as phases in percent: T00, T10, ... T90.
    notes
        What was decided while reading, one sentence each.
    """

    points: NDArray[np.float64]
    space: Space
    ids: tuple[str, ...] | None = None
    frames: NDArray[np.int64] | None = None
    in_patient: bool = False
    axis_unit: str = ""
    percent: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # torch takes no array that was turned round.
        object.__setattr__(self, "points", np.ascontiguousarray(self.points, dtype=np.float64))

    def with_note(self, note: str) -> FilePoints:
        """The same points with one more note."""
        return replace(self, notes=(*self.notes, note))


def number_at(path: Path, cell: str, line: int, column: str) -> float:
    """A finite number.

    Raises
    ------
    ReadError
        Naming file, line and column.
    """
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ReadError(
            f"{path}: line {line}, column {column}: expected a finite number, got {cell[:40]!r}; correct it or remove the line"
        )
    return value


def frames_from_zero(
    path: Path, values: Sequence[float], lines: Sequence[int], *, first: int = 0, column: str = "frame"
) -> NDArray[np.int64]:
    """Frame numbers counted from 0, of numbers that a file counts from ``first``.

    Raises
    ------
    ReadError
        If one is not a whole number or lies before the first.
    """
    for value, line in zip(values, lines, strict=True):
        if value != round(value) or not first <= value <= _LARGEST_FRAME:
            raise ReadError(
                f"{path}: line {line}, column {column}: expected a whole number of at least {first} "
                f"(counted from {first}), got {value:g}; correct the line"
            )
    return np.asarray(values, dtype=np.float64).astype(np.int64) - first


def ids_by_order(path: Path, frames: NDArray[np.int64]) -> tuple[str, ...]:
    """The k-th point of every frame gets the id k.

    Raises
    ------
    ReadError
        If the frames hold different numbers of points.
    """
    counts = Counter(frames.tolist())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"frame {frame}: {count}" for frame, count in sorted(counts.items())[:5])
        raise ReadError(
            f"{path}: holds no ids, and the frames hold different numbers of points ({listed}), which cannot be matched; "
            f"add ids: {EXPECTED_HEADER}"
        )
    seen: Counter[int] = Counter()
    ids = []
    for frame in frames.tolist():
        ids.append(str(seen[frame]))
        seen[frame] += 1
    return tuple(ids)


def split_labels(path: Path, labels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Ids and frames of labels ``id@frame``; no frames where no label holds an @.

    Raises
    ------
    ReadError
        If only some do, or what follows is no frame.
    """
    if not any("@" in label for label in labels):
        return tuple(labels), None
    ids, frames = [], []
    for label in labels:
        name, _, frame = label.rpartition("@")
        if not name or not frame.isdecimal() or int(frame) > _LARGEST_FRAME:
            raise ReadError(f"{path}: the label {label!r} is not id@frame with a frame counted from 0; rename the point in Slicer")
        ids.append(name)
        frames.append(int(frame))
    return tuple(ids), np.array(frames, dtype=np.int64)


def frame_of_name(path: Path, *, percent: bool = False) -> int | None:
    """The frame that a file's name says: frame_3, T03, phase3, or 3 alone; None where it says none.

    Raises
    ------
    ReadError
        If it says several.
    """
    stem = path.name.split(".")[0] if path.name.count(".") == 1 else path.name.rsplit(".", 1)[0]
    found = {int(number) for number in _MARKED.findall(stem)} or ({int(stem)} if stem.isdecimal() and stem.isascii() else set())
    if len(found) > 1:
        raise ReadError(f"{path}: the name holds several frame numbers {sorted(found)}; name it frame_N with the one that is meant")
    if not found or max(found) > _LARGEST_FRAME:
        return None
    (frame,) = found
    return frame // 10 if percent and frame % 10 == 0 and frame < 100 else frame
