"""Landmark tables with a header: our CSV, napari's points, ImageJ's Results and ANTs' points."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r2n2.errors import ReadError
from r2n2.geometry import Space
from r2n2.io.landmark_points import EXPECTED_HEADER, FilePoints, frames_from_zero, number_at
from r2n2.io.spreadsheet import Sheet, original_cell, read_sheets

__all__ = ["read_table"]

_THOUSANDS = re.compile(r"^[+-]?[1-9]\d{0,2},\d{3}$")
_IMAGEJ_TIME = ("frame", "slice", "position")


@dataclass(frozen=True)
class _Columns:
    """Where a table holds what: positions of its columns.

    Parameters
    ----------
    kind
        "ours", "napari", "ImageJ" or "ANTs".
    axes
        Coordinates in array order.
    unit
        "mm", "px" or "" where the table does not say.
    id, frame
        None where it has none.
    """

    kind: str
    axes: tuple[int, ...]
    unit: str
    id: int | None = None
    frame: int | None = None


def read_table(path: Path, text: str) -> FilePoints:
    """The points of a table with a header.

    Raises
    ------
    ReadError
        If the header is unknown or a row is wrong, naming line and column.
    """
    for sheet in read_sheets(path, text):
        columns = _columns(sheet)
        if columns is not None:
            _check_rows(sheet)
            return _points(sheet, columns)
    first = next((line for line in text.splitlines() if line.strip()), "")
    raise ReadError(f"{path}: unknown header {first[:80]!r}; expected {EXPECTED_HEADER}")


def _columns(sheet: Sheet) -> _Columns | None:
    names = sheet.header
    if len(names) != len(set(names)):
        return None
    if names[0] == "index" and names[1:] == tuple(f"axis-{k}" for k in range(len(names) - 1)):
        if len(names) not in (4, 5):
            raise ReadError(f"{sheet.path}: napari points of {len(names) - 1} axes; save a layer with axes frame, (z,) y, x")
        return _Columns("napari", tuple(range(2, len(names))), "px", None, 1)
    where = {name: k for k, name in enumerate(names)}
    units = [unit for unit in ("mm", "px") if {f"y_{unit}", f"x_{unit}"} <= set(names)]
    if len(units) == 2:
        raise ReadError(f"{sheet.path}: holds both mm and px columns; keep one of them: {EXPECTED_HEADER}")
    axes = tuple(where[f"{axis}_{unit}"] for unit in units for axis in "zyx" if f"{axis}_{unit}" in where)
    if units and {"id", "frame"} <= set(names):
        return _Columns("ours", axes, units[0], where["id"], where["frame"])
    if {"x", "y", "z", "t"} <= set(names):
        label = where.get("label")
        return _Columns("ANTs", (where["z"], where["y"], where["x"]), "mm", label, where["t"])
    from_imagej = names[0] == "" or ("id" not in where and any(name in where for name in ("slice", "frame")))
    if from_imagej and (units or {"x", "y"} <= set(names)):
        return _Columns("ImageJ", axes or (where["y"], where["x"]), units[0] if units else "", None, _imagej_time(sheet, where))
    return None


def _imagej_time(sheet: Sheet, where: dict[str, int]) -> int | None:
    """The column of frames: Frame or Slice, whichever changes; None where there is none, or it is 0 throughout."""
    found = {name: where[name] for name in _IMAGEJ_TIME if name in where}
    values = {name: {row[k].strip() for row in sheet.rows if len(row) > k} for name, k in found.items()}
    changing = [name for name in found if len(values[name]) > 1]
    if {"frame", "slice"} <= set(changing):
        raise ReadError(
            f"{sheet.path}: both Slice and Frame change, so these points lie in several slices of several frames; "
            "measure one slice position at a time, or write z_px yourself: id,frame,z_px,y_px,x_px"
        )
    chosen = next(iter([*changing, *found]), None)
    return None if chosen is None or values[chosen] == {"0"} else found[chosen]


def _check_rows(sheet: Sheet) -> None:
    if not sheet.rows:
        raise ReadError(f"{sheet.path}: holds a header and no landmark; add a line for each point")
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        if len(row) != len(sheet.header):
            shown = sheet.delimiter.join(row)[:80]
            raise ReadError(
                f"{sheet.path}: line {line} ({shown!r}) has {len(row)} fields, the header has {len(sheet.header)}; "
                "with decimal commas separate the fields by semicolons"
            )


def _points(sheet: Sheet, columns: _Columns) -> FilePoints:
    wanted = [*([] if columns.frame is None else [columns.frame]), *columns.axes]
    numbers = _numbers(sheet, wanted)
    points = numbers[:, -len(columns.axes) :]
    frames, notes = _frames(sheet, columns, numbers)
    ids = None
    if columns.id is not None:
        restore = original_cell if columns.kind == "ours" else str
        ids = tuple(restore(row[columns.id].strip(" ")) for row in sheet.rows)
    if columns.kind == "ANTs":
        notes.append("x, y, z, t are read as ANTs writes them: LPS positions in mm")
    space = Space.WORLD if columns.unit == "mm" else Space.INDEX
    unknown = "unknown" if columns.unit == "" else ""
    return FilePoints(points, space, ids, frames, columns.kind == "ANTs", unknown, notes=tuple(notes))


def _frames(sheet: Sheet, columns: _Columns, numbers: NDArray[np.float64]) -> tuple[NDArray[np.int64] | None, list[str]]:
    if columns.frame is None:
        return None, []
    values, name = numbers[:, 0].tolist(), sheet.header[columns.frame]
    if columns.kind == "ImageJ":
        found = frames_from_zero(sheet.path, values, sheet.lines, first=1, column=name.capitalize())
        return found, [f"frames are taken from ImageJ's column {name.capitalize()}, which counts from 1"]
    if columns.kind == "ANTs" and not any(values):
        return None, []
    return frames_from_zero(sheet.path, values, sheet.lines, column=name), []


def _numbers(sheet: Sheet, columns: list[int]) -> NDArray[np.float64]:
    cells = [[row[k].strip() for k in columns] for row in sheet.rows]
    flat = [cell for row in cells for cell in row]
    with_comma = [cell for cell in flat if "," in cell]
    if with_comma:
        mixed = [cell for cell in flat if "." in cell]
        if mixed or all(_THOUSANDS.match(cell) for cell in with_comma):
            shown = ", ".join(repr(cell) for cell in [with_comma[0], *mixed[:1]])
            raise ReadError(f"{sheet.path}: {shown} may be decimals or thousands; write all numbers with a decimal point")
        cells = [[cell.replace(",", ".") for cell in row] for row in cells]
    rows = [
        [number_at(sheet.path, cell, line, sheet.header[k]) for cell, k in zip(row, columns, strict=True)]
        for row, line in zip(cells, sheet.lines, strict=True)
    ]
    return np.array(rows, dtype=np.float64)
