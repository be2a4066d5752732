"""Reading NRRD as a series: plain images, Slicer's sequences (.seq.nrrd), multi-volumes and segmentations (.seg.nrrd)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.axes import axes_question, check_axes
from r2n2.io.checks import check_times, wrapped_note
from r2n2.io.nrrd.header import Nrrd, open_nrrd
from r2n2.io.placement import Placement, orthonormal

__all__ = ["read_nrrd"]

_MM_PER_UNIT = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "micrometer": 1e-3, "nm": 1e-6}
_MM_PER_UNIT |= {"cm": 10.0, "m": 1e3, "meter": 1e3}
_SECONDS_PER_UNIT = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "min": 60.0,
}
_COLOUR_KINDS = (
    "rgb-color",
    "rgba-color",
    "3-color",
    "4-color",
    "hsv-color",
    "xyz-color",
    "vector",
    "2-vector",
    "3-vector",
    "complex",
)
_Plane = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]


def read_nrrd(path: Path, axes: str | None, max_bytes: int) -> FileContent:
    """What a NRRD holds: kinds ``list`` and ``time`` are frames, three axes of kind ``domain`` as ``axes`` says.

    Raises
    ------
    ReadError
        If the file is damaged, diffusion-weighted, or does not say which axis is time.
    """
    image = open_nrrd(path, max_bytes)
    header = image.header
    if str(header.get("modality", "")).upper() == "DWMRI":
        raise ReadError(f"{path}: a diffusion-weighted image, whose volumes differ in gradient and not in time; it is no series")
    directions, units = _directions(path, image), image.axis_words("units")
    letters = check_axes(path, axes or _letters(path, image, directions), image.array.shape, given=bool(axes))
    of_axis = {letter: len(letters) - 1 - k for k, letter in enumerate(letters)}  # the file counts from the fast axis
    notes: list[str] = []
    if image.array.nbytes < 2**28 and (note := wrapped_note(float(image.array.min()), image.array.dtype)):
        notes.append(note)
    times = _times(path, image, of_axis["T"], units, notes) if "T" in letters else None
    factors = _length_factors(path, image, [a for a in "ZYX" if a in letters], of_axis, units)
    spacing = _spacing(path, image, directions, of_axis, factors)
    placement, plane = _place(path, image, directions, of_axis, spacing, factors)
    return FileContent(path, "nrrd", image.array, letters, spacing, placement, plane, times, notes=tuple(notes))


def _letters(path: Path, image: Nrrd, directions: NDArray[np.float64] | None) -> str:
    """Letters slow to fast, from the kinds and from which axes have a direction in space."""
    kinds = [kind.lower() for kind in image.axis_words("kinds")]
    segments = any(str(key).startswith("Segment0_") for key in image.header)
    found = [""] * len(kinds)
    for k, kind in enumerate(kinds):
        if kind in _COLOUR_KINDS or (kind == "list" and segments):
            found[k] = "C"  # the layers of a segmentation overlap: they are channels, not frames
        elif kind in ("list", "time") or (directions is not None and not np.isfinite(directions[k]).all()):
            found[k] = "T"
    space = [k for k, letter in enumerate(found) if not letter]
    if len(space) > 3 or len(space) < 2 or any(found.count(letter) > 1 for letter in "TC"):
        raise axes_question(path, image.array.shape)
    for k, letter in zip(space, "XYZ", strict=False):
        found[k] = letter
    letters = "".join(reversed(found))
    third = image.array.shape[letters.index("Z")] if "Z" in letters else 1
    if third > 1 and "T" not in letters and not segments:
        raise axes_question(path, image.array.shape, f"its third axis of {third}", letters)
    return letters


def _directions(path: Path, image: Nrrd) -> NDArray[np.float64] | None:
    """(axes fast to slow, space) in the file's unit, NaN for an axis that has none."""
    found = image.header.get("space directions")
    if found is None:
        return None
    rows = [np.full(0, np.nan) if row is None else np.asarray(row, np.float64) for row in found]
    width = max((len(row) for row in rows), default=0)
    if len(rows) != len(image.array.shape) or not 1 <= width <= 4:
        raise ReadError(f"{path}: the entry space directions does not fit an image of {len(image.array.shape)} axes; correct it")
    return np.array([row if len(row) == width else np.full(width, np.nan) for row in rows])


def _length_factors(
    path: Path, image: Nrrd, spatial: Sequence[str], of_axis: dict[str, int], units: Sequence[str]
) -> dict[str, float]:
    """How many mm one unit of length is along each axis."""
    shared = [str(unit) for unit in image.header.get("space units", ())]
    factors = {}
    for place, letter in enumerate(reversed(spatial)):
        unit = (shared[place] if place < len(shared) else units[of_axis[letter]]).lower()
        if unit not in _MM_PER_UNIT:
            raise ReadError(f"{path}: the unit of length {unit!r} is not known; save it in mm")
        factors[letter] = _MM_PER_UNIT[unit]
    return factors


