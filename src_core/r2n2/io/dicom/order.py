"""Orders the frames of one slice position in time by the header value whose order is the most plausible, and tells which.

Several values may say when a frame was taken, and any of them may mean something else: a trigger time may be the delay after
the R wave of whichever heart beat the frame fell into. A plausible one has even steps, or runs along InstanceNumber.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from r2n2.errors import ReadError
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.times import CLOCK_TAGS

__all__ = ["Order", "order_in_time"]

_TIME_TAGS = (
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "NominalRespiratoryTriggerDelayTime", "TemporalPositionTimeOffset"),
    *("FrameReferenceTime", "AcquisitionTime", "AcquisitionDateTime", "FrameReferenceDateTime", "FrameTime", "ContentTime"),
)
_NUMBER_TAGS = (
    *("TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"),
    *("InstanceNumber", "SeriesNumber", "FrameNumber"),
)
_DELAYS = ("TriggerTime", "NominalCardiacTriggerDelayTime", "NominalRespiratoryTriggerDelayTime")
_HALF_A_DAY = 43_200_000_000
_DAY = 2 * _HALF_A_DAY
_FEW = 3
_MOST_MISSING = 4
_EVEN_SHARE, _EVEN_TOLERANCE = 0.75, 0.25


@dataclass(frozen=True)
class Order:
    """Frames in time.

    Parameters
    ----------
    frames
        In time.
    tag
        The header value that orders them.
    times_s
        Their times in s, or None.
    notes
        How the order was found and what is odd about it.
    """

    frames: tuple[FrameHeader, ...]
    tag: str
    times_s: tuple[float, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """One tag, the value it has for every frame, and what speaks for it."""

    tag: str
    values: tuple[float, ...]
    even: bool
    agrees: bool
    over_midnight: bool

    def rank(self) -> int:
        """Lower is more plausible."""
        if self.tag in _NUMBER_TAGS:
            return 3
        if self.even or self.agrees:
            return 0 if self.even and self.agrees else 1 if self.even else 2
        return 5 if self.tag in _DELAYS else 4 if self.tag == "ContentTime" else 3

    @property
    def doubt(self) -> str:
        """Why a tag that holds times was not taken, "" where nothing is odd about it."""
        odd = [] if self.even else ["is uneven"]
        return " and ".join(odd if self.agrees else [*odd, "does not run along InstanceNumber"])


def order_in_time(frames: Sequence[FrameHeader]) -> Order:
    """Order by the most plausible header value that every frame has and no two share.

    Raises
    ------
    ReadError
        If nothing in the headers orders the frames.
    """
    candidates = [c for tag in (*_TIME_TAGS, *_NUMBER_TAGS) if (c := _candidate(frames, tag))]
    if not candidates:
        raise ReadError(
            f"nothing in the headers orders its {len(frames)} frames in time "
            f"(tried {', '.join((*_TIME_TAGS, *_NUMBER_TAGS))}): restore one of these tags, or give the frames in another format"
        )
    chosen = min(candidates, key=_Candidate.rank)  # the first of equals: the lists above are in order of preference
    number = sorted(range(len(frames)), key=lambda k: chosen.values[k])
    ordered, values = tuple(frames[k] for k in number), [chosen.values[k] for k in number]
    times = _seconds(chosen.tag, values, ordered[0].temporal_resolution_s)
    return Order(ordered, chosen.tag, times, tuple(_notes(chosen, candidates, ordered, times)))


def _candidate(frames: Sequence[FrameHeader], tag: str) -> _Candidate | None:
    values = [frame.times.get(tag) for frame in frames]
    known = [value for value in values if value is not None]
    if len(known) != len(values) or len(set(known)) != len(known):
        return None
    if tag == "FrameNumber" and len({frame.path for frame in frames}) > 1:
        return None
    reference = _reference(frames, tag)
    wrapped = _over_midnight(known) if tag in CLOCK_TAGS else None
    if wrapped and (reference is None or _runs_along(wrapped, reference) or not _runs_along(known, reference)):
        known = wrapped
    else:
        wrapped = None
    agrees = reference is None or _runs_along(known, reference)
    return _Candidate(tag, tuple(known), _is_even(known), agrees, wrapped is not None)


def _reference(frames: Sequence[FrameHeader], tag: str) -> list[float] | None:
    """What an order is held against: InstanceNumber, or another number where frames share one; of joined series SeriesNumber."""
    clocks = ("AcquisitionTime", "AcquisitionDateTime") if tag in _DELAYS else ()
    for other in ("SeriesNumber", "InstanceNumber", "TemporalPositionIdentifier", *clocks):
        values = [frame.times[other] for frame in frames if other in frame.times]
        if other != tag and len(set(values)) == len(frames):
            return values
    return None


def _runs_along(values: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether both orders are the same, or one the reverse of the other, which of three frames might be chance."""
    order = sorted(range(len(values)), key=lambda k: values[k])
    other = sorted(range(len(values)), key=lambda k: reference[k])
    return order == other or (len(order) > _FEW and order == other[::-1])


