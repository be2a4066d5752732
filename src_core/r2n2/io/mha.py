"""MetaImage (.mha, .mhd): pixels read and written here, because ITK fills what a truncated file lacks with zeros in silence.

The header's ``TransformMatrix`` lists the axes one after another: its first ``NDims`` numbers are the direction of x, a
column of the direction matrix. Everything in the file is x-first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.atomic import atomic_write
from r2n2.io.checks import check_axes, check_declared_bytes, check_memory, existing, read_errors, wrapped_note
from r2n2.io.mapped import MappedArray
from r2n2.io.placement import Placement, orthonormal
from r2n2.series import ImageSeries

__all__ = ["MetaImage", "header_bytes", "open_mha", "read_mha", "write_mha"]

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {code: name for name, code in _TYPES.items() if name not in ("MET_LONG", "MET_ULONG")}
_HELD_AS = {"b1": "u1", "f2": "f4"}
_LONGEST_HEADER = 2**20
_TIMES_IN_A_KEY = 100  # ITK reads a header line into a buffer of limited length


@dataclass(frozen=True)
class MetaImage:
    """An opened MetaImage: its header and its pixels in array order (..., z, y, x[, component])."""

    header: dict[str, str]
    array: NDArray[Any] | MappedArray
    spacing: tuple[float, ...] | None
    """X-first mm, None where the header has none."""
    origin: tuple[float, ...]
    direction: NDArray[np.float64]
    """X-first; column k is the direction of axis k."""
    components: int


def open_mha(path: Path, max_bytes: int) -> MetaImage:
    """Read the header, check the sizes it declares, then map or unpack the pixels.

    Raises
    ------
    ReadError
        If the file is no MetaImage, of an unsupported kind, or truncated.
    ResourceError
        If compressed pixels would need more than ``max_bytes``.
    """
    with read_errors(path, "MetaImage"):
        header, start = _parse_header(path)
        ndim = int(header["ndims"])
        size = [int(n) for n in header["dimsize"].split()]
        if len(size) != ndim or min(size) < 0:
            raise ReadError(f"{path}: DimSize {size} does not fit NDims {ndim}; the header is damaged")
        components = int(header.get("elementnumberofchannels", "1"))
        dtype = _dtype(path, header)
        shape = (*reversed(size), components) if components > 1 else tuple(reversed(size))
        declared = math.prod(shape) * dtype.itemsize
        if declared == 0:
            raise ReadError(f"{path}: holds no frame or no pixel, DimSize is {size}; check how it was saved")
        data, offset = _data_file(path, header, start, declared)
        array = _pixels(data, offset, shape, dtype, header, max_bytes)
        spacing = _numbers(header, "elementspacing", ndim) or _numbers(header, "elementsize", ndim)
        origin = _numbers(header, "offset", ndim) or _numbers(header, "position", ndim) or (0.0,) * ndim
        matrix = _numbers(header, "transformmatrix", ndim * ndim) or _numbers(header, "orientation", ndim * ndim)
        direction = np.array(matrix).reshape(ndim, ndim).T if matrix else np.eye(ndim)
    return MetaImage(header, array, spacing, origin, direction, components)


def read_mha(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a MetaImage holds: 2D one frame, 3D as ``axes`` or our own key says, 4D x, y, z, t.

    Raises
    ------
    ReadError
        If the file is damaged, or 3D without a hint.
    """
    image = open_mha(path, max_bytes)
    ndim = image.array.ndim - (image.components > 1)
    spatial = axes.upper().replace("C", "").replace("S", "") if axes else image.header.get("r2n2axes", "")
    spatial = spatial or {2: "YX", 4: "TZYX"}.get(ndim, "")
    if not spatial:
        if ndim != 3:
            raise ReadError(f"{path}: a MetaImage of {ndim} axes is not an image series; save it as (x, y, t) or (x, y, z, t)")
        raise ReadError(
            f"{path}: its third axis of {image.array.shape[0]} may be time or slices; "
            "pass --axes TYX for a series or --axes ZYX for a volume"
        )
    letters = check_axes(path, spatial + ("C" if image.components > 1 else ""), image.array.shape, given=bool(axes))
    notes = [n for n in [wrapped_note(float(image.array.min()), image.array.dtype)] if n] if image.array.nbytes < 2**28 else []
    if "T" in spatial and "r2n2times0" not in image.header:
        notes.append("the unit of the spacing along time is not stated in a MetaImage: frame times are unknown")
    known = image.spacing is not None and image.header.get("r2n2spacingknown", "True") == "True"
    spacing = _checked_spacing(path, image, len(spatial.replace("T", ""))) if known else None
    placement, plane = _placement(path, image, spatial, spacing)
    return FileContent(
        path,
        "mha",
        image.array,
        letters,
        spacing=spacing,
        placement=placement,
        plane=plane,
        times_s=_times(image.header),
        modality={"MET_MOD_MR": "MR", "MET_MOD_CT": "CT", "MET_MOD_US": "US"}.get(image.header.get("modality", ""), ""),
        notes=tuple(notes),
    )


