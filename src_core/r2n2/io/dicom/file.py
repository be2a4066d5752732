"""Opens one DICOM file within bounds: only allow-listed tags are parsed, and no declared length is believed.

Patient data cannot leak from what is never read. Files without preamble, as old ones are, are read where their first
element is one that a DICOM file starts with; nothing else is read with pydicom's ``force``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2n2.io.dicom.bounded import BoundedFile, DamagedDicomError, NotAnImageError
from r2n2.io.dicom.tags import HEADER_TAGS, PRIVATE_TAGS
from r2n2.io.dicom.values import clean_uid

__all__ = [
    "RawHeader",
    "read_raw_header",
    "starts_like_dicom",
]

_PIXEL_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PREAMBLE_BYTES = 132
_DIRECTORY = "1.2.840.10008.1.3.10"
_LAST_FIRST_ELEMENT = 0x0070  # of groups 2 and 8
_LONGEST_FIRST_VALUE = 256
_PRIVATE_BLOCKS = (0x10, 0x11, 0x12, 0x13)


@dataclass(frozen=True)
class RawHeader:
    """The allow-listed part of one file's header and where its pixels lie.

    Parameters
    ----------
    dataset
        pydicom data set of ``HEADER_TAGS``.
    transfer_syntax
        UID of the pixels' encoding.
    sop_class
        UID of what the file is.
    pixel_keyword
        Element that holds the pixels, "" where there is none.
    pixel_bytes
        Declared length of uncompressed pixels, or None for encapsulated ones.
    fragments
        Number of compressed fragments, 0 for uncompressed pixels.
    damage
        What is wrong with the pixels' extent, "" if nothing.
    remarks
        What a person should know about how the file was read.
    """

    dataset: Any
    transfer_syntax: str
    sop_class: str
    pixel_keyword: str
    pixel_bytes: int | None
    fragments: int
    damage: str
    remarks: tuple[str, ...] = ()


def starts_like_dicom(start: bytes) -> bool:
    """Whether a file's first bytes (132 at least) are those of DICOM: its mark behind the preamble, or a likely first element."""
    if start[_PREAMBLE_BYTES - 4 : _PREAMBLE_BYTES] == b"DICM":
        return True
    return any(_is_first_element(start, order) for order in "<>")


def _is_first_element(start: bytes, order: str) -> bool:
    """Whether a group 2 or 8 begins without preamble, as files of the 1990s and copies by some programs do."""
    if len(start) < 12:
        return False
    group, element = struct.unpack(order + "HH", start[:4])
    if group not in (0x0002, 0x0008) or element > _LAST_FIRST_ELEMENT:
        return False
    if re.fullmatch(rb"UL|CS|UI|DA|TM|OB|LO|SH|DT|UN|SQ", start[4:6]):
        return True
    return order == "<" and struct.unpack("<L", start[4:8])[0] <= _LONGEST_FIRST_VALUE


