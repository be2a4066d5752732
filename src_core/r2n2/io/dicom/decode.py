"""Decodes the pixels of DICOM frames, every one of them checked, into real values.

Stored values become real values by the rescale of their own frame. MONOCHROME1, in which the smallest value is white, is
inverted within the range of the stored bits so that bright is large in every series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError, ResourceError
from r2n2.io.dicom.bounded import BoundedFile, DamagedDicomError, quiet
from r2n2.io.dicom.codecs import choose_decoder, declared_shape
from r2n2.io.dicom.frame import FrameHeader
from r2n2.io.dicom.tags import PIXEL_TAGS
from r2n2.io.dicom.values import shown

__all__ = ["DecodedFrames", "decode_frames", "stream_problem"]

_EXACT_IN_FLOAT32 = 2**24
_LONGEST_REASON = 160
_LARGEST_LOOKED_INTO = 2**26
"""Bytes of a file that is looked into where its pixels are not asked for."""
_UNPACKED = "_r2n2_unpacked_bits"
_RLE = "1.2.840.10008.1.2.5"
_REMEDY = "restore the file, or pass --drop-damaged to leave the frame out"


@dataclass(frozen=True)
class DecodedFrames:
    """Frames in real values and how to get back to stored ones.

    Parameters
    ----------
    values
        (T, C, rows, columns).
    headers
        The T frames that were decoded.
    stored_dtype
        Type of the stored values.
    dropped
        One sentence for every frame left out.
    """

    values: NDArray[Any]
    headers: tuple[FrameHeader, ...]
    stored_dtype: np.dtype[Any]
    dropped: tuple[str, ...]


def decode_frames(frames: Sequence[FrameHeader], *, drop_damaged: bool, max_bytes: int) -> DecodedFrames:
    """Decode every frame.

    Parameters
    ----------
    frames
        In time, all of one shape.
    drop_damaged
        Leave damaged frames out instead of raising.
    max_bytes
        Most bytes that the decoded frames may take.

    Raises
    ------
    ReadError
        Naming file and InstanceNumber of the first frame that is damaged.
    MissingExtraError
        If no decoder for the transfer syntax is installed.
    ResourceError
        If the frames need more than ``max_bytes``.
    """
    _check_size(frames, max_bytes)
    by_file: defaultdict[Path, list[int]] = defaultdict(list)
    for k, frame in enumerate(frames):
        by_file[frame.path].append(k)
    stored: dict[int, NDArray[Any]] = {}
    dropped: list[str] = []
    for path, members in by_file.items():
        problem = next((frames[k].damage for k in members if frames[k].damage), "")
        with quiet():
            dataset = None if problem else _load(path, frames[members[0]])
            for k in members:
                result = problem or _decode(dataset, frames[k])
                if not isinstance(result, str):
                    stored[k] = result
                elif drop_damaged:
                    dropped.append(f"{shown(path.name)} ({frames[k].label}) was left out as damaged: {result}")
                else:
                    raise ReadError(f"{path} ({frames[k].label}): {result}; {_REMEDY}")
    kept = sorted(stored)
    if not kept:
        if len(frames) == 1:
            raise ReadError(f"{frames[0].path} ({frames[0].label}): {dropped[0].partition(': ')[2]}; restore the file")
        raise ReadError(
            f"{frames[0].path.parent}: all {len(frames)} frames of the series are damaged ({dropped[0]}); restore the files"
        )
    headers = tuple(frames[k] for k in kept)
    pixels = [stored.pop(k) for k in kept]
    stored_dtype = np.result_type(*{array.dtype for array in pixels})
    return DecodedFrames(_rescale(pixels, headers, stored_dtype), headers, stored_dtype, tuple(dropped))


def stream_problem(frame: FrameHeader) -> str:
    """What the compressed stream of a frame declares against its header, "" if nothing or if the frame is not compressed."""
    if not frame.compressed or frame.damage or frame.path.stat().st_size > _LARGEST_LOOKED_INTO:
        return ""
    with quiet():
        return _wrong_stream(_load(frame.path, frame), frame)


def _check_size(frames: Sequence[FrameHeader], max_bytes: int) -> None:
    first = frames[0]
    scaled = any((frame.slope, frame.intercept) != (1, 0) for frame in frames)
    item = max(first.bits_allocated // 8, 4 if scaled else 1)
    # two copies live at once: the stored frames and the series made of them
    need = 2 * len(frames) * first.shape[0] * first.shape[1] * first.channels * item
    if need > max_bytes:
        raise ResourceError(
            f"{first.path}: {len(frames)} frames of {first.shape[0]} x {first.shape[1]} pixels need {need / 2**20:.0f} MiB, "
            f"allowed are {max_bytes / 2**20:.0f} MiB; choose fewer files or raise max_bytes"
        )


def _load(path: Path, frame: FrameHeader) -> Any:
    from pydicom import dcmread

    try:
        with path.open("rb") as stream:
            bounded = BoundedFile(stream, path.stat().st_size)
            dataset = dcmread(bounded, specific_tags=list(PIXEL_TAGS), force=True)  # type: ignore[arg-type, unused-ignore]
        dataset.file_meta.TransferSyntaxUID = frame.transfer_syntax  # missing in files without preamble
        return dataset
    except DamagedDicomError as error:
        raise ReadError(f"{path}: {error}; {_REMEDY}") from None
    except OSError as error:
        raise ReadError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the file and try again"
        ) from None
    except (Exception, MemoryError) as error:  # the file changed since its header was read
        raise ReadError(f"{path}: cannot be parsed ({type(error).__name__}); {_REMEDY}") from None


def _decode(dataset: Any, frame: FrameHeader) -> NDArray[Any] | str:
    """Stored values (C, rows, columns), MONOCHROME1 inverted; or what is wrong with the frame."""
    decoder, plugin = choose_decoder(frame)
    if not frame.photometric:
        return "PhotometricInterpretation is missing or no known word"
    if plugin and (wrong := _wrong_stream(dataset, frame)):
        return wrong
    try:
        pixels = _packed(dataset, decoder, frame) if frame.bits_allocated == 1 and not plugin else None
        if pixels is None:
            pixels, _ = decoder.as_array(dataset, index=frame.index, decoding_plugin=plugin, allow_excess_frames=False)
        if "PALETTE" in frame.photometric:
            from pydicom.pixels.processing import apply_color_lut

            pixels = apply_color_lut(pixels, dataset)
    except (Exception, MemoryError) as error:  # decoders raise nearly everything on damaged pixels
        return f"the pixels cannot be decoded ({_reason(error)})"
    pixels = pixels if frame.tile is None else _tile(pixels, frame)
    if pixels.shape[:2] != frame.shape or pixels.ndim > 3:
        return f"the pixels decode to {pixels.shape}, the header says {frame.shape}"
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return "a pixel is not a finite number"
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if len(channels) != frame.channels:
        return f"the pixels decode to {len(channels)} channels, the header says {frame.channels}"
    if frame.photometric == "MONOCHROME1" and channels.dtype.kind in "iu":
        low = -(2 ** (frame.bits_stored - 1)) if frame.signed else 0
        high = low + 2**frame.bits_stored - 1
        return (low + high - channels.astype(np.int64)).astype(channels.dtype)
    return np.ascontiguousarray(channels, dtype=channels.dtype.newbyteorder("="))


def _packed(dataset: Any, decoder: Any, frame: FrameHeader) -> NDArray[Any] | None:
    """One frame of single bits: frames need not start at a byte, which pydicom minds only where it unpacks all of them at once."""
    if not frame.multiframe:
        return None
    if not hasattr(dataset, _UNPACKED):
        setattr(dataset, _UNPACKED, decoder.as_array(dataset, allow_excess_frames=False)[0])
    return np.array(getattr(dataset, _UNPACKED)[frame.index])


def _reason(error: BaseException) -> str:
    """What a decoder said, in its last line, which is the decoder's own where pydicom asked several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "".join(c for c in lines[-1] if c.isprintable())[:_LONGEST_REASON] if lines else ""
    return said or type(error).__name__


