"""What a tracked ultrasound sequence (.igs.mha of Plus and IGSIO) says of every frame: time, status, place of the probe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from r2n2.io.checks import check_times
from r2n2.io.metaimage.header import header_numbers

__all__ = ["is_sequence", "sequence_notes", "sequence_times"]

_FIELD = re.compile(r"seq_frame(\d+)_(\w+)")
_SAME_PLACE_MM = 0.1


def is_sequence(header: dict[str, str]) -> bool:
    """Whether the header has fields for single frames."""
    return any(_FIELD.fullmatch(key) for key in header)


def _fields(header: dict[str, str], name: str) -> dict[int, str]:
    """Frame -> key of that field."""
    found = ((_FIELD.fullmatch(key), key) for key in header)
    return {int(match[1]): key for match, key in found if match and match[2] == name}


def sequence_times(path: Path, header: dict[str, str], count: int) -> tuple[float, ...] | None:
    """Times of the frames from the first on, or None where a frame has none.

    Raises
    ------
    ReadError
        If one is not a number.
    """
    keys = _fields(header, "timestamp")
    if not set(range(count)) <= set(keys):
        return None
    values = [(header_numbers(path, header, keys[k], 1) or (0.0,))[0] for k in range(count)]
    checked = check_times(tuple(values), count, where=f"{path}, entries Seq_Frame..._Timestamp")
    return tuple(t - checked[0] for t in checked)  # the clock starts with the tracker, not with the series


def sequence_notes(path: Path, header: dict[str, str], count: int) -> list[str]:
    """Which frames are marked as invalid, and whether the probe moved."""
    notes = ["a tracked ultrasound sequence: times count from its first frame"]
    if not set(range(count)) <= set(_fields(header, "timestamp")):
        notes = ["a tracked ultrasound sequence whose frames do not all have a time: frame times are unknown"]
    invalid = sorted(k for k, key in _fields(header, "imagestatus").items() if k < count and header[key].upper() != "OK")
    if invalid:
        notes.append(f"frames {', '.join(map(str, invalid[:10]))} ({len(invalid)} in all) are marked as invalid images in the file")
    names = sorted({match[2] for key in header if (match := _FIELD.fullmatch(key)) and match[2].endswith("transform")})
    moved = [name for name in names if _movement(path, header, name) > _SAME_PLACE_MM]
    if moved:
        notes.append(f"the transforms {', '.join(moved)} change from frame to frame, as a moving probe's do: they are not used")
    return notes


def _movement(path: Path, header: dict[str, str], name: str) -> float:
    """Largest distance in mm of a transform's shift from that of its first frame; 0 where it is not readable."""
    matrices = [header_numbers(path, header, key) or () for key in _fields(header, name).values()]
    shifts = np.array([[m[3], m[7], m[11]] for m in matrices if len(m) == 16])
    return float(np.abs(shifts - shifts[0]).max()) if len(shifts) > 1 else 0.0
