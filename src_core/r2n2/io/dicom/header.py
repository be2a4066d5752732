"""Turns the header of one DICOM file into plain descriptions of its frames, classic or multi-frame alike."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from r2n2.io.dicom.file import DamagedDicomError, RawHeader, clean_uid, read_raw_header

__all__ = ["CLOCK_TAGS", "FrameHeader", "read_frame_headers"]

CLOCK_TAGS = ("AcquisitionTime", "ContentTime", "FrameReferenceDateTime")
"""Times of day; kept in whole microseconds because a date in float seconds loses them."""

_PHASE_LIKE = frozenset({"P", "PHASE", "PHASE MAP", "VELOCITY", "R", "REAL", "I", "IMAGINARY"})
_CENTIMETRE = 3


@dataclass(frozen=True)
class FrameHeader:
    """What is known of one frame without decoding it.

    Parameters
    ----------
    path, index
        File, and which of its frames (0-based).
    shape
        (rows, columns).
    spacing
        (row, column) distance = (y, x) in mm, or None where unknown or unusable.
    position_mm, orientation
        ImagePositionPatient and ImageOrientationPatient as in the file: LPS, x first; None where missing.
    thickness_mm
        Distance to the next slice, or None.
    times
        Value by tag of all that may order the frames: s, or whole microseconds for ``CLOCK_TAGS``, or a plain number.
    temporal_resolution_s
        Duration of one temporal position, or None.
    kind
        Phase, real or imaginary part, "" for the usual magnitude: never stacked with each other.
    remarks
        What a person should know, without any header value outside the allow-list.
    spacing_problem, damage
        What makes spacing or pixels unusable; "" if nothing.
    """

    path: Path
    index: int
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    sop_uid: str
    instance: int | None
    shape: tuple[int, int]
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    pixel_keyword: str
    transfer_syntax: str
    slope: float
    intercept: float
    modality: str
    kind: str
    spacing: tuple[float, float] | None
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    slice_location: float | None
    thickness_mm: float | None
    times: Mapping[str, float]
    temporal_resolution_s: float | None
    multiframe: bool = False
    remarks: tuple[str, ...] = ()
    spacing_problem: str = ""
    damage: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """How messages call the frame: InstanceNumber, and frame number for multi-frame files."""
        instance = "without InstanceNumber" if self.instance is None else f"InstanceNumber {self.instance}"
        return f"{instance}, frame {self.index}" if self.multiframe else instance


def read_frame_headers(path: Path) -> tuple[FrameHeader, ...]:
    """Describe every frame of a file without decoding pixels.

    Raises
    ------
    NotAnImageError, DamagedDicomError
        See ``read_raw_header``; also if sizes in the header contradict each other.
    """
    raw = read_raw_header(path)
    series_uid = ""
    try:
        series_uid = clean_uid(_text(raw.dataset, "SeriesInstanceUID"))
        return _describe(path, raw)
    except DamagedDicomError as error:
        raise DamagedDicomError(str(error), error.series_uid or series_uid) from None
    except RecursionError:
        raise DamagedDicomError("sequences are nested too deeply", series_uid) from None
    except Exception as error:
        raise DamagedDicomError(f"the header cannot be understood ({type(error).__name__})", series_uid) from None


def _describe(path: Path, raw: RawHeader) -> tuple[FrameHeader, ...]:
    dataset = raw.dataset
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    allocated = _integer(dataset, "BitsAllocated")
    if not rows or not columns or not allocated:
        raise DamagedDicomError("Rows, Columns or BitsAllocated is missing or 0")
    count = max(1, _integer(dataset, "NumberOfFrames") or 1)
    common: dict[str, Any] = {
        "path": path,
        "series_uid": clean_uid(_text(dataset, "SeriesInstanceUID")),
        "study_uid": _text(dataset, "StudyInstanceUID"),
        "frame_of_reference_uid": _text(dataset, "FrameOfReferenceUID"),
        "sop_uid": _text(dataset, "SOPInstanceUID"),
        "instance": _integer(dataset, "InstanceNumber"),
        "shape": (rows, columns),
        "samples": _integer(dataset, "SamplesPerPixel") or 1,
        "photometric": _code(dataset, "PhotometricInterpretation"),
        "bits_allocated": allocated,
        "bits_stored": _integer(dataset, "BitsStored") or allocated,
        "signed": _integer(dataset, "PixelRepresentation") == 1,
        "pixel_keyword": raw.pixel_keyword,
        "transfer_syntax": raw.transfer_syntax,
        "modality": _code(dataset, "Modality"),
        "slice_location": _number(dataset, "SliceLocation"),
        "multiframe": count > 1,
        "damage": raw.damage,
    }
    extra = _check_sizes(raw, count, rows * columns * common["samples"] * allocated, damaged=bool(raw.damage))
    remarks = (*extra, *_file_remarks(dataset, common["modality"]))
    cine = _cine_times(dataset, count)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = []
    for k in range(count):
        groups = _Groups(dataset, per_frame[k] if k < len(per_frame) else None, shared)
        frames.append(FrameHeader(index=k, **common, **_frame_values(groups, cine[k] if cine else None, k, remarks)))
    return tuple(frames)


def _check_sizes(raw: RawHeader, count: int, frame_bits: int, *, damaged: bool) -> tuple[str, ...]:
    """Compare declared sizes before anything is allocated; a remark where there are more bytes than frames need."""
    if raw.pixel_bytes is None:
        if raw.fragments < count and not damaged:
            raise DamagedDicomError(f"{count} frames are declared, {raw.fragments} compressed fragments are there")
        if damaged and count > max(1, raw.fragments):
            raise DamagedDicomError(f"{raw.damage}; {count} frames are declared, {raw.fragments} fragments are there")
        return ()
    subsampled = str(raw.dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422"
    needed = math.ceil(frame_bits * count / 8)
    needed = needed // 3 * 2 if subsampled else needed
    if needed > raw.pixel_bytes:
        raise DamagedDicomError(f"its frames need {needed} bytes of pixels, {raw.pixel_bytes} are declared")
    if raw.pixel_bytes > needed + 1:
        return (f"{raw.pixel_bytes - needed} bytes behind the last declared frame were ignored",)
    return ()


def _file_remarks(dataset: Any, modality: str) -> list[str]:
    remarks = []
    if "ModalityLUTSequence" in dataset:
        remarks.append("a modality look-up table was not applied: values are as stored")
    burned = _text(dataset, "BurnedInAnnotation").upper()
    if burned == "YES" or (modality in ("US", "OT", "SC") and burned != "NO"):
        remarks.append("the pixels may hold burnt-in text such as a name or a date: look before sharing them")
    return remarks


class _Groups:
    """Where a frame's values are found: its own functional groups, then the shared ones, then the data set."""

    def __init__(self, dataset: Any, own: Any, shared: Any) -> None:
        self.dataset = dataset
        self._items = [item for item in (own, shared) if item is not None]

    def holder(self, sequence: str, keyword: str) -> Any:
        """The data set that holds ``keyword``."""
        for item in self._items:
            inner = item.get(sequence)
            if inner and keyword in inner[0]:
                return inner[0]
        return self.dataset


