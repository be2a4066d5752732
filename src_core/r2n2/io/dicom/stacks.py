"""Puts the slice positions of a DICOM series together to volumes in time, each slice of a volume of the same moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from r2n2.errors import ReadError
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.group import FrameGroup
from r2n2.io.dicom.phases import PHASE_TAG

__all__ = ["Moments", "find_moments", "find_stacks"]

_ORIENTATION_TOLERANCE = 1e-4
_SPACING_TOLERANCE = 1e-4
_ACQUISITION = "AcquisitionNumber"
_SHARED_TAGS = (
    PHASE_TAG,
    *("TemporalPositionIdentifier", "NominalPercentageOfRespiratoryPhase", "NominalPercentageOfCardiacPhase"),
    *("NominalCardiacTriggerDelayTime", "NominalRespiratoryTriggerDelayTime", "TemporalPositionTimeOffset", "TriggerTime"),
    *(_ACQUISITION, "AcquisitionTime", "AcquisitionDateTime", "FrameReferenceTime", "FrameReferenceDateTime", "ContentTime"),
    "SeriesNumber",
)
"""What the slices of one volume share, the surest first."""

_NO_TIMES = (PHASE_TAG, "NominalPercentageOfRespiratoryPhase", "NominalPercentageOfCardiacPhase")
_MOST_NAMED = 4


@dataclass(frozen=True)
class Moments:
    """The frames of a stack by volume.

    Parameters
    ----------
    volumes
        In time; of each the frames along the stack.
    tag
        What tells which frames belong together, "" for a single volume.
    times_s
        Of every volume, or None.
    notes
        What was decided, one sentence each.
    """

    volumes: tuple[tuple[FrameHeader, ...], ...]
    tag: str
    times_s: tuple[float, ...] | None
    notes: tuple[str, ...]


def find_stacks(groups: Iterable[FrameGroup]) -> list[tuple[FrameGroup, ...]]:
    """Slice positions of one series that have the same size, pixel size and orientation, in the order given."""
    stacks: list[list[FrameGroup]] = []
    for group in groups:
        alike = (stack for stack in stacks if _same_stack(stack[0], group))
        match = next(alike, None)
        if match is None:
            stacks.append([group])
        else:
            match.append(group)
    return [tuple(stack) for stack in stacks]


def _same_stack(one: FrameGroup, other: FrameGroup) -> bool:
    a, b = one.frames[0], other.frames[0]
    return (
        (one.series_uid, one.series_key, a.shape, a.channels) == (other.series_uid, other.series_key, b.shape, b.channels)
        and _close(a.orientation, b.orientation, _ORIENTATION_TOLERANCE)
        and _close(a.spacing, b.spacing, _SPACING_TOLERANCE)
    )


def _close(a: Sequence[float] | None, b: Sequence[float] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def find_moments(stack: Sequence[FrameGroup], *, drop_incomplete: bool = False) -> Moments:
    """Which frames of the slice positions make one volume.

    A value that the slices of a volume share tells it: the phase that a series' description names, the temporal position, a delay,
    an acquisition. Where there is none the frames of each slice position are counted in time.

    Parameters
    ----------
    drop_incomplete
        Leave out volumes that lack slices, with a note, instead of raising.

    Raises
    ------
    ReadError
        If volumes lack slices, or nothing tells which frames belong together.
    """
    planes = [group.frames for group in stack]
    if all(len(plane) == 1 for plane in planes):
        return Moments((tuple(plane[0] for plane in planes),), "", None, ())
    most = max(len(plane) for plane in planes)
    lacking: tuple[str, list[dict[float, FrameHeader]]] | None = None
    for tag in _SHARED_TAGS:
        found = _by_value(planes, tag)
        values = set().union(*found) if found else set()
        if found is None or len(values) != most:
            continue
        if all(len(plane) == most for plane in found):
            return _shared(stack, tag, found, sorted(values), ())
        lacking = lacking or (tag, found)
    if lacking is not None:
        return _incomplete(stack, *lacking, drop=drop_incomplete)
    return _by_rank(stack, planes, most)


def _by_value(planes: Sequence[Sequence[FrameHeader]], tag: str) -> list[dict[float, FrameHeader]] | None:
    """The frames of each slice position by the value, None where a frame has none or two of a slice position share one."""
    found: list[dict[float, FrameHeader]] = []
    for plane in planes:
        here = {number: frame for frame in plane if (number := _value(frame, tag)) is not None}
        if len(here) != len(plane):
            return None
        found.append(here)
    return found


def _value(frame: FrameHeader, tag: str) -> float | None:
    if tag != _ACQUISITION:
        return frame.times.get(tag)
    return None if frame.acquisition is None else float(frame.acquisition)


def _shared(
    stack: Sequence[FrameGroup],
    tag: str,
    found: Sequence[dict[float, FrameHeader]],
    values: Sequence[float],
    notes: tuple[str, ...],
) -> Moments:
    volumes = tuple(tuple(plane[value] for plane in found) for value in values)
    times = None if tag in _NO_TIMES else _mean_times(stack, volumes)
    told = f"the slices of a volume are those of one {tag}, in its order" + ("" if times else ", which holds no times")
    return Moments(volumes, tag, times, (told, *notes))


def _incomplete(stack: Sequence[FrameGroup], tag: str, found: Sequence[dict[float, FrameHeader]], *, drop: bool) -> Moments:
    """Volumes of which some lack slices: an error that names them, or the whole ones alone."""
    values = sorted(set().union(*found))
    missing = {value: [k for k, plane in enumerate(found) if value not in plane] for value in values}
    broken = {value: lacks for value, lacks in missing.items() if lacks}
    whole = [value for value in values if value not in broken]
    listed = "; ".join(
        f"volume {values.index(value)} lacks slice position {', '.join(map(str, lacks[:_MOST_NAMED]))}"
        + (f", ... ({len(lacks)} of {len(found)})" if len(lacks) > _MOST_NAMED else "")
        for value, lacks in list(broken.items())[:_MOST_NAMED]
    )
    listed += f"; and {len(broken) - _MOST_NAMED} more volumes" if len(broken) > _MOST_NAMED else ""
    if drop and whole:
        note = f"{len(broken)} of {len(values)} volumes were left out, as slices are missing: {listed}"
        return _shared(stack, tag, found, whole, (note,))
    remedy = "restore the files, pass --drop-damaged to leave these volumes out, or --slices to read slice by slice"
    raise ReadError(f"{_where(stack)}: volumes, told by {tag}, have different numbers of slices: {listed}; {remedy}")


def _by_rank(stack: Sequence[FrameGroup], planes: Sequence[tuple[FrameHeader, ...]], most: int) -> Moments:
    """The k-th frame of every slice position makes volume k."""
    short = [k for k, plane in enumerate(planes) if len(plane) < most]
    if short:
        listed = ", ".join(f"{k} has {len(planes[k])}" for k in short[:_MOST_NAMED]) + (", ..." if len(short) > _MOST_NAMED else "")
        raise ReadError(
            f"{_where(stack)}: the slice positions hold different numbers of frames ({most}, but position {listed}) and nothing "
            "tells which of them belong to one volume; restore the missing files, or --slices reads slice by slice"
        )
    tags = {group.time_tag for group in stack}
    if "" in tags:
        raise ReadError(f"{_where(stack)}: {next(group for group in stack if not group.time_tag).problems[-1]}")
    if len(tags) > 1:
        raise ReadError(
            f"{_where(stack)}: the frames of its slice positions are ordered by different values ({', '.join(sorted(tags))}), "
            "so which of them belong to one volume is not known; --slices reads slice by slice"
        )
    tag = next(iter(tags))
    volumes = tuple(tuple(plane[k] for plane in planes) for k in range(most))
    note = f"no value is shared by the slices of a volume: the frames of each slice position are counted in the order of {tag}"
    return Moments(volumes, tag, _mean_times(stack, volumes), (note,))


def _mean_times(stack: Sequence[FrameGroup], volumes: Sequence[Sequence[FrameHeader]]) -> tuple[float, ...] | None:
    """Times in s, of each volume the mean over its slices; None where those of a slice position run in another order."""
    columns = []
    for k, group in enumerate(stack):
        if group.times_s is None:
            return None
        time_of = {id(frame): time for frame, time in zip(group.frames, group.times_s, strict=True)}
        columns.append([time_of[id(volume[k])] for volume in volumes])
    means = tuple(sum(column[t] for column in columns) / len(columns) for t in range(len(volumes)))
    return means if all(a < b for a, b in pairwise(means)) else None


def _where(stack: Sequence[FrameGroup]) -> str:
    return f"{stack[0].frames[0].path.parent}: series {stack[0].series_key}"
