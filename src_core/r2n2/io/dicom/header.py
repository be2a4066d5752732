"""Turns the header of one DICOM file into plain descriptions of its frames, classic or multi-frame alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from r2n2.io.dicom.attributes import acquisition_number, frame_attributes, other_dimensions
from r2n2.io.dicom.bounded import DamagedDicomError, NotAnImageError
from r2n2.io.dicom.file import RawHeader, read_raw_header
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.mosaic import split_mosaic
from r2n2.io.dicom.phases import described_phase
from r2n2.io.dicom.spacing import read_spacing
from r2n2.io.dicom.times import cine_times, frame_times
from r2n2.io.dicom.values import FunctionalGroups, clean_uid, code, frame_groups, integer, is_filled, number, numbers, text

__all__ = ["SEGMENTATIONS", "describe_frames", "read_frame_headers"]

_MOST_FRAMES = 100_000
_VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4 and HEVC: one stream for all frames
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of label objects."""


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
        series_uid = clean_uid(text(raw.dataset, "SeriesInstanceUID"))
        if raw.sop_class in SEGMENTATIONS:
            raise NotAnImageError("no image series but a segmentation: r2n2 apply takes it with --to", series_uid)
        return tuple(part for frame in describe_frames(path, raw) for part in split_mosaic(frame, raw.dataset))
    except NotAnImageError:
        raise
    except DamagedDicomError as error:
        raise DamagedDicomError(str(error), error.series_uid or series_uid) from None
    except RecursionError:
        raise DamagedDicomError("sequences are nested too deeply", series_uid) from None
    except Exception as error:
        raise DamagedDicomError(f"the header cannot be understood ({type(error).__name__})", series_uid) from None


def describe_frames(path: Path, raw: RawHeader) -> tuple[FrameHeader, ...]:
    """Describe every frame of a parsed header; sizes that contradict each other raise as in ``read_frame_headers``."""
    dataset = raw.dataset
    rows, columns, allocated = (integer(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    if rows is None and columns is None and allocated is None:
        raise NotAnImageError("no image: pixels without Rows, Columns and BitsAllocated")
    if not rows or not columns or not allocated or min(rows, columns, allocated) < 1:
        raise DamagedDicomError("Rows, Columns or BitsAllocated is missing or 0")
    count = max(1, integer(dataset, "NumberOfFrames") or 1)
    if is_filled(dataset, "NumberOfFrames") and integer(dataset, "NumberOfFrames") is None:
        raise DamagedDicomError("NumberOfFrames is no number")
    samples = max(1, integer(dataset, "SamplesPerPixel") or 1)
    extra = _check_sizes(raw, count, rows * columns * samples * allocated, damaged=bool(raw.damage))
    cine, cine_remarks = cine_times(dataset, count)
    remarks = (*raw.remarks, *extra, *_file_remarks(dataset), *cine_remarks)
    grouped = bool(dataset.get("PerFrameFunctionalGroupsSequence"))
    common = {**_file_values(path, raw, allocated), "samples": samples, "multiframe": count > 1, "grouped": grouped}
    groups_of = frame_groups(dataset)
    frames = []
    for k in range(count):
        own = _frame_values(groups_of(k), (rows, columns), cine[k] if cine else None, k, remarks)
        frames.append(FrameHeader(index=k, shape=(rows, columns), **common, **own))
    return tuple(frames)


def _file_values(path: Path, raw: RawHeader, allocated: int) -> dict[str, Any]:
    """What all frames of a file share."""
    dataset = raw.dataset
    return {
        "path": path,
        "series_uid": clean_uid(text(dataset, "SeriesInstanceUID")),
        "study_uid": text(dataset, "StudyInstanceUID"),
        "frame_of_reference_uid": text(dataset, "FrameOfReferenceUID"),
        "sop_uid": text(dataset, "SOPInstanceUID"),
        "instance": integer(dataset, "InstanceNumber"),
        "series_number": integer(dataset, "SeriesNumber"),
        "phase": described_phase(text(dataset, "SeriesDescription")),
        "photometric": code(dataset, "PhotometricInterpretation"),
        "bits_allocated": allocated,
        "bits_stored": max(1, integer(dataset, "BitsStored") or allocated),
        "signed": integer(dataset, "PixelRepresentation") == 1,
        "pixel_keyword": raw.pixel_keyword,
        "transfer_syntax": raw.transfer_syntax,
        "compressed": raw.pixel_bytes is None,
        "modality": code(dataset, "Modality"),
        "damage": raw.damage,
    }


def _check_sizes(raw: RawHeader, count: int, frame_bits: int, *, damaged: bool) -> tuple[str, ...]:
    """Compare declared sizes before anything is allocated; a remark where there are more bytes than frames need."""
    if count > _MOST_FRAMES:
        raise DamagedDicomError(f"{count} frames are declared, more than {_MOST_FRAMES} are not believed")
    if raw.transfer_syntax.startswith(_VIDEO):
        return ()
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


def _file_remarks(dataset: Any) -> list[str]:
    remarks, modality = [], code(dataset, "Modality")
    if "ModalityLUTSequence" in dataset:
        remarks.append("a modality look-up table was not applied: values are as stored")
    burned = text(dataset, "BurnedInAnnotation").upper()
    if burned == "YES" or (modality in ("US", "OT", "SC") and burned != "NO"):
        remarks.append("the pixels may hold burnt-in text such as a name or a date: look before sharing them")
    return remarks


def _frame_values(
    groups: FunctionalGroups, shape: tuple[int, int], cine_s: float | None, index: int, remarks: tuple[str, ...]
) -> dict[str, Any]:
    transform = groups.holder("RescaleSlope")
    slope, intercept = number(transform, "RescaleSlope"), number(transform, "RescaleIntercept")
    slope, intercept = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise DamagedDicomError("RescaleSlope is 0, or RescaleSlope or RescaleIntercept is not a number")
    spacing = read_spacing(groups, shape)
    resolution = number(groups.dataset, "TemporalResolution")
    return {
        "slope": slope,
        "intercept": intercept,
        "spacing": spacing.mm,
        "spacing_problem": spacing.problem,
        "position_mm": numbers(groups.holder("ImagePositionPatient"), "ImagePositionPatient", 3),
        "orientation": numbers(groups.holder("ImageOrientationPatient"), "ImageOrientationPatient", 6),
        "slice_location": _slice_location(groups.dataset, index),
        "thickness_mm": _thickness(groups, "SpacingBetweenSlices", "SliceThickness"),
        "between_mm": _thickness(groups, "SpacingBetweenSlices"),
        "times": frame_times(groups, cine_s, index),
        "temporal_resolution_s": resolution / 1000 if resolution and 0 < resolution < math.inf else None,
        "attributes": frame_attributes(groups, index),
        "acquisition": acquisition_number(groups),
        "dimensions": other_dimensions(groups),
        "remarks": (*remarks, *spacing.remarks),
    }


def _slice_location(dataset: Any, index: int) -> float | None:
    """SliceLocation, or the number of the slice in nuclear medicine's files."""
    vector = numbers(dataset, "SliceVector")
    if vector is not None and index < len(vector):
        return vector[index]
    return number(dataset, "SliceLocation")


def _thickness(groups: FunctionalGroups, *keywords: str) -> float | None:
    for keyword in keywords:
        value = number(groups.holder(keyword), keyword)
        if value and math.isfinite(value):
            return abs(value)
    return None
