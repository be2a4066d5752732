"""Splits the frames of one series by what they are images of, so that no two kinds of image are ever taken for moments in time."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r2n2.io.dicom.attributes import ATTRIBUTES, Attribute, Value
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.repetitions import Planes, find_repetitions
from r2n2.io.dicom.values import shown

__all__ = ["Part", "split_series"]

_OPTION = "--contrast-series"
_MOST_NAMED = 8
_NO_LOOP = (-1, "")


@dataclass(frozen=True)
class Part:
    """Frames of one kind.

    Parameters
    ----------
    label
        What sets them apart from the other parts of the series, "" where nothing does.
    planes
        The frames by slice position.
    notes
        What was set apart or joined.
    problem
        Why the frames are no series in time, "" if nothing.
    """

    label: str
    planes: Planes
    notes: tuple[str, ...] = ()
    problem: str = ""


def split_series(planes: Planes, *, contrast_series: bool) -> list[Part]:
    """Parts of a series, whose frames are given by slice position.

    Parameters
    ----------
    contrast_series
        Keep frames together that differ in how they were made, as an inversion recovery's do, but not kinds of pixel.
    """
    parts = _split_loops(planes)
    parts = [kind for part in parts for kind in _split_attributes(part, joinable=False)]
    if contrast_series:
        return [_joined(part) for part in parts]
    parts = [kind for part in parts for kind in _split_attributes(part, joinable=True)]
    sound: list[Part] = []
    for part in parts:
        sound += [part] if part.problem else _split_repetitions(part)
    return sound


def _split_repetitions(part: Part) -> list[Part]:
    """Split what was acquired several times."""
    found = find_repetitions(part.planes)
    if found is None:
        return [part]
    note = f"{len(found.labels)} acquisitions that differ in {found.name} were set apart; {_OPTION} joins them"

    def key(frame: FrameHeader) -> float:
        return found.numbers[id(frame)]

    return [
        replace(part, label=_joint(part.label, label), planes=_only(part.planes, key, value), notes=(*part.notes, note))
        for value, label in found.labels.items()
    ]


def _split_loops(planes: Planes) -> list[Part]:
    """A multi-frame file that does not describe its frames one by one is a loop of its own, unless it has a plane of its own."""

    def key(frame: FrameHeader) -> tuple[int, str]:
        return (frame.instance or 0, str(frame.path)) if frame.multiframe and not frame.grouped else _NO_LOOP

    keys = sorted({key(frame) for plane in planes for frame in plane})
    places = {plane[0].position_mm for plane in planes}
    own_places = None not in places and len(places) == len(planes)
    if len(keys) < 2 or (own_places and all(len({key(frame) for frame in plane}) == 1 for plane in planes)):
        return [Part("", planes)]
    loops = [value for value in keys if value != _NO_LOOP]
    labels = {value: f"loop {k}" for k, value in enumerate(loops, start=1)} | {_NO_LOOP: "single images"}
    return [Part(labels[value], _only(planes, key, value), _loop_note(value, len(loops))) for value in keys]


def _loop_note(key: tuple[int, str], count: int) -> tuple[str, ...]:
    return () if key == _NO_LOOP else (f"one of {count} loops of the series: {shown(Path(key[1]).name)}",)


def _only(planes: Planes, key: Callable[[FrameHeader], Any], value: Any) -> Planes:
    kept = (tuple(frame for frame in plane if key(frame) == value) for plane in planes)
    return tuple(plane for plane in kept if plane)


def _joint(*labels: str) -> str:
    return ", ".join(label for label in labels if label)


def _split_attributes(part: Part, *, joinable: bool) -> list[Part]:
    """Split by all attributes that vary within a slice position; refuse where this would leave single frames."""
    classes = _classes(part, joinable=joinable)
    if not classes:
        return [part]

    def key(frame: FrameHeader) -> tuple[int, ...]:
        return tuple(own[id(frame)] for own, _ in classes.values())

    cells: defaultdict[tuple[int, tuple[int, ...]], int] = defaultdict(int)
    for k, plane in enumerate(part.planes):
        for frame in plane:
            cells[(k, key(frame))] += 1
    if joinable and 2 * sum(number == 1 for number in cells.values()) > len(cells):
        frames = max(len(plane) for plane in part.planes)
        problem = (
            f"its {frames} frames are no series in time: they differ in {_differences(classes)}; pass {_OPTION} to align them on "
            "purpose"
        )
        return [replace(part, problem=problem)]
    keys = sorted({key(frame) for plane in part.planes for frame in plane})
    labels = _labels(keys, classes)
    note = f"frames that differ in {_differences(classes)} were set apart" + (f"; {_OPTION} joins them" if joinable else "")
    return [
        replace(part, label=_joint(part.label, label), planes=_only(part.planes, key, value), notes=(*part.notes, note))
        for value, label in zip(keys, labels, strict=True)
    ]


Classes = dict[str, tuple[dict[int, int], list[str]]]
"""By attribute: number of the class of each frame, by the frame's id, and what each class is called."""