def read_raw_header(path: Path, *, extra: tuple[str, ...] = ()) -> RawHeader:
    """Parse a file's header up to its pixels.

    Parameters
    ----------
    extra
        Keywords read beside ``HEADER_TAGS``.

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
            start = stream.read(_PREAMBLE_BYTES)
            if not starts_like_dicom(start):
                raise NotAnImageError("not DICOM: neither a DICM mark nor a first element of DICOM")
            stream.seek(0)
            return _parse(BoundedFile(stream, size), extra, bare=start[-4:] != b"DICM")
    except OSError as error:
        raise DamagedDicomError(f"cannot be read: {error.strerror or type(error).__name__}") from None


def _parse(file: BoundedFile, extra: tuple[str, ...], *, bare: bool) -> RawHeader:
    found: dict[str, int] = {}

    def at_pixels(tag: int, _vr: str | None, length: int) -> bool:
        if tag in _PIXEL_KEYWORDS:
            found.update(tag=int(tag), length=length, offset=file.tell())
            return True
        if length != _UNDEFINED_LENGTH and not file.inflated and file.tell() + length > file.size:
            raise DamagedDicomError("truncated in the header")
        return False

    try:
        dataset, syntax, told = _read_elements(file, extra, at_pixels, bare=bare)
        sop_class = str(dataset.file_meta.get("MediaStorageSOPClassUID", "") or dataset.get("SOPClassUID", "") or "")
        series_uid = clean_uid(str(dataset.get("SeriesInstanceUID", "") or "").strip())
        if not found:
            _explain_missing_pixels(file, dataset, sop_class, series_uid)
    except (DamagedDicomError, NotAnImageError):
        raise
    except RecursionError:
        raise DamagedDicomError("sequences are nested too deeply") from None
    except (EOFError, UnboundLocalError):  # the latter where pydicom meets the end inside a sequence
        raise DamagedDicomError("truncated in the header") from None
    except (Exception, MemoryError) as error:  # pydicom raises nearly everything on forged headers
        reason = f"the header cannot be parsed ({type(error).__name__})"
        raise NotAnImageError(f"not DICOM: {reason}") if bare else DamagedDicomError(reason) from None
    fragments, damage = _pixel_extent(file, found)
    if not re.fullmatch(r"[0-9.]{1,64}", syntax) or (not told and found["length"] == _UNDEFINED_LENGTH):
        damage = damage or "no valid transfer syntax, so that the encoding of the pixels is unknown"
    remarks: tuple[str, ...] = (
        ("the file has no preamble, as old files have not: it was read as the DICOM data set it starts with",) if bare else ()
    )
    if not told:
        remarks += ("the transfer syntax is missing: the encoding was concluded from the header's own",)
    keyword = _PIXEL_KEYWORDS[found["tag"]]
    length = None if found["length"] == _UNDEFINED_LENGTH else found["length"]
    return RawHeader(dataset, syntax, sop_class, keyword, length, fragments, damage, remarks)


def _read_elements(
    file: BoundedFile, extra: tuple[str, ...], stop: Callable[[int, str | None, int], bool], *, bare: bool
) -> tuple[Any, str, bool]:
    """Data set of the allowed elements, its transfer syntax, and whether the file tells that syntax."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    tags: list[Any] = [tag_for_keyword(keyword) for keyword in (*HEADER_TAGS, *extra)]
    for group, element, _ in PRIVATE_TAGS:
        for block in _PRIVATE_BLOCKS:
            tags += [(group << 16) + block, (group << 16) + (block << 8) + element]
    dataset = read_partial(file, stop_when=stop, specific_tags=tags, force=bare)  # type: ignore[arg-type, unused-ignore]
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "") or "")
    if syntax:
        return dataset, syntax, True
    implicit, little = dataset.original_encoding
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return dataset, str(guess), False


def _explain_missing_pixels(file: BoundedFile, dataset: Any, sop_class: str, series_uid: str) -> None:
    """Say why there are no pixels: the file is whole and holds none, or it was cut before them."""
    from pydicom.uid import UID

    name = UID(sop_class, validation_mode=0).name if sop_class else ""
    known = name if name != sop_class else ""
    if file.torn and not file.inflated:
        raise DamagedDicomError("truncated in the header: it ends before the pixels", series_uid)
    if len(dataset) == 0 and not known and not dataset.file_meta.keys():
        raise DamagedDicomError("truncated in the header: nothing readable is left", series_uid)
    if sop_class == _DIRECTORY:
        raise NotAnImageError(
            "no image but a DICOMDIR, the index of a folder: choose the folder, or the file under the name DICOMDIR"
        )
    raise NotAnImageError(f"no image: {known or 'a DICOM data set'} without pixels", series_uid)


def _pixel_extent(file: BoundedFile, found: dict[str, int]) -> tuple[int, str]:
    """Number of compressed fragments, and what is wrong with the extent of the pixels."""
    if found["length"] == _UNDEFINED_LENGTH:
        return _count_fragments(file, found["offset"])
    if not file.inflated and (left := file.size - found["offset"]) < found["length"]:
        return 0, f"truncated in the pixels: {found['length']} bytes are declared, {left} are there"
    return 0, ""


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
