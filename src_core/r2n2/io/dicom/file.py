"""Opens one DICOM file within bounds: only allow-listed tags are parsed, and no declared length is believed.

Files are never read with pydicom's ``force``. Patient data cannot leak from what is never read, so the tags below are the
allow-list of the whole reader: geometry, timing, modality and intensity scaling, plus the UIDs that group frames.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

__all__ = [
    "HEADER_TAGS",
    "PIXEL_TAGS",
    "BoundedFile",
    "DamagedDicomError",
    "NotAnImageError",
    "RawHeader",
    "clean_uid",
    "quiet",
    "read_raw_header",
]

HEADER_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("InstanceNumber", "NumberOfFrames", "ImageType", "Modality", "BurnedInAnnotation"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("PixelSpacing", "ImagerPixelSpacing", "SequenceOfUltrasoundRegions", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"),
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime"),
    *("ContentDate", "ContentTime", "TemporalPositionIdentifier", "TemporalResolution", "FrameTime", "FrameTimeVector"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""What is read of a header, and all that can reach a series, its notes and its messages."""

PIXEL_TAGS = (
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PaletteColorLookupTableUID"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
)
"""What the decoders need."""

_PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PREAMBLE_BYTES = 132
_MAX_INFLATED_BYTES = 2**30


class NotAnImageError(Exception):
    """The file is no DICOM file or holds no image, so that leaving it out loses nothing."""


class DamagedDicomError(Exception):
    """The file is DICOM but cannot be trusted: leaving it out would shorten a series.

    Attributes
    ----------
    series_uid
        SeriesInstanceUID as far as it could still be read, else "".
    """

    def __init__(self, reason: str, series_uid: str = "") -> None:
        super().__init__(reason)
        self.series_uid = series_uid


class BoundedFile:
    """A binary file that refuses to read more than it holds, however much a header declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self.size = size
        self.inflated = False
        """Whether the data set is deflated, so that positions are not those of the file."""

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, which may lie behind the end."""
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; pydicom reads to the end (-1) only to inflate a deflated data set."""
        left = max(0, self.size - self.tell())
        if size < 0:
            self.inflated = True
            return self._checked_deflated(self._stream.read(left))
        # element heads of at most 8 bytes are asked for at the regular end of a file, too
        if size > left and size > 8:
            raise DamagedDicomError(f"a value of {size} bytes is declared where {left} bytes are left")
        return self._stream.read(size)

    @staticmethod
    def _checked_deflated(data: bytes) -> bytes:
        inflater, pending, total = zlib.decompressobj(-zlib.MAX_WBITS), data, 0
        while pending:
            total += len(inflater.decompress(pending, 2**22))
            pending = inflater.unconsumed_tail
            if total > _MAX_INFLATED_BYTES:
                raise DamagedDicomError(f"the deflated data set inflates to more than {_MAX_INFLATED_BYTES} bytes")
        return data


@dataclass(frozen=True)
class RawHeader:
    """The allow-listed part of one file's header and where its pixels lie.

    Parameters
    ----------
    dataset
        pydicom data set of ``HEADER_TAGS``.
    transfer_syntax
        UID of the pixels' encoding.
    pixel_keyword
        Element that holds the pixels, "" where there is none.
    pixel_bytes
        Declared length of uncompressed pixels, or None for encapsulated ones.
    fragments
        Number of compressed fragments, 0 for uncompressed pixels.
    damage
        What is wrong with the pixels' extent, "" if nothing.
    """

    dataset: Any
    transfer_syntax: str
    pixel_keyword: str
    pixel_bytes: int | None
    fragments: int
    damage: str


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect the warnings of pydicom instead of showing them, for they may quote header values."""
    messages: list[str] = []
    logger = logging.getLogger("pydicom")
    propagate, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
        messages.extend(str(w.message) for w in caught)
    finally:
        logger.propagate = propagate


