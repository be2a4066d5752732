"""Joins series of single frames: some systems give every frame of a series in time a SeriesInstanceUID of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from r2n2.io.dicom.frame import FrameHeader

__all__ = ["Joined", "join_single_frames"]

_NOT_JOINED = "were not joined to one in time"

_DECIMALS = 2
_MOST_NAMED = 3


@dataclass(frozen=True)
class Joined:
    """All frames, some of them under the SeriesInstanceUID of the first series they were joined to.

    Parameters
    ----------
    notes
        By SeriesInstanceUID, what was joined, or why frames that look alike were not.
    """

    frames: tuple[FrameHeader, ...]
    notes: dict[str, str]


def join_single_frames(frames: Sequence[FrameHeader]) -> Joined:
    """Join series with one frame of each slice position: same study, place, size and modality, numbered one after the other."""
    by_series: defaultdict[str, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        by_series[frame.series_uid].append(frame)
    alike: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for uid, members in by_series.items():
        planes = sorted(map(repr, map(_plane, members)))
        if len(set(planes)) == len(members) and not any(frame.multiframe for frame in members):
            alike[(members[0].study_uid, members[0].modality, *planes)].append(uid)
    first_of: dict[str, str] = {}
    notes: dict[str, str] = {}
    for uids in alike.values():
        if len(uids) < 2:
            continue
        uids.sort(key=lambda uid: _numbers(by_series[uid][0]))
        reason = _why_not([by_series[uid][0] for uid in uids])
        if reason:
            notes.update(dict.fromkeys(uids, f"{len(uids)} series of one frame each {_NOT_JOINED}: {reason}"))
            continue
        first_of.update(dict.fromkeys(uids, uids[0]))
        notes[uids[0]] = (
            f"{len(uids)} series of one frame each were joined: same study, place and size, numbered one after the other"
        )
    joined = tuple(_renamed(frame, first_of) for frame in frames)
    if not notes and (reason := _scattered(by_series)):
        notes.update(dict.fromkeys(by_series, reason))
    return Joined(joined, notes)


def _plane(frame: FrameHeader) -> tuple[object, ...]:
    position, orientation = (
        None if v is None else tuple(round(x, _DECIMALS) + 0.0 for x in v) for v in (frame.position_mm, frame.orientation)
    )
    location = frame.slice_location if frame.position_mm is None else None
    return (frame.shape, frame.channels, frame.spacing, position, orientation, location)


def _numbers(frame: FrameHeader) -> tuple[float, float, str]:
    return (frame.series_number or 0, frame.instance or 0, str(frame.path))


def _why_not(firsts: Sequence[FrameHeader]) -> str:
    """Why series are not parts of one, "" if nothing speaks against it."""
    series = [frame.series_number for frame in firsts]
    instances = [frame.instance for frame in firsts]
    if _consecutive(series) or (len(set(series)) == 1 and _consecutive(instances)):
        return ""
    if _consecutive(instances):
        return ""
    listed = ", ".join("none" if n is None else str(n) for n in series[:6])
    return f"neither their SeriesNumbers ({listed}{', ...' if len(series) > 6 else ''}) nor their InstanceNumbers follow each other"


def _consecutive(numbers: Sequence[int | None]) -> bool:
    known = sorted(n for n in numbers if n is not None)
    return len(known) == len(numbers) and all(b - a == 1 for a, b in pairwise(known))


def _renamed(frame: FrameHeader, first_of: dict[str, str]) -> FrameHeader:
    if frame.series_uid not in first_of:
        return frame
    times = dict(frame.times)
    if frame.series_number is not None:
        times["SeriesNumber"] = float(frame.series_number)
    return replace(frame, series_uid=first_of[frame.series_uid], times=times)


def _scattered(by_series: dict[str, list[FrameHeader]]) -> str:
    """Why a folder of nothing but series of one frame each is no series in time, "" where it is something else."""
    firsts = [members[0] for members in by_series.values()]
    if len(firsts) < _MOST_NAMED or any(len(members) > 1 for members in by_series.values()):
        return ""
    if any(frame.multiframe for frame in firsts):
        return ""
    checks: dict[str, set[Any]] = {
        "study": {frame.study_uid for frame in firsts},
        "modality": {frame.modality for frame in firsts},
        "size": {frame.shape for frame in firsts},
        "place in the patient": {repr(_plane(frame)) for frame in firsts},
    }
    different = [name for name, values in checks.items() if len(values) > 1]
    return f"{len(firsts)} series of one frame each {_NOT_JOINED}: they differ in {' and '.join(different)}" if different else ""
