"""What a DICOM header says about when a frame was taken: one value for each tag that may order frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from r2n2.io.dicom.values import FunctionalGroups, integer, microseconds, number, numbers, text

__all__ = ["CLOCK_TAGS", "cine_times", "frame_times"]

CLOCK_TAGS = ("AcquisitionTime", "AcquisitionDateTime", "ContentTime", "FrameReferenceDateTime")
"""Times of day; kept in whole microseconds because a date in float seconds loses them."""

_LONGEST_STEP_S = 3600.0


def frame_times(groups: FunctionalGroups, cine_s: float | None, index: int) -> dict[str, float]:
    """Value by tag: s, or whole microseconds for ``CLOCK_TAGS``, or a plain number for positions and instances."""
    dataset = groups.dataset
    values: dict[str, float | None] = {}
    for keyword in ("TriggerTime", "NominalCardiacTriggerDelayTime", "NominalRespiratoryTriggerDelayTime", "FrameReferenceTime"):
        milliseconds = number(groups.holder(keyword), keyword)
        values[keyword] = None if milliseconds is None else milliseconds / 1000
    values["TemporalPositionTimeOffset"] = number(groups.holder("TemporalPositionTimeOffset"), "TemporalPositionTimeOffset")
    values.update(_clocks(groups))
    values["FrameTime"] = cine_s
    values["TemporalPositionIdentifier"] = _position(groups, index)
    for keyword in ("NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"):
        values[keyword] = number(groups.holder(keyword), keyword)
    instance = integer(dataset, "InstanceNumber")
    values["InstanceNumber"] = None if instance is None else instance + index * 1e-6
    values["FrameNumber"] = float(index)
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


def _clocks(groups: FunctionalGroups) -> dict[str, float | None]:
    dataset = groups.dataset
    moment = text(groups.holder("FrameAcquisitionDateTime"), "FrameAcquisitionDateTime")
    acquired = microseconds(moment[:8], moment[8:])
    if acquired is None:
        acquired = microseconds(text(dataset, "AcquisitionDate"), text(dataset, "AcquisitionTime"))
    whole = text(dataset, "AcquisitionDateTime")
    moment = text(groups.holder("FrameReferenceDateTime"), "FrameReferenceDateTime")
    return {
        "AcquisitionTime": acquired,
        "AcquisitionDateTime": microseconds(whole[:8], whole[8:]),
        "FrameReferenceDateTime": microseconds(moment[:8], moment[8:]),
        "ContentTime": microseconds(text(dataset, "ContentDate"), text(dataset, "ContentTime")),
    }


def _position(groups: FunctionalGroups, index: int) -> float | None:
    position = number(groups.holder("TemporalPositionIndex"), "TemporalPositionIndex")
    if position is None:
        position = number(groups.dataset, "TemporalPositionIdentifier")
    for keyword in ("TimeSlotVector", "TimeSliceVector"):
        vector = numbers(groups.dataset, keyword)
        if position is None and vector is not None and index < len(vector):
            position = vector[index]
    return position


def cine_times(dataset: Any, count: int) -> tuple[list[float] | None, tuple[str, ...]]:
    """Times of a multi-frame cine file in s from its first frame, and a remark on where they come from.

    FrameTimeVector holds the step before each frame, of which the first means nothing; files that leave it out are common.
    """
    if count == 1:
        return None, ()
    vector = numbers(dataset, "FrameTimeVector")
    if vector is not None and len(vector) == count and _are_steps(vector[1:]):
        return [0.0, *accumulate(step / 1000 for step in vector[1:])], ()
    remarks: tuple[str, ...] = ()
    if vector is not None and len(vector) == count - 1 and _are_steps(vector):
        return [0.0, *accumulate(step / 1000 for step in vector)], (
            "FrameTimeVector is one entry short: taken as the steps between frames",
        )
    if vector is not None:
        remarks = (f"FrameTimeVector was not used: it holds {len(vector)} entries for {count} frames, or some that are no steps",)
    for keyword in ("FrameTime", "ActualFrameDuration"):
        step = number(dataset, keyword)
        if step is not None and _are_steps([step]):
            return [k * step / 1000 for k in range(count)], remarks
    for keyword, meaning in (("CineRate", "frames a second"), ("RecommendedDisplayFrameRate", "the rate to show it at")):
        rate = number(dataset, keyword)
        if rate is not None and math.isfinite(rate) and rate > 1 / _LONGEST_STEP_S:
            return [k / rate for k in range(count)], (
                *remarks,
                f"times are from {keyword}, {rate:g} {meaning}: FrameTime is missing",
            )
    return None, remarks


def _are_steps(milliseconds: Sequence[float]) -> bool:
    return all(math.isfinite(step) and 0 < step <= 1000 * _LONGEST_STEP_S for step in milliseconds)
