"""Finds out whether the frames of a slice position were acquired several times over, so that they are several series in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from r2n2.io.dicom.frame import FrameHeader

__all__ = ["Planes", "Repetitions", "find_repetitions"]

Planes = tuple[tuple[FrameHeader, ...], ...]
"""The frames of a series by slice position."""

_POSITION = "TemporalPositionIdentifier"
_CLOCKS = ("AcquisitionTime", "AcquisitionDateTime")
_CYCLE_TAGS = (
    *("NominalCardiacTriggerDelayTime", "TriggerTime", "NominalRespiratoryTriggerDelayTime"),
    *("NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"),
)


@dataclass(frozen=True)
class Repetitions:
    """Which acquisition every frame belongs to.

    Parameters
    ----------
    name
        The header value that tells.
    numbers
        Its value by the frame's id.
    labels
        What an acquisition is called, by value, in order.
    """

    name: str
    numbers: dict[int, float]
    labels: dict[float, str]


def find_repetitions(planes: Planes) -> Repetitions | None:
    """The acquisitions of a series, None where it is one.

    An acquisition is told by AcquisitionNumber, or by a dimension of an enhanced file, if each holds several frames; else by a
    temporal position or an acquisition time that several frames share, if the phases of a cycle start anew in each.
    """
    frames = [frame for plane in planes for frame in plane]
    numbers = {id(f): float(f.acquisition) for f in frames if f.acquisition is not None}
    if _repeats(planes, numbers):
        return _named("AcquisitionNumber", numbers)
    for dimension in sorted({name for frame in frames for name in frame.dimensions}):
        numbers = {id(f): float(f.dimensions[dimension]) for f in frames if dimension in f.dimensions}
        if _repeats(planes, numbers):
            return _named(f"dimension {dimension}", numbers)
    for tag in (_POSITION, *_CLOCKS):
        numbers = {id(f): f.times[tag] for f in frames if tag in f.times}
        if _repeats(planes, numbers) and _cycles_start_anew(planes, numbers):
            return _named("temporal position", numbers) if tag == _POSITION else _counted(tag, numbers)
    return None


def _named(name: str, numbers: dict[int, float]) -> Repetitions:
    return Repetitions(name, numbers, {value: f"{name} {value:g}" for value in sorted(set(numbers.values()))})


def _counted(name: str, numbers: dict[int, float]) -> Repetitions:
    """Acquisitions by number: the time of day is nobody's business."""
    return Repetitions(name, numbers, {value: f"repetition {k}" for k, value in enumerate(sorted(set(numbers.values())), start=1)})


def _repeats(planes: Planes, numbers: dict[int, float]) -> bool:
    """Whether every frame has a number, some plane has several, and every number has at least two frames of each plane."""
    if any(id(frame) not in numbers for plane in planes for frame in plane):
        return False
    several = False
    for plane in planes:
        members = [numbers[id(frame)] for frame in plane]
        if min(members.count(value) for value in set(members)) < 2:
            return False
        several |= len(set(members)) > 1
    return several


def _cycles_start_anew(planes: Planes, numbers: dict[int, float]) -> bool:
    for tag in _CYCLE_TAGS:
        if all(tag in frame.times for plane in planes for frame in plane) and all(
            _overlap(cycles) for cycles in _cycles(planes, numbers, tag)
        ):
            return True
    return False


def _cycles(planes: Planes, numbers: dict[int, float], tag: str) -> Iterator[list[list[float]]]:
    for plane in planes:
        cycles: defaultdict[float, list[float]] = defaultdict(list)
        for frame in plane:
            cycles[numbers[id(frame)]].append(frame.times[tag])
        yield [sorted(values) for _, values in sorted(cycles.items())]


def _overlap(cycles: list[list[float]]) -> bool:
    return all(len(set(values)) == len(values) for values in cycles) and all(b[0] < a[-1] for a, b in pairwise(cycles))
