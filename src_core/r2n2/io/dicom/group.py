"""Groups DICOM frames into series of one slice position each, every group of one kind of image and in time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.join import join_single_frames
from r2n2.io.dicom.order import order_in_time
from r2n2.io.dicom.phases import join_phases
from r2n2.io.dicom.split import Part, split_series
from r2n2.io.dicom.values import shown

__all__ = ["FrameGroup", "group_frames"]

_POSITION_TOLERANCE_MM = 1e-2
_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FrameGroup:
    """The frames of one slice position of one series, in time.

    Parameters
    ----------
    key
        Short name: last part of the SeriesInstanceUID and label, "/", slice index.
    label
        What sets the frames apart from others of their series, such as "EchoTime 1.2 ms"; "" where nothing does.
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
    refusal
        The problem that no option to drop damaged frames removes, "" if there is none.
    """

    key: str
    series_uid: str
    label: str
    slice_index: int
    frames: tuple[FrameHeader, ...]
    time_tag: str
    times_s: tuple[float, ...] | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    refusal: str = ""

    @property
    def series_key(self) -> str:
        """The key without the slice index: what the slices of one stack share."""
        return self.key.rpartition("/")[0]


def group_frames(frames: Sequence[FrameHeader], *, contrast_series: bool = False, phases: bool = False) -> tuple[FrameGroup, ...]:
    """Split by series, size, spacing, orientation and position, then by what the frames are images of.

    Parameters
    ----------
    contrast_series
        Keep frames together that differ in how they were made, such as their inversion time.
    phases
        Join series that are one phase of a cycle each by their descriptions, as volumes need them.

    Returns
    -------
    tuple
        Series in UID order, their kinds in the order of their attributes, slices along their normal.
    """
    frames, phase_notes = join_phases(frames) if phases else (tuple(frames), {})
    joined = join_single_frames(frames)
    by_series: defaultdict[str, list[list[FrameHeader]]] = defaultdict(list)
    for members in _merge(joined.frames):
        by_series[members[0].series_uid].append(members)
    names = _short_names(sorted(by_series))
    groups: list[FrameGroup] = []
    for uid in sorted(by_series):
        planes = tuple(tuple(members) for members in sorted(by_series[uid], key=_slice_order))
        told = tuple(notes[uid] for notes in (phase_notes, joined.notes) if uid in notes)
        for part in split_series(planes, contrast_series=contrast_series):
            groups += _slices(names[uid], part, told)
    return tuple(groups)


def _slices(name: str, part: Part, notes: tuple[str, ...]) -> list[FrameGroup]:
    """The slice positions of one kind of image."""
    usual = Counter(len(plane) for plane in part.planes).most_common(1)[0][0]
    series_key = f"{name} {part.label}" if part.label else name
    groups = []
    for k, plane in enumerate(part.planes):
        notes_here = [*notes, *part.notes]
        if len(part.planes) > 2 and len(plane) < usual:
            notes_here.append(f"{len(plane)} frames, where most slice positions of the series have {usual}")
        refusal = part.problem or next((frame.refusal for frame in plane if frame.refusal), "")
        groups.append(_finish(f"{series_key}/{k}", part.label, k, list(plane), notes_here, refusal))
    return groups


def _merge(frames: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    """Frames that share a plane; first by equal values, then by values within tolerance."""
    exact: defaultdict[tuple[object, ...], list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        place = (frame.position_mm, frame.orientation, frame.slice_location if frame.position_mm is None else None)
        exact[(frame.series_uid, frame.shape, frame.channels, frame.spacing, *place)].append(frame)
    merged: defaultdict[tuple[object, ...], list[list[FrameHeader]]] = defaultdict(list)
    for members in exact.values():
        first = members[0]
        candidates = merged[(first.series_uid, first.shape, first.channels)]
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


def _slice_order(members: Sequence[FrameHeader]) -> tuple[object, ...]:
    first = members[0]
    along = first.slice_location or 0.0
    if first.position_mm is not None and first.orientation is not None:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        along = float(np.dot(normal, first.position_mm))
    return (first.shape, first.orientation or (), along, first.path, first.index)


def _short_names(uids: list[str]) -> dict[str, str]:
    """The last part of every UID, or the whole UID where that is not unique."""
    last = {uid: uid.rsplit(".", 1)[-1] or "no-uid" for uid in uids}
    count = Counter(last.values())
    return {uid: name if count[name] == 1 else uid for uid, name in last.items()}


def _finish(key: str, label: str, slice_index: int, members: list[FrameHeader], notes: list[str], refusal: str) -> FrameGroup:
    kept, more = _drop_duplicates(members)
    notes = [*notes, *more]
    problems = [refusal] if refusal else []
    problems += [f"{shown(frame.path.name)} ({frame.label}): {frame.damage}" for frame in kept if frame.damage]
    ordered, tag, times = tuple(kept), "", None
    try:
        order = order_in_time(kept)
        ordered, tag, times = order.frames, order.tag, order.times_s
        notes += order.notes
    except ReadError as error:
        problems.append(str(error))
    if kept[0].spacing_problem:
        problems.append(f"{kept[0].spacing_problem}: pass --spacing Y,X in mm")
    for remark, number in Counter(remark for frame in kept for remark in frame.remarks).items():
        notes.append(remark if number == len(kept) else f"{remark} ({number} of {len(kept)} frames)")
    uid = kept[0].series_uid
    return FrameGroup(key, uid, label, slice_index, ordered, tag, times, tuple(notes), tuple(problems), refusal)


def _drop_duplicates(members: list[FrameHeader]) -> tuple[list[FrameHeader], list[str]]:
    """Leave out copies: the same SOPInstanceUID and the same header. Equal UIDs of different frames are a fault to keep."""
    seen: dict[tuple[object, ...], FrameHeader] = {}
    kept, notes = [], []
    for frame in members:
        twin = seen.setdefault((frame.sop_uid, frame.index, frame.tile), frame) if frame.sop_uid else frame
        if twin is frame:
            kept.append(frame)
        elif twin.times == frame.times and twin.path != frame.path:
            notes.append(
                f"{shown(frame.path.name)} was left out: the same SOPInstanceUID as {shown(twin.path.name)} ({twin.label})"
            )
            if twin.damage and not frame.damage:
                kept[kept.index(twin)] = seen[(frame.sop_uid, frame.index, frame.tile)] = frame
        else:
            kept.append(frame)
            notes.append(
                f"{shown(frame.path.name)} has the SOPInstanceUID of {shown(twin.path.name)} but another time or number: both were "
                "kept"
            )
    return kept, notes
