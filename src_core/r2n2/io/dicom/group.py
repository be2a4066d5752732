"""Groups DICOM frames into series of one slice position each and orders every group in time."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.dicom.header import CLOCK_TAGS, FrameHeader

__all__ = ["FrameGroup", "group_frames", "order_in_time"]

_POSITION_TOLERANCE_MM = 1e-2
_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_TIME_TAGS = (
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionTime", "FrameReferenceDateTime", "ContentTime", "FrameTime"),
    *("TemporalPositionIdentifier", "InstanceNumber", "FrameNumber"),
)
_WITHOUT_TIMES = ("TemporalPositionIdentifier", "InstanceNumber", "FrameNumber")


@dataclass(frozen=True)
class FrameGroup:
    """The frames of one slice position of one series, in time.

    Parameters
    ----------
    key
        Short name: last part of the SeriesInstanceUID, "/", slice index.
    slice_index
        Place of the slice position within its series, 0-based, along the slices' normal.
    frames
        In time where ``time_tag`` is set, else in the order of file names.
    time_tag
        The header value that orders the frames, "" if none does.
    times_s
        Time of every frame in s, or None.
    notes
        What was decided or noticed, one sentence each.
    problems
        Why the group cannot be read as it is, one sentence each.
    """

    key: str
    series_uid: str
    slice_index: int
    frames: tuple[FrameHeader, ...]
    time_tag: str
    times_s: tuple[float, ...] | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def group_frames(frames: Sequence[FrameHeader]) -> tuple[FrameGroup, ...]:
    """Split by series, kind, size, spacing, orientation and position; series in UID order, slices along their normal."""
    by_series: defaultdict[str, list[list[FrameHeader]]] = defaultdict(list)
    for members in _merge(frames):
        by_series[members[0].series_uid].append(members)
    names = _short_names(sorted(by_series))
    groups = []
    for uid in sorted(by_series):
        slices = sorted(by_series[uid], key=_slice_order)
        usual = Counter(len(members) for members in slices).most_common(1)[0][0]
        for k, members in enumerate(slices):
            group = _finish(f"{names[uid]}/{k}", k, members, usual if len(slices) > 2 else None)
            groups.append(group)
    return tuple(groups)


def _merge(frames: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    """Frames that share a plane; first by equal values, then by values within tolerance."""
    exact: defaultdict[tuple[object, ...], list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        place = (frame.position_mm, frame.orientation, frame.slice_location if frame.position_mm is None else None)
        exact[(frame.series_uid, frame.kind, frame.shape, frame.samples, frame.spacing, *place)].append(frame)
    merged: defaultdict[tuple[object, ...], list[list[FrameHeader]]] = defaultdict(list)
    for members in exact.values():
        first = members[0]
        candidates = merged[(first.series_uid, first.kind, first.shape, first.samples)]
        match = next((group for group in candidates if _same_plane(group[0], first)), None)
        if match is None:
            candidates.append(list(members))
        else:
            match.extend(members)
    return [group for groups in merged.values() for group in groups]


def _same_plane(a: FrameHeader, b: FrameHeader) -> bool:
    return (
        _close(a.position_mm, b.position_mm, _POSITION_TOLERANCE_MM)
        and _close(a.orientation, b.orientation, _ORIENTATION_TOLERANCE)
        and _close(a.spacing, b.spacing, _SPACING_TOLERANCE)
        and (a.position_mm is not None or a.slice_location == b.slice_location)
    )


def _close(a: Sequence[float] | None, b: Sequence[float] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def _slice_order(members: list[FrameHeader]) -> tuple[object, ...]:
    first = members[0]
    along = first.slice_location or 0.0
    if first.position_mm is not None and first.orientation is not None:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        along = float(np.dot(normal, first.position_mm))
    return (first.kind, first.shape, first.orientation or (), along, first.path, first.index)


def _short_names(uids: list[str]) -> dict[str, str]:
    """The last part of every UID, or the whole UID where that is not unique."""
    last = {uid: uid.rsplit(".", 1)[-1] or "no-uid" for uid in uids}
    count = Counter(last.values())
    return {uid: name if count[name] == 1 else uid for uid, name in last.items()}


def _finish(key: str, slice_index: int, members: list[FrameHeader], usual: int | None) -> FrameGroup:
    kept, notes = _drop_duplicates(members)
    problems = [f"{frame.path.name} ({frame.label}): {frame.damage}" for frame in kept if frame.damage]
    ordered, tag, times = kept, "", None
    try:
        ordered, tag, times, time_notes = order_in_time(kept)
        notes += time_notes
    except ReadError as error:
        problems.append(str(error))
    if usual is not None and len(kept) < usual:
        notes.append(f"{len(kept)} frames, where most slice positions of the series have {usual}")
    if kept[0].spacing_problem:
        problems.append(f"{kept[0].spacing_problem}: pass --spacing Y,X in mm")
    for remark, number in Counter(remark for frame in kept for remark in frame.remarks).items():
        notes.append(remark if number == len(kept) else f"{remark} ({number} of {len(kept)} frames)")
    return FrameGroup(key, kept[0].series_uid, slice_index, tuple(ordered), tag, times, tuple(notes), tuple(problems))


def _drop_duplicates(members: list[FrameHeader]) -> tuple[list[FrameHeader], list[str]]:
    """Leave out copies: the same SOPInstanceUID and the same header. Equal UIDs of different frames are a fault to keep."""
    seen: dict[tuple[str, int], FrameHeader] = {}
    kept, notes = [], []
    for frame in members:
        twin = seen.setdefault((frame.sop_uid, frame.index), frame) if frame.sop_uid else frame
        if twin is frame:
            kept.append(frame)
        elif twin.times == frame.times and twin.path != frame.path:
            notes.append(f"{frame.path.name} was left out: the same SOPInstanceUID as {twin.path.name} ({twin.label})")
            if twin.damage and not frame.damage:
                kept[kept.index(twin)] = frame
        else:
            kept.append(frame)
            notes.append(f"{frame.path.name} has the SOPInstanceUID of {twin.path.name} but another time or number: both were kept")
    return kept, notes


def order_in_time(
    frames: Sequence[FrameHeader],
) -> tuple[list[FrameHeader], str, tuple[float, ...] | None, list[str]]:
    """Order by the first header value that every frame has and no two share.

    Returns
    -------
    tuple
        The frames in time, the tag used, their times in s or None, and notes.

    Raises
    ------
    ReadError
        If nothing in the headers orders the frames.
    """
    tag = next((tag for tag in _TIME_TAGS if _orders(frames, tag)), None)
    if tag is None:
        raise ReadError(
            f"nothing in the headers orders its {len(frames)} frames in time (tried {', '.join(_TIME_TAGS)}): "
            "restore one of these tags, or give the frames in another format"
        )
    ordered = sorted(frames, key=lambda frame: frame.times[tag])
    values = [frame.times[tag] for frame in ordered]
    times = _seconds(tag, values, ordered[0].temporal_resolution_s)
    notes = [f"frames are in the order of {tag}" + ("" if times else ", which holds no times")]
    missing = _missing_instances(ordered)
    if missing:
        notes.append(
            f"InstanceNumber {', '.join(map(str, missing))} may be missing: the numbers of the others are regular but for it"
        )
    if times:
        notes.extend(_time_gaps(times))
    instances = [frame.times.get("InstanceNumber") for frame in ordered]
    known = [value for value in instances if value is not None]
    if len(set(known)) == len(ordered) and known != sorted(known):
        notes.append(f"the order of {tag} is not the order of InstanceNumber")
    return ordered, tag, times, notes


def _orders(frames: Sequence[FrameHeader], tag: str) -> bool:
    values = {frame.times.get(tag) for frame in frames}
    if tag == "FrameNumber" and len({frame.path for frame in frames}) > 1:
        return False
    return None not in values and len(values) == len(frames)


def _seconds(tag: str, values: list[float], resolution_s: float | None) -> tuple[float, ...] | None:
    """Times in s. Clock times start at 0 with the first frame: the time of day is nobody's business."""
    if tag in CLOCK_TAGS:
        return tuple((value - values[0]) / 1e6 for value in values)
    if tag == "TemporalPositionIdentifier" and resolution_s is not None:
        return tuple((value - values[0]) * resolution_s for value in values)
    return None if tag in _WITHOUT_TIMES else tuple(values)


def _missing_instances(frames: Sequence[FrameHeader]) -> list[int]:
    """Numbers left out of an otherwise regular row of InstanceNumbers."""
    numbers = sorted({frame.instance for frame in frames if frame.instance is not None})
    steps = [b - a for a, b in pairwise(numbers)]
    if len(steps) < 3:
        return []
    usual, often = Counter(steps).most_common(1)[0]
    if often * 2 <= len(steps) or any(step % usual for step in steps) or max(steps) > 50 * usual:
        return []
    return [n for a, b in pairwise(numbers) for n in range(a + usual, b, usual)]


def _time_gaps(times: tuple[float, ...]) -> list[str]:
    steps = [b - a for a, b in pairwise(times)]
    if len(steps) < 3:
        return []
    usual = statistics.median(steps)
    gaps = [k for k, step in enumerate(steps) if step > 1.7 * usual and math.isfinite(step)]
    if not gaps:
        return []
    first = gaps[0]
    more = f" and at {len(gaps) - 1} more places" if len(gaps) > 1 else ""
    return [f"time is not regular: {steps[first]:.4g} s between frames {first} and {first + 1}{more}, {usual:.4g} s usually"]
