"""Reading NIfTI (.nii, .nii.gz, pairs of .hdr and .img) and Analyze: what the header says of axes, place, time and scale.

World is RAS in the file and LPS here. Where both an sform and a qform are coded the sform is used, as nibabel does.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import Convert, FileContent
from r2n2.io.axes import axes_question, check_axes
from r2n2.io.checks import check_times, read_errors, wrapped_note
from r2n2.io.nifti.file import open_nifti
from r2n2.io.nifti.writing import COMMENT_CODE, RAS_TO_LPS
from r2n2.io.placement import Placement, orthonormal

__all__ = ["read_nifti"]

_MM_PER_UNIT = {1: 1e3, 2: 1.0, 3: 1e-3}
_SECONDS_PER_UNIT = {8: 1.0, 16: 1e-3, 24: 1e-6}
_SAME_PLACE_MM = 1e-2


def read_nifti(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a NIfTI file holds: x, y one frame; x, y, z, t a series for each slice; three axes as ``axes`` says.

    Raises
    ------
    ReadError
        If the file is damaged, its geometry singular, or its third axis ambiguous.
    ResourceError
        If a compressed file would need more than ``max_bytes``.
    """
    with read_errors(path, "NIfTI"):
        raw = open_nifti(path, max_bytes)
        header = raw.header
        notes = list(raw.notes)
        shape = raw.array.shape[:-1] if raw.colour else raw.array.shape
        letters = check_axes(path, _letters(path, shape, axes), shape, given=bool(axes))
        spacing, placement = _geometry(path, header, notes)
        plane = None
        if len(letters) > 2 and letters[-3] != "Z" and letters.endswith("YX"):
            # The third axis is time: its size in mm means nothing, so there is no patient slice, and slices have no distance.
            plane, placement = None if placement is None else _plane(placement), None
            spacing = None if spacing is None else spacing[-2:]
        ours = _own_extension(raw.extensions)
        times = _times(path, header, letters, shape, ours, notes)
        convert, dtype = _scaling(path, header, raw.array.dtype, notes)
        small = raw.array.nbytes < 2**28 and raw.array.dtype.kind == "i" and convert is None
        wrapped = wrapped_note(float(raw.array.min()), raw.array.dtype) if small else None
    return FileContent(
        path,
        "nifti",
        raw.array,
        letters + ("S" if raw.colour else ""),
        spacing=spacing if ours.get("spacing_known", True) else None,
        placement=placement,
        plane=plane,
        times_s=times,
        notes=(*notes, *([wrapped] if wrapped else [])),
        source={"sform_code": int(header["sform_code"]), "qform_code": int(header["qform_code"])},
        convert=convert,
        dtype=dtype,
    )


def _letters(path: Path, shape: tuple[int, ...], axes: str | None) -> str:
    if axes:
        # The file's one-pixel third axis need not be named.
        return "TZYX" if axes.upper() == "TYX" and len(shape) == 4 and shape[1] == 1 else axes
    if (len(shape) == 3 and shape[0] > 1) or (len(shape) == 4 and shape[0] == 1 < shape[1]):
        where = f"its third axis of {shape[-3]}"
        if len(shape) == 4:
            where += ", after which a fourth of one element follows,"
        raise axes_question(path, shape, where)
    if len(shape) > 5:
        raise ReadError(f"{path}: an image of {len(shape)} axes is not an image series; save it as (x, y, z, t)")
    return "CTZYX"[-len(shape) :] if len(shape) != 3 else "ZYX"


def _geometry(path: Path, header: Any, notes: list[str]) -> tuple[tuple[float, ...] | None, Placement | None]:
    unit = int(header["xyzt_units"]) & 7
    factor = _MM_PER_UNIT.get(unit, 1.0)
    if unit not in _MM_PER_UNIT:
        notes.append("the file names no unit of length: mm is taken")
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if (pixdim < 0).any():
        notes.append(f"pixdim {pixdim.tolist()} is negative: its size is taken, the orientation comes from the affine alone")
    sizes = np.abs(pixdim)
    usable = np.isfinite(sizes) & (sizes > 0)
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    affine = _affine(path, header, sform, qform, np.where(usable, sizes, 1.0))
    if affine is None:
        notes.append("the file holds no orientation: positions are in-plane")
        spacing = tuple(float(s) for s in np.where(usable, sizes, 1.0)[::-1] * factor)
        return (spacing[0 if usable[2] else 1 :] if usable[:2].all() else None), None
    if sform and qform:
        other = _affine(path, header, False, True, np.where(usable, sizes, 1.0))
        if other is not None and np.abs(other - affine).max() > _SAME_PLACE_MM:
            notes.append(
                f"qform and sform disagree by up to {_furthest(header, other - affine) * factor:.3g} mm: the sform is used"
            )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0:
        raise ReadError(f"{path}: its affine is singular or not finite: {affine.tolist()}; correct the header")
    lps = RAS_TO_LPS @ affine
    placement = Placement.from_x_first(
        (lengths * factor).tolist(), (lps[:3, 3] * factor).tolist(), lps[:3, :3] / lengths, path=path
    )
    known = sform or bool(usable[:2].all())
    if sform and usable.all() and np.abs(lengths - sizes).max() > 1e-3 * lengths.max():
        notes.append(f"pixdim {sizes.tolist()} and the sform {lengths.round(6).tolist()} disagree: the sform is used")
    thick = sform or bool(usable[2])
    if known and not thick:
        notes.append("the slice thickness is not known: 1 mm is taken")
    return (placement.spacing[0 if thick else 1 :] if known else None), placement