def _frame_values(groups: _Groups, cine_s: float | None, index: int, remarks: tuple[str, ...]) -> dict[str, Any]:
    transform = groups.holder("PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = _number(transform, "RescaleSlope"), _number(transform, "RescaleIntercept")
    slope, intercept = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise DamagedDicomError("RescaleSlope is 0, or RescaleSlope or RescaleIntercept is not a number")
    spacing, problem, spacing_remarks = _spacing(groups)
    resolution = _number(groups.dataset, "TemporalResolution")
    position = _numbers(groups.holder("PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", 3)
    return {
        "slope": slope,
        "intercept": intercept,
        "kind": _kind(groups),
        "spacing": spacing,
        "spacing_problem": problem,
        "position_mm": position,
        "orientation": _numbers(groups.holder("PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", 6),
        "thickness_mm": _thickness(groups),
        "times": _times(groups, cine_s, index),
        "temporal_resolution_s": resolution / 1000 if resolution and resolution > 0 else None,
        "remarks": (*remarks, *spacing_remarks),
    }


def _kind(groups: _Groups) -> str:
    values = groups.holder("MRImageFrameTypeSequence", "FrameType").get("FrameType") or groups.dataset.get("ImageType") or []
    values = [values] if isinstance(values, str) else values
    return "/".join(sorted({str(v).upper() for v in list(values)[2:]} & _PHASE_LIKE))


def _thickness(groups: _Groups) -> float | None:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = _number(groups.holder("PixelMeasuresSequence", keyword), keyword)
        if value and math.isfinite(value):
            return abs(value)
    return None


def _spacing(groups: _Groups) -> tuple[tuple[float, float] | None, str, tuple[str, ...]]:
    """(y, x) in mm, what is wrong with it, and where it comes from unless it is PixelSpacing."""
    for keyword, remark in (
        ("PixelSpacing", ""),
        ("ImagerPixelSpacing", "the spacing is ImagerPixelSpacing, measured at the detector and not in the patient"),
    ):
        holder = groups.holder("PixelMeasuresSequence", keyword)
        if not _is_filled(holder, keyword):
            continue
        values = _numbers(holder, keyword, 2)
        if values is None or any(v <= 0 for v in values):
            return None, f"{keyword} is not two positive numbers", ()
        return (values[0], values[1]), "", ((remark,) if remark else ())
    for region in groups.dataset.get("SequenceOfUltrasoundRegions") or []:
        if _integer(region, "PhysicalUnitsXDirection") == _CENTIMETRE == _integer(region, "PhysicalUnitsYDirection"):
            y, x = _number(region, "PhysicalDeltaY"), _number(region, "PhysicalDeltaX")
            if x and y and math.isfinite(x) and math.isfinite(y):
                remark = "the spacing is that of the first ultrasound region measured in cm, taken for the whole frame"
                return (10 * abs(y), 10 * abs(x)), "", (remark,)
    return None, "", ()


def _times(groups: _Groups, cine_s: float | None, index: int) -> dict[str, float]:
    dataset = groups.dataset
    content = "FrameContentSequence"
    values: dict[str, float | None] = {}
    for keyword in ("TriggerTime", "NominalCardiacTriggerDelayTime"):
        milliseconds = _number(groups.holder("CardiacSynchronizationSequence", keyword), keyword)
        values[keyword] = None if milliseconds is None else milliseconds / 1000
    moment = _text(groups.holder(content, "FrameAcquisitionDateTime"), "FrameAcquisitionDateTime")
    moment = moment or _text(dataset, "AcquisitionDateTime")
    values["AcquisitionTime"] = _microseconds(moment[:8], moment[8:])
    if values["AcquisitionTime"] is None:
        values["AcquisitionTime"] = _microseconds(_text(dataset, "AcquisitionDate"), _text(dataset, "AcquisitionTime"))
    moment = _text(groups.holder(content, "FrameReferenceDateTime"), "FrameReferenceDateTime")
    values["FrameReferenceDateTime"] = _microseconds(moment[:8], moment[8:])
    values["ContentTime"] = _microseconds(_text(dataset, "ContentDate"), _text(dataset, "ContentTime"))
    values["FrameTime"] = cine_s
    position = _number(groups.holder(content, "TemporalPositionIndex"), "TemporalPositionIndex")
    values["TemporalPositionIdentifier"] = _number(dataset, "TemporalPositionIdentifier") if position is None else position
    instance = _integer(dataset, "InstanceNumber")
    values["InstanceNumber"] = None if instance is None else instance + index * 1e-6
    values["FrameNumber"] = float(index)
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


def _cine_times(dataset: Any, count: int) -> list[float] | None:
    """Times of a multi-frame cine file in s from its first frame, from FrameTimeVector or FrameTime (both ms)."""
    if count == 1:
        return None
    vector = _numbers(dataset, "FrameTimeVector", count)
    if vector is None:
        step = _number(dataset, "FrameTime")
        vector = None if step is None else (0.0, *(step for _ in range(count - 1)))
    if vector is None or not all(math.isfinite(v) for v in vector):
        return None
    times, now = [], 0.0
    for k, milliseconds in enumerate(vector):
        now += milliseconds / 1000 if k else 0.0
        times.append(now)
    return times


def _microseconds(date: str, time: str) -> float | None:
    """Whole microseconds since day 0 of the calendar, or of the day where the date is none (some files hold 20120000)."""
    match = re.match(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?", time.strip())
    if not match:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    value = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int((match[4] or "0").ljust(6, "0"))
    try:
        return value + datetime.strptime(date.strip()[:10].replace(".", ""), "%Y%m%d").toordinal() * 86_400_000_000
    except ValueError:
        return value


def _is_filled(dataset: Any, keyword: str) -> bool:
    try:
        return dataset.get(keyword) not in (None, "")
    except ValueError:  # there is something, though no number
        return True


def _text(dataset: Any, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _code(dataset: Any, keyword: str) -> str:
    """A coded word such as MR; anything else is no code and might be a name."""
    word = _text(dataset, keyword).upper()
    return word if re.fullmatch(r"[A-Z0-9_ ]{1,16}", word) else ""


def _integer(dataset: Any, keyword: str) -> int | None:
    value = _number(dataset, keyword)
    return int(value) if value is not None and math.isfinite(value) else None


def _number(dataset: Any, keyword: str) -> float | None:
    values = _numbers(dataset, keyword, 1)
    return None if values is None else values[0]


def _numbers(dataset: Any, keyword: str, count: int) -> Any:
    """``count`` numbers of an element, or None where it is missing, has another length or is no number."""
    try:
        value = dataset.get(keyword)
        if value is None:
            return None
        items = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
        numbers = tuple(float(v) for v in items)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == count and (count == 1 or all(map(math.isfinite, numbers))) else None
