"""The images of a series that came from no file, kept inside the folder of its result so that this can be opened again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from r2n2.series import ImageSeries

__all__ = ["SOURCE_NAME", "has_file", "keep_source", "kept_source"]

SOURCE_NAME = "source.npz"


def has_file(series: ImageSeries) -> bool:
    """Whether the file or folder that a series was read from is still there."""
    path = str(series.source.get("path", ""))
    return bool(path) and Path(path).exists()


def keep_source(series: ImageSeries, folder: Path) -> Path:
    """Write frames (T, C, y, x), grid and times, all as they are."""
    said = {
        "grid": _grid(series.grid),
        "patient_grid": None if series.patient_grid is None else _grid(series.patient_grid),
        "times_s": series.times_s,
        "name": series.name,
        "modality": series.modality,
        "spacing_known": series.spacing_known,
        "notes": series.notes,
    }
    frames = np.stack([series.frame(index) for index in range(len(series))])
    np.savez(folder / SOURCE_NAME, frames=frames, said=np.array(json.dumps(said)))
    return folder / SOURCE_NAME


def kept_source(folder: Path) -> ImageSeries | None:
    """The series kept in the folder of a result; None where none is.

    Raises
    ------
    ReadError
        If the file is damaged.
    """
    from r2n2.errors import ReadError
    from r2n2.series import ImageSeries

    file = folder / SOURCE_NAME
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            frames, said = stored["frames"], json.loads(str(stored["said"]))
        return ImageSeries(
            frames=frames,
            grid=_read_grid(said["grid"]),
            patient_grid=None if said["patient_grid"] is None else _read_grid(said["patient_grid"]),
            times_s=None if said["times_s"] is None else tuple(said["times_s"]),
            name=said["name"],
            modality=said["modality"],
            spacing_known=said["spacing_known"],
            notes=tuple(said["notes"]),
        )
    except Exception as error:  # whatever numpy, zipfile and json raise on damage
        raise ReadError(f"{file}: the images of the result cannot be read ({error}); copy the folder anew") from error


def _grid(grid: Any) -> list[Any]:
    return [grid.shape, grid.spacing, grid.origin, grid.direction]


def _read_grid(said: list[Any]) -> Any:
    from r2n2.geometry import Grid

    shape, spacing, origin, direction = said
    return Grid(tuple(shape), tuple(spacing), tuple(origin), tuple(map(tuple, direction)))
