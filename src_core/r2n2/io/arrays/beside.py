"""What stands beside an array in .npz, MATLAB and HDF5 files under agreed names: spacing, times, axes, origin and direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.io.assemble import FileContent
from r2n2.io.axes import usual_axes, usual_axes_note
from r2n2.io.checks import check_spacing, check_times, wrapped_note
from r2n2.io.placement import Placement, orthonormal

__all__ = ["BESIDE", "KEY_BYTES", "array_content", "image_names"]

BESIDE = ("spacing", "pixel_spacing", "times_s", "axes", "origin", "direction")
"""Names of the small arrays beside the pixels: mm (y, x) or (z, y, x), s, letters, mm and a matrix in array order."""

KEY_BYTES = 2**24
"""Most that one of them takes."""

_Plane = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]


def image_names(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Names of the arrays that may be a series: those of three axes or more, else those of two."""
    able = {name: [n for n in shape if n != 1] for name, shape in shapes.items() if name.rpartition("/")[2] not in BESIDE}
    series = [name for name, sizes in able.items() if len(sizes) > 2]
    return series or [name for name, sizes in able.items() if len(sizes) == 2]


def array_content(
    path: Path,
    kind: str,
    array: Any,
    beside: Mapping[str, NDArray[Any]],
    *,
    axes: str | None,
    usual: str,
    notes: Sequence[str] = (),
) -> FileContent:
    """An array with what stands beside it.

    Parameters
    ----------
    beside
        Of the names above, those that the file has.
    axes
        The caller's, where given.
    usual
        Order that three axes without names usually have in this kind of file: TYX or YXT.

    Raises
    ------
    ReadError
        If something beside it is not what its name says.
    """
    shape = tuple(int(n) for n in array.shape)
    told = [*notes, *_wrapped(array)]
    letters = str(np.asarray(beside["axes"]).ravel()[0]).strip().upper() if "axes" in beside and beside["axes"].size == 1 else ""
    guessed = not letters
    if guessed:
        letters = usual_axes(shape, usual)
        told += [usual_axes_note(letters)] if len(letters) == 3 and not axes else []
    spacing = _spacing(path, beside, told)
    placement, plane = _position(path, spacing, beside)
    times = None
    if "times_s" in beside:
        named = (axes or letters).upper()
        count = shape[named.index("T")] if "T" in named and len(named) == len(shape) else beside["times_s"].size
        times = check_times(beside["times_s"].ravel().tolist(), count, where=f"{path}, key times_s")
    return FileContent(
        path,
        kind,
        array,
        letters,
        spacing,
        placement,
        plane,
        times_s=times,
        notes=tuple(told),
        guessed=guessed and len(letters) == 3,
    )


def _wrapped(array: Any) -> tuple[str, ...]:
    nbytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    if nbytes == 0 or nbytes > 2**28 or np.dtype(array.dtype).kind != "i" or not hasattr(array, "min"):
        return ()
    note = wrapped_note(float(array.min()), np.dtype(array.dtype))
    return (note,) if note else ()


def _spacing(path: Path, beside: Mapping[str, NDArray[Any]], notes: list[str]) -> tuple[float, ...] | None:
    key = "spacing" if "spacing" in beside else "pixel_spacing"
    if key not in beside:
        return None
    values = beside[key].ravel().tolist()
    if key == "pixel_spacing":
        # A foreign key: its order is not ours to know, so only equal sizes are taken.
        if len(set(values)) != 1 or len(values) not in (2, 3):
            notes.append("the order of pixel_spacing is not known: ignored")
            return None
        notes.append("the key pixel_spacing was used")
    try:
        return check_spacing(values, where=f"{path}, key {key}")
    except (ValueError, TypeError) as error:
        reason = (
            str(error) if str(path) in str(error) else f"{path}, key {key}: must be 2 or 3 numbers in mm, got {str(values)[:80]}"
        )
        raise ReadError(reason) from None


def _position(
    path: Path, spacing: tuple[float, ...] | None, beside: Mapping[str, NDArray[Any]]
) -> tuple[Placement | None, _Plane | None]:
    if "origin" not in beside or "direction" not in beside:
        return None, None
    try:
        origin = tuple(float(o) for o in beside["origin"].ravel())
        matrix = np.asarray(beside["direction"], np.float64)
    except (ValueError, TypeError):
        origin, matrix = (), np.zeros(0)
    if len(origin) not in (2, 3) or matrix.shape != (len(origin), len(origin)) or not np.isfinite(origin).all():
        raise ReadError(
            f"{path}: keys origin and direction must be 2 or 3 numbers and a square matrix of as many rows; correct them"
        )
    rows = orthonormal(matrix, path=path)
    if len(origin) == 2:
        return None, (origin, rows)
    z, y, x = spacing if spacing is not None and len(spacing) == 3 else (1.0, *(spacing or (1.0, 1.0)))
    return Placement((z, y, x), (origin[0], origin[1], origin[2]), rows), None