def write_mha(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write a series, one frame in memory at a time: 4D with patient position where it has one, else 3D marked as TYX."""
    code = _HELD_AS.get(series.dtype.str[1:], series.dtype.str[1:])
    dtype = np.dtype("<" + code)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_series_header(series, dtype))
        for frame in frames:
            file.write(np.ascontiguousarray(np.moveaxis(frame, 0, -1), dtype=dtype).tobytes())


def header_bytes(
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: NDArray[np.float64],
    dtype: np.dtype[Any],
    components: int,
    extra: dict[str, str] | None = None,
) -> bytes:
    """Header of an uncompressed little-endian .mha; everything x-first."""

    def row(values: Any) -> str:
        return " ".join(repr(float(v)) for v in values)

    lines = {
        "ObjectType": "Image",
        "NDims": str(len(size)),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": row(direction.T.ravel()),
        "Offset": row(origin),
        "CenterOfRotation": row([0] * len(size)),
        "ElementSpacing": row(spacing),
        **(extra or {}),
        "DimSize": " ".join(map(str, size)),
        **({"ElementNumberOfChannels": str(components)} if components > 1 else {}),
        "ElementType": _NAMES[dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("ascii")


def _series_header(series: ImageSeries, dtype: np.dtype[Any]) -> bytes:
    grid = series.patient_grid or series.grid
    ndim = grid.ndim
    direction = np.eye(ndim + 1)
    direction[:ndim, :ndim] = np.array(grid.direction)[::-1, ::-1]
    times = series.times_s
    step = float(np.median(np.diff(times))) if times is not None and len(times) > 1 else 1.0
    size = (*grid.shape[::-1], len(series))
    extra = {"R2N2Axes": "TZYX" if ndim == 3 else "TYX", "R2N2SpacingKnown": str(series.spacing_known)}
    for number, start in enumerate(range(0, len(times or ()), _TIMES_IN_A_KEY)):
        extra[f"R2N2Times{number}"] = " ".join(repr(float(t)) for t in (times or ())[start : start + _TIMES_IN_A_KEY])
    spacing = (*grid.spacing[::-1], step if step > 0 else 1.0)
    return header_bytes(size, spacing, (*grid.origin[::-1], 0.0), direction, dtype, series.channels, extra)


def _parse_header(path: Path) -> tuple[dict[str, str], int]:
    header: dict[str, str] = {}
    with path.open("rb") as file:
        while "elementdatafile" not in header:
            line = file.readline(_LONGEST_HEADER)
            text = line.decode("utf-8", errors="surrogateescape").strip()
            if not line or file.tell() > _LONGEST_HEADER or ("=" not in text and text):
                raise ReadError(f"{path}: no MetaImage header, or one that ends too early; get an intact copy")
            if text:
                key, _, value = text.partition("=")
                # MetaIO's own keys are compared in lower case; values keep their case (file names).
                header[key.strip().lower()] = value.strip()
        return header, file.tell()


def _dtype(path: Path, header: dict[str, str]) -> np.dtype[Any]:
    name = header.get("elementtype", "").removesuffix("_ARRAY")
    if name not in _TYPES:
        raise ReadError(f"{path}: pixel type {name!r} is not supported; convert it to one of {', '.join(_NAMES.values())}")
    if header.get("binarydata", "True").lower() not in ("true", "1"):
        raise ReadError(f"{path}: pixels stored as text are not supported; save the image as binary data")
    big = header.get("binarydatabyteordermsb", header.get("elementbyteordermsb", "False")).lower() in ("true", "1")
    return np.dtype((">" if big else "<") + _TYPES[name])


def _data_file(path: Path, header: dict[str, str], start: int, declared: int) -> tuple[Path, int]:
    name = header["elementdatafile"]
    if name.upper() == "LOCAL":
        return path, start
    if name.upper().startswith("LIST") or "%" in name:
        raise ReadError(f"{path}: pixels spread over several files are not supported; save the image as one .mha")
    data = path.parent / name
    # A header may not name a file elsewhere on the machine.
    if data.resolve().parent != path.parent.resolve():
        raise ReadError(f"{path}: its pixels are said to lie in {name!r}, outside the header's folder; put both in one folder")
    existing(data)
    skip = int(header.get("headersize", "0"))
    return data, data.stat().st_size - declared if skip == -1 else skip


def _pixels(
    data: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], header: dict[str, str], max_bytes: int
) -> NDArray[Any] | MappedArray:
    declared = math.prod(shape) * dtype.itemsize
    available = data.stat().st_size - offset
    if header.get("compresseddata", "False").lower() not in ("true", "1"):
        check_declared_bytes(data, declared, available)
        return MappedArray(data, dtype, offset, shape)
    # zlib packs at most about 1032 to 1, so a header that declares more is forged.
    check_declared_bytes(data, declared, available * 1040)
    check_memory(data, declared, max_bytes)
    with data.open("rb") as file:
        file.seek(offset)
        raw = _unpack(file, data, declared)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _unpack(file: BinaryIO, path: Path, declared: int) -> bytearray:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    raw = bytearray()
    while not unpacker.eof and len(raw) <= declared:
        packed = unpacker.unconsumed_tail or file.read(2**20)
        if not packed:
            break
        raw += unpacker.decompress(packed, 2**22)
    if len(raw) != declared or not unpacker.eof:
        raise ReadError(f"{path}: {len(raw)} bytes of pixels were unpacked, the header declares {declared}; get a complete copy")
    return raw


def _numbers(header: dict[str, str], key: str, count: int) -> tuple[float, ...] | None:
    if key not in header:
        return None
    values = tuple(float(v) for v in header[key].split())
    if len(values) != count:
        raise ReadError(f"{key} has {len(values)} numbers, {count} are needed")
    return values


def _checked_spacing(path: Path, image: MetaImage, count: int) -> tuple[float, ...]:
    spatial = (image.spacing or ())[:count]
    if any(not math.isfinite(s) or s <= 0 for s in spatial):
        raise ReadError(f"{path}: ElementSpacing {spatial} must be positive and finite mm; correct the header")
    return tuple(reversed(spatial))


def _placement(
    path: Path, image: MetaImage, spatial: str, spacing: tuple[float, ...] | None
) -> tuple[Placement | None, tuple[tuple[float, ...], tuple[tuple[float, ...], ...]] | None]:
    if spacing is None or not spatial.endswith("YX"):
        return None, None
    origin, direction = image.origin, image.direction
    if "ZYX" in spatial:
        return Placement.from_x_first(spacing[::-1], origin[:3], direction[:3, :3], path=path), None
    if len(origin) > 2 and (np.abs(direction[2, :2]).max() > 1e-3 or np.abs(direction[:2, 2]).max() > 1e-3):
        return None, None  # the series lies oblique in the patient: in-plane coordinates
    return None, (tuple(origin[1::-1]), orthonormal(direction[:2, :2][::-1, ::-1], path=path))


def _times(header: dict[str, str]) -> tuple[float, ...] | None:
    keys = sorted((k for k in header if k.startswith("r2n2times")), key=lambda k: int(k.removeprefix("r2n2times")))
    times = tuple(float(t) for key in keys for t in header[key].split())
    return times or None