def _tile(pixels: NDArray[Any], frame: FrameHeader) -> NDArray[Any]:
    """One slice of a MOSAIC."""
    number, across = frame.tile or (0, 1)
    row, column = divmod(number, across)
    rows, columns = frame.shape
    return pixels[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]


def _wrong_stream(dataset: Any, frame: FrameHeader) -> str:
    """What a compressed frame declares against the header, before its decoder allocates anything."""
    from pydicom.encaps import get_frame

    if frame.transfer_syntax == _RLE:
        return ""
    try:
        stream = get_frame(dataset.PixelData, frame.index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    except Exception as error:
        return f"the compressed pixels cannot be found ({_reason(error)})"
    shape = declared_shape(stream)
    if shape is None:
        return "the compressed pixels are no stream that declares its size, as JPEG and JPEG 2000 do"
    across = frame.tile[1] if frame.tile else 1
    expected = (frame.shape[0] * across, frame.shape[1] * across)
    return "" if shape == expected else f"the compressed stream is {shape[0]} x {shape[1]} pixels, the header says {expected}"


def _rescale(pixels: list[NDArray[Any]], headers: Sequence[FrameHeader], stored: np.dtype[Any]) -> NDArray[Any]:
    """Real values: in the stored type without rescale, exact integers for whole numbers that fit, else floating point."""
    scales = [(frame.slope, frame.intercept) for frame in headers]
    if all(scale == (1, 0) for scale in scales):
        return np.stack([array.astype(stored, copy=False) for array in pixels])
    bounds = [
        (float(array.min()) * slope + intercept, float(array.max()) * slope + intercept)
        for array, (slope, intercept) in zip(pixels, scales, strict=True)
    ]
    low, high = min(map(min, bounds)), max(map(max, bounds))
    dtype = np.dtype(np.float32 if max(abs(low), abs(high)) < _EXACT_IN_FLOAT32 else np.float64)
    if stored.kind in "iu" and all(m.is_integer() and b.is_integer() for m, b in scales):
        fitting = [t for t in (stored, np.int16, np.uint16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
        dtype = np.dtype(fitting[0]) if fitting else dtype
    frames = np.empty((len(pixels), *pixels[0].shape), dtype=dtype)
    for k, (slope, intercept) in enumerate(scales):
        frames[k] = pixels[k].astype(np.float64) * slope + intercept
    return frames