def _is_even(values: Sequence[float]) -> bool:
    """Whether nearly all steps are multiples of the usual one: a frame may be missing, but times are not just sorted numbers."""
    ordered = sorted(values)
    steps = [b - a for a, b in pairwise(ordered)]
    if not steps:
        return True
    usual = statistics.median(steps)
    multiples = [min(step / usual, 2.0 * _MOST_MISSING) for step in steps]
    near = [m for m in multiples if abs(m - min(max(1, round(m)), _MOST_MISSING)) <= _EVEN_TOLERANCE]
    return len(near) >= _EVEN_SHARE * len(steps)


def _over_midnight(values: list[float]) -> list[float] | None:
    """The clock times with those after midnight a day later, None where the clock did not pass it."""
    ordered = sorted(values)
    gap, place = max(((b - a, b) for a, b in pairwise(ordered)), default=(0.0, 0.0))
    if gap < _HALF_A_DAY or ordered[-1] - ordered[0] >= _DAY:
        return None
    return [value + _DAY if value < place else value for value in values]


def _seconds(tag: str, values: list[float], resolution_s: float | None) -> tuple[float, ...] | None:
    """Times in s. Clock times start at 0 with the first frame: the time of day is nobody's business."""
    if tag in CLOCK_TAGS:
        return tuple((value - values[0]) / 1e6 for value in values)
    if tag == "TemporalPositionIdentifier" and resolution_s is not None:
        return tuple((value - values[0]) * resolution_s for value in values)
    return None if tag in _NUMBER_TAGS else tuple(values)


def _notes(
    chosen: _Candidate, candidates: Sequence[_Candidate], ordered: Sequence[FrameHeader], times: tuple[float, ...] | None
) -> list[str]:
    notes = [f"frames are in the order of {chosen.tag}" + ("" if times else ", which holds no times")]
    preferred = candidates[: candidates.index(chosen)]
    passed_over = [f"the order of {c.tag} {c.doubt}" for c in preferred if c.doubt and c.tag in _TIME_TAGS]
    if passed_over:
        notes.append(f"{chosen.tag} was taken because {', and '.join(passed_over)}")
    if chosen.over_midnight:
        notes.append(f"{chosen.tag} passes midnight: the frames after it were counted as the next day")
    missing = _missing_instances(ordered)
    if missing:
        notes.append(
            f"InstanceNumber {', '.join(map(str, missing))} may be missing: the numbers of the others are regular but for it"
        )
    if times:
        notes.extend(_time_gaps(times))
    known = [value for frame in ordered if (value := frame.times.get("InstanceNumber")) is not None]
    if len(set(known)) == len(ordered) and known != sorted(known):
        notes.append(f"the order of {chosen.tag} is not the order of InstanceNumber")
    return notes


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
