"""Which decoder takes which compressed pixels, and what a compressed frame declares before any decoder allocates for it."""

from __future__ import annotations

import struct
from typing import Any

from r2n2.errors import MissingExtraError, ReadError
from r2n2.io.dicom.bounded import quiet
from r2n2.io.dicom.frame import FrameHeader

__all__ = ["choose_decoder", "declared_shape"]

_IMAGECODECS = "imagecodecs"
_PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": _IMAGECODECS,
    "1.2.840.10008.1.2.4.57": _IMAGECODECS,
    "1.2.840.10008.1.2.4.70": _IMAGECODECS,
    "1.2.840.10008.1.2.4.80": _IMAGECODECS,
    "1.2.840.10008.1.2.4.81": _IMAGECODECS,
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",
}
_OTHERWISE = "pylibjpeg-openjpeg"
# In order of preference. GDCM is left out for its known out-of-bounds reads; for run lengths pydicom's own Python comes first,
# because pylibjpeg-rle panics on damaged ones, which no "except Exception" stops. Pillow knows JPEG of 8 bits only.
_PLUGINS = ("pydicom", _IMAGECODECS, "pylibjpeg", "pyjpegls", "pillow")
_CODESTREAM = b"\xff\x4f\xff\x51"
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_MARKERS_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def choose_decoder(frame: FrameHeader) -> tuple[Any, str]:
    """Pydicom's decoder of the frame's transfer syntax and the plugin that it shall use, "" for uncompressed pixels.

    Raises
    ------
    ReadError
        If the syntax is no encoding of images that can be read.
    MissingExtraError
        Naming the package to install.
    """
    from pydicom.pixels import get_decoder

    syntax = frame.transfer_syntax
    try:
        with quiet():
            decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ReadError(f"{frame.path}: pixels encoded as {_name(syntax)} cannot be read; convert the files first") from None
    if decoder.is_native:
        return decoder, ""
    _offer_imagecodecs(decoder, syntax)
    plugin = next((name for name in _PLUGINS if name in decoder.available_plugins), "")
    if plugin:
        return decoder, plugin
    package = _PACKAGES.get(syntax, _OTHERWISE)
    raise MissingExtraError(f"{frame.path}: no decoder for {_name(syntax)} is installed: pip install {package}")


def _name(syntax: str) -> str:
    from pydicom.uid import UID

    name = UID(syntax, validation_mode=0).name
    return f"{name} ({syntax})" if name != syntax else syntax


def _offer_imagecodecs(decoder: Any, syntax: str) -> None:
    """Register imagecodecs with pydicom, which asks for it once a process and syntax."""
    if _PACKAGES.get(syntax) != _IMAGECODECS or _IMAGECODECS in {*decoder.available_plugins, *decoder.missing_dependencies}:
        return
    try:
        decoder.add_plugin(_IMAGECODECS, ("r2n2.io.dicom.imagecodecs_plugin", "decode_frame"))
    except ValueError:  # registered before, and found missing
        return


def declared_shape(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream declares, None where it declares none that can be found."""
    start = stream.find(_CODESTREAM, 0, 2048)
    if start == 0 or (start > 0 and stream[4:12].find(b"jP  ") >= 0):
        if len(stream) < start + 24:
            return None
        width, height, left, top = struct.unpack(">4L", stream[start + 8 : start + 24])
        return height - top, width - left
    place = 2
    while stream[:2] == b"\xff\xd8" and place + 9 <= len(stream):
        if stream[place] != 0xFF:
            return None
        marker = stream[place + 1]
        if marker in _FRAME_MARKERS:
            rows, columns = struct.unpack(">HH", stream[place + 5 : place + 9])
            return rows, columns
        if marker == 0xFF or marker in _MARKERS_WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int(struct.unpack(">H", stream[place + 2 : place + 4])[0])
    return None