def clean_uid(value: str) -> str:
    """A UID as it is; anything else might be a name, and gives way to a number made of it."""
    if re.fullmatch(r"[0-9.]{0,64}", value):
        return value
    return f"2.25.{int.from_bytes(hashlib.sha256(value.encode()).digest()[:12], 'big')}"


def read_raw_header(path: Path) -> RawHeader:
    """Parse a file's header up to its pixels.

    Raises
    ------
    NotAnImageError
        If the file is not DICOM, or a DICOM object without pixels.
    DamagedDicomError
        If it is truncated, forged, or nested too deeply.
    """
    try:
        size = path.stat().st_size
        if size < _PREAMBLE_BYTES:
            raise NotAnImageError("empty" if size == 0 else "not DICOM: too short")
        with path.open("rb") as stream:
            if stream.read(_PREAMBLE_BYTES)[-4:] != b"DICM":
                raise NotAnImageError("not DICOM: no DICM prefix")
            stream.seek(0)
            return _parse(BoundedFile(stream, size))
    except OSError as error:
        raise DamagedDicomError(f"cannot be read: {error.strerror or type(error).__name__}") from None


def _parse(file: BoundedFile) -> RawHeader:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial

    found: dict[str, int] = {}

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _PIXEL_KEYWORDS:
            found.update(tag=int(tag), length=length, offset=file.tell())
            return True
        if length != _UNDEFINED_LENGTH and not file.inflated and file.tell() + length > file.size:
            raise DamagedDicomError("truncated in the header")
        return False

    tags = [tag_for_keyword(keyword) for keyword in HEADER_TAGS]
    try:
        dataset = read_partial(file, stop_when=at_pixels, specific_tags=tags)  # type: ignore[arg-type, unused-ignore]
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        sop_class = str(dataset.file_meta.get("MediaStorageSOPClassUID", "") or dataset.get("SOPClassUID", ""))
        series_uid = clean_uid(str(dataset.get("SeriesInstanceUID", "") or "").strip())
    except DamagedDicomError:
        raise
    except RecursionError:
        raise DamagedDicomError("sequences are nested too deeply") from None
    except (Exception, MemoryError) as error:  # pydicom raises nearly everything on forged headers
        raise DamagedDicomError(f"the header cannot be parsed ({type(error).__name__})") from None
    if not found:
        _explain_missing_pixels(sop_class, series_uid)
    encapsulated = found["length"] == _UNDEFINED_LENGTH
    fragments, damage = 0, ""
    if encapsulated:
        fragments, damage = _count_fragments(file, found["offset"])
    elif not file.inflated and (left := file.size - found["offset"]) < found["length"]:
        damage = f"truncated in the pixels: {found['length']} bytes are declared, {left} are there"
    if not re.fullmatch(r"[0-9.]{1,64}", syntax):
        damage = damage or "no valid transfer syntax, so that the encoding of the pixels is unknown"
    keyword = _PIXEL_KEYWORDS[found["tag"]]
    return RawHeader(dataset, syntax, keyword, None if encapsulated else found["length"], fragments, damage)


def _explain_missing_pixels(sop_class: str, series_uid: str) -> None:
    from pydicom.uid import UID

    name = UID(sop_class, validation_mode=0).name if sop_class else ""
    if name and name != sop_class and "Image Storage" not in name:
        raise NotAnImageError(f"DICOM without an image: {name}")
    raise DamagedDicomError("truncated in the header: it ends before the pixels", series_uid)


def _count_fragments(file: BoundedFile, offset: int) -> tuple[int, str]:
    """Walk the items of encapsulated pixels: their number without the offset table, and what is wrong with them."""
    position, items = offset, 0
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return max(0, items - 1), "truncated in the compressed pixels: the file ends before their end marker"
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return max(0, items - 1), ""
        if (group, element) != (0xFFFE, 0xE000):
            return max(0, items - 1), "forged in the compressed pixels: something else than a fragment lies between them"
        items += 1
        position += 8 + length
