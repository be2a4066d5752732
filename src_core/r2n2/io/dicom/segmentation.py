"""Reads a DICOM segmentation object as label images: one number a segment, one image a slice position, placed in the patient."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.checks import DEFAULT_MAX_BYTES, existing
from r2n2.io.dicom.bounded import DamagedDicomError, NotAnImageError, quiet
from r2n2.io.dicom.decode import decode_frames
from r2n2.io.dicom.file import RawHeader, read_raw_header
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.geometry import place_frame
from r2n2.io.dicom.header import SEGMENTATIONS, describe_frames
from r2n2.io.dicom.tags import SEGMENTATION_TAGS
from r2n2.io.dicom.values import code, frame_groups, integer, text
from r2n2.series import ImageSeries

__all__ = ["Segmentation", "is_segmentation", "read_segmentation"]

_BACKGROUND = 0
_LARGEST_LABEL = 65535
_TIME = "TemporalPositionIdentifier"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of a segmentation object.

    Parameters
    ----------
    slices
        One series a slice position, along the slices' normal: frames (T, 1, rows, columns) of uint8 or uint16 labels, 0 where
        no segment lies; T is 1 unless the object holds several moments. Each has its ``patient_grid`` where the object tells it.
    names
        Segment label by label number.
    notes
        What was decided, one sentence each; every series carries them, too.
    """

    slices: tuple[ImageSeries, ...]
    names: Mapping[int, str]
    notes: tuple[str, ...]


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation object."""
    try:
        with quiet():
            return read_raw_header(path).sop_class in SEGMENTATIONS
    except (DamagedDicomError, NotAnImageError):
        return False


def read_segmentation(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Segmentation:
    """Read all segments of a file.

    A pixel of a fractional segmentation belongs to the segment of the largest fraction, where that is at least one half. Where
    binary segments overlap, the one of the higher number is kept, with a note.

    Parameters
    ----------
    path
        A segmentation object: binary, fractional or label map.
    max_bytes
        Most bytes that the decoded frames may take.

    Raises
    ------
    ReadError
        If it is none, is damaged, or holds a segment twice at the same place and time.
    ResourceError
        If it needs more than ``max_bytes``.
    MissingExtraError
        If no decoder for its pixels is installed.
    """
    path = existing(path)
    try:
        with quiet():
            raw = read_raw_header(path, extra=SEGMENTATION_TAGS)
            if raw.sop_class not in SEGMENTATIONS:
                raise ReadError(f"{path}: is no DICOM segmentation object; give a segmentation, or labels in another format")
            headers = describe_frames(path, raw)
            segments = _segment_numbers(raw, len(headers))
            names = _names(raw)
    except (DamagedDicomError, NotAnImageError) as error:
        raise ReadError(f"{path}: {error}; get an intact copy") from None
    except (ReadError, RecursionError):
        raise
    except Exception as error:  # pydicom raises nearly everything on forged sequences
        raise ReadError(f"{path}: its segments cannot be understood ({type(error).__name__}); get an intact copy") from None
    plain = [replace(header, photometric="MONOCHROME2", slope=1.0, intercept=0.0) for header in headers]
    decoded = decode_frames(plain, drop_damaged=False, max_bytes=max_bytes)
    return _assemble(path, raw, headers, segments, names, decoded.values[:, 0])


def _segment_numbers(raw: RawHeader, count: int) -> list[int | None]:
    """The segment that each frame shows; None in label maps, whose pixels are segment numbers."""
    groups_of = frame_groups(raw.dataset)
    found = []
    for k in range(count):
        number = integer(groups_of(k).holder("ReferencedSegmentNumber"), "ReferencedSegmentNumber")
        found.append(None if _kind(raw) == "LABELMAP" else number)
    if _kind(raw) != "LABELMAP" and not all(n is not None and 0 < n <= _LARGEST_LABEL for n in found):
        raise DamagedDicomError("a frame does not tell which segment it shows")
    return found


def _kind(raw: RawHeader) -> str:
    return code(raw.dataset, "SegmentationType")


def _names(raw: RawHeader) -> dict[int, str]:
    names = {}
    for item in raw.dataset.get("SegmentSequence") or []:
        number = integer(item, "SegmentNumber")
        label = "".join(c for c in text(item, "SegmentLabel") if c.isprintable())
        if number is not None and number != _BACKGROUND:
            names[number] = label or f"segment {number}"
    return names


def _assemble(
    path: Path,
    raw: RawHeader,
    headers: Sequence[FrameHeader],
    segments: Sequence[int | None],
    names: dict[int, str],
    pixels: NDArray[Any],
) -> Segmentation:
    planes: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, header in enumerate(headers):
        planes[_plane(header)].append(k)
    largest = max([_BACKGROUND, *(n for n in segments if n is not None), *names, int(pixels.max()) if None in segments else 0])
    dtype = np.dtype(np.uint8 if largest < 256 else np.uint16)
    half = (integer(raw.dataset, "MaximumFractionalValue") or 255) / 2 if _kind(raw) == "FRACTIONAL" else 0.5
    notes: list[str] = []
    if _kind(raw) == "FRACTIONAL":
        notes.append("the segments are fractions: a pixel belongs to the segment of the largest, where that is at least one half")
    slices, overlapping = [], 0
    for members in sorted(planes.values(), key=lambda members: _along(headers[members[0]])):
        moments: defaultdict[float, list[int]] = defaultdict(list)
        for k in members:
            moments[headers[k].times.get(_TIME, 0.0)].append(k)
        frames = []
        for _, own in sorted(moments.items()):
            _check_once(path, own, segments)
            labels, shared = _labels([(segments[k], pixels[k]) for k in own], half, dtype)
            frames.append(labels)
            overlapping += shared
        slices.append((headers[members[0]], np.stack(frames)[:, None]))
    if overlapping:
        notes.append(f"segments overlap in {overlapping} pixels: the one of the higher number was kept there")
    series = tuple(_series(path, header, frames, k, tuple(notes)) for k, (header, frames) in enumerate(slices))
    return Segmentation(series, names, tuple(notes))


def _plane(header: FrameHeader) -> tuple[object, ...]:
    return (header.position_mm and tuple(round(v, 2) + 0.0 for v in header.position_mm), header.orientation)


def _along(header: FrameHeader) -> float:
    if header.position_mm is None or header.orientation is None:
        return 0.0
    return float(np.dot(np.cross(header.orientation[:3], header.orientation[3:]), header.position_mm))


def _check_once(path: Path, frames: Sequence[int], segments: Sequence[int | None]) -> None:
    number, times = Counter(segments[k] for k in frames).most_common(1)[0]
    if times > 1:
        what = "the slice" if number is None else f"segment {number}"
        raise ReadError(
            f"{path}: holds {what} {times} times at one place (frames {frames[0]} and others) and does not tell at which moments; "
            "export one segmentation a moment"
        )


def _labels(members: Sequence[tuple[int | None, NDArray[Any]]], half: float, dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
    """Label image of one place and moment, and the number of pixels that several segments claim alike."""
    if members[0][0] is None:
        return members[0][1].astype(dtype), 0
    labels = np.zeros(members[0][1].shape, dtype)
    best = np.zeros(labels.shape, np.float64)
    claims = np.zeros(labels.shape, np.int64)
    for number, pixels in sorted(members, key=lambda member: member[0] or 0):
        inside = pixels >= half
        claims += inside
        take = inside & (pixels >= best)
        labels[take] = number
        best = np.where(take, pixels, best)
    return labels, int((claims > 1).sum()) if half == 0.5 else 0


def _series(path: Path, header: FrameHeader, frames: NDArray[Any], index: int, notes: tuple[str, ...]) -> ImageSeries:
    grid, patient, geometry_notes = place_frame(header, header.spacing or (1.0, 1.0))
    return ImageSeries(
        frames,
        grid,
        name=f"{path.name} slice {index}",
        modality="SEG",
        patient_grid=patient,
        spacing_known=header.spacing is not None,
        notes=(*notes, *geometry_notes),
        source={"format": "dicom", "path": str(path), "slice_index": index},
    )
