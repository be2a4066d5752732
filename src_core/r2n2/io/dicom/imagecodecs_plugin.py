"""Decodes JPEG Lossless, JPEG-LS and JPEG of 12 bits by imagecodecs, in the form that pydicom asks of its decoding plugins."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

__all__ = ["DECODER_DEPENDENCIES", "decode_frame", "is_available"]

_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_END_OF_IMAGE = b"\xff\xd9"
DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS), ("numpy", "imagecodecs"))


def is_available(uid: str) -> bool:
    """Whether a transfer syntax can be decoded here."""
    return uid in DECODER_DEPENDENCIES and importlib.util.find_spec("imagecodecs") is not None


def decode_frame(src: bytes, runner: Any) -> bytes:
    """Stored values of one frame, samples of a pixel side by side, in the colours of the file."""
    import imagecodecs

    if _END_OF_IMAGE not in src[-16:]:
        raise ValueError("the stream ends before its end marker")
    if runner.transfer_syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(src)
    else:
        # equal colour spaces in and out: pydicom knows from the header what the colours are, libjpeg would guess
        space = None if runner.samples_per_pixel == 1 else "YCBCR"
        pixels = imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space)
    samples = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if samples != runner.samples_per_pixel:
        raise ValueError(f"the stream holds {samples} samples a pixel, the header says {runner.samples_per_pixel}")
    if samples > 1:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