def _spacing(
    path: Path, image: Nrrd, directions: NDArray[np.float64] | None, of_axis: dict[str, int], factors: dict[str, float]
) -> tuple[float, ...] | None:
    declared = image.header.get("spacings")
    if directions is not None:
        sizes = np.linalg.norm(directions, axis=1)
    elif declared is not None and len(declared) == len(image.array.shape):
        sizes = np.abs(np.asarray(declared, np.float64))
    else:
        return None
    spacing = tuple(float(sizes[of_axis[letter]]) * factors[letter] for letter in sorted(factors, reverse=True))
    if all(math.isnan(s) for s in spacing):
        return None
    if any(not math.isfinite(s) or s <= 0 for s in spacing):
        raise ReadError(f"{path}: the pixel size {spacing} of its header must be positive and finite; correct the header")
    return spacing


def _place(
    path: Path,
    image: Nrrd,
    directions: NDArray[np.float64] | None,
    of_axis: dict[str, int],
    spacing: tuple[float, ...] | None,
    factors: dict[str, float],
) -> tuple[Placement | None, _Plane | None]:
    origin = image.header.get("space origin")
    if directions is None or origin is None or spacing is None or directions.shape[1] < 2:
        return None, None
    width = min(directions.shape[1], 3)
    flips = _to_lps(str(image.header.get("space", "")))[:width]
    columns = np.array([directions[of_axis[letter]][:width] for letter in "XYZ" if letter in of_axis]).T
    unit = columns / np.linalg.norm(columns, axis=0) * flips[:, None]
    place = np.asarray(origin, np.float64)[:width] * flips * factors["X"]
    if len(place) != width or not np.isfinite(place).all():
        raise ReadError(f"{path}: the entry space origin {list(origin)} must be {width} finite numbers; correct the header")
    if unit.shape == (3, 3):
        return Placement.from_x_first(spacing[::-1], place.tolist(), unit, path=path), None
    if unit.shape[1] != 2 or (width == 3 and np.abs(unit[2]).max() > 1e-3):
        return None, None  # the series lies oblique in the patient: in-plane coordinates
    return None, (tuple(place[1::-1].tolist()), orthonormal(unit[:2][::-1, ::-1], path=path))


def _to_lps(space: str) -> NDArray[np.float64]:
    """Signs that turn a space into left, posterior, superior; one without anatomy stays as it is."""
    words = {"right": -1.0, "left": 1.0, "anterior": -1.0, "posterior": 1.0, "superior": 1.0, "inferior": -1.0}
    short = {"R": -1.0, "L": 1.0, "A": -1.0, "P": 1.0, "S": 1.0, "I": -1.0}
    parts = [part for part in space.lower().split("-") if part != "time"]
    if len(parts) == 3 and all(part in words for part in parts):
        return np.array([words[part] for part in parts])
    letters = space.upper()[:3]
    return np.array([short[a] for a in letters]) if len(space) in (3, 4) and set(letters) <= set(short) else np.ones(3)


def _times(path: Path, image: Nrrd, axis: int, units: Sequence[str], notes: list[str]) -> tuple[float, ...] | None:
    header, count = image.header, image.array.shape[len(image.array.shape) - 1 - axis]
    unit = units[axis].lower()
    label = image.axis_words("labels")[axis].lower()
    values: Any = header.get(f"axis {axis} index values", "")
    kind = str(header.get(f"axis {axis} index type", "numeric"))
    if header.get("MultiVolume.FrameLabels"):
        values, unit = str(header["MultiVolume.FrameLabels"]).replace(",", " "), _multi_volume_unit(header)
    elif values and not unit and label == "time":
        unit = "s"
        notes.append("the index of the frames is called time and has no unit: s is taken, Slicer's default")
    step = image.header.get("spacings")
    if not values and step is not None and len(step) == len(image.array.shape) and math.isfinite(step[axis]) and step[axis] > 0:
        values = " ".join(repr(float(step[axis]) * k) for k in range(count))
    factor = _SECONDS_PER_UNIT.get(unit)
    if not values or kind != "numeric" or factor is None:
        notes.append(f"the frames have no index in a unit of time (unit {unit or 'none'!r}): frame times are unknown")
        return None
    checked = check_times(str(values).split(), count, where=f"{path}, the index values of the frames")
    return tuple(t * factor for t in checked)


def _multi_volume_unit(header: dict[str, Any]) -> str:
    tag, unit = (str(header.get(f"MultiVolume.FrameIdentifyingDICOMTag{what}", "")).lower() for what in ("Name", "Units"))
    return unit if "time" in tag else f"{unit} of {tag}" if tag else ""
