"""Writing NRRD frame by frame, the frames along the slowest axis, which keeps Slicer's entries for the time of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2n2.io.atomic import atomic_write
from r2n2.series import ImageSeries

__all__ = ["write_nrrd"]

_HELD_AS = {"b1": "u1", "f2": "f4"}
_KINDS = {3: "RGB-color", 4: "RGBA-color"}
_NAMES = {"f4": "float", "f8": "double"}


def write_nrrd(path: Path, series: ImageSeries, frames: Iterator[NDArray[Any]]) -> None:
    """Write raw little-endian pixels: (C,) x, y, (z,) t as the file counts."""
    code = _HELD_AS.get(series.dtype.str[1:], series.dtype.str[1:])
    dtype = np.dtype("<" + code)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_header(series, dtype))
        for frame in frames:
            file.write(np.ascontiguousarray(np.moveaxis(frame, 0, -1), dtype=dtype).tobytes())


def _header(series: ImageSeries, dtype: np.dtype[Any]) -> bytes:
    grid = series.patient_grid or series.grid
    colour = series.channels > 1
    kinds = ([_KINDS.get(series.channels, "vector")] if colour else []) + ["domain"] * grid.ndim + ["list"]
    sizes = ([series.channels] if colour else []) + [*grid.shape[::-1], len(series)]
    columns = (np.array(grid.direction) * np.array(grid.spacing))[::-1, ::-1].T
    vectors = [f"({','.join(repr(float(v)) for v in column)})" for column in columns]
    fields = {
        "type": _NAMES.get(dtype.str[1:], f"{'u' if dtype.kind == 'u' else ''}int{8 * dtype.itemsize}"),
        "dimension": str(len(sizes)),
        **({"space": "left-posterior-superior"} if grid.ndim == 3 else {"space dimension": "2"}),
        "sizes": " ".join(map(str, sizes)),
        **({"space directions": " ".join([*(["none"] if colour else []), *vectors, "none"])} if series.spacing_known else {}),
        "kinds": " ".join(kinds),
        "labels": " ".join(f'"{"time" if kind == "list" else ""}"' for kind in kinds),
        "units": " ".join('"s"' if kind == "list" else '"mm"' if kind == "domain" else '""' for kind in kinds),
        "endian": "little",
        "encoding": "raw",
        **({"space origin": f"({','.join(repr(float(v)) for v in grid.origin[::-1])})"} if series.spacing_known else {}),
    }
    lines = ["NRRD0005", *(f"{field}: {value}" for field, value in fields.items())]
    if series.times_s is not None:
        axis = len(sizes) - 1
        lines += [
            f"axis {axis} index type:=numeric",
            f"axis {axis} index values:={' '.join(repr(float(t)) for t in series.times_s)}",
        ]
    return ("\n".join(lines) + "\n\n").encode("ascii")