def _classes(part: Part, *, joinable: bool) -> Classes:
    """The attributes that vary within a slice position."""
    found: Classes = {}
    frames = [frame for plane in part.planes for frame in plane]
    for name, attribute in ATTRIBUTES.items():
        if attribute.joinable is not joinable or len({frame.attributes.get(name) for frame in frames}) < 2:
            continue
        kinds = _clusters({frame.attributes.get(name) for frame in frames}, attribute)
        number = {value: k for k, values in enumerate(kinds) for value in values}
        own = {id(frame): number[frame.attributes.get(name)] for frame in frames}
        if any(len({own[id(frame)] for frame in plane}) > 1 for plane in part.planes):
            found[name] = (own, [_called(name, values, kinds, attribute) for values in kinds])
    return found


def _clusters(values: Iterable[Value | None], attribute: Attribute) -> list[list[Value | None]]:
    """Values that are the same but for rounding and measurement: classes in the order of their values."""
    numbers = sorted(value for value in values if isinstance(value, (int, float)))
    clusters: list[list[Value | None]] = []
    for before, value in zip([None, *numbers], numbers, strict=False):
        if before is not None and value - before <= max(attribute.absolute, attribute.relative * abs(value)):
            clusters[-1].append(value)
        else:
            clusters.append([value])
    vectors = sorted(value for value in values if isinstance(value, tuple))
    for vector in vectors:
        near = (c for c in clusters if isinstance(c[0], tuple) and _near(c[0], vector, attribute.absolute))
        match = next(near, None)
        if match is None:
            clusters.append([vector])
        else:
            match.append(vector)
    others = [value for value in values if value is None or isinstance(value, (str, frozenset))]
    ordered = sorted(others, key=lambda v: "" if v is None else v if isinstance(v, str) else " ".join(sorted(v)))
    return clusters + [[value] for value in ordered]


def _near(a: tuple[float, ...], b: tuple[float, ...], tolerance: float) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def _called(name: str, values: list[Value | None], kinds: list[list[Value | None]], attribute: Attribute) -> str:
    """A class in words: its number, the words that others lack, or only which of several it is where the text is private."""
    first = values[0]
    if first is None:
        return f"without {name}"
    if isinstance(first, (int, float)):
        middle = statistics.median(value for value in values if isinstance(value, (int, float)))
        return f"{name} {middle:.6g}{attribute.unit}"
    if isinstance(first, frozenset):
        others = [kind[0] for kind in kinds if isinstance(kind[0], frozenset)]
        own = sorted(first - frozenset.intersection(*others))
        lacking = sorted(frozenset.union(*others) - first)
        return f"{name} {' '.join(own)}" if own else f"{name} without {' '.join(lacking)}"
    return f"{name} no. {kinds.index(values) + 1}"


def _labels(keys: Sequence[tuple[int, ...]], classes: Classes) -> list[str]:
    """A name for every part, of as few attributes as tell them all apart."""
    told = [texts for _, texts in classes.values()]
    for count in range(1, len(told) + 1):
        if len({key[:count] for key in keys}) == len(keys):
            break
    return [_joint(*(told[k][key[k]] for k in range(count))) for key in keys]


def _differences(classes: Classes) -> str:
    """The first attributes that differ, with their values."""
    named = []
    for name, (_, texts) in list(classes.items())[:3]:
        short = [text.removeprefix(f"{name} ") for text in texts]
        listed = ", ".join(short[:_MOST_NAMED]) + (f", ... {short[-1]}" if len(short) > _MOST_NAMED else "")
        named.append(f"{name} ({listed})")
    more = f" and {len(classes) - 3} more values" if len(classes) > 3 else ""
    return " and ".join(named) + more


def _joined(part: Part) -> Part:
    classes = _classes(part, joinable=True)
    if not classes:
        return part
    note = f"frames that differ in {_differences(classes)} are one series, as {_OPTION} asks"
    return replace(part, notes=(*part.notes, note))