def _furthest(header: Any, difference: NDArray[np.float64]) -> float:
    """How far apart two affines put a corner of the volume at most, from their difference, in the file's unit."""
    last = [max(int(n) - 1, 0) for n in header["dim"][1:4]]
    corners = np.array([[*np.where(corner, last, 0), 1] for corner in np.ndindex(2, 2, 2)])
    return float(np.linalg.norm((corners @ difference.T)[:, :3], axis=1).max())


def _affine(path: Path, header: Any, sform: bool, qform: bool, sizes: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if sform:
        return np.asarray(header.get_sform(), dtype=np.float64)
    if not qform:
        return None
    with read_errors(path, "NIfTI (its qform)"):
        copy = header.copy()
        copy["pixdim"][1:4] = sizes
        if float(copy["pixdim"][0]) not in (1.0, -1.0):
            copy["pixdim"][0] = 1.0  # as the standard says of 0
        return np.asarray(copy.get_qform(), dtype=np.float64)


def _plane(placement: Placement) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]] | None:
    direction = np.array(placement.direction)
    if np.abs(direction[0, 1:]).max() > 1e-3 or np.abs(direction[1:, 0]).max() > 1e-3:
        return None
    return placement.origin[1:], orthonormal(direction[1:, 1:], path="plane")


def _times(
    path: Path, header: Any, letters: str, shape: tuple[int, ...], ours: dict[str, Any], notes: list[str]
) -> tuple[float, ...] | None:
    if "T" not in letters:
        return None
    count = shape[letters.index("T")]
    if ours.get("times_s"):
        return check_times(ours["times_s"], count, where=f"{path}, entry times_s of its extension")
    if letters != "TZYX" and letters != "CTZYX":
        return None
    step, start, unit = float(header["pixdim"][4]), float(header["toffset"]), int(header["xyzt_units"]) & 56
    if unit not in _SECONDS_PER_UNIT or not (math.isfinite(step) and step > 0):
        if count > 1:
            notes.append("the file holds no usable time step or no unit of time: frame times are unknown")
        return None
    start = start if math.isfinite(start) else 0.0
    return tuple((start + step * k) * _SECONDS_PER_UNIT[unit] for k in range(count))


def _scaling(path: Path, header: Any, stored: np.dtype[Any], notes: list[str]) -> tuple[Convert | None, np.dtype[Any] | None]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isnan(slope) or slope == 0:
        notes.append(f"scl_slope is {slope:g}: values are taken as they are stored")
        return None, None
    if math.isnan(inter):
        notes.append("scl_inter is not a number: 0 is taken")
        inter = 0.0
    if math.isinf(slope) or math.isinf(inter):
        raise ReadError(f"{path}: scl_slope {slope} or scl_inter {inter} is not finite; correct the header")
    if (slope, inter) == (1.0, 0.0):
        return None, None
    dtype = np.dtype(np.float64 if stored == np.float64 else np.float32)
    if stored.kind in "iu" and slope.is_integer() and inter.is_integer():
        ends = [int(end) * int(slope) + int(inter) for end in (np.iinfo(stored).min, np.iinfo(stored).max)]
        whole = [np.dtype(code) for code in ("i2", "u2", "i4", "u4", "i8")]
        fitting = [w for w in whole if np.iinfo(w).min <= min(ends) and max(ends) <= np.iinfo(w).max]
        dtype = fitting[0] if fitting else dtype
    notes.append(f"stored values were scaled by {slope:g} and shifted by {inter:g}: pixels are {dtype.name}")
    wide = np.int64 if dtype.kind in "iu" else np.float64

    def convert(frame: NDArray[Any]) -> NDArray[Any]:
        return (frame.astype(wide) * wide(slope) + wide(inter)).astype(dtype)

    return convert, dtype


def _own_extension(block: bytes) -> dict[str, Any]:
    """The JSON comment that our writer leaves, as NIfTI holds neither uneven times nor "spacing unknown"."""
    if block[:1] in (b"", b"\0"):
        return {}
    position = 4
    while position + 8 <= len(block):
        size, code = struct.unpack_from("<ii", block, position)
        if size < 8 or position + size > len(block):
            return {}
        text = block[position + 8 : position + size].rstrip(b"\0")
        if code == COMMENT_CODE and text.startswith(b'{"r2n2"'):
            found: dict[str, Any] = json.loads(text)["r2n2"]
            return found
        position += size
    return {}
