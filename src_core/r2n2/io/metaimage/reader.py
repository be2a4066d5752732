"""Reading a MetaImage (.mha, .mhd) as a series: plain, our own with its times, or a tracked ultrasound sequence (.igs.mha)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.axes import axes_question, check_axes
from r2n2.io.checks import check_times, wrapped_note
from r2n2.io.metaimage.header import MetaImage, header_numbers, open_mha
from r2n2.io.metaimage.sequence import is_sequence, sequence_notes, sequence_times
from r2n2.io.placement import Placement, orthonormal
from r2n2.io.stored_pixels import StackedArrays

__all__ = ["read_mha"]

_Plane = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]


def read_mha(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a MetaImage holds: 2D one frame, 3D as ``axes`` or its keys say, 4D x, y, z, t.

    Raises
    ------
    ReadError
        If the file is damaged, or 3D without a hint.
    """
    image = open_mha(path, max_bytes)
    tracked = is_sequence(image.header)
    letters = _without_channels(axes) + ("C" if image.components > 1 else "") if axes else _letters(path, image, tracked)
    letters = check_axes(path, letters, image.array.shape, given=bool(axes))
    times, notes = _times(path, image, letters, tracked)
    if not axes and isinstance(image.array, StackedArrays) and letters.startswith("TYX"):
        notes.append("each of the files that the header lists is taken as a frame in time; pass --axes ZYX if they are slices")
    if image.array.nbytes < 2**28 and (note := wrapped_note(float(image.array.min()), image.array.dtype)):
        notes.append(note)
    known = image.spacing is not None and image.header.get("r2n2spacingknown", "True") == "True"
    if known and tracked and set((image.spacing or ())[:2]) == {1.0}:
        known = False
        notes.append("ElementSpacing is 1, which a tracked sequence writes for unknown: the pixel size is unknown")
    spatial = _without_channels(letters)
    spacing = _checked_spacing(path, image, spatial) if known else None
    placement, plane = (None, None) if tracked else _placement(path, image, spatial, spacing)
    return FileContent(
        path,
        "mha",
        image.array,
        letters,
        spacing=spacing,
        placement=placement,
        plane=plane,
        times_s=times,
        modality="US" if tracked else {"MET_MOD_MR": "MR", "MET_MOD_CT": "CT", "MET_MOD_US": "US"}.get(_modality(image), ""),
        notes=tuple(notes),
    )


def _without_channels(axes: str) -> str:
    return axes.upper().replace("C", "").replace("S", "")


def _modality(image: MetaImage) -> str:
    return image.header.get("modality", "")


def _letters(path: Path, image: MetaImage, tracked: bool) -> str:
    colour = "C" if image.components > 1 else ""
    ndim = image.array.ndim - len(colour)
    spatial = image.header.get("r2n2axes", "") or {2: "YX", 4: "TZYX"}.get(ndim, "") or ("TYX" if tracked and ndim == 3 else "")
    if not spatial and ndim == 3 and image.array.shape[0] == 1:
        spatial = "ZYX"
    if not spatial and ndim == 3 and isinstance(image.array, StackedArrays):
        spatial = "TYX"  # a folder of single frames is a series, and so is a header that lists them
    if spatial:
        return spatial + colour
    if ndim == 3:
        raise axes_question(path, image.array.shape, f"its third axis of {image.array.shape[0]}", "ZYX" + colour)
    raise ReadError(f"{path}: a MetaImage of {ndim} axes is not an image series; save it as (x, y, t) or (x, y, z, t)")


def _times(path: Path, image: MetaImage, letters: str, tracked: bool) -> tuple[tuple[float, ...] | None, list[str]]:
    if "T" not in letters:
        return None, []
    count = image.array.shape[letters.index("T")]
    if tracked:
        return sequence_times(path, image.header, count), sequence_notes(path, image.header, count)
    times = _own_times(path, image.header)
    if times is None:
        return None, ["the unit of the spacing along time is not stated in a MetaImage: frame times are unknown"]
    return check_times(times, count, where=f"{path}, entry R2N2Times"), []


def _own_times(path: Path, header: dict[str, str]) -> tuple[float, ...] | None:
    """The times that our writer leaves, over several entries."""
    start = "r2n2times"
    numbered = [key for key in header if key.startswith(start) and key.removeprefix(start).isdecimal()]
    values = [header_numbers(path, header, key) or () for key in sorted(numbered, key=lambda k: int(k.removeprefix(start)))]
    return tuple(value for part in values for value in part) if values else None


def _checked_spacing(path: Path, image: MetaImage, letters: str) -> tuple[float, ...]:
    """(z, y, x) or (y, x), wherever these axes are; the file counts them from the fast one."""
    values = (image.spacing or ())[::-1]
    spatial = tuple(values[letters.index(axis)] for axis in "ZYX" if axis in letters)
    if any(not math.isfinite(s) or s <= 0 for s in spatial):
        raise ReadError(f"{path}: ElementSpacing {spatial[::-1]} must be positive and finite mm; correct the header")
    return spatial


def _placement(
    path: Path, image: MetaImage, spatial: str, spacing: tuple[float, ...] | None
) -> tuple[Placement | None, _Plane | None]:
    if spacing is None or not spatial.endswith("YX"):
        return None, None
    origin, direction = image.origin, image.direction
    if not np.isfinite(origin).all():
        raise ReadError(f"{path}: Offset {origin} must be finite mm; correct the header")
    if "ZYX" in spatial:
        return Placement.from_x_first(spacing[::-1], origin[:3], direction[:3, :3], path=path), None
    if "Z" in spatial:
        return None, None  # (x, y, t, z): which of the file's axes are the patient's is not known
    if len(origin) > 2 and (np.abs(direction[2, :2]).max() > 1e-3 or np.abs(direction[:2, 2]).max() > 1e-3):
        return None, None  # the series lies oblique in the patient: in-plane coordinates
    rows: Any = orthonormal(direction[:2, :2][::-1, ::-1], path=path)
    return None, (tuple(origin[1::-1]), rows)
